"""Sessions in mode fmp4: the timeline of their file, and what may change while it grows."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol.audio_formats import MU_LAW, PCM_24K
from avatar_runtime.protocol.file_timeline import FileTimeline
from avatar_runtime.protocol.media import RawImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.runtime.protocol.conftest import Connect, Event, SessionDriver

    from avatar_runtime.protocol.media import FilePart

FPS = 25
FRAME_MS = 40
FRAME = b"\x01\x02" * 960
SIZE = len(FRAME)
FMP4 = {"video": {"mode": "fmp4"}}


class Viewer:
    """A session in mode fmp4 and what its client gets of the file."""

    def __init__(self, driver: SessionDriver) -> None:
        self.driver = driver
        self.parts: list[FilePart] = []
        self.shown: list[Event] = []
        self.others: list[Event] = []

    def settle(self) -> None:
        """Deliver what is due, and read what the session has."""
        for frame in self.driver.due():
            self.driver.deliver(frame, RawImage(b"", frame.width, frame.height))
        while (outgoing := self.driver.session.pull(self.driver.now)) is not None:
            event = json.loads(outgoing.message)
            if outgoing.frame is None:
                self.others.append(event)
                continue
            assert outgoing.frame.part is not None
            self.parts.append(outgoing.frame.part)
            self.shown.append(event)

    def run(self, seconds: float) -> None:
        until = self.driver.now + seconds
        while self.driver.now < until:
            self.driver.now += 0.01
            self.driver.session.tick(self.driver.now)
            self.settle()

    def send(self, kind: str, **fields: Any) -> None:
        message = json.dumps({"type": kind, **fields})
        self.driver.session.receive(message, self.driver.now)

    def append(self, sound: bytes) -> None:
        self.send("input_audio_buffer.append", audio=base64.b64encode(sound).decode())

    def say(self, sound: bytes) -> None:
        self.append(sound)
        self.send("input_audio_buffer.commit")

    def check(self) -> None:
        """Check that the file has no gap, and that each message says where its frame is."""
        end = 0
        for part, event in zip(self.parts, self.shown, strict=True):
            assert part.position == end
            end += part.frames
            assert event["file_ms"] == (end - 1) * FRAME_MS
            samples = part.audio.samples_per_frame(FPS) * part.frames
            assert len(part.sound) == samples * part.audio.bytes_per_sample
            assert (event["mode"], event["codec"]) == ("fmp4", "h264")
        numbers = sorted(event["seq"] for event in [*self.shown, *self.others])
        assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))

    @property
    def sound(self) -> bytes:
        return b"".join(part.sound for part in self.parts)


def viewing(connect: Connect, **avatar: Any) -> Viewer:
    driver = connect()
    [updated] = driver.update(avatar={**FMP4, **avatar})
    shown = updated["session"]["avatar"]
    assert (shown["video"]["mode"], shown["idle"]) == ("fmp4", "stream")
    assert shown["audio_deltas"] is avatar.get("audio_deltas", False)
    return Viewer(driver)


def test_the_file_grows_while_nobody_speaks_and_is_not_far_ahead(connect: Connect) -> None:
    viewer = viewing(connect)
    viewer.run(3.0)
    viewer.check()
    assert len(viewer.parts) == pytest.approx((3.0 + 0.2) * FPS, abs=1)
    assert viewer.sound == bytes(len(viewer.sound))
    assert {event["response_id"] for event in viewer.shown} == {None}


def test_the_sound_of_a_response_is_in_the_file_once_and_beside_its_frames(
    connect: Connect,
) -> None:
    viewer = viewing(connect)
    viewer.run(0.5)
    viewer.say(FRAME * 30 + FRAME[:600])
    viewer.run(3.0)
    viewer.say(FRAME * 7)
    viewer.run(1.0)
    viewer.check()
    spoken = [
        (event["frame_index"], part.sound)
        for event, part in zip(viewer.shown, viewer.parts, strict=True)
        if event["response_id"]
    ]
    last = FRAME[:600] + bytes(SIZE - 600)
    expected = [*((n, FRAME) for n in range(30)), (30, last), *((n, FRAME) for n in range(7))]
    assert spoken == expected
    assert viewer.sound.count(b"\x01\x02") == 960 * 37 + 300
    assert not [e for e in viewer.others if e["type"] == "response.output_audio.delta"]


def test_sound_may_come_beside_the_file(connect: Connect) -> None:
    viewer = viewing(connect, audio_deltas=True)
    viewer.say(FRAME * 5)
    viewer.run(0.5)
    viewer.check()
    assert [e for e in viewer.others if e["type"] == "response.output_audio.delta"]


def test_dropped_frames_keep_their_place_and_their_sound(connect: Connect) -> None:
    viewer = viewing(connect)
    viewer.run(0.3)
    driver = viewer.driver
    viewer.say(b"".join(bytes([n, 0]) * 960 for n in range(1, 11)))
    spoken = [frame for frame in driver.due() if frame.response_ref > 0]
    for frame in spoken:
        if frame.frame_index in (0, 3, 4, 9):
            session = driver.session
            assert session.skip(frame.response_ref, frame.epoch, frame.frame_index, driver.now)
        else:
            driver.deliver(frame, RawImage(b"", frame.width, frame.height))
    viewer.run(1.0)
    viewer.check()
    frames = [part.frames for part, e in zip(viewer.parts, viewer.shown, strict=True)
              if e["response_id"]]  # fmt: skip
    assert frames == [2, 1, 3, 1, 1, 1]
    after = [part for part, event in zip(viewer.parts, viewer.shown, strict=True)
             if event["idle"] and part.sound.strip(b"\0")]  # fmt: skip
    assert [part.frames for part in after] == [2]  # the last frame of the response is repeated
    assert [viewer.sound.count(bytes([n, 0]) * 960) for n in range(1, 11)] == [1] * 10


@pytest.mark.parametrize("event", ["response.cancel", "output_audio_buffer.clear"])
def test_an_interruption_leaves_no_gap_and_no_sound_of_what_was_cut(
    connect: Connect, event: str
) -> None:
    viewer = viewing(connect)
    viewer.run(0.3)
    driver = viewer.driver
    viewer.append(FRAME * 60)
    frames = [frame for frame in driver.due() if frame.response_ref > 0]
    for frame in frames:
        driver.deliver(frame, RawImage(b"", frame.width, frame.height))
    while not viewer.shown or viewer.shown[-1]["frame_index"] < 3:
        outgoing = driver.session.pull(driver.now)
        assert outgoing is not None
        if outgoing.frame is not None:
            assert outgoing.frame.part is not None
            viewer.parts.append(outgoing.frame.part)
            viewer.shown.append(json.loads(outgoing.message))
        else:
            viewer.others.append(json.loads(outgoing.message))
    viewer.send(event)
    cut = len(viewer.parts)
    viewer.run(1.0)
    viewer.check()
    after = viewer.shown[cut:]
    assert {e["epoch"] for e in after} == {2}
    assert all(e["idle"] for e in after)
    assert after[0]["keyframe"]
    assert b"".join(part.sound for part in viewer.parts[cut:]).strip(b"\0") == b""


def test_the_mode_changes_only_between_responses_and_starts_a_new_file(connect: Connect) -> None:
    viewer = viewing(connect)
    viewer.run(0.5)
    driver = viewer.driver
    driver.append(FRAME * 10)
    [refused] = [e for e in driver.update(avatar={"video": {"mode": "jpeg"}}) if "error" in e]
    assert refused["error"]["code"] == "response_active"
    assert refused["error"]["param"] == "session.avatar.video.mode"
    driver.send("input_audio_buffer.commit")
    viewer.run(2.0)
    driver.update(avatar={"video": {"mode": "none"}})
    driver.update(avatar=FMP4)
    before = len(viewer.parts)
    viewer.run(0.2)
    assert viewer.parts[before].position == 0
    assert viewer.shown[before]["keyframe"]


def test_the_size_of_the_pictures_stays(connect: Connect) -> None:
    viewer = viewing(connect)
    viewer.run(0.2)
    [refused] = viewer.driver.update(
        avatar={"video": {"resolution": {"width": 256, "height": 256}}}
    )
    assert refused["error"]["param"] == "session.avatar.video.resolution"
    assert (refused["error"]["value"], refused["error"]["limit"]) == ("256 x 256", "384 x 384")
    [updated] = viewer.driver.update(avatar={"character": "ben"})
    assert updated["session"]["avatar"]["video"]["resolution"] == {"width": 384, "height": 384}
    viewer.driver.update(avatar={"video": {"mode": "jpeg"}})
    [updated] = viewer.driver.update(
        avatar={"video": {"mode": "fmp4", "resolution": {"width": 128, "height": 64}}}
    )
    assert updated["session"]["avatar"]["video"]["resolution"] == {"width": 128, "height": 64}


def test_a_frame_of_another_form_does_not_enter_the_file(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"idle": "stream"})
    waiting = driver.due()
    driver.update(avatar=FMP4)
    for frame in waiting:
        driver.deliver(frame)
    viewer = Viewer(driver)
    viewer.run(0.5)
    viewer.check()
    assert viewer.parts[0].position == 0


@pytest.mark.parametrize(("codec", "mode"), [("h264", "fmp4"), ("jpeg", "jpeg")])
def test_azures_codec_names_the_mode(connect: Connect, codec: str, mode: str) -> None:
    driver = connect()
    [updated] = driver.update(avatar={"video": {"codec": codec}})
    assert updated["session"]["avatar"]["video"]["mode"] == mode
    [updated] = driver.update(avatar={"video": {"codec": "h264", "mode": "h264"}})
    assert updated["session"]["avatar"]["video"]["mode"] == "h264"


RESPONSES = st.lists(st.tuples(st.integers(1, 8), st.booleans(), st.booleans()), max_size=20)


@given(RESPONSES, st.data())
def test_the_timeline_never_goes_back_and_keeps_all_sound(
    responses: Sequence[tuple[int, bool, bool]], data: st.DataObject
) -> None:
    timeline = FileTimeline(FPS)
    parts: list[FilePart] = []
    heard = 0
    for ref, (frames, is_cut, is_idle_between) in enumerate(responses, 1):
        audio = data.draw(st.sampled_from([PCM_24K, MU_LAW])) if is_idle_between else PCM_24K
        if is_idle_between:  # what is left is in the format of its response
            parts.append(timeline.place(None, 0, PCM_24K))
        size = audio.samples_per_frame(FPS) * audio.bytes_per_sample
        shown = data.draw(st.lists(st.integers(0, frames - 1), unique=True).map(sorted))
        timeline.add_sound(b"\x33" * (size * frames))
        parts.extend(timeline.place(ref, index, audio) for index in shown)
        if is_cut:
            timeline.discard_sound()
            heard += (shown[-1] + 1 if shown else 0) * size
        else:
            timeline.end_response(audio)
            heard += frames * size
        if audio is not PCM_24K:
            parts.append(timeline.place(None, 0, audio))
    parts.append(timeline.place(None, 0, PCM_24K))
    end = 0
    for part in parts:
        assert part.position == end
        end += part.frames
        width = part.audio.bytes_per_sample
        assert len(part.sound) == part.frames * part.audio.samples_per_frame(FPS) * width
    assert sum(part.sound.count(b"\x33") for part in parts) == heard
