"""What a CUDA card is and what it reports of itself."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.engine.device import Memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

_log: Final = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Peak:
    """Nominal dense TFLOP/s of a card."""

    half: float
    """Tensor cores in fp16 or bf16 with fp32 accumulation."""
    single: float
    """fp32 outside of tensor cores."""

    def of(self, precision: str) -> float:
        """Return the peak of one of `device.PRECISIONS`."""
        return self.single if precision == "fp32" else self.half


# NVIDIA's data sheets of each card; where they state the figure with sparsity, half of it. The
# 4090 and the 3090: architecture white papers of Ada and GA102. The first name that is part of
# the card's own wins, so the longer ones come first.
PEAKS: Final[Mapping[str, Peak]] = {
    "H100 PCIe": Peak(756.0, 51.2),
    "H100 NVL": Peak(835.5, 60.0),
    "H100": Peak(989.4, 66.9),
    "H200 NVL": Peak(835.5, 60.0),
    "H200": Peak(989.4, 66.9),
    "A100": Peak(312.0, 19.5),
    "L40S": Peak(362.0, 91.6),
    "RTX 4090": Peak(165.2, 82.6),
    "RTX 3090": Peak(71.0, 35.6),
    "L4": Peak(121.0, 30.3),
}


def peak(name: str) -> Peak | None:
    """Return the peak of a card by the name it gives itself, or `None` if none is known."""
    words = f"{name.replace('-', ' ')} "
    # The 4090's slower kin (laptops, "D") carry its name and something after it.
    fits = (
        found
        for part, found in PEAKS.items()
        if (words.endswith(f"{part} ") if part.startswith("RTX") else f" {part} " in f" {words}")
    )
    return next(fits, None)


class Gauge:
    """Reads the memory of one card, other processes' share included."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        """`nvml` is the module pynvml; `uuid` as CUDA gives it. Raises NVML's errors."""
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = _handle(nvml, uuid)

    def memory(self) -> Memory:
        """Return what the driver reports; unlike CUDA's own call it never waits for the queue."""
        info = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return Memory(int(info.used), int(info.total))


def open_memory(uuid: str, otherwise: Callable[[], Memory]) -> Callable[[], Memory]:
    """Return a reader of the card's memory: NVML's, or `otherwise` where there is none."""
    import pynvml

    try:
        return Gauge(pynvml, uuid).memory
    except pynvml.NVMLError as error:
        _log.warning("memory is read through CUDA reason=NVML: %s", error)
        return otherwise


def _handle(nvml: Any, uuid: str) -> Any:
    """Return the handle of a whole card, or of the slice of one that has this UUID."""
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
