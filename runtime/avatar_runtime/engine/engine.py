"""The engine: one thread that owns the device, and an asynchronous interface to it.

If the device overlaps batches, a second thread copies and encodes the images of one batch while
the first thread starts the next batch.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from avatar_runtime import errors
from avatar_runtime.engine import calibration, loading
from avatar_runtime.engine.avatar_table import AvatarTable
from avatar_runtime.engine.pipeline import Pipeline
from avatar_runtime.engine.recovery import RecoveringDevice, none_if_out_of_memory
from avatar_runtime.engine.rendering import idle_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from pathlib import Path

    from avatar_contracts.state import StartStage
    from avatar_runtime.avatars.cache import AvatarInfo
    from avatar_runtime.batching.frames import Frame, FrameRequest
    from avatar_runtime.engine.device import Curve, Device, Memory, ModelInfo, Rendered

_log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Statistics:
    """Counters since the start of the engine."""

    batches: int = 0
    frames: int = 0
    oom_recoveries: int = 0
    """Failed allocations after which the same work succeeded."""
    oom_frames: int = 0
    """Frames of the last batch for which the device ran out of memory."""


class Engine:
    """Turns batches of frame requests into frames. Only `run` and `idle_frames` take long."""

    def __init__(
        self,
        device: Device,
        model_dir: Path,
        avatars_dir: Path,
        batch_size: int,
        *,
        avatar_names: Sequence[str] | None = None,
        observe: Callable[[str, float], None] | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """`avatar_names`: `None` is every avatar of the folder.

        `observe` is called on the event loop with the seconds of each stage of each batch;
        `sleep` on the engine's thread while the device has no memory for a single frame.
        """
        self.device = device
        self._model_dir = model_dir
        self._avatars_dir = avatars_dir
        self._batch_size = batch_size
        self._names = avatar_names
        self._observe = observe
        self._recovering = RecoveringDevice(device, sleep)
        self._thread = ThreadPoolExecutor(1, "engine")
        self._delivery_thread = ThreadPoolExecutor(1, "delivery")
        self._pipeline = Pipeline()
        # A thread of its own: an idle frame does not wait for a batch.
        self._idle_thread = ThreadPoolExecutor(1, "idle-frames")
        self._idle_frames = idle_frames.IdleFrames({}, 0)
        # A thread of its own: frames do not wait while an avatar is read and checked.
        self._avatar_thread = ThreadPoolExecutor(1, "avatars")
        self._folder: loading.AvatarFolder | None = None
        self._table = AvatarTable({})
        self._batches = self._frames = 0
        self._model: ModelInfo | None = None
        self.avatars: Mapping[str, AvatarInfo] = {}
        """Current version of each avatar by name; set by `start` and `refresh_avatars`."""
        self.start_stages: Mapping[StartStage, float] = {}
        """Seconds of each stage of `start` that is complete; replaced by the engine's thread."""
        self.curve: Curve | None = None
        """The curve of the device; measured by `start`."""

    @property
    def device_name(self) -> str:
        """The device that renders: `cuda`, `cpu` or `simulated`."""
        return self.device.name

    @property
    def model(self) -> ModelInfo:
        """The model that `start` loaded.

        Raises:
            EngineError: the engine is not started.
        """
        if self._model is None:
            raise errors.EngineError("the engine is not started")
        return self._model

    @property
    def pads(self) -> bool:
        """Whether a batch costs as much as its bucket."""
        return self.device.pads

    @property
    def overlaps(self) -> bool:
        """Whether the next batch may be given before the previous one has ended."""
        return self.device.overlaps

    async def start(self) -> None:
        """Load the model and the avatars, warm up and measure.

        Raises:
            AssetError: the model or every avatar is unusable.
            EngineError: the device does not exist, or has no memory for one frame.
        """
        await self._on_thread(self._load)

    async def run(
        self, batch: Sequence[FrameRequest], on_free: Callable[[], None] = lambda: None
    ) -> Sequence[Frame]:
        """Return the frames of a batch in its order. A cancelled call is computed and discarded.

        Batches end in the order in which they were given. `on_free` is called when the device is
        about to be free for the next batch, if that is before this one ends. A batch that does
        not fit into the memory of the device is rendered in smaller parts, in the same order.

        Raises:
            EngineError: the batch as a whole failed; the engine can take the next one.
        """
        self._check_avatars(batch)
        if self.device.overlaps:
            rendered = await self._run_overlapped(batch, on_free)
        else:
            rendered = await self._on_thread(lambda: self._recovering.render(batch))
        self._batches += 1
        self._frames += len(batch)
        if self._observe is not None:
            for stage, seconds in rendered.stages.items():
                self._observe(stage, seconds)
        return rendered.frames

    async def idle_frames(self, requests: Sequence[FrameRequest]) -> Sequence[Frame]:
        """Return the source frames of the avatar for silent requests, without the device.

        Raises:
            EngineError: the frames cannot be made.
        """
        self._check_avatars(requests)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._idle_thread, self._encode_idle_frames, requests)

    async def refresh_avatars(self, in_use: Callable[[], Collection[str]]) -> bool:
        """Read the avatars that were added, changed or removed since the last call.

        Requests may name a version that was replaced or removed as long as `in_use`, which is
        called on the event loop, returns its key. Returns whether `avatars` has changed.

        Raises:
            EngineError: the engine is not started.
        """
        folder = self._folder
        if folder is None:
            raise errors.EngineError("the engine is not started")
        loop = asyncio.get_running_loop()
        avatars = await loop.run_in_executor(self._avatar_thread, folder.refresh)
        before = self.avatars
        self._table.publish(avatars)
        self.avatars = self._table.infos()
        if dropped := self._table.drop_unused(in_use()):
            _log.info("avatar versions dropped keys=%s", ",".join(dropped))
        return before != self.avatars

    @property
    def avatar_faults(self) -> int:
        """Number of avatars whose newest files are not served, because they are unusable."""
        return 0 if self._folder is None else len(self._folder.faults)

    def memory(self) -> Memory:
        """Return what the device reports."""
        return self.device.memory()

    def statistics(self) -> Statistics:
        return Statistics(self._batches, self._frames, *self._recovering.out_of_memory)

    async def release(self) -> None:
        """Free what the device caches for larger batches, after the batch limit has decreased."""
        async with self._pipeline.exclusive():
            await self._on_thread(self.device.release)

    async def stop(self) -> None:
        """Let the batches in flight end, then close the device."""
        async with self._pipeline.exclusive():
            await self._on_thread(self._close)
        self._thread.shutdown()
        self._idle_thread.shutdown()
        self._avatar_thread.shutdown()

    def _on_thread(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _run_overlapped(
        self, batch: Sequence[FrameRequest], on_free: Callable[[], None]
    ) -> Rendered:
        loop = asyncio.get_running_loop()
        return await self._pipeline.run(
            launch=lambda: self._on_thread(lambda: self._recovering.launch(batch)),
            finish=lambda in_flight: loop.run_in_executor(
                self._delivery_thread, none_if_out_of_memory, in_flight.finish, len(batch)
            ),
            retry=lambda: self._on_thread(lambda: self._recovering.retry(batch)),
            on_free=on_free,
        )

    def _check_avatars(self, requests: Sequence[FrameRequest]) -> None:
        for request in requests:
            if request.avatar not in self._table and request.avatar not in self.avatars:
                loaded = ", ".join(sorted(self.avatars))
                problem = f"avatar {request.avatar!r} is not loaded, loaded are: {loaded}"
                raise errors.EngineError(problem)

    def _encode_idle_frames(self, requests: Sequence[FrameRequest]) -> Sequence[Frame]:
        try:
            return [self._idle_frames.frame(request) for request in requests]
        except Exception as error:
            _log.exception("idle frames failed frames=%d", len(requests))
            raise errors.EngineError(f"{len(requests)} idle frames failed") from error

    def _load(self) -> None:
        began = time.perf_counter()
        model = self._recovering.with_retries(lambda: self.device.load(self._model_dir), 0)
        loaded = time.perf_counter()
        self.start_stages = {"weights": loaded - began}
        self._folder = loading.AvatarFolder(self._avatars_dir, self._names, model)
        self._table = table = AvatarTable(self._folder.start())
        read = time.perf_counter()
        self.start_stages = {"weights": loaded - began, "avatars": read - loaded}
        self._recovering.with_retries(lambda: self.device.serve(table), 0)
        self._model = model
        self._idle_frames = idle_frames.IdleFrames(table, idle_frames.CACHE_BYTES)
        self.avatars = table.infos()
        self.curve = self.device.curve() or self._measure(model)
        ended = time.perf_counter()
        self.start_stages = {**self.start_stages, "warm_up": ended - read}
        _log.info(
            "engine started device=%s model=%s avatars=%d weights_s=%.2f avatars_s=%.2f "
            "warm_up_s=%.2f",
            *(self.device.name, model.variant, len(self.avatars)),
            *(loaded - began, read - loaded, ended - read),
        )

    def _measure(self, model: ModelInfo) -> Curve:
        avatar = next(iter(self.avatars.values()))
        measured = self._recovering.with_retries(
            lambda: calibration.measure(self.device, model.variant, avatar, self._batch_size), 1
        )
        if measured.oom_batch is not None:
            self._recovering.count_out_of_memory(measured.oom_batch)
        return measured.curve

    def _close(self) -> None:
        self._delivery_thread.shutdown()  # a call that was cancelled may still be in it
        self.device.close()
