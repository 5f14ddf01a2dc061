"""The engine: one thread that owns the device, and an async face for the event loop.

Where the device overlaps, a second thread copies and encodes what the device has drawn while the
first one has the next batch drawn.
"""

from __future__ import annotations

import asyncio
import logging
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, TypeVar

from avatar_runtime import errors
from avatar_runtime.avatars import cache
from avatar_runtime.engine import calibration
from avatar_runtime.engine.device import STAGES, Rendered
from avatar_runtime.engine.pipeline import Pipeline
from avatar_runtime.engine.rendering import idle_frames

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from avatar_runtime.avatars.cache import AvatarInfo
    from avatar_runtime.batching.frames import Frame, FrameRequest
    from avatar_runtime.engine.device import Calibration, Device, Memory, ModelInfo, Pending

# Waits for memory that another process holds: short, since a session stands still meanwhile,
# and over in 10 s, before liveness takes the engine for hung.
_PATIENCE_S: Final = (0.05, *[0.1] * 100)

_log: Final = logging.getLogger(__name__)

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Statistics:
    """What the engine did since its start."""

    batches: int = 0
    frames: int = 0
    oom_recoveries: int = 0
    """Refused allocations after which the same work was done all the same."""
    refused_frames: int = 0
    """Frames of the batch that was refused last."""


class Engine:
    """Turns batches of frame requests into frames. Everything but `run` is quick or done once."""

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
        `sleep` on the engine's thread while the device has no room for a single frame.
        """
        self.device = device
        self._model_dir = model_dir
        self._avatars_dir = avatars_dir
        self._batch_size = batch_size
        self._names = avatar_names
        self._observe = observe
        self._sleep = sleep
        self._thread = ThreadPoolExecutor(1, "engine")
        self._delivery_thread = ThreadPoolExecutor(1, "delivery")
        self._pipeline = Pipeline()
        # Beside the device's own thread: a silent frame waits for no batch.
        self._stills_thread = ThreadPoolExecutor(1, "stills")
        self._stills = idle_frames.Stills({}, 0)
        # Batches and frames are the event loop's; refusals and the frames of the last one are the
        # engine thread's, which replaces both together.
        self._batches = self._frames = 0
        self._refusals = (0, 0)
        self._model: ModelInfo | None = None
        self.avatars: Mapping[str, AvatarInfo] = {}
        """Avatars that requests may name; filled by `start`."""
        self.calibration: Calibration | None = None
        """The device's curve; measured by `start`."""

    @property
    def device_name(self) -> str:
        """Where frames are made: `cuda`, `cpu` or `simulated`."""
        return self.device.name

    @property
    def model(self) -> ModelInfo:
        """What `start` loaded."""
        if self._model is None:
            raise errors.EngineError("the engine is not started")
        return self._model

    @property
    def pads(self) -> bool:
        """Whether a batch costs as much as its bucket."""
        return self.device.pads

    @property
    def overlaps(self) -> bool:
        """Whether the next batch may be given before the one before has ended."""
        return self.device.overlaps

    async def start(self) -> None:
        """Load the model and the avatars, warm up and measure.

        Raises:
            AssetError: the model or every avatar is unusable.
            EngineError: the device is not there, or does not hold one frame.
        """
        await self._on_thread(self._load)

    async def run(
        self, batch: Sequence[FrameRequest], on_free: Callable[[], None] = lambda: None
    ) -> Sequence[Frame]:
        """Return the frames of a batch in its order; a cancelled call is computed and thrown away.

        Batches end in the order in which they were given. `on_free` is called when the device is
        about to be free for the next one, if that is before this one ends. A batch that the
        device refuses is rendered in smaller parts, in the same order.

        Raises:
            EngineError: the batch as a whole has failed; the engine itself may go on.
        """
        self._check_avatars(batch)
        if self.device.overlaps:
            rendered = await self._overlapped(batch, on_free)
        else:
            rendered = await self._on_thread(lambda: self._render(batch, len(batch)))
        self._batches += 1
        self._frames += len(batch)
        if self._observe is not None:
            for stage, seconds in rendered.stages.items():
                self._observe(stage, seconds)
        return rendered.frames

    async def rest(self, requests: Sequence[FrameRequest]) -> Sequence[Frame]:
        """Return the avatar's own pictures for frames in which nothing is said; no device works.

        Raises:
            EngineError: no frame of these can be made.
        """
        self._check_avatars(requests)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._stills_thread, self._rest, requests)

    def memory(self) -> Memory:
        """Return what the device reports."""
        return self.device.memory()

    def statistics(self) -> Statistics:
        return Statistics(self._batches, self._frames, *self._refusals)

    async def release(self) -> None:
        """Give back what the device keeps of larger batches, after the limit has fallen."""
        async with self._pipeline.alone():
            await self._on_thread(self.device.release)

    async def stop(self) -> None:
        """Let the batches in hand end, then give the device back."""
        async with self._pipeline.alone():
            await self._on_thread(self._close)
        self._thread.shutdown()
        self._stills_thread.shutdown()

    def _on_thread(self, work: Callable[[], Result]) -> asyncio.Future[Result]:
        return asyncio.get_running_loop().run_in_executor(self._thread, work)

    async def _overlapped(
        self, batch: Sequence[FrameRequest], on_free: Callable[[], None]
    ) -> Rendered:
        loop = asyncio.get_running_loop()
        return await self._pipeline.run(
            launch=lambda: self._on_thread(lambda: self._launch(batch)),
            finish=lambda pending: loop.run_in_executor(
                self._delivery_thread, _unless_refused, pending.finish, len(batch)
            ),
            again=lambda: self._on_thread(lambda: self._again(batch)),
            on_free=on_free,
        )

    def _check_avatars(self, requests: Sequence[FrameRequest]) -> None:
        for request in requests:
            if request.avatar not in self.avatars:
                loaded = ", ".join(sorted(self.avatars))
                problem = f"avatar {request.avatar!r} is not loaded, loaded are: {loaded}"
                raise errors.EngineError(problem)

    def _rest(self, requests: Sequence[FrameRequest]) -> Sequence[Frame]:
        try:
            return [self._stills.frame(request) for request in requests]
        except Exception as error:
            _log.exception("silent frames failed frames=%d", len(requests))
            raise errors.EngineError(f"{len(requests)} silent frames failed") from error

    def _load(self) -> None:
        began = time.perf_counter()
        model = self._patiently(lambda: self.device.load(self._model_dir), 0)
        loaded = time.perf_counter()
        avatars = self._read_avatars(model)
        self._patiently(lambda: self.device.serve(avatars), 0)
        self._model = model
        self._stills = idle_frames.Stills(avatars, idle_frames.KEPT_BYTES)
        self.avatars = {name: avatar.info for name, avatar in avatars.items()}
        self.calibration = self.device.curve() or self._measure(model)
        ended = time.perf_counter()
        _log.info(
            "engine started device=%s model=%s avatars=%d load_s=%.2f warm_up_s=%.2f",
            self.device.name, model.variant, len(avatars), loaded - began, ended - loaded,
        )  # fmt: skip

    def _read_avatars(self, model: ModelInfo) -> Mapping[str, cache.Avatar]:
        sound, faults = cache.read_all(self._avatars_dir, self._names)
        for name, avatar in list(sound.items()):
            try:
                cache.check_model(
                    avatar,
                    self._avatars_dir / name,
                    model_version=model.version,
                    vae_hash=model.vae_hash,
                )
            except errors.AssetError as fault:
                faults[name] = fault
                del sound[name]
        for problem in faults.values():
            _log.warning("avatar left out: %s", problem)
        if not sound:
            told = "; ".join(str(problem) for problem in faults.values()) or "there is none"
            raise errors.AssetError(str(self._avatars_dir), f"no avatar can be served: {told}")
        return sound

    def _measure(self, model: ModelInfo) -> Calibration:
        avatar = next(iter(self.avatars.values()))
        measured = self._patiently(
            lambda: calibration.measure(self.device, model.variant, avatar, self._batch_size), 1
        )
        if measured.refused_batch is not None:
            self._note_refusal(measured.refused_batch)
        return measured.curve

    def _launch(self, batch: Sequence[FrameRequest]) -> Pending | None:
        """Return a batch whose faces are drawn, or `None` if the device had no room for it."""

        def drawn() -> Pending:
            pending = self.device.launch(batch)
            pending.wait_drawn()
            return pending

        return _unless_refused(drawn, len(batch))

    def _again(self, batch: Sequence[FrameRequest]) -> Rendered:
        """Return a batch that was refused while others were in flight."""
        self._note_refusal(len(batch))
        self.device.release()
        return self._render(batch, max(1, len(batch) // 2))

    def _render(self, batch: Sequence[FrameRequest], size: int) -> Rendered:
        """Return a batch rendered in parts of `size`, in smaller ones where these do not fit."""
        frames: list[Frame] = []
        stages = dict.fromkeys(STAGES, 0.0)
        while len(frames) < len(batch):
            part = batch[len(frames) : len(frames) + size]
            rendered = self._attempt(part)
            if rendered is None:
                # Only here, since the exception kept the tensors of the batch alive.
                self.device.release()
                size = len(part) // 2
                continue
            frames += rendered.frames
            stages = {name: stages[name] + rendered.stages[name] for name in STAGES}
        return Rendered(frames, stages)

    def _attempt(self, part: Sequence[FrameRequest]) -> Rendered | None:
        """Return a part of a batch, or `None` if it has to be smaller."""
        if len(part) == 1:
            with _explained(1):
                return self._patiently(lambda: self.device.render(part), 1)
        rendered = _unless_refused(lambda: self.device.render(part), len(part))
        if rendered is None:
            self._note_refusal(len(part))
        return rendered

    def _patiently(self, work: Callable[[], Result], frames: int) -> Result:
        """Do what cannot be made smaller, again and again while the device has no room for it."""
        for turn, wait_s in enumerate(_PATIENCE_S):
            try:
                return work()
            except errors.DeviceMemoryError as refusal:
                if turn == 0:
                    _log.warning("no room on the device, trying again: %s", refusal)
                self._note_refusal(frames)
            self.device.release()
            self._sleep(wait_s)
        return work()

    def _note_refusal(self, frames: int) -> None:
        self._refusals = (self._refusals[0] + 1, frames)

    def _close(self) -> None:
        self._delivery_thread.shutdown()  # a call that was cancelled may still be in it
        self.device.close()


def _unless_refused(work: Callable[[], Result], frames: int) -> Result | None:
    """Return what work on a batch gives, or `None` if the device had no room for it."""
    with _explained(frames):
        try:
            return work()
        except errors.DeviceMemoryError:
            return None


@contextmanager
def _explained(frames: int) -> Iterator[None]:
    """Turn any fault of a batch into an `EngineError`."""
    try:
        yield
    except errors.EngineError:
        raise
    except Exception as error:
        _log.exception("batch failed frames=%d", frames)
        raise errors.EngineError(f"a batch of {frames} failed") from error
