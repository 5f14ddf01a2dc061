"""Real processes: callers with microphones in front of a pod that is slow, or stops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from localcluster import live_speaker, runtime_process

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow, pytest.mark.realtime]

SECONDS = 15.0
SCHEDULING_S = 0.25  # what a busy machine adds


async def test_a_slow_pod_keeps_two_speakers_within_a_second(tmp_path: Path) -> None:
    slow = runtime_process.serving(
        tmp_path / "l4.log", 4, {"AVATAR_CAPACITY": "2"}, device="simulated:l4"
    )
    with slow as runtime:
        callers = await asyncio.gather(
            *(live_speaker.speak(runtime.url, SECONDS) for _ in range(2))
        )
        state = runtime.state()
    for caller in callers:
        assert max(frame.behind_s for frame in caller.frames) < 1.0 + SCHEDULING_S
        assert max(sound.behind_s for sound in caller.sound) < 1.0 + SCHEDULING_S
        assert caller.audio_is_intact
        assert caller.warnings == ["overload"]
        assert caller.errors == []
        assert caller.done is not None
        assert (caller.done["frames"], caller.done["dropped"]) == (
            len(caller.frames),
            caller.dropped,
        )
        assert len(caller.frames) + caller.dropped == SECONDS * 25
        assert len(caller.frames) > 0.7 * SECONDS * 22.6 / 2  # an L4 makes 22.6 frames a second
    assert state["deadline_miss_ratio"] > 0.4


async def test_a_pod_that_was_stopped_returns_to_the_microphone(tmp_path: Path) -> None:
    stopped = runtime_process.serving(tmp_path / "h100.log", 4, device="simulated:h100-80gb")
    with stopped as runtime:
        caller, _ = await asyncio.gather(
            live_speaker.speak(runtime.url, 20.0),
            live_speaker.stop_process(runtime.pid, 3.0, 8.0),
        )
    before, after = caller.behind_s(1.0, 3.0), caller.behind_s(14.0, 20.0)
    assert max(after) < max(before) + SCHEDULING_S
    assert caller.dropped > 100
    assert caller.warnings == ["overload"]
    assert caller.audio_is_intact
