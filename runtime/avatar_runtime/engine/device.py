"""What the engine asks of a device, and the values that pass between them; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import Frame, FrameRequest


STAGES: Final = ("encode_audio", "unet", "vae", "compose", "jpeg")
"""What a batch passes through, in order."""


MIB: Final = 1 << 20


PRECISIONS: Final = ("fp32", "bf16", "fp16")
"""Of weights and activations; the log-mel is float32 in all of them."""


DECODERS: Final = ("sd-vae", "taesd")


VERSIONS: Final = ("v15", "v1")  # of MuseTalk, the newest first


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How torch is to hold a model; simulated cards have none of it."""

    precision: str | None = None
    """One of `PRECISIONS`; `None` is the device's own: fp16 on CUDA, fp32 on the CPU."""
    decoder: str = "sd-vae"
    """One of `DECODERS`: `taesd` has 1/17 of the work and changes the picture."""
    verify: bool = True
    """Whether the files of a converted folder are held against its manifest's hashes."""
    version: str | None = None
    """One of `VERSIONS`; `None` is the newest in the folder."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the device itself reports: everything reserved, by whomever."""

    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What avatars and sessions need to know of the loaded model."""

    version: str
    """`v1` or `v15`."""
    vae_hash: str
    context_s: int
    """Seconds of sound that the audio encoder hears at once."""
    variant: str
    """Version, decoder and precision, as GPU profiles name them: `v15/sd-vae/fp16`."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The frames of one batch, in the order of the requests, and the seconds of each stage."""

    frames: Sequence[Frame]
    stages: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Calibration:
    """A curve of a GPU profile, measured here or taken from the profile."""

    model: str
    base_mib: int
    per_frame_mib: int
    frame_batch_ms: tuple[tuple[int, float], ...]

    def batch_ms(self, batch: int) -> float:
        """Return the time of a batch: on the line between its neighbours, or of the last two."""
        points = self.frame_batch_ms
        if len(points) == 1:
            return points[0][1] * batch / points[0][0]
        after = next((i for i, (b, _) in enumerate(points) if b >= batch), len(points) - 1)
        (b0, t0), (b1, t1) = points[max(0, after - 1)], points[max(1, after)]
        return t0 + (t1 - t0) * (batch - b0) / (b1 - b0)

    def as_document(self) -> dict[str, object]:
        """Return the JSON form of the state document and of `GPUProfile.status`."""
        return {
            "model": self.model,
            "baseMiB": self.base_mib,
            "perFrameMiB": self.per_frame_mib,
            "frameBatchMs": [[batch, round(ms, 2)] for batch, ms in self.frame_batch_ms],
        }


class Pending(Protocol):
    """A batch whose work is queued. Any thread may call it."""

    def wait_drawn(self) -> None:
        """Wait until the device is about to be free for the next batch."""
        ...

    def finish(self) -> Rendered:
        """Wait for the pictures and return them, once. Raises `DeviceMemoryError`."""
        ...


class Device(Protocol):
    """Computes pictures. Only the engine's thread calls it."""

    @property
    def name(self) -> str:
        """What metrics call it: `cpu`, `cuda` or `simulated`."""
        ...

    def load(self, model_dir: Path) -> ModelInfo:
        """Read the model. Raises `AssetError`."""
        ...

    def serve(self, avatars: Mapping[str, Avatar]) -> None:
        """Take the avatars that requests may name."""
        ...

    @property
    def overlaps(self) -> bool:
        """Whether finishing a batch takes nothing from the next one: another processor does it."""
        ...

    def launch(self, batch: Sequence[FrameRequest]) -> Pending:
        """Queue one batch; the next may be launched before it is finished.

        Raises `DeviceMemoryError`, and can be asked again.
        """
        ...

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Compute one batch. Raises `DeviceMemoryError`, and can be asked again."""
        ...

    def buckets(self, batch_size: int) -> Sequence[int]:
        """Return the batch sizes to warm up and to measure."""
        ...

    @property
    def pads(self) -> bool:
        """Whether a batch costs as much as its bucket."""
        ...

    def release(self) -> None:
        """Give back what is kept of earlier batches and not in use."""
        ...

    def curve(self) -> Calibration | None:
        """Return the curve it follows by construction; `None`: it must be measured."""
        ...

    def memory(self) -> Memory: ...

    def close(self) -> None: ...
