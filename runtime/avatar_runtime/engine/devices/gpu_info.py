"""Peak performance and memory of a CUDA GPU."""

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
    """Nominal dense TFLOP/s of a GPU."""

    half: float
    """Tensor cores in fp16 or bf16 with fp32 accumulation."""
    single: float
    """fp32 without tensor cores."""

    def of(self, precision: str) -> float:
        """Return the peak of one of `device.PRECISIONS`."""
        return self.single if precision == "fp32" else self.half


# Source: the data sheets of NVIDIA; half of the figure where it is stated with sparsity. 4090 and
# 3090: the architecture white papers of Ada and GA102. The first name that is part of the name of
# the GPU is used, so longer names come first.
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
    """Return the peak of a GPU by the name that its driver reports, or `None` if it is unknown."""
    spaced = f"{name.replace('-', ' ')} "
    # Slower variants of the 4090 (laptop, "D") have its name with a suffix.
    fits = (
        found
        for part, found in PEAKS.items()
        if (spaced.endswith(f"{part} ") if part.startswith("RTX") else f" {part} " in f" {spaced}")
    )
    return next(fits, None)


class NvmlMemory:
    """Reads the memory of one GPU, including that of other processes."""

    def __init__(self, nvml: Any, uuid: str) -> None:
        """`nvml` is the module pynvml; `uuid` is the UUID that CUDA reports.

        Raises:
            NVMLError: NVML is not available, or the GPU is unknown.
        """
        self._nvml = nvml
        nvml.nvmlInit()
        self._handle = _handle(nvml, uuid)

    def memory(self) -> Memory:
        """Return what the driver reports. Unlike the CUDA call, it does not wait for the queue."""
        info = self._nvml.nvmlDeviceGetMemoryInfo(self._handle)
        return Memory(int(info.used), int(info.total))


def memory_reader(uuid: str, fallback: Callable[[], Memory]) -> Callable[[], Memory]:
    """Return a function that reads the memory of the GPU: with NVML, or `fallback` without it."""
    import pynvml

    try:
        return NvmlMemory(pynvml, uuid).memory
    except pynvml.NVMLError as error:
        _log.warning("memory is read through CUDA reason=NVML: %s", error)
        return fallback


def _handle(nvml: Any, uuid: str) -> Any:
    """Return the handle of the GPU, or of the MIG slice, with this UUID."""
    bare = uuid.removeprefix("GPU-").removeprefix("MIG-")
    try:
        return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{bare}")
    except nvml.NVMLError:
        return nvml.nvmlDeviceGetHandleByUUID(f"MIG-{bare}")
