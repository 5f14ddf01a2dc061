"""The limits of the protocol: the last value that is accepted and the first one that is not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events
from avatar_runtime.protocol.pacing import Pacer
from avatar_runtime.protocol.rate_limit import RateLimiter

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.runtime.protocol.conftest import Connect


def _settings(name: str, value: int) -> dict[str, Any]:
    """Return the `avatar` object that sets one number."""
    match name:
        case "window_ms":
            return {"flow": {"window_ms": value}}
        case "width":
            return {"video": {"resolution": {"width": value, "height": 64}}}
        case "height":
            return {"video": {"resolution": {"width": 64, "height": value}}}
        case _:
            return {"video": {name: value}}


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("quality", 1, 100),
        ("bitrate", 100_000, 20_000_000),
        ("width", 64, 2048),
        ("height", 64, 2048),
        ("window_ms", 200, 10_000),
    ],
)
def test_a_number_is_accepted_up_to_both_ends_of_its_range(
    connect: Connect, name: str, low: int, high: int
) -> None:
    driver = connect()
    for value in (low, high):
        [updated] = driver.update(avatar=_settings(name, value))
        assert updated["type"] == "session.updated"
        assert f'"{name}": {value}' in json.dumps(updated["session"]["avatar"])
    for value in (low - 1, high + 1):
        [error] = driver.update(avatar=_settings(name, value))
        assert (error["error"]["code"], error["error"]["limit"]) == ("invalid_value", [low, high])
        assert error["error"]["message"].endswith(f".{name} is {value}; must be {low} to {high}")


def test_an_event_id_has_at_most_512_characters(connect: Connect) -> None:
    driver = connect()
    [error] = driver.send("response.cancel", event_id="x" * 512)
    assert (error["error"]["code"], error["error"]["event_id"]) == (
        "response_cancel_not_active",
        "x" * 512,
    )
    [error] = driver.send("response.cancel", event_id=None)
    assert (error["error"]["code"], error["error"]["event_id"]) == (
        "response_cancel_not_active",
        None,
    )


def test_an_append_has_at_most_15_mib(connect: Connect) -> None:
    driver = connect()
    assert driver.append(bytes(15 * 1024 * 1024))[1]["type"] == "response.created"
    [error] = connect().append(bytes(15 * 1024 * 1024 + 3))
    assert (error["error"]["code"], error["error"]["value"]) == ("audio_too_large", 15_728_643)


@pytest.mark.parametrize(("size", "code"), [(0, "invalid_json"), (1, "message_too_large")])
def test_a_message_has_at_most_21_mib(connect: Connect, size: int, code: str) -> None:
    driver = connect()
    [error] = driver.send_raw(" " * (21 * 1024 * 1024 + size))
    assert error["error"]["code"] == code
    assert (driver.session.closing is None) == (size == 0)


@pytest.mark.parametrize(("values", "accepted"), [(99_996, True), (99_997, False)])
def test_a_message_has_at_most_100_000_values(values: int, accepted: bool) -> None:
    # The outer object, two commas of its fields and the list make four more separators.
    text = '{"type":"a","b":1,"c":[' + ",".join("1" * (values + 1)) + "]}"
    assert sum(map(text.count, ",[{")) == values + 4
    if accepted:
        assert "c" in client_events.load(text)
    else:
        with pytest.raises(ProtocolError, match="more than 100000 values"):
            client_events.load(text)


@pytest.mark.parametrize(("levels", "accepted"), [(32, True), (33, False)])
@pytest.mark.parametrize(("start", "end"), [('{"a":', "}"), ("[", "]")], ids=["objects", "arrays"])
def test_a_message_has_at_most_32_levels(levels: int, accepted: bool, start: str, end: str) -> None:
    inner = levels - 1
    text = '{"a":' + start * inner + "1" + end * inner + "}"
    if accepted:
        assert "a" in client_events.load(text)
    else:
        with pytest.raises(ProtocolError, match="deeper than 32 levels") as error:
            client_events.load(text)
        assert (error.value.code, error.value.limit) == ("invalid_value", 32)


@pytest.mark.parametrize(
    ("pts_ms", "codes"), [(0, []), (86_400_000, []), (86_400_001, ["invalid_value"])]
)
def test_an_ack_covers_at_most_a_day(connect: Connect, pts_ms: int, codes: list[str]) -> None:
    answers = connect().send("output_video_buffer.ack", response_id="other", pts_ms=pts_ms)
    assert [answer["error"]["code"] for answer in answers] == codes


def test_an_ack_of_all_frames_sent_is_accepted(connect: Connect) -> None:
    driver = connect()
    driver.append(bytes(1920 * 6))
    driver.make()
    assert driver.send("output_video_buffer.ack", response_id="resp_0a_1", pts_ms=160) == []


def test_an_ack_of_a_finished_response_counts_its_whole_last_frame(connect: Connect) -> None:
    driver = connect()
    driver.append(bytes(2 * 2400))  # two and a half frames
    driver.send("input_audio_buffer.commit")
    driver.make()
    ack = {"response_id": "resp_0a_1"}
    [error] = driver.send("output_video_buffer.ack", **ack, pts_ms=120.5)
    assert (error["error"]["code"], error["error"]["limit"]) == ("ack_ahead", 120)
    assert driver.send("output_video_buffer.ack", **ack, pts_ms=99) == []
    stopped, _ = driver.send("output_video_buffer.ack", **ack, pts_ms=100)
    assert stopped["type"] == "output_audio_buffer.stopped"
    assert driver.send("output_video_buffer.ack", **ack, pts_ms=100) == []


@pytest.mark.parametrize(
    ("limits", "code"),
    [({"idle_timeout_s": 10.0}, 4408), ({"max_duration_s": 10.0}, 4410)],
    ids=["idle", "duration"],
)
def test_a_time_limit_applies_exactly_when_wakeup_says(
    connect: Connect, limits: dict[str, float], code: int
) -> None:
    driver = connect(**limits)
    assert driver.session.wakeup() == driver.now + 10.0
    driver.session.tick(driver.now + 9.99)
    assert driver.session.closing is None
    driver.session.tick(driver.now + 10.0)
    assert driver.session.closing is not None
    assert driver.session.closing.code == code
    driver.session.end(1012, "later", driver.now)
    assert driver.session.closing.code == code  # the first reason stays


def _warnings(events: Iterable[dict[str, Any]]) -> list[str]:
    return [each["warning"]["message"] for each in events if each["type"] == "warning"]


@pytest.mark.parametrize("duration_s", [120.0, 7200.0])
def test_the_client_is_warned_once_before_the_maximum_duration(
    connect: Connect, duration_s: float
) -> None:
    driver = connect(max_duration_s=duration_s, idle_timeout_s=1e6)
    end = driver.now + duration_s
    assert driver.session.wakeup() == end - 60
    driver.session.tick(end - 60.1)
    assert _warnings(driver.pull()) == []
    driver.session.tick(end - 60)
    assert _warnings(driver.pull()) == [
        "the session reaches its maximum duration in 60 s, and ends then"
    ]
    assert driver.session.wakeup() == end
    driver.session.tick(end - 1)
    assert _warnings(driver.pull()) == []
    assert driver.session.closing is None
    driver.session.tick(end)
    assert driver.session.closing is not None


def test_a_short_session_gets_no_warning_of_its_end(connect: Connect) -> None:
    driver = connect(max_duration_s=119.9, idle_timeout_s=1e6)
    assert driver.session.wakeup() == driver.now + 119.9
    driver.session.tick(driver.now + 119)
    assert _warnings(driver.pull()) == []


def test_messages_and_frames_postpone_the_idle_timeout_and_errors_do_not(
    connect: Connect,
) -> None:
    driver = connect(idle_timeout_s=10.0)
    start = driver.now
    driver.now += 4.0
    driver.send_raw("{")
    assert driver.session.wakeup() == start + 10.0
    driver.append(bytes(1920 * 3))
    assert driver.session.wakeup() == start + 14.0
    driver.now += 2.0
    driver.make()
    assert driver.session.wakeup() == start + 16.0


def test_the_rate_limiter_admits_the_limit_in_any_window() -> None:
    limiter = RateLimiter(2, 10.0)
    assert [limiter.admits(now) for now in (0.0, 4.0, 9.9, 10.0, 13.9, 14.0)] == [
        True,
        True,
        False,
        True,
        False,
        True,
    ]


def test_errors_that_are_spread_over_time_do_not_close_the_session(connect: Connect) -> None:
    driver = connect()
    for _ in range(3):
        for _ in range(100):
            driver.send_raw("{")
        driver.now += 10.0
    assert driver.session.closing is None


def test_a_frame_fits_exactly_into_the_window() -> None:
    pacer = Pacer(25)
    pacer.add_frames(4, now=100.0)
    assert pacer.end == pytest.approx(100.16)
    assert pacer.fits(200, in_flight=0, now=100.0)
    assert not pacer.fits(199, in_flight=0, now=100.0)
    assert not pacer.fits(200, in_flight=1, now=100.0)
    assert pacer.opens_at(200, in_flight=1) == pytest.approx(100.04)
    assert pacer.opens_at(200, in_flight=4) == pytest.approx(100.16)
    assert pacer.opens_at(200, in_flight=5) is None


def test_a_frame_is_due_when_it_is_played_and_not_before_the_objective() -> None:
    pacer = Pacer(25)
    assert pacer.deadline(0, in_flight=0, now=100.0) == pytest.approx(100.15)
    assert pacer.deadline(1, in_flight=0, now=100.0) == pytest.approx(100.04)
    pacer.add_frames(10, now=100.0)
    assert pacer.deadline(10, in_flight=2, now=100.0) == pytest.approx(100.48)
    pacer.remove_frames(4)
    assert pacer.end == pytest.approx(100.24)
    pacer.stop(now=100.1)
    assert pacer.end == pytest.approx(100.1)
    pacer.stop(now=100.2)
    assert pacer.end == pytest.approx(100.1)
    pacer.add_frames(0, now=200.0)
    assert pacer.end == pytest.approx(100.1)
