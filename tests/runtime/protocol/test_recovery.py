"""A session that goes on from a snapshot after its pod was lost: nothing is lost or repeated."""

from __future__ import annotations

import json
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.protocol.test_session_document import (
    SETTINGS,
    Play,
    check,
    document_of,
    noise,
    opened,
)

from avatar_client.positions import Position
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import resume

if TYPE_CHECKING:
    from tests.runtime.protocol.conftest import Connect, SessionDriver


class Recorded:
    """A driver whose client keeps what it has sent, and whose snapshots are taken now and then."""

    def __init__(self, driver: SessionDriver) -> None:
        self.driver = driver
        self.sent: list[str | bytes] = []
        self.document: dict[str, Any] = {}
        self.taken_at = 0.0
        self._receive = driver.send_raw
        driver.send_raw = self.send_raw  # type: ignore[method-assign]

    def send_raw(self, message: str | bytes) -> list[dict[str, Any]]:
        self.sent.append(message)
        return self._receive(message)

    def snapshot(self) -> None:
        self.document, self.taken_at = document_of(self.driver), self.driver.now

    def position(self) -> resume.ClientPosition:
        position = Position()
        for event in self.driver.events:
            position.took(event)
        received = position.describe(len(self.sent))
        request = {"type": "session.resume", "token": "t", "last_seq": self.last_seq}
        parsed = resume.parse(json.dumps({**request, "received": received}))
        assert parsed.position is not None
        return parsed.position

    @property
    def last_seq(self) -> int:
        return int(self.driver.events[-1]["seq"])

    def die(self, rng: Random, *, tells: bool = True) -> float | None:
        """Lose the pod and what was on its way, and go on from the snapshot on another one.

        Return what is lost, `None` if the client has no message after the snapshot.
        """
        driver = self.driver
        position = self.position() if tells else None
        age_s, driver.now = driver.now - self.taken_at, self.taken_at - 500.0
        session = driver.session = opened(self.document, driver.now, is_real=False)
        driver.now += age_s
        lost = None
        if self.last_seq > session.progress[1]:
            lost = session.recover(self.last_seq, position, driver.now)
        for message in self.sent[session.received.messages :]:
            driver.session.receive(message, driver.now)
            while driver.session.listen(driver.now):
                pass
            driver.session.tick(driver.now)
            if rng.random() < 0.5:
                driver.make()
        return lost


@pytest.mark.parametrize(("mode", "flow", "overrun"), [*SETTINGS, ("none", "clock", "drop")])
def test_a_lost_pod_at_any_point_loses_nothing_and_repeats_nothing(
    connect: Connect, mode: str, flow: str, overrun: str
) -> None:
    flow_of = {"mode": flow, "window_ms": 400, "overrun": overrun}
    session = {"avatar": {"video": {"mode": mode}, "flow": flow_of}}
    recovered = 0
    for seed in range(12):
        rng = Random(seed)
        recorded = Recorded(connect())
        driver = recorded.driver
        play = Play(driver, seed, **session)
        for _ in range(6):
            play.step(cancels=True)
            if not driver.session.has_caught_up:
                continue
            recorded.snapshot()
            for _ in range(rng.randint(0, 2)):
                play.step(cancels=True)
            recovered += recorded.die(rng) is not None
            play.in_flight.clear()
        play.is_open = True  # a cancel may have left the utterance open
        play.finish()
        heard = check(driver.events)
        said, at = b"".join(play.said), 0
        for sound in heard.values():  # byte for byte; a cancel cuts some of it off
            found = said.find(sound, at)
            assert found >= 0
            at = found + len(sound)
    assert recovered > 10


def test_a_client_that_does_not_say_what_it_has_hears_nothing_twice(connect: Connect) -> None:
    recorded = Recorded(connect())
    driver = recorded.driver
    driver.append(noise(Random(1), 50))
    driver.run(0.2)
    recorded.snapshot()
    driver.run(0.4)
    before = len(driver.events)
    assert driver.session.progress[2] == 1
    lost_ms = recorded.die(Random(1), tells=False)
    assert lost_ms is not None
    assert lost_ms == 800  # 20 of 50 frames were sent
    driver.send("input_audio_buffer.commit")
    driver.run(1.0)
    driver.append(noise(Random(2), 10))
    driver.send("input_audio_buffer.commit")
    driver.run(2.0)
    assert [e["seq"] for e in driver.events] == list(range(1, 1 + len(driver.events)))
    after = driver.events[before:]
    ends = [e["response"] for e in after if e["type"] == "response.done"]
    assert [(each["id"], each["status"]) for each in ends] == [
        ("resp_0a_1", "failed"),
        ("resp_0a_2", "completed"),
    ]
    media = [e for e in after if e["type"] == "response.video.delta" and not e["idle"]]
    assert {e["response_id"] for e in media} == {"resp_0a_2"}
    assert min(e["epoch"] for e in media) > 1  # whatever the client has cancelled, this is newer


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("events", -1),
        ("events", 8),
        ("messages", 1.5),
        ("last_events", "0123456"),
        ("last_events", "x1234567"),
        ("last_events", "01234567" * 129),
        ("response_id", 7),
        ("frames", 8),
        ("dropped", "1"),
        ("audio_bytes", -1),
    ],
)
def test_a_wrong_position_is_refused_with_its_field(field: str, value: object) -> None:
    received: dict[str, object] = Position(events=1).describe(3) | {field: value}
    request = {"type": "session.resume", "token": "t", "last_seq": 7, "received": received}
    with pytest.raises(ProtocolError) as refused:
        resume.parse(json.dumps(request))
    assert refused.value.param == f"received.{field}"


def test_a_session_that_repeats_has_no_snapshot(connect: Connect) -> None:
    recorded = Recorded(connect())
    recorded.snapshot()
    driver = recorded.driver
    driver.append(noise(Random(1), 20))
    driver.run(0.3)
    driver.session = opened(recorded.document, driver.now, is_real=False)
    driver.session.recover(recorded.last_seq, recorded.position(), driver.now)
    with pytest.raises(ProtocolError, match="sends again"):
        driver.session.check_movable()
