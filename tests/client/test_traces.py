from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_client.traces import Trace

if TYPE_CHECKING:
    from collections.abc import Callable

    Make = Callable[..., list[dict[str, Any]]]

PCM = bytes(range(256)) * 20  # 2560 samples: two whole frames and a part of a third


def _trace(messages: list[dict[str, Any]]) -> Trace:
    trace = Trace(keep_media=True)
    for position, message in enumerate(messages):
        trace.receive(message, float(position))
    return trace


def test_a_correct_session_has_no_violation_and_all_media(messages: Make) -> None:
    trace = _trace(messages(PCM, 2))
    assert trace.violations == []
    assert [r.status for r in trace.responses.values()] == ["completed", "completed"]
    for response in trace.responses.values():
        assert bytes(response.pcm) == PCM
        assert [p.pts_ms for p in response.frames] == [0, 40, 80]
        assert all(p.data.startswith(b"\xff\xd8") for p in response.frames)
        assert response.video_ms == 120
        assert response.max_pts_error_ms == 0


def test_without_media_the_lengths_are_still_counted(messages: Make) -> None:
    trace = Trace(keep_media=False)
    for message in messages(PCM):
        trace.receive(message, 0.0)
    (response,) = trace.responses.values()
    assert (response.audio_samples, len(response.pcm)) == (len(PCM) // 2, 0)
    assert {p.data for p in response.frames} == {b""}


def _nth(messages: list[dict[str, Any]], kind: str, n: int = 0) -> dict[str, Any]:
    return [m for m in messages if m["type"] == kind][n]


def _set(kind: str, n: int, **fields: Any) -> Callable[[list[dict[str, Any]]], None]:
    return lambda messages: _nth(messages, kind, n).update(fields)


def _remove(kind: str, n: int = 0) -> Callable[[list[dict[str, Any]]], None]:
    return lambda messages: messages.remove(_nth(messages, kind, n))


def _swap_first_audio_and_frame(messages: list[dict[str, Any]]) -> None:
    audio = messages.index(_nth(messages, "response.output_audio.delta"))
    messages[audio], messages[audio + 1] = messages[audio + 1], messages[audio]


def _renumber(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**m, "seq": n} if "seq" in m else m for n, m in enumerate(messages, start=1)]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        pytest.param(_set("response.video.delta", 1, pts_ms=41), "pts_ms 41", id="pts"),
        pytest.param(_set("response.video.delta", 1, offset_samples=9), "offset", id="offset"),
        pytest.param(_set("response.video.delta", 1, frame_index=0), "after frame 0", id="repeat"),
        pytest.param(_set("response.video.delta", 1, epoch=0), "epoch 0", id="old epoch"),
        pytest.param(_set("response.output_audio.delta", 1, offset_samples=1), "audio", id="hole"),
        pytest.param(_set("response.output_audio.delta", 1, pts_ms=7), "pts_ms 7", id="audio pts"),
        pytest.param(_remove("response.video.delta", 1), "for 3 due", id="lost frame"),
        pytest.param(_remove("response.output_audio.delta", 1), "audio", id="lost audio"),
        pytest.param(_swap_first_audio_and_frame, "before its audio", id="frame first"),
        pytest.param(_set("response.video.done", 0, frames=4), "says frames 4", id="count"),
        pytest.param(_remove("response.video.done"), "before response.video.done", id="no end"),
        pytest.param(_remove("response.created"), "unknown response", id="never created"),
        pytest.param(lambda m: m.append(m[-1]), "without an active", id="done twice"),
        pytest.param(lambda m: m.append(m[3]), "after response.done", id="media after the end"),
        pytest.param(lambda m: m.append(m[0]), "out of order", id="created twice"),
        pytest.param(lambda m: m.append({"seq": 0}), "without a type", id="no type"),
    ],
)
def test_each_violation_is_reported(
    messages: Make, change: Callable[[list[dict[str, Any]]], None], sentence: str
) -> None:
    session = messages(PCM)
    change(session)
    violations = _trace(_renumber(session)).violations
    assert any(sentence in violation for violation in violations), violations


def test_a_gap_in_seq_is_a_violation(messages: Make) -> None:
    session = messages(PCM)
    del session[4]
    assert "has seq 6 after 4" in _trace(session).violations[0]


def test_messages_of_the_connection_carry_no_seq(messages: Make) -> None:
    queued = {"type": "session.queued", "position": 1, "eta_ms": None}
    idle = {"type": "response.video.delta", "idle": True, "delta": "", "response_id": None}
    session = [queued, *messages(PCM), idle]
    assert _trace(session).violations == []
    unnumbered = messages(PCM)
    del unnumbered[2]["seq"]
    assert "has no seq" in _trace(unnumbered).violations[0]


def test_reported_drops_are_no_violation(messages: Make) -> None:
    session = messages(PCM)
    position = session.index(_nth(session, "response.video.delta", 1))
    session[position] = {
        "type": "response.video.dropped",
        "response_id": "resp_1",
        "first_frame_index": 1,
        "last_frame_index": 1,
        "reason": "overload",
    }
    _nth(session, "response.video.done").update(frames=2, dropped=1)
    trace = _trace([{**m, "seq": n} for n, m in enumerate(session, start=1)])
    assert trace.violations == []
    assert trace.responses["resp_1"].dropped == {1}


def test_media_after_an_acknowledged_cancel_is_a_violation(messages: Make) -> None:
    session = messages(PCM, 2)
    _nth(session, "response.done", 0)["epoch"] = 2
    assert any("epoch 1" in violation for violation in _trace(session).violations)
