from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from avatar_client import errors, load, session
from avatar_client.sound import Sound
from avatar_client.traces import Response, VideoFrame

if TYPE_CHECKING:
    from pathlib import Path

DEADLINE_S = 20.0
SCRIPT = load.Script(
    Sound(bytes(24000), 24000), utterance_s=0.12, pause_s=0.01, chunk_ms=40, late_ms=80
)


def _target(avatar: Any) -> session.Target:
    return session.Target(avatar.url, "acme/concierge", "k1")


async def test_sessions_that_end_normally_are_done_and_miss_no_frame(avatar: Any) -> None:
    result = await load.run(_target(avatar), load.uniform(3, None, 0.4), SCRIPT)
    summary = result["summary"]
    assert (summary["sessions"], summary["done"], summary["cut"]) == (3, 3, 0)
    assert (summary["frames_missing"], summary["violations"]) == (0, 0)
    assert summary["frames"] == summary["frames_due"] > 0
    assert summary["utterances"] >= 6
    assert summary["first_frame_ms"]["p50"] > 0
    assert [report["index"] for report in result["sessions"]] == [0, 1, 2]


async def test_a_burst_does_not_wait_for_its_sound(avatar: Any) -> None:
    minute = Sound(bytes(2 * 24000 * 60), 24000)
    script = load.Script(minute, 60, pause_s=1, chunk_ms=5000, late_ms=80, realtime=False)
    loading = asyncio.create_task(load.run(_target(avatar), [load.Visit(0, 60)], script))
    async with asyncio.timeout(DEADLINE_S):
        while not any(e["type"] == "input_audio_buffer.commit" for e in avatar.received):  # noqa: ASYNC110
            await asyncio.sleep(0.01)  # the server has no event for it
    loading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loading
    assert len(avatar.received) == 13  # twelve pieces and the commit


async def test_a_cut_session_is_counted_with_its_code_and_losses(avatar: Any) -> None:
    avatar.close_after = 5
    result = await load.run(_target(avatar), load.uniform(1, None, 5.0), SCRIPT)
    (report,) = result["sessions"]
    assert (report["ended"], report["code"]) == ("cut", "1012")
    # Three frames were due for 120 ms; the fifth message was the second audio delta.
    assert (report["frames_due"], report["frames"], report["frames_missing"]) == (3, 1, 2)
    assert result["summary"]["reasons"] == {"cut:1012": 1}


async def test_a_session_cut_in_a_pause_is_cut(avatar: Any) -> None:
    avatar.close_after = 11
    script = load.Script(SCRIPT.sound, 0.12, pause_s=60, chunk_ms=40, late_ms=80)
    result = await load.run(_target(avatar), load.uniform(1, None, 90), script)
    assert result["sessions"][0]["ended"] == "cut"


async def test_refusals_and_cuts_are_counted_separately(avatar: Any) -> None:
    avatar.refuse = (503, "no_capacity")
    result = await load.run(_target(avatar), load.uniform(2, None, 1), SCRIPT)
    assert result["summary"]["refused"] == 2
    assert result["summary"]["reasons"] == {"refused:no_capacity": 2}
    messages = {"refused:no_capacity": "refused with 503 no_capacity: not today"}
    assert result["summary"]["first_messages"] == messages
    assert result["summary"]["first_frame_ms"] == {"p50": None, "p95": None, "p99": None}


async def test_a_failed_response_fails_the_session(avatar: Any) -> None:
    def fail(message: dict[str, Any]) -> list[dict[str, Any]]:
        if message["type"] == "response.done":
            message["response"]["status"] = "failed"
        return [message]

    avatar.tamper = fail
    result = await load.run(_target(avatar), load.uniform(1, None, 1), SCRIPT)
    assert result["summary"]["reasons"] == {"failed:response_failed": 1}


def test_visits_are_evenly_spaced_or_simultaneous() -> None:
    assert [v.arrival_s for v in load.uniform(3, 2.0, 5)] == [0, 0.5, 1]
    assert {v.arrival_s for v in load.uniform(3, None, 5)} == {0}


def test_visits_are_read_from_a_trace(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,duration_s\n0.5,10\n2,3.5\n")
    assert load.read_visits(path) == [load.Visit(0.5, 10), load.Visit(2, 3.5)]


@pytest.mark.parametrize("text", ["", "arrival_s,duration_s\n1,x\n", "a,b\n1,2\n"])
def test_a_trace_without_visits_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "trace.csv"
    path.write_text(text)
    with pytest.raises(errors.LoadError, match=r"trace\.csv"):
        load.read_visits(path)


@pytest.mark.parametrize(
    ("arrivals_ms", "late", "gaps", "worst"),
    [
        pytest.param([0, 40, 80, 120], 0, 0, 0, id="on time"),
        pytest.param([0, 40, 240, 280], 2, 1, 160, id="one stall shifts the rest"),
        pytest.param([0, 40, 240, 120], 1, 1, 160, id="catching up"),
        pytest.param([0, 240, 280, 600], 3, 2, 280, id="two stalls"),
        pytest.param([0, 1, 2, 3], 0, 0, 0, id="burst"),
    ],
)
def test_a_gap_is_a_frozen_frame_of_a_player(
    arrivals_ms: list[int], late: int, gaps: int, worst: float
) -> None:
    response = Response("r", 1, 0.0, 24000, 960)
    response.frames = [
        VideoFrame(index, index * 40, 5 + ms / 1000, b"") for index, ms in enumerate(arrivals_ms)
    ]
    report = load.Report(0, 0.0)
    load.measure_timing(report, response, late_ms=80)
    assert (report.frames_late, report.gaps) == (late, gaps)
    assert report.gap_ms_max == pytest.approx(worst, abs=0.2)


def test_a_reason_has_the_message_of_its_first_session() -> None:
    reports = [
        load.Report(index, 0.0, "failed", code, detail)
        for index, (code, detail) in enumerate((("a", "one"), ("b", "two"), ("a", "three")))
    ]
    summary = load.summarise(reports)
    assert summary["reasons"] == {"failed:a": 2, "failed:b": 1}
    assert summary["first_messages"] == {"failed:a": "one", "failed:b": "two"}
