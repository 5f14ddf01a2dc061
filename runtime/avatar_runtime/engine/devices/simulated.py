"""A simulated GPU: memory and time of a GPU profile, source frames of the prepared avatar.

It allows tests of scaling, memory and failures on a small machine: dozens of pods fit, since
torch is never loaded. Its frames are the source frames of the avatar, so the mouth does not move.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from avatar_contracts import packaged_files
from avatar_contracts.environment import Fault
from avatar_runtime import errors
from avatar_runtime.batching import buckets
from avatar_runtime.engine.device import MIB, STAGES, Curve, Memory, ModelInfo, Rendered
from avatar_runtime.engine.networks import weights
from avatar_runtime.engine.rendering import idle_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.device import InFlight

# Shares of the time of a batch, by the work of each stage (docs/musetalk.md).
_SHARES: Final = {"encode_audio": 0.02, "unet": 0.21, "vae": 0.75, "compose": 0.01, "jpeg": 0.01}
_HOST_SHARE: Final = _SHARES["jpeg"]  # meanwhile the GPU runs the next batch
_COMPOSE_SHARE: Final = _SHARES["compose"]  # the last stage on the GPU, as on a real one

Point = Literal["load", "serve", "step", "finish"]
"""Where memory is allocated."""


@dataclass(frozen=True, slots=True)
class GpuSpec:
    """One GPU class as a profile describes it."""

    gpu_class: str
    memory_mib: int
    curve: Curve


def load_gpu_spec(gpu_class: str, profile: str | None) -> GpuSpec:
    """Return the GPU of the JSON in AVATAR_GPU_PROFILE, or of the packaged profiles.

    Raises:
        SettingsError: the class is unknown or the JSON is not a profile.
    """
    if profile is not None:
        try:
            document = json.loads(profile)
            curve = _curve(document["curve"])
            return GpuSpec(str(document["gpuClass"]), int(document["memoryMiB"]), curve)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            expected = f"a profile with gpuClass, memoryMiB and curve ({error!r})"
            raise errors.SettingsError(Fault("AVATAR_GPU_PROFILE", profile, expected)) from error
    profiles = packaged_files.gpu_profiles()
    if gpu_class not in profiles:
        known = f"simulated: and one of {', '.join(sorted(profiles))}"
        raise errors.SettingsError(Fault("device", f"simulated:{gpu_class}", known))
    spec = profiles[gpu_class]
    return GpuSpec(gpu_class, int(spec["match"]["memoryMiB"]["min"]), _curve(spec["curves"][0]))


class Neighbour(Protocol):
    """Another process on the GPU."""

    def used_mib(self) -> int:
        """Return the memory that other processes use now."""
        ...

    def fails(self, point: Point) -> bool:
        """Whether an allocation fails now, however much memory is free."""
        ...


class NeighbourFile:
    """A neighbour that uses the number of MiB in a file, and 0 MiB without the file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last_mib = 0

    def used_mib(self) -> int:
        """Return the number in the file.

        Other text, as during a write, leaves the last number valid.
        """
        try:
            text = self._path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            text = "0"
        if text.isdecimal():
            self._last_mib = int(text)
        return self._last_mib

    def fails(self, point: Point) -> bool:
        """Return False: the file only sets the used memory."""
        return False


class SimulatedDevice:
    """Waits as long as the GPU would, and runs out of memory as the GPU would.

    Like the allocator of torch, it caches the memory of its largest batch until `release`.
    """

    def __init__(
        self,
        gpu: GpuSpec,
        *,
        neighbour: Neighbour | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = "simulated"
        self.pads = True
        self._gpu = gpu
        self._neighbour = neighbour
        self._sleep = sleep
        self._clock = clock
        self._idle_frames = idle_frames.IdleFrames({}, 0)
        self._used_mib = 0
        self._free_at = 0.0

    def load(self, model_dir: Path) -> ModelInfo:
        files = weights.find(model_dir)
        positions = json.loads(files.whisper_config.read_text(encoding="utf-8")).get(
            "max_source_positions", 1500
        )
        self._allocate("load", self._gpu.curve.base_mib)
        return ModelInfo(
            version=files.version,
            vae_hash=weights.vae_hash(files.vae),
            context_s=positions // 50,
            variant=self._gpu.curve.model,
        )

    def serve(self, avatars: Mapping[str, cache.Avatar]) -> None:
        self._fail_at("serve")
        self._idle_frames = idle_frames.IdleFrames(avatars, idle_frames.CACHE_BYTES)

    @property
    def overlaps(self) -> bool:
        return True

    def launch(self, batch: Sequence[FrameRequest]) -> InFlight:
        curve = self._gpu.curve
        size = buckets.around(len(batch))
        self._allocate("step", max(self._used_mib, curve.base_mib + curve.per_frame_mib * size))
        duration = curve.batch_ms(size) / 1000
        begin = max(self._clock(), self._free_at)
        self._free_at = begin + duration * (1 - _HOST_SHARE)
        return _SimulatedInFlight(self, batch, self._free_at, duration)

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        return self.launch(batch).finish()

    def wait_until(self, moment: float) -> None:
        """Wait until a time of the clock. Any thread may call it."""
        self._sleep(max(0.0, moment - self._clock()))

    def deliver(self, batch: Sequence[FrameRequest], duration: float) -> Rendered:
        """Return the frames of a batch of `duration` seconds that has left the GPU.

        Any thread may call it.
        """
        self._fail_at("finish")
        began = self._clock()
        frames = [self._idle_frames.frame(request) for request in batch]
        self.wait_until(began + duration * _HOST_SHARE)
        stages = {stage: duration * _SHARES[stage] for stage in STAGES}
        return Rendered(frames, stages)

    def buckets(self, batch_size: int) -> Sequence[int]:
        return ()

    def curve(self) -> Curve:
        return self._gpu.curve

    def memory(self) -> Memory:
        used = min(self._used_mib + self._neighbour_mib(), self._gpu.memory_mib)
        return Memory(used * MIB, self._gpu.memory_mib * MIB)

    def release(self) -> None:
        self._used_mib = min(self._used_mib, self._gpu.curve.base_mib)

    def close(self) -> None:
        self._idle_frames = idle_frames.IdleFrames({}, 0)

    def _allocate(self, point: Point, total_mib: int) -> None:
        """Use `total_mib` from now on.

        Raises:
            DeviceMemoryError: the memory is not free; the used memory is unchanged.
        """
        self._fail_at(point)
        free = self._gpu.memory_mib - self._neighbour_mib() - self._used_mib
        more = total_mib - self._used_mib
        if more > max(free, 0):
            raise errors.DeviceMemoryError(more * MIB, max(free, 0) * MIB)
        self._used_mib = total_mib

    def _fail_at(self, point: Point) -> None:
        if self._neighbour is not None and self._neighbour.fails(point):
            raise errors.DeviceMemoryError(None, 0)

    def _neighbour_mib(self) -> int:
        return 0 if self._neighbour is None else self._neighbour.used_mib()


@dataclass(frozen=True, slots=True)
class _SimulatedInFlight:
    """A batch on the simulated GPU."""

    device: SimulatedDevice
    batch: Sequence[FrameRequest]
    ends: float
    """When the GPU has finished it; the GPU runs one batch after the other."""
    duration: float

    def wait_forward(self) -> None:
        self.device.wait_until(self.ends - self.duration * _COMPOSE_SHARE)

    def finish(self) -> Rendered:
        self.device.wait_until(self.ends)
        return self.device.deliver(self.batch, self.duration)


def _curve(document: Mapping[str, Any]) -> Curve:
    points = tuple((int(batch), float(ms)) for batch, ms in document["frameBatchMs"])
    return Curve(
        str(document["model"]), int(document["baseMiB"]), int(document["perFrameMiB"]), points
    )
