"""Measures an engine with seeded weights: each bucket, whole sessions, and the host around them.

Sessions run in this process with everything but their sockets: protocol, scheduler, governor,
sound, model, composition, JPEG and messages. Machines differ and ratios travel: the sessions'
frames a second stand beside those of the bare model, timed in turns with them.
"""

from __future__ import annotations

import asyncio
import base64
import json
import statistics
import tempfile
import time
from dataclasses import dataclass, field
from importlib import metadata
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime.batching import buckets
from avatar_runtime.batching.frames import FrameRequest
from avatar_runtime.batching.scheduler import Scheduler
from avatar_runtime.batching.windows import AudioWindow
from avatar_runtime.engine import worker
from avatar_runtime.engine.device import MIB
from avatar_runtime.metrics import Metrics
from avatar_runtime.protocol.configuration import Character, Configuration, Overrun, ReadOnly
from avatar_runtime.protocol.session import Session, Terms
from avatar_runtime.serving.pump import Pump
from avatar_runtime.serving.runtime import Voice

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from avatar_runtime.avatars.cache import AvatarInfo
    from avatar_runtime.engine.device import Device

FPS: Final = 25
RATE: Final = 24_000
SEED: Final = 0
_ROUNDS: Final = 5  # of each bucket, after one that warms it up
_TURNS: Final = 3  # of model alone and sessions
_WINDOW_MS: Final = 10_000  # the longest: sessions saturate the engine instead of waiting
_LAG_PERIOD_S: Final = 0.01
_DECISIONS: Final = 100_000
# Dense fp16 with fp32 accumulation, TFLOP/s (musetalk.md section 11; vendors' data sheets).
_PEAKS: Final[Mapping[str, float]] = {
    "H100 PCIe": 756.0,
    "H100": 989.4,
    "H200": 989.4,
    "A100": 312.0,
    "L40S": 362.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "L4": 121.0,
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to measure."""

    preset: str
    """`tiny` or `full`: the shapes of the networks."""
    batch_size: int
    sessions: int
    frames: int
    """Frames that each session speaks in one turn."""


@dataclass(slots=True)
class Talker:
    """One session without a socket."""

    session: Session[AudioWindow]
    clock: Callable[[], float]
    attend: Callable[[str], None]
    first_ms: list[float] = field(default_factory=list)
    frame_ms: list[float] = field(default_factory=list)
    done: asyncio.Event = field(default_factory=asyncio.Event)

    def wake(self) -> None:
        """Take every message, as a socket with room does."""
        while (outgoing := self.session.pull(now := self.clock())) is not None:
            if outgoing.picture is not None:
                self.frame_ms.append(1000 * (now - outgoing.picture.asked_at))
            if outgoing.first_since is not None:
                self.first_ms.append(1000 * (now - outgoing.first_since))
        self.attend(self.session.id)
        if not self.session.is_speaking:
            self.done.set()

    def speak(self, sound: bytes) -> None:
        """Give a whole utterance at once."""
        self.done.clear()
        audio = base64.b64encode(sound).decode()
        for event in (
            {"type": "input_audio_buffer.append", "audio": audio},
            {"type": "input_audio_buffer.commit"},
        ):
            self.session.receive(json.dumps(event), self.clock())
        self.wake()


def run(device: Device, plan: Plan) -> dict[str, Any]:
    """Measure and return the document of `bench --json`."""
    from avatar_runtime.engine import model, seeded

    with tempfile.TemporaryDirectory(prefix="avatar-bench-") as name:
        folder = Path(name)
        seeded.write(folder / "model", seeded.PRESETS[plan.preset], SEED)
        seeded.write_avatar(folder / "avatars" / "anna", model.load(folder / "model"))
        engine = worker.Engine(device, folder / "model", folder / "avatars", plan.batch_size)
        return asyncio.run(_measure(engine, plan))


def table(document: Mapping[str, Any]) -> str:
    """Return the document for people."""
    columns = ("batch", "unet_ms", "vae_ms", "compose_ms", "encode_ms", "total_ms", "frames_per_s")
    lines = ["".join(f"{column:>14}" for column in columns)]
    lines += ["".join(f"{row[column]:>14}" for column in columns) for row in document["buckets"]]
    ratio = document["recipe_fps"] / document["model_only_fps"]
    lines += [
        f"{document['sessions']} sessions make {document['recipe_fps']} frames/s, "
        f"{ratio:.1%} of the model alone ({document['model_only_fps']})",
        f"first frame p95 {document['first_frame_ms']['p95']} ms, "
        f"loop lag p99.9 {document['loop_lag_ms_p999']} ms, "
        f"fill {document['batch_fill_ratio']:.1%}, "
        f"{document['scheduler_decisions_per_s']} scheduling decisions/s",
    ]
    return "\n".join(lines)


async def _measure(engine: worker.Engine, plan: Plan) -> dict[str, Any]:
    began = time.perf_counter()
    try:
        await engine.start()
        load_s = time.perf_counter() - began
        loop = asyncio.get_running_loop()
        # Rendered from this thread while the engine's own is idle: nothing else runs yet.
        rows = await loop.run_in_executor(None, _bucket_rows, engine, plan.batch_size)
        saturated = _Saturated()
        for turn in range(_TURNS):
            alone = await loop.run_in_executor(None, _model_only, engine, plan, turn)
            saturated.alone.append(alone)
            await _saturate(engine, plan, saturated)
        rated = max(1, int(0.9 * saturated.fps / FPS))
        talkers, lags = await _at_rated_load(engine, plan, rated)
        gflop = _gflop(engine.device)
    finally:
        await engine.stop()
    model_only = statistics.median(saturated.alone)
    peak = _peak(engine.device.name)
    first = [ms for talker in talkers for ms in talker.first_ms]
    frames = [ms for talker in talkers for ms in talker.frame_ms]
    return {
        "device": engine.device.name,
        "preset": plan.preset,
        "versions": {n: metadata.version(n) for n in ("torch", "numpy", "opencv-python-headless")},
        "buckets": rows,
        "model_only_fps": round(model_only, 2),
        "recipe_fps": round(saturated.fps, 2),
        "sessions": plan.sessions,
        "batch_fill_ratio": round(saturated.frames / saturated.paid, 4),
        "first_frame_ms": {"p50": _percentile(first, 50), "p95": _percentile(first, 95)},
        "frame_ms": {f"p{p}": _percentile(frames, p) for p in (50, 95, 99)},
        "loop_lag_ms_p999": _percentile(lags, 99.9),
        "mfu": None
        if peak is None or gflop is None
        else round(gflop * model_only / 1000 / peak, 4),
        "gflop_per_frame": gflop,
        "rated_sessions": rated,
        "load_s": round(load_s, 2),
        "scheduler_decisions_per_s": _decisions_per_s(),
        "seed": SEED,
        "turns": [
            {"model_only_fps": round(alone, 2), "recipe_fps": round(recipe, 2)}
            for alone, recipe in zip(saturated.alone, saturated.recipe, strict=True)
        ],
    }


@dataclass(slots=True)
class _Saturated:
    """What the turns of a saturated engine have shown."""

    alone: list[float] = field(default_factory=list)
    recipe: list[float] = field(default_factory=list)
    frames: int = 0
    paid: int = 0
    """Frames of the buckets around the batches."""

    @property
    def fps(self) -> float:
        return statistics.median(self.recipe)


class _Counting:
    """An engine that counts what its batches cost."""

    def __init__(self, engine: worker.Engine, saturated: _Saturated) -> None:
        self._engine = engine
        self._saturated = saturated

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def run(self, batch: Sequence[FrameRequest]) -> Any:
        self._saturated.frames += len(batch)
        self._saturated.paid += buckets.around(len(batch))
        return await self._engine.run(batch)


async def _saturate(engine: worker.Engine, plan: Plan, saturated: _Saturated) -> None:
    """Let all sessions speak at once, as fast as the engine can."""
    counting: Any = _Counting(engine, saturated)
    talkers, pump = _talkers(counting, plan, plan.sessions, _WINDOW_MS)
    batches = asyncio.create_task(pump.run(), name="pump")
    sound = _sound(plan.frames)
    began = time.perf_counter()
    for talker in talkers:
        talker.speak(sound)
    for talker in talkers:
        await talker.done.wait()
    saturated.recipe.append(plan.sessions * plan.frames / (time.perf_counter() - began))
    batches.cancel()


async def _at_rated_load(
    engine: worker.Engine, plan: Plan, sessions: int
) -> tuple[list[Talker], list[float]]:
    """Let as many sessions speak as the engine serves in time; return them and the loop's lag."""
    talkers, pump = _talkers(engine, plan, sessions, 1000)
    lags: list[float] = []
    tasks = [
        asyncio.create_task(pump.run(), name="pump"),
        asyncio.create_task(_watch_lag(lags), name="loop lag"),
    ]
    sound = _sound(plan.frames)
    for talker in talkers:
        talker.speak(sound)
        await asyncio.sleep(1 / FPS)  # callers do not arrive together
    for talker in talkers:
        await talker.done.wait()
    for task in tasks:
        task.cancel()
    return talkers, lags


async def _watch_lag(lags: list[float]) -> None:
    while True:
        began = time.perf_counter()
        await asyncio.sleep(_LAG_PERIOD_S)
        lags.append(1000 * max(0.0, time.perf_counter() - began - _LAG_PERIOD_S))


def _talkers(
    engine: worker.Engine, plan: Plan, sessions: int, window_ms: int
) -> tuple[list[Talker], Pump]:
    avatar = next(iter(engine.avatars.values()))
    character = Character(avatar.name, avatar.width, avatar.height)
    metrics = Metrics(engine.device.name, "none")
    pump = Pump(engine, plan.batch_size, metrics, time.monotonic, lambda: None)
    context_s = engine.model.context_s
    talkers = []
    for number in range(sessions):
        session = Session(
            Configuration(character, window_ms=window_ms, overrun=Overrun.PAUSE),
            {avatar.name: character},
            ReadOnly(f"sess_{number}", "bench", 0, FPS),
            terms=Terms(7200, 7200),
            open_utterance=lambda audio: Voice(audio, FPS, context_s),
            now=time.monotonic(),
        )
        talkers.append(Talker(session, time.monotonic, pump.attend))
        pump.add(session, talkers[-1].wake)
    return talkers, pump


def _sound(frames: int) -> bytes:
    """Return loud noise: no frame of it is silent."""
    noise = np.random.default_rng(SEED).normal(0, 6000, frames * RATE // FPS)
    return bytes(np.clip(noise, -32768, 32767).astype("<i2").tobytes())


def _bucket_rows(engine: worker.Engine, batch_size: int) -> list[dict[str, Any]]:
    avatar = next(iter(engine.avatars.values()))
    rows = []
    for size in (b for b in buckets.BUCKETS if b <= batch_size):
        measured = [
            engine.device.render(_requests(avatar, size, f"bucket-{size}-{turn}")).stages
            for turn in range(1 + _ROUNDS)
        ][1:]
        ms = {name: 1000 * statistics.median(s[name] for s in measured) for name in measured[0]}
        total = 1000 * statistics.median(sum(s.values()) for s in measured)
        allocated, reserved = _memory_mib(engine.device)
        rows.append(
            {
                "batch": size,
                "unet_ms": round(ms["unet"], 3),
                "vae_ms": round(ms["vae"], 3),
                "compose_ms": round(ms["compose"], 3),
                "encode_ms": round(ms["jpeg"], 3),
                "audio_ms": round(ms["encode_audio"], 3),
                "total_ms": round(total, 3),
                "allocated_mib": allocated,
                "reserved_mib": reserved,
                "frames_per_s": round(1000 * size / total, 2),
            }
        )
    return rows


def _model_only(engine: worker.Engine, plan: Plan, turn: int) -> float:
    """Return the frames a second of UNet and decoder alone, at the full batch."""
    draw = getattr(engine.device, "draw", None)
    avatar = next(iter(engine.avatars.values()))
    batch = _requests(avatar, plan.batch_size, f"alone-{turn}")
    if draw is None:  # a simulated card: its own account of the stages
        stages = engine.device.render(batch).stages
        return plan.batch_size / (stages["unet"] + stages["vae"])
    draw(batch)
    rounds = max(3, ceil(plan.sessions * plan.frames / plan.batch_size / 2))
    seconds = 0.0
    for _ in range(rounds):
        stages = draw(batch)
        seconds += stages["unet"] + stages["vae"]
    return rounds * plan.batch_size / seconds


def _requests(avatar: AvatarInfo, size: int, session: str) -> list[FrameRequest]:
    """Return a batch in which groups of four frames share their sound, as in a session."""
    noise = np.frombuffer(_sound(50), "<i2").astype(np.float32) / 32768
    windows = [
        AudioWindow(i, i // 4, noise.data.toreadonly(), 2 * (i % 4) + 34, 50, silent=False)
        for i in range(size)
    ]
    return [
        FrameRequest(
            session=session,
            response_ref=1,
            epoch=0,
            frame_index=window.frame_index,
            deadline=0.0,
            avatar=avatar.name,
            source_frame=window.frame_index,
            window=window,
            quality=80,
            width=avatar.width,
            height=avatar.height,
        )
        for window in windows
    ]


def _memory_mib(device: Device) -> tuple[int, int]:
    """Return what the tensors take and what the device reports; without an allocator the same."""
    reported = device.memory().used_bytes // MIB
    if device.name != "cuda":
        return reported, reported
    import torch

    return torch.cuda.max_memory_allocated() // MIB, torch.cuda.memory_reserved() // MIB


def _gflop(device: Device) -> float | None:
    count = getattr(device, "gflop_per_frame", None)
    return None if count is None else round(count(), 3)


def _peak(device: str) -> float | None:
    """Return the card's TFLOP/s, or `None` where nobody has stated them."""
    if device != "cuda":
        return None
    import torch

    name = torch.cuda.get_device_name()
    return next((peak for part, peak in _PEAKS.items() if part in name), None)


def _decisions_per_s() -> int:
    """Return how many frames of 16 saturating sessions a second the scheduler places."""
    window = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)
    requests = [
        [
            FrameRequest(f"{s}", 1, 1, i + 1, i / FPS, "anna", i, window, 80, 64, 64)
            for i in range(50)
        ]
        for s in range(16)
    ]
    queue, asked, placed = Scheduler(pads=True), [8] * len(requests), 0
    for own in requests:
        for request in own[:8]:
            queue.offer(request, 0.0)
    began = time.perf_counter()
    while placed < _DECISIONS:
        for entry in queue.take(16, 0.0):
            session = int(entry.request.session)
            queue.offer(requests[session][asked[session] % 50], 0.0)
            asked[session] += 1
            placed += 1
        queue.shed(16, 0.0)
    return round(placed / (time.perf_counter() - began))


def _percentile(values: Sequence[float], percent: float) -> float | None:
    """Return a percentile by nearest rank, or `None` of nothing."""
    if not values:
        return None
    return round(sorted(values)[max(0, ceil(percent / 100 * len(values)) - 1)], 2)
