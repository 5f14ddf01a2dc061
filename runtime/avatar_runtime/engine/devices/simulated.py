"""A card that is not there: memory and time of a GPU profile, pictures of the prepared avatar.

It makes scaling, memory and failure tests honest on a small machine: dozens of pods fit, since
torch is never loaded. Its frames are the avatar's source frames, so no mouth moves.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

from avatar_runtime import errors
from avatar_runtime.batching import buckets
from avatar_runtime.engine.device import MIB, STAGES, Calibration, Memory, ModelInfo, Rendered
from avatar_runtime.engine.networks import weights
from avatar_runtime.engine.rendering import idle_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.device import Pending

# Shares of a batch, by the work of each stage (docs/musetalk.md); the rest is picture work.
_SHARES: Final = {"encode_audio": 0.02, "unet": 0.21, "vae": 0.75, "compose": 0.01, "jpeg": 0.01}
_ON_HOST: Final = _SHARES["jpeg"]  # meanwhile the card has the next batch
_COMPOSING: Final = _SHARES["compose"]  # the last of a batch on the card, as on a real one

Point = Literal["load", "serve", "step", "finish"]
"""Where memory is taken."""


@dataclass(frozen=True, slots=True)
class Card:
    """One GPU class as a profile describes it."""

    gpu_class: str
    memory_mib: int
    curve: Calibration


def load_card(gpu_class: str, profile: str | None) -> Card:
    """Return the card of AVATAR_GPU_PROFILE's JSON, or that of the packaged profiles.

    Raises:
        SettingsError: the class is unknown or the JSON is not a profile.
    """
    if profile is not None:
        try:
            document = json.loads(profile)
            curve = _curve(document["curve"])
            return Card(str(document["gpuClass"]), int(document["memoryMiB"]), curve)
        except (ValueError, KeyError, TypeError, IndexError) as error:
            expected = f"a profile with gpuClass, memoryMiB and curve ({error!r})"
            raise errors.SettingsError("AVATAR_GPU_PROFILE", profile, expected) from error
    packaged = resources.files("avatar_runtime.engine").joinpath("gpu_profiles.json")
    profiles = json.loads(packaged.read_text(encoding="utf-8"))
    if gpu_class not in profiles:
        known = f"simulated: and one of {', '.join(sorted(profiles))}"
        raise errors.SettingsError("device", f"simulated:{gpu_class}", known)
    spec = profiles[gpu_class]
    return Card(gpu_class, int(spec["match"]["memoryMiB"]["min"]), _curve(spec["curves"][0]))


class Neighbour(Protocol):
    """What else happens on the card."""

    def taken_mib(self) -> int:
        """Return the memory that other processes hold now."""
        ...

    def refuses(self, point: Point) -> bool:
        """Whether the driver has no room this time, whatever the sums say."""
        ...


class NeighbourFile:
    """A neighbour that holds as many MiB as a file says; without the file there is none."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._taken_mib = 0

    def taken_mib(self) -> int:
        """Return the number in the file; what is none, as while it is written, changes nothing."""
        try:
            text = self._path.read_text(encoding="ascii", errors="replace").strip()
        except FileNotFoundError:
            text = "0"
        if text.isdecimal():
            self._taken_mib = int(text)
        return self._taken_mib

    def refuses(self, point: Point) -> bool:
        """Whether the driver has no room whatever the sums say: a file says nothing of that."""
        return False


class SimulatedDevice:
    """Waits as long as the card would and refuses what would not fit on it.

    Like torch's allocator it keeps the memory of its largest batch until `release`.
    """

    def __init__(
        self,
        card: Card,
        *,
        neighbour: Neighbour | None = None,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self.name = "simulated"
        self.pads = True
        self._card = card
        self._neighbour = neighbour
        self._sleep = sleep
        self._clock = clock
        self._stills = idle_frames.Stills({}, 0)
        self._used_mib = 0
        self._free_at = 0.0

    def load(self, model_dir: Path) -> ModelInfo:
        files = weights.find(model_dir)
        positions = json.loads(files.whisper_config.read_text(encoding="utf-8")).get(
            "max_source_positions", 1500
        )
        self._take("load", self._card.curve.base_mib)
        return ModelInfo(
            version=files.version,
            vae_hash=weights.vae_hash(files.vae),
            context_s=positions // 50,
            variant=self._card.curve.model,
        )

    def serve(self, avatars: Mapping[str, cache.Avatar]) -> None:
        self._refuse_at("serve")
        self._stills = idle_frames.Stills(avatars, idle_frames.KEPT_BYTES)

    @property
    def overlaps(self) -> bool:
        return True

    def launch(self, batch: Sequence[FrameRequest]) -> Pending:
        curve = self._card.curve
        size = buckets.around(len(batch))
        self._take("step", max(self._used_mib, curve.base_mib + curve.per_frame_mib * size))
        duration = curve.batch_ms(size) / 1000
        begins = max(self._clock(), self._free_at)
        self._free_at = begins + duration * (1 - _ON_HOST)
        return _Simulated(self, batch, self._free_at, duration)

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        return self.launch(batch).finish()

    def wait_until(self, moment: float) -> None:
        """Wait for the card's clock. Any thread may."""
        self._sleep(max(0.0, moment - self._clock()))

    def deliver(self, batch: Sequence[FrameRequest], duration: float) -> Rendered:
        """Return a batch of `duration` seconds that the card is done with. Any thread may."""
        self._refuse_at("finish")
        began = self._clock()
        frames = [self._stills.frame(request) for request in batch]
        self.wait_until(began + duration * _ON_HOST)
        stages = {stage: duration * _SHARES[stage] for stage in STAGES}
        return Rendered(frames, stages)

    def buckets(self, batch_size: int) -> Sequence[int]:
        return ()

    def curve(self) -> Calibration:
        return self._card.curve

    def memory(self) -> Memory:
        used = min(self._used_mib + self._taken_mib(), self._card.memory_mib)
        return Memory(used * MIB, self._card.memory_mib * MIB)

    def release(self) -> None:
        self._used_mib = min(self._used_mib, self._card.curve.base_mib)

    def close(self) -> None:
        self._stills = idle_frames.Stills({}, 0)

    def _take(self, point: Point, wanted_mib: int) -> None:
        """Hold `wanted_mib` from now on, or raise `DeviceMemoryError` and hold what was held."""
        self._refuse_at(point)
        free = self._card.memory_mib - self._taken_mib() - self._used_mib
        more = wanted_mib - self._used_mib
        if more > max(free, 0):
            raise errors.DeviceMemoryError(more * MIB, max(free, 0) * MIB)
        self._used_mib = wanted_mib

    def _refuse_at(self, point: Point) -> None:
        if self._neighbour is not None and self._neighbour.refuses(point):
            raise errors.DeviceMemoryError(None, 0)

    def _taken_mib(self) -> int:
        return 0 if self._neighbour is None else self._neighbour.taken_mib()


@dataclass(frozen=True, slots=True)
class _Simulated:
    device: SimulatedDevice
    batch: Sequence[FrameRequest]
    ends: float
    """When the card has it done: it does one batch after the other."""
    duration: float

    def wait_drawn(self) -> None:
        self.device.wait_until(self.ends - self.duration * _COMPOSING)

    def finish(self) -> Rendered:
        self.device.wait_until(self.ends)
        return self.device.deliver(self.batch, self.duration)


def _curve(document: Mapping[str, Any]) -> Calibration:
    points = tuple((int(batch), float(ms)) for batch, ms in document["frameBatchMs"])
    return Calibration(
        str(document["model"]), int(document["baseMiB"]), int(document["perFrameMiB"]), points
    )
