"""The protocol that every device implements and the values that it exchanges; free of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import Frame, FrameRequest


STAGES: Final = ("encode_audio", "unet", "vae", "compose", "jpeg")
"""The stages of a batch, in order."""

MIB: Final = 1 << 20
"""Bytes of one MiB."""

PRECISIONS: Final = ("fp32", "bf16", "fp16")
"""Precisions of weights and activations; the log-mel spectrogram is float32 in all of them."""

DECODERS: Final = ("sd-vae", "taesd")
"""Networks that can decode latents."""

VERSIONS: Final = ("v15", "v1")
"""Versions of MuseTalk, the newest first."""


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """How torch loads a model; simulated devices ignore it."""

    precision: str | None = None
    """One of `PRECISIONS`; `None` is the default of the device: fp16 on CUDA, fp32 on the CPU."""
    decoder: str = "sd-vae"
    """One of `DECODERS`: `taesd` has 1/17 of the work and changes the image."""
    verify: bool = True
    """Whether the files of a converted folder are compared with the hashes of its manifest."""
    version: str | None = None
    """One of `VERSIONS`; `None` is the newest in the folder."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What the device reports: everything that any process has reserved."""

    used_bytes: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What avatars and sessions need to know of the loaded model."""

    version: str
    """`v1` or `v15`."""
    vae_hash: str
    context_s: int
    """Seconds of audio in one context of the audio encoder."""
    variant: str
    """Version, decoder and precision, as GPU profiles name them: `v15/sd-vae/fp16`."""
    latent_size: int | None = None
    """Side of the latents of a frame; `None` if the device does not know it."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """The frames of one batch, in the order of the requests, and the seconds of each stage."""

    frames: Sequence[Frame]
    stages: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Curve:
    """A curve of a GPU profile: memory and time by batch size, measured or from the profile."""

    model: str
    base_mib: int
    per_frame_mib: int
    frame_batch_ms: tuple[tuple[int, float], ...]

    def batch_ms(self, batch: int) -> float:
        """Return the time of a batch, interpolated linearly between the measured sizes.

        Sizes outside the measured range are extrapolated from the nearest two points.
        """
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


class InFlight(Protocol):
    """A batch whose work is queued and not finished. Any thread may call it."""

    def wait_forward(self) -> None:
        """Wait until the networks have run: the device is about to be free for the next batch."""
        ...

    def finish(self) -> Rendered:
        """Wait for the images and return them. May be called once.

        Raises:
            DeviceMemoryError: the device ran out of memory.
        """
        ...


class Device(Protocol):
    """Renders frames. Only the thread of the engine calls it."""

    @property
    def name(self) -> str:
        """The name in metrics: `cpu`, `cuda` or `simulated`."""
        ...

    def load(self, model_dir: Path) -> ModelInfo:
        """Load the model.

        Raises:
            AssetError: the model is unusable.
            DeviceMemoryError: the device ran out of memory.
            EngineError: the device does not exist.
        """
        ...

    def serve(self, avatars: Mapping[str, Avatar]) -> None:
        """Set the avatars that requests may name.

        Raises:
            DeviceMemoryError: the device ran out of memory.
        """
        ...

    @property
    def overlaps(self) -> bool:
        """Whether another processor finishes a batch, so that the device can start the next."""
        ...

    def launch(self, batch: Sequence[FrameRequest]) -> InFlight:
        """Queue one batch; the next one may be launched before this one is finished.

        Raises:
            DeviceMemoryError: the device ran out of memory; the call may be repeated.
        """
        ...

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Render one batch.

        Raises:
            DeviceMemoryError: the device ran out of memory; the call may be repeated.
        """
        ...

    def buckets(self, batch_size: int) -> Sequence[int]:
        """Return the batch sizes to warm up and to measure."""
        ...

    @property
    def pads(self) -> bool:
        """Whether a batch costs as much as its bucket."""
        ...

    def release(self) -> None:
        """Free the memory that is cached from earlier batches and not in use."""
        ...

    def curve(self) -> Curve | None:
        """Return the curve that the device follows by construction, or `None` to measure it."""
        ...

    def memory(self) -> Memory: ...

    def close(self) -> None: ...
