"""A session that continues on another pod: its client sees the same as without the move."""

from __future__ import annotations

import base64
import copy
import dataclasses
import json
import wave
from collections import defaultdict
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
from tests.runtime.protocol.conftest import (
    CHARACTERS,
    FPS,
    FakeDetector,
    FakeUtterance,
    SessionDriver,
)

from avatar_runtime.audio.decoding import AudioDecoder
from avatar_runtime.audio.utterance import AudioOptions
from avatar_runtime.audio.voice_activity import SileroDetector
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import config_document, session_document
from avatar_runtime.protocol.audio_formats import FORMATS, PCM_24K
from avatar_runtime.protocol.media import RawImage
from avatar_runtime.protocol.session import Session, SessionLimits
from avatar_runtime.protocol.session_config import (
    Character,
    Crop,
    FlowMode,
    Idle,
    Overrun,
    ReadOnlyFields,
    Region,
    SessionConfig,
    StartTrigger,
    Transport,
    VideoMode,
)
from avatar_runtime.protocol.strict_fields import StrictFields
from avatar_runtime.protocol.turn_detection import TurnDetection

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.runtime.protocol.conftest import Connect

    from avatar_runtime.batching.frames import AudioWindow
    from avatar_runtime.protocol.audio_formats import AudioFormat

EXAMPLES = Path(__file__).parents[3] / "examples"
LIMITS = SessionLimits(7200.0, 300.0)


def document_of(driver: SessionDriver) -> dict[str, Any]:
    """Return the document of the driver's session, as it arrives on the other pod."""
    session = driver.session
    heading = session_document.Heading(
        "sess_" + "0a" * 12,
        (),
        session.suffix,
        "acme/concierge",
        "acme/concierge",
        1_800_000_000,
        FPS,
        100.0,
        None,
    )
    document = session_document.describe(heading, session, driver.now)
    decoded: dict[str, Any] = json.loads(session_document.encode(document))
    return decoded


def opened(document: dict[str, Any] | None, now: float, *, is_real: bool = True) -> Session[Any]:
    """Return the session of a document on another pod, or a new one.

    Raises:
        ProtocolError: the document is wrong.
    """
    config, suffix, fields = SessionConfig(CHARACTERS["anna"]), None, None
    if document is not None:
        fields = session_document.decode(json.dumps(document).encode())
        suffix = session_document.heading(fields).suffix
        config = config_document.read(fields.nested("config"), CHARACTERS)
    session: Session[Any] = Session(
        config,
        CHARACTERS,
        ReadOnlyFields("sess_" + "0b" * 12, "acme/concierge", 1_800_000_000, FPS),
        limits=LIMITS,
        open_utterance=real_utterance if is_real else FakeUtterance,
        open_detector=SileroDetector if is_real else FakeDetector,
        now=now,
        continues=suffix,
    )
    if fields is not None:
        session.restore(fields.nested("state"), now)
    return session


def move(driver: SessionDriver) -> None:
    """Continue the driver's session on another pod; its clock is 500 s behind."""
    document = document_of(driver)
    driver.now -= 500.0
    driver.session = opened(document, driver.now, is_real=False)


def noise(rng: Random, frames: float) -> bytes:
    return rng.randbytes(int(frames * 960) * 2)


class Play:
    """A random client, and an engine that is sometimes late. Its trace says what was seen."""

    def __init__(self, driver: SessionDriver, seed: int, **session: Any) -> None:
        self.driver = driver
        self.rng = Random(seed)
        self.said: list[bytes] = []
        self.in_flight: list[Any] = []
        driver.update(**session)
        self.acks = session["avatar"]["flow"]["mode"] == "ack"
        self.is_open = False

    def step(self, *, cancels: bool) -> None:
        """Do one thing of the client, and let the engine and the time go on."""
        driver, rng = self.driver, self.rng
        match rng.choice("aaaaacccxkuw"):
            case "a":
                self.said.append(noise(rng, rng.uniform(0.01, 9)))
                driver.append(self.said[-1])
                self.is_open = True
            case "c" if self.is_open:
                driver.send("input_audio_buffer.commit")
                self.is_open = False
            case "x" if cancels:
                driver.send("response.cancel")
                self.is_open = False
            case "k":
                driver.send("output_video_buffer.request_keyframe")
            case "u":
                driver.update(avatar={"video": {"quality": rng.randint(10, 90)}})
            case _:
                pass
        self.engine()

    def engine(self) -> None:
        driver, rng = self.driver, self.rng
        for _ in range(rng.randint(1, 4)):
            driver.now += 0.04
            driver.session.tick(driver.now)
            self.in_flight += driver.due()
            ready = rng.randint(0, len(self.in_flight))
            for frame in self.in_flight[:ready]:
                driver.deliver(frame)
            del self.in_flight[:ready]
            if rng.random() < 0.7:  # the socket is not always looked at
                driver.pull()
                self.ack()

    def ack(self) -> None:
        heard: dict[str, int] = defaultdict(int)
        for event in self.driver.events:
            if event["type"] == "response.video.delta" and event["response_id"]:
                heard[event["response_id"]] = event["frame_index"] + 1
        if self.acks and heard and self.rng.random() < 0.5:
            response_id, frames = list(heard.items())[-1]
            pts = frames * 40 - 40
            self.driver.send("output_video_buffer.ack", response_id=response_id, pts_ms=pts)

    def finish(self) -> None:
        """Speak to the end, with an engine that is in time and a client that plays."""
        driver = self.driver
        if self.is_open:
            driver.send("input_audio_buffer.commit")
        for frame in self.in_flight:
            driver.deliver(frame)
        self.in_flight.clear()
        for _ in range(3000):
            driver.now += 0.04
            driver.session.tick(driver.now)
            driver.make()
            self.acks_all()
            if driver.session.mode.speech.is_quiet:
                return
        raise AssertionError("the session did not finish")

    def acks_all(self) -> None:
        media = [e for e in self.driver.events if e["type"] == "response.video.delta"]
        if self.acks and media and (response_id := media[-1]["response_id"]):
            frames = media[-1]["frame_index"] + 1
            sent = sum(
                len(base64.b64decode(e["delta"])) // 2
                for e in self.driver.events
                if e["type"] == "response.output_audio.delta" and e["response_id"] == response_id
            )
            pts = min(frames * 40, sent / 24)
            self.driver.send("output_video_buffer.ack", response_id=response_id, pts_ms=pts)


def check(events: list[dict[str, Any]]) -> dict[str, bytes]:
    """Check what a client sees, and return the sound of each response."""
    # No message is lost, and none comes twice.
    assert [event["seq"] for event in events] == list(range(1, 1 + len(events)))
    assert len({event["event_id"] for event in events}) == len(events)
    sound: dict[str, bytes] = {}
    frames: dict[str, list[int]] = defaultdict(list)
    for event in events:
        match event["type"]:
            case "response.created":
                sound[event["response"]["id"]] = b""
            case "response.output_audio.delta":
                data = sound[event["response_id"]]
                assert event["offset_samples"] == len(data) // 2
                sound[event["response_id"]] = data + base64.b64decode(event["delta"])
            case "response.video.delta" if event["response_id"]:
                assert len(sound[event["response_id"]]) > event["offset_samples"] * 2
                frames[event["response_id"]].append(event["frame_index"])
            case "response.video.dropped":
                first, last = event["first_frame_index"], event["last_frame_index"]
                frames[event["response_id"]] += range(first, last + 1)
            case "response.video.done":
                seen = frames[event["response_id"]]
                assert seen == list(range(event["frames"] + event["dropped"]))
                assert len(sound[event["response_id"]]) == event["audio_samples"] * 2
    ends = [e["response"]["id"] for e in events if e["type"] == "response.done"]
    assert sorted(ends) == sorted(sound)
    return sound


SETTINGS = [
    (mode, flow, overrun)
    for mode in ("jpeg", "h264")
    for flow in ("clock", "ack")
    for overrun in ("drop", "pause")
]


@pytest.mark.parametrize(("mode", "flow", "overrun"), SETTINGS)
def test_moves_at_any_point_lose_nothing_and_repeat_nothing(
    connect: Connect, mode: str, flow: str, overrun: str
) -> None:
    flow_of = {"mode": flow, "window_ms": 400, "overrun": overrun}
    session = {"avatar": {"video": {"mode": mode}, "flow": flow_of}}
    for seed in range(8):
        play = Play(connect(), seed, **session)
        if mode == "h264":
            play.driver.deliver = raw_images(play.driver)  # type: ignore[method-assign]
        for _ in range(40):
            play.step(cancels=seed % 2 == 1)
            if play.rng.random() < 0.3:
                move(play.driver)
                play.in_flight.clear()  # frames on their way are lost with the pod
        play.finish()
        heard = check(play.driver.events)
        # The sound is that of the client, byte for byte; a cancel cuts some of it off.
        said, at = b"".join(play.said), 0
        for sound in heard.values():
            found = said.find(sound, at)
            assert found >= 0
            at = found + len(sound)
        if seed % 2 == 0:
            assert b"".join(heard.values()) == said


def raw_images(driver: SessionDriver) -> Callable[..., bool]:
    """Return a `deliver` of images that are encoded when they are sent."""

    def deliver(frame: Any, image: Any = None) -> bool:
        picture = RawImage(bytes(384 * 384 * 3 // 2), 384, 384)
        return driver.session.deliver(
            frame.response_ref, frame.epoch, frame.frame_index, picture, driver.now
        )

    return deliver


def test_the_sound_is_that_without_the_move(connect: Connect) -> None:
    for seed in range(10):
        rng = Random(seed)
        driver = connect()
        spoken = noise(rng, rng.uniform(20, 60))
        at = 0
        while at < len(spoken):
            size = rng.randint(1, 5000)
            driver.append(spoken[at : at + size])
            at += size
            if rng.random() < 0.2:
                driver.run(rng.uniform(0, 0.2))
            if rng.random() < 0.1:
                driver.due()  # these frames are on their way, and get lost
                move(driver)
        driver.send("input_audio_buffer.commit")
        move(driver)
        driver.run(5)
        (sound,) = check(driver.events).values()
        assert sound == spoken
        assert [e for e in driver.events if e["type"] == "response.video.dropped"] == []


def test_turns_that_wait_and_their_requests_move(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"drive": {"start": "response.create"}})
    spoken = [noise(Random(turn), 5) for turn in range(3)]
    for turn, sound in enumerate(spoken):
        driver.append(sound)
        driver.send("input_audio_buffer.commit")
        driver.send("response.create", response={"metadata": {"turn": f"{turn}"}})
        move(driver)
    driver.run(2)
    assert list(check(driver.events).values()) == spoken
    done = [e["response"] for e in driver.events if e["type"] == "response.done"]
    assert [response["metadata"] for response in done] == [{"turn": f"{t}"} for t in range(3)]
    items = [e["item"]["id"] for e in driver.events if e["type"] == "conversation.item.added"]
    assert sorted(items) == [f"item_0a_{kind}{n}" for kind in "au" for n in (1, 2, 3)]
    driver.send("conversation.item.retrieve", item_id=items[0])
    assert driver.events[-1]["type"] == "conversation.item.retrieved"


def test_speech_that_is_detected_moves_within_a_turn(connect: Connect) -> None:
    loud, quiet = b"\xff\x3f" * 12_000, bytes(48_000)

    def speak(moves: bool) -> list[dict[str, Any]]:
        driver = connect()
        driver.update(audio={"input": {"turn_detection": {"type": "server_vad"}}})
        for sound in (quiet, loud, quiet, loud, quiet):
            for at in range(0, len(sound), 1500):
                driver.append(sound[at : at + 1500])
                driver.run(0.04)
                if moves:
                    move(driver)
        driver.run(3)
        return [{**e, "event_id": ""} for e in driver.events if "speech" in e["type"]]

    stayed = speak(False)
    assert len(stayed) == 4
    assert speak(True) == stayed


def real_utterance(audio: AudioFormat) -> AudioDecoder:
    """Return the utterance of the runtime, with a context of 2 s."""
    return AudioDecoder(audio, FPS, 2, AudioOptions(0, -50.0))


def windows(pcm: bytes, moves: list[int]) -> list[tuple[object, ...]]:
    """Return what the engine gets of an utterance that moves after these pieces of 20 ms."""
    utterance = real_utterance(PCM_24K)
    found: list[AudioWindow] = []
    kept: list[AudioWindow] = []
    for index, at in enumerate(range(0, len(pcm), 960)):
        utterance.append(pcm[at : at + 960])
        kept += utterance.take()
        if index in moves:
            state = json.loads(json.dumps(utterance.export(kept)))
            utterance = real_utterance(PCM_24K)
            fields = session_document.decode(json.dumps({"schema": 1, "u": state}).encode())
            kept = list(utterance.restore(fields.nested("u")))
        if index % 7 == 0:
            found, kept = found + kept, []
    utterance.finish()
    found += [*kept, *utterance.take()]
    return [
        (w.frame_index, w.group, bytes(w.context), w.first_step, w.steps, w.silent, w.mouth_opacity)
        for w in found
    ]


def test_the_engine_gets_the_same_windows() -> None:
    rng = Random(1)
    pcm = b"".join(
        rng.randbytes(19_200) if rng.random() < 0.5 else bytes(19_200) for _ in range(12)
    )
    stayed = windows(pcm, [])
    assert windows(pcm, list(range(0, 600, 13))) == stayed
    assert windows(pcm, list(range(100, 140))) == stayed


def test_the_voice_detector_hears_the_same() -> None:
    pcm = Random(2).randbytes(96_000)
    stayed, moved = SileroDetector(PCM_24K), SileroDetector(PCM_24K)
    rates = list(stayed.append(pcm))
    found: list[float] = []
    for at in range(0, len(pcm), 1000):
        found += moved.append(pcm[at : at + 1000])
        state = json.dumps({"schema": 1, "d": moved.export()}).encode()
        moved = SileroDetector(PCM_24K)
        moved.restore(session_document.decode(state).nested("d"))
    assert found == rates


def test_the_time_that_is_left_moves(connect: Connect) -> None:
    driver = connect(max_duration_s=10.0, idle_timeout_s=300.0)
    driver.run(7)
    move(driver)
    driver.run(2.9)
    assert driver.session.closing is None
    driver.run(0.2)
    assert driver.session.closing is not None
    assert driver.session.closing.code == 4410


@pytest.mark.parametrize(("moved_after_s", "expected"), [(10, 1), (65, 1)])
def test_a_session_that_moves_warns_of_its_end_once(
    connect: Connect, moved_after_s: float, expected: int
) -> None:
    driver = connect(max_duration_s=120.0, idle_timeout_s=300.0)
    events = driver.run(moved_after_s)
    move(driver)
    events += driver.run(119 - moved_after_s)
    codes = [each["warning"]["code"] for each in events if each["type"] == "warning"]
    assert codes == ["session_expiring"] * expected


def test_a_file_stays_on_its_pod(connect: Connect) -> None:
    driver = connect()
    driver.update(avatar={"video": {"mode": "fmp4"}})
    with pytest.raises(ProtocolError, match="one file") as found:
        document_of(driver)
    assert found.value.code == "session_not_movable"


@pytest.fixture(scope="module")
def spoken() -> dict[str, Any]:
    """Return the document of a session in the middle of a sentence, with the runtime's parts."""
    driver = SessionDriver(LIMITS)
    driver.session = opened(None, driver.now)
    driver.update(
        audio={"input": {"turn_detection": {"type": "server_vad"}}},
        avatar={"drive": {"start": "append"}},
    )
    with wave.open(str(EXAMPLES / "speech.wav")) as file:
        sound = file.readframes(file.getnframes())[:96_000]
    for at in range(0, len(sound), 4800):
        driver.append(sound[at : at + 4800])
        driver.run(0.1)
    driver.due()
    driver.update(avatar={"flow": {"mode": "ack"}})
    driver.append(sound[:2000])
    document = document_of(driver)
    mode = document["state"]["mode"]
    assert mode["input"]["turns"][0]["phase"] == "live"
    return document


def paths(value: object, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in a document."""
    if path:
        yield path
    items: Any = ()
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list):
        items = enumerate(value)
    for name, each in items:
        yield from paths(each, (*path, name))


def changed(document: dict[str, Any], path: tuple[Any, ...], value: object) -> dict[str, Any]:
    copied = copy.deepcopy(document)
    place: Any = copied
    for name in path[:-1]:
        place = place[name]
    if value is paths:
        del place[path[-1]]
    else:
        place[path[-1]] = value
    return copied


def test_a_wrong_document_is_refused_and_nothing_else(spoken: dict[str, Any]) -> None:
    wrong: list[object] = [paths, None, -1, 2**60, 1.5, True, "x" * 2000, [], {}, [None], "AAA="]
    rng, errors = Random(3), []
    for path in paths(spoken):
        for value in rng.sample(wrong, 2):
            try:
                session = opened(changed(spoken, path, value), 50.0)
            except ProtocolError as error:
                errors.append(error)
                continue
            # What is accepted is within its limits: the session goes on, or ends in order.
            session.tick(50.0)
            list(session.due(50.0))
            for _ in range(50):
                session.pull(50.0)
    assert len(errors) > 200
    assert all(error.message and (error.param or error.code != "internal") for error in errors)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\xff", "invalid_json"),
        (b"[]", "invalid_json"),
        (b'{"schema": NaN}', "invalid_json"),
        (b"[" * 100_000, "invalid_json"),
        (b"{}", "missing_field"),
        (b'{"schema": 2}', "unsupported_schema"),
        (b"," * 2_000_001, "invalid_value"),
    ],
    ids=["bytes", "list", "NaN", "deep", "empty", "newer", "values"],
)
def test_what_is_no_document_is_refused(body: bytes, code: str) -> None:
    with pytest.raises(ProtocolError) as found:
        session_document.decode(body)
    assert found.value.code == code


def test_a_newer_schema_is_named() -> None:
    with pytest.raises(ProtocolError) as found:
        session_document.decode(b'{"schema": 7}')
    assert str(found.value) == "schema is 7; this pod reads documents up to schema 1"
    assert (found.value.param, found.value.value, found.value.limit) == ("schema", 7, 1)


def test_a_document_over_the_limit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_document, "MAX_BYTES", 100)
    with pytest.raises(ProtocolError) as found:
        session_document.encode({"schema": 1, "sound": "x" * 100})
    assert (found.value.code, found.value.limit) == ("document_too_large", 100)


def test_another_version_of_the_avatar_is_refused(spoken: dict[str, Any]) -> None:
    document = changed(spoken, ("config", "character", "version"), "0123")
    with pytest.raises(ProtocolError) as found:
        opened(document, 50.0)
    assert (found.value.code, found.value.param) == ("avatar_not_found", "config.character.version")


def test_every_setting_of_a_session_moves_with_it() -> None:
    anna = Character("anna", 512, 512, has_alpha=True)
    config = SessionConfig(
        anna,
        format=FORMATS[-1],
        quality=71,
        bitrate=300_000,
        video=VideoMode.JPEG,
        names_avatar=True,
        resolution=(320, 240),
        crop=Crop(10, 20, 330, 260),
        background="#00ff00",
        asked_audio_deltas=False,
        idle=Idle.STREAM,
        transport=Transport.BINARY,
        flow=FlowMode.ACK,
        window_ms=700,
        overrun=Overrun.PAUSE,
        asked_start=StartTrigger.COMMIT,
        turn_detection=TurnDetection(threshold=0.7, asked=("threshold",)),
        stored={"instructions": "Be kind."},
        stored_input={"noise_reduction": None},
        stored_output={"speed": 1.0},
    )
    patches = SessionConfig(anna, region=Region.PATCH, video=VideoMode.NONE)
    default = SessionConfig(anna)
    for field in dataclasses.fields(SessionConfig):
        name = field.name
        values = [getattr(each, name) for each in (config, patches, default)]
        assert name == "character" or values[:2] != [values[2]] * 2, f"{name} is not tried"
    for each in (config, patches):
        document = json.loads(json.dumps(config_document.export(each)))
        assert config_document.read(StrictFields(document), {"anna": anna}) == each


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"region": "patch", "video": "h264"}, "session.avatar.video.region"),
        ({"background": "#00ff00"}, "session.avatar.background"),
        ({"background": "red"}, "background"),
        ({"resolution": [321, 240], "video": "h264"}, "session.avatar.video.resolution.width"),
        ({"crop": {"left": 0, "top": 0, "right": 8, "bottom": 8}}, "crop"),
    ],
    ids=str,
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], param: str) -> None:
    anna = Character("anna", 512, 512)
    document = config_document.export(SessionConfig(anna)) | changes
    with pytest.raises(ProtocolError) as found:
        config_document.read(StrictFields(document), {"anna": anna})
    assert found.value.param == param


def test_a_crop_of_a_large_picture_moves() -> None:
    anna = Character("anna", 3840, 2160)
    config = SessionConfig(anna, crop=Crop(1800, 0, 3840, 2160))
    document = json.loads(json.dumps(config_document.export(config)))
    assert config_document.read(StrictFields(document), {"anna": anna}) == config
