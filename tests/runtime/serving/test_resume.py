"""A client that loses its connection continues its session on the next one."""

from __future__ import annotations

import asyncio
import base64
import json
import wave
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed

from avatar_client.binary_media import BinaryMediaReader
from avatar_contracts import labels
from avatar_contracts.binary_messages import Header, Kind
from avatar_runtime.batching.frames import Frame
from avatar_runtime.protocol import replay, resume_limits
from avatar_runtime.protocol.session import Session
from avatar_runtime.serving import pending_resumes, runtime, server
from avatar_runtime.serving.live_session import LiveSession
from avatar_runtime.serving.video_encoding import SessionEncoder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.runtime.serving.conftest import FakeEngine, Serve, Served
    from websockets.asyncio.client import ClientConnection

    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.protocol.media import VideoFrame

Event = dict[str, Any]

EXAMPLES = Path(__file__).parents[3] / "examples"

SAMPLES_PER_FRAME = 960
FRAMES = 40
MEDIA = ("response.output_audio.delta", "response.video.delta", "response.video.dropped")


def luma(index: int) -> int:
    """Return the grey of a frame: neighbours differ by more than the encoder loses."""
    return 40 + index % 40 * 4


@pytest.fixture
def engine(make_engine: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch) -> FakeEngine:
    """Return an engine whose frames say their number."""
    made = make_engine()

    def picture(request: FrameRequest) -> bytes:
        pixels = request.width * request.height
        if request.raw:
            return bytes([luma(request.frame_index)]) * pixels + bytes([128]) * (pixels // 2)
        return b"\xff\xd8%06d" % request.frame_index + bytes(5000)

    async def run(batch: Sequence[FrameRequest], on_free: Callable[[], None]) -> Sequence[Frame]:
        await asyncio.sleep(0)
        return [Frame(request, picture(request)) for request in batch]

    monkeypatch.setattr(made, "run", run)
    return made


@dataclass
class Caller:
    """A client with its own count of what it has and what it has sent."""

    address: str
    events: list[Event] = field(default_factory=list)
    session_id: str = ""
    token: str = ""
    last_seq: int = 0
    sent: int = 0
    """Messages of `script` that the server has, as far as the client knows."""
    script: list[str | bytes] = field(default_factory=list)
    socket: ClientConnection | None = None
    resumed: list[Event] = field(default_factory=list)
    is_ready: asyncio.Event = field(default_factory=asyncio.Event)
    """Set once the server has said what it has."""
    media: BinaryMediaReader = field(default_factory=BinaryMediaReader)
    is_binary: bool = False
    """Whether it sends its sound as binary messages."""
    spoken: list[bytes] = field(default_factory=list)
    """The sound of its binary messages."""

    async def open(self) -> None:
        self.is_ready.clear()
        query = f"?resume={self.session_id}" if self.session_id else ""
        self.socket = await connect(f"ws://{self.address}/v1/realtime{query}", max_size=None)
        if self.session_id:
            await self.say("session.resume", token=self.token, last_seq=self.last_seq)

    async def say(self, kind: str, **fields: Any) -> None:
        assert self.socket is not None
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def read(self, until: Callable[[Event], bool] = lambda _: False) -> None:
        """Take events until one of them is the last, or the connection ends."""
        assert self.socket is not None
        while True:
            event = self.event(await self.socket.recv())
            if event["type"] in ("session.created", "session.resumed"):
                self.is_ready.set()
                self.session_id, self.token = event["session"]["id"], event["resume"]["token"]
                assert event["resume"]["ttl_ms"] == 30_000
            if event["type"] == "session.resumed":
                assert event["replay_from_seq"] == self.last_seq + 1
                self.sent = event["input_messages"]
                self.resumed.append(event)
            else:
                assert event["seq"] == self.last_seq + 1
                self.last_seq = event["seq"]
                self.events.append(event)
            if until(event):
                return

    def event(self, message: str | bytes) -> Event:
        """Return the event of a message, in the same form for both transports."""
        if isinstance(message, bytes):
            media = self.media.read(message)
            media["delta"] = base64.b64encode(media.pop("data")).decode()
            return media
        event: Event = json.loads(message)
        self.media.observe(event)
        return event

    def append(self, pcm: bytes) -> str | bytes:
        """Return the next message with sound."""
        if not self.is_binary:
            return append(pcm)
        offset = sum(map(len, self.spoken)) // 2
        self.spoken.append(pcm)
        return Header(Kind.INPUT_AUDIO, len(self.spoken), offset).pack(pcm)

    async def write(self, pause_s: float = 0.0) -> None:
        """Send what the server does not have."""
        assert self.socket is not None
        await self.is_ready.wait()
        while self.sent < len(self.script):
            message, self.sent = self.script[self.sent], self.sent + 1
            await self.socket.send(message)
            await asyncio.sleep(pause_s)

    async def reopen(self) -> None:
        """Lose the connection without a word, and resume on another one."""
        assert self.socket is not None
        self.socket.transport.abort()
        await self.open()
        await self.read(lambda event: event["type"] == "session.resumed")

    def of(self, kind: str) -> list[Event]:
        return [event for event in self.events if event["type"] == kind]


def append(pcm: bytes) -> str:
    audio = base64.b64encode(pcm).decode()
    return json.dumps({"type": "input_audio_buffer.append", "audio": audio})


def speech(frames: int, seed: int = 1) -> bytes:
    return Random(seed).randbytes(frames * SAMPLES_PER_FRAME * 2)


COMMIT = json.dumps({"type": "input_audio_buffer.commit"})


@asynccontextmanager
async def calling(served: Served) -> AsyncIterator[Caller]:
    caller = Caller(served.sessions)
    await caller.open()
    await caller.read(lambda event: event["type"] == "conversation.created")
    yield caller
    assert caller.socket is not None
    await caller.socket.close()


async def converse(caller: Caller, rng: Random, cuts: int, turns: int) -> int:
    """Speak `turns` utterances, lose the connection at random, and return how often it was."""
    for turn in range(turns):
        pcm = speech(FRAMES, turn)
        size = rng.choice((1000, 1920, 9600))
        chunks = [caller.append(pcm[at : at + size]) for at in range(0, len(pcm), size)]
        caller.script += [*chunks, COMMIT]
    done, lost = turns, 0
    while len(caller.of("response.done")) < done:
        assert caller.socket is not None
        writing = asyncio.create_task(caller.write(rng.choice((0.0, 0.002, 0.02))))
        reading = asyncio.create_task(caller.read(lambda event: event["type"] == "response.done"))
        life_s = rng.uniform(0.0, 0.12) if lost < cuts else None
        await asyncio.wait([reading], timeout=life_s)
        if not reading.done():
            lost += 1
            caller.socket.transport.abort()
            await asyncio.wait([reading], timeout=5)
        writing.cancel()
        for ended in await asyncio.gather(reading, writing, return_exceptions=True):
            assert ended is None or isinstance(ended, (ConnectionClosed, asyncio.CancelledError))
        if caller.socket.state.name != "OPEN":
            await caller.open()
    return lost


def check(caller: Caller, turns: int, decoded: list[int] | None) -> None:
    """Check that the client has all of its sound and each frame once, in order."""
    responses = [event["response"]["id"] for event in caller.of("response.created")]
    assert len(responses) == turns
    for turn, response in enumerate(responses):
        mine = [e for e in caller.events if e.get("response_id") == response]
        sound = b"".join(base64.b64decode(e["delta"]) for e in mine if e["type"] == MEDIA[0])
        assert sound == speech(FRAMES, turn)
        assert [e["frame_index"] for e in mine if e["type"] == MEDIA[1]] == list(range(FRAMES))
        assert [e for e in mine if e["type"] == MEDIA[2]] == []
    if decoded is not None:
        expected = [luma(index) for _ in responses for index in range(FRAMES)]
        assert max(abs(a - b) for a, b in zip(decoded, expected, strict=True)) <= 2


def decode(caller: Caller) -> list[int]:
    context: Any = av.CodecContext.create("h264", "r")
    context.thread_count = 1
    shown = []
    for event in caller.of("response.video.delta"):
        (frame,) = context.decode(av.Packet(base64.b64decode(event["delta"])))
        plane = np.asarray(frame.to_ndarray(format="yuv420p"))[: frame.height]
        shown.append(round(float(plane.mean())))
    return shown


@pytest.mark.parametrize(
    ("mode", "transport", "cuts", "turns"),
    [
        ("jpeg", "json", 15, 2),
        ("h264", "json", 15, 2),
        ("jpeg", "binary", 15, 2),
        ("h264", "binary", 15, 2),
        pytest.param("jpeg", "json", 250, 20, marks=pytest.mark.slow),
        pytest.param("h264", "json", 250, 20, marks=pytest.mark.slow),
    ],
)
async def test_random_cuts_lose_nothing_and_repeat_nothing(
    serve: Serve,
    engine: FakeEngine,
    monkeypatch: pytest.MonkeyPatch,
    mode: str,
    transport: str,
    cuts: int,
    turns: int,
) -> None:
    monkeypatch.setattr(resume_limits, "BURST", max(resume_limits.BURST, cuts))
    async with serve(engine=engine) as served, calling(served) as caller:
        avatar = {"video": {"mode": mode}, "transport": transport}
        session = {"type": "realtime", "avatar": avatar}
        caller.script = [json.dumps({"type": "session.update", "session": session})]
        caller.is_binary = transport == "binary"
        lost = await converse(caller, Random(cuts), cuts, turns)
        assert lost == cuts
        assert len(caller.resumed) >= cuts * 0.3  # a connection may be lost before its answer
    check(caller, turns, decode(caller) if mode == "h264" else None)


async def test_the_time_of_a_session_stands_still_while_its_client_is_away(
    serve: Serve, engine: FakeEngine
) -> None:
    async with serve(engine=engine) as served, calling(served) as caller:
        pcm = speech(FRAMES, 0)
        # At the pace of a microphone, so that late frames would be dropped.
        caller.script = [append(pcm[at : at + 1920]) for at in range(0, len(pcm), 1920)]
        writing = asyncio.create_task(caller.write(0.04))
        await caller.read(lambda event: event.get("frame_index") == 20)
        assert caller.socket is not None
        caller.socket.transport.abort()
        with pytest.raises(ConnectionClosed):
            await writing
        await served.eventually(lambda: served.live().is_held, "held")
        live = served.live()
        at = live.clock()
        await asyncio.sleep(2)  # longer than a frame may be late
        assert live.clock() == at
        await caller.open()
        caller.script.append(COMMIT)
        await caller.read(lambda event: event["type"] == "session.resumed")
        writing = asyncio.create_task(caller.write(0.04))
        await caller.read(lambda event: event["type"] == "response.done")
        await writing
        assert live.clock() - at < served.runtime.clock() - at - 2
    check(caller, 1, None)
    assert caller.resumed[0]["input_samples"] <= FRAMES * SAMPLES_PER_FRAME


async def closed(socket: ClientConnection) -> tuple[Event, int]:
    """Return the error and the close code of a connection that is refused."""
    error = json.loads(await socket.recv())
    assert error["type"] == "error"
    with pytest.raises(ConnectionClosed) as end:
        await socket.recv()
    assert end.value.rcvd is not None
    return error["error"], end.value.rcvd.code


@pytest.mark.parametrize(
    "kind", ["wrong token", "unknown session", "another session", "no token at all"]
)
async def test_all_refusals_look_the_same(serve: Serve, kind: str) -> None:
    async with serve() as served, calling(served) as caller, calling(served) as other:
        names = {
            "unknown session": "sess_0123456789abcdef01234567",
            "another session": other.session_id,
        }
        token = "" if kind == "no token at all" else caller.token
        token = "resume_x" if kind == "wrong token" else token
        stranger = Caller(served.sessions, session_id=names.get(kind, caller.session_id))
        stranger.token = token
        await stranger.open()
        assert stranger.socket is not None
        error, code = await closed(stranger.socket)
        assert code == 4411
        assert error == {
            "type": "invalid_request_error",
            "code": "resume_refused",
            "message": "no session can be resumed with this id and token",
            "param": None,
            "event_id": None,
            "value": None,
            "limit": None,
        }
        # Neither of the two sessions has noticed it.
        for each in (caller, other):
            await each.say("output_video_buffer.request_keyframe")
            each.script = [append(speech(3)), COMMIT]
            each.sent = 0
            await each.write()
            await each.read(lambda event: event["type"] == "response.done")


@pytest.mark.parametrize("token", ["", "s3cret"])
async def test_a_pod_names_the_session_of_a_connection(serve: Serve, token: str) -> None:
    """Who may ask whether a session exists has the token of a gateway."""
    given = {"AVATAR_SESSION_TOKEN": token} if token else {}
    headers = {labels.SESSION_TOKEN_HEADER: token}
    async with serve(**given) as served:
        url = f"ws://{served.sessions}/v1/realtime?model=acme/concierge"
        async with connect(url, additional_headers=headers) as first:
            created = json.loads(await first.recv())["session"]["id"]
            assert first.response is not None
            assert first.response.headers["Avatar-Session"] == created
            unknown = f"{created[:-1]}{'1' if created[-1] == '0' else '0'}"
            for session_id, named in ((created, created if token else None), (unknown, None)):
                asked = f"{url}&resume={session_id}"
                async with connect(asked, additional_headers=headers) as again:
                    assert again.response is not None
                    assert again.response.headers.get("Avatar-Session") == named


@pytest.mark.parametrize(
    ("message", "code", "param"),
    [
        ('{"type": "session.update", "session": {"type": "realtime"}}', "invalid_value", "type"),
        ('{"type": "session.resume", "last_seq": 0}', "missing_field", "token"),
        ('{"type": "session.resume", "token": "t"}', "missing_field", "last_seq"),
        ('{"type": "session.resume", "token": "t", "last_seq": -1}', "invalid_value", "last_seq"),
        ("{", "invalid_json", None),
        (b"\xa7", "binary_not_enabled", "avatar.transport"),
    ],
)
async def test_the_first_message_must_resume(
    serve: Serve, message: str | bytes, code: str, param: str | None
) -> None:
    async with serve() as served, calling(served) as caller:
        address = f"ws://{served.sessions}/v1/realtime?resume={caller.session_id}"
        async with connect(address) as socket:
            await socket.send(message)
            error, close = await closed(socket)
        assert (error["code"], error["param"], close) == (code, param, 4411)


@pytest.mark.parametrize("pieces", [1, 4])
async def test_a_long_first_message_is_not_read(serve: Serve, pieces: int) -> None:
    piece = " " * (server.MAX_RESUME_BYTES // pieces + 1)
    async with serve() as served, calling(served) as caller:
        address = f"ws://{served.sessions}/v1/realtime?resume={caller.session_id}"
        async with connect(address) as socket:
            await socket.send([piece] * pieces)
            with pytest.raises(ConnectionClosed) as end:
                await socket.recv()
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == 1009
        # The limit ends with the first message.
        await caller.reopen()
        caller.script, caller.sent = [append(speech(20)), COMMIT], 0
        assert len(caller.script[0]) > server.MAX_RESUME_BYTES
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")


async def test_a_client_that_says_nothing_is_refused(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pending_resumes, "RESUME_S", 0.1)
    async with serve() as served, connect(f"ws://{served.sessions}/v1/realtime?resume=x") as socket:
        error, close = await closed(socket)
    assert (error["code"], close) == ("resume_refused", 4411)


async def test_the_last_connection_wins(serve: Serve) -> None:
    async with serve() as served, calling(served) as caller:
        old = caller.socket
        assert old is not None
        await caller.open()
        await caller.read(lambda event: event["type"] == "session.resumed")
        with pytest.raises(ConnectionClosed) as end:
            await old.recv()
        assert end.value.rcvd is not None
        assert end.value.rcvd.code == 4409
        caller.script, caller.sent = [append(speech(3)), COMMIT], 0
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")
        assert served.runtime.slots.sessions == 1


def _has_another(live: LiveSession, before: object) -> bool:
    return live._next is not before


async def test_a_connection_that_waits_for_its_session_makes_room_for_the_next_one(
    serve: Serve, engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, is_encoding, encode = asyncio.Event(), asyncio.Event(), SessionEncoder.encode

    async def late(encoder: SessionEncoder, frame: VideoFrame) -> bytes:
        is_encoding.set()
        await gate.wait()
        return await encode(encoder, frame)

    monkeypatch.setattr(SessionEncoder, "encode", late)
    async with serve(engine=engine) as served, calling(served) as caller:
        session = {"type": "realtime", "avatar": {"video": {"mode": "h264"}}}
        update = json.dumps({"type": "session.update", "session": session})
        caller.script = [update, append(speech(3)), COMMIT]
        await caller.write()
        await is_encoding.wait()  # the first connection ends when its frame is encoded
        (live,) = served.runtime.connections
        assert isinstance(live, LiveSession)
        for _ in range(3):
            assert caller.socket is not None
            caller.socket.transport.abort()
            before = live._next
            await caller.open()
            await served.eventually(partial(_has_another, live, before), "the connection waits")
        gate.set()
        await caller.read(lambda event: event["type"] == "response.done")
        assert len(caller.resumed) == 1


async def test_a_token_is_replaced_once_the_client_has_the_next_one(serve: Serve) -> None:
    async with serve() as served, calling(served) as caller:
        first = caller.token
        await caller.reopen()
        second = caller.token
        # The answer may have been lost: until the client speaks, the first one is still good.
        caller.token = first
        await caller.reopen()
        assert len({first, second, caller.token}) == 3
        await caller.say("output_video_buffer.request_keyframe")
        caller.script, caller.sent = [append(speech(3)), COMMIT], 0
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")
        for old in (first, second):
            thief = Caller(served.sessions, session_id=caller.session_id, token=old)
            await thief.open()
            assert thief.socket is not None
            error, close = await closed(thief.socket)
            assert (error["code"], close) == ("resume_refused", 4411)


async def test_any_number_of_answers_may_be_lost(serve: Serve) -> None:
    async with serve() as served, calling(served) as caller:
        first, issued = caller.token, set()
        for _ in range(4):
            caller.token = first
            await caller.reopen()
            issued.add(caller.token)
        assert len({first, *issued}) == 5


async def test_the_search_for_speech_goes_on(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    with wave.open(str(EXAMPLES / "speech.wav")) as file:
        sound = file.readframes(file.getnframes()) + bytes(48_000)  # a second of silence
    search, is_slow, has_sound = Session.listen, True, asyncio.Event()

    def listen(session: Session[Any], now: float) -> bool:
        if session.received.messages and is_slow:
            has_sound.set()
            return True
        return search(session, now)

    monkeypatch.setattr(Session, "listen", listen)
    variables = {"AVATAR_TURN_DETECTION": labels.SERVER_VAD}
    async with serve(**variables) as served, calling(served) as caller, asyncio.timeout(10):
        caller.script = [append(sound)]
        await caller.write()
        await has_sound.wait()
        await caller.open()
        await caller.read(lambda event: event["type"] == "session.resumed")
        assert caller.resumed[0]["input_messages"] == 1
        is_slow = False
        await caller.read(lambda event: event["type"] == "input_audio_buffer.speech_stopped")


async def test_a_number_that_was_never_sent_is_named(serve: Serve) -> None:
    async with serve() as served, calling(served) as caller:
        caller.last_seq, last = 1000, caller.last_seq
        await caller.open()
        assert caller.socket is not None
        error, close = await closed(caller.socket)
        assert (error["code"], error["param"], close) == ("invalid_value", "last_seq", 4411)
        assert (error["value"], error["limit"]) == (1000, last)
        caller.last_seq = last
        await caller.open()
        await caller.read(lambda event: event["type"] == "session.resumed")


async def test_messages_that_are_not_kept_end_the_session(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay, "MAX_BYTES", 50_000)
    async with serve() as served, calling(served) as caller:
        caller.script = [append(speech(6)), COMMIT]
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")
        caller.last_seq, last = 5, caller.last_seq
        await caller.open()
        assert caller.socket is not None
        error, close = await closed(caller.socket)
        assert (error["code"], error["param"], close) == ("resume_gap", "last_seq", 4411)
        assert 5 < error["limit"] <= last
        await served.eventually(lambda: served.runtime.slots.sessions == 0, "ended")


async def test_what_the_client_has_acknowledged_is_not_kept(serve: Serve) -> None:
    async with serve() as served, calling(served) as caller:
        caller.script = [append(speech(6)), COMMIT]
        await caller.write()
        await caller.read(lambda event: event["type"] == "response.done")
        live = served.live()
        assert live.replay.nbytes > 6 * 20_000
        response = caller.of("response.created")[0]["response"]["id"]
        ack = {"response_id": response, "pts_ms": 240, "seq": caller.last_seq}
        await caller.say("output_video_buffer.ack", **ack)
        await served.eventually(lambda: live.replay.nbytes < 2000, "forgot")
        await caller.say("output_video_buffer.ack", **{**ack, "seq": 10_000})
        await caller.read(lambda event: event["type"] == "error")
        error = caller.of("error")[0]["error"]
        assert (error["code"], error["param"], error["value"]) == ("ack_ahead", "seq", 10_000)


async def test_a_client_that_does_not_come_back_frees_its_slot(serve: Serve) -> None:
    async with serve(AVATAR_RESUME_TTL_S="1", AVATAR_CAPACITY="1") as served:
        async with connect(f"ws://{served.sessions}/v1/realtime") as socket:
            created = json.loads(await socket.recv())
            assert created["resume"]["ttl_ms"] == 1000
            socket.transport.abort()
            await served.eventually(lambda: served.live().is_held, "held")
            assert served.runtime.slots.free == 0
            assert served.runtime.state()["sessions"] == 1
            await served.eventually(lambda: served.runtime.slots.free == 1, "freed")
        assert served.runtime.connections == set()


@pytest.mark.parametrize("code", [1000, 3000, 1007])
async def test_a_client_that_says_goodbye_frees_its_slot_at_once(serve: Serve, code: int) -> None:
    async with serve() as served, calling(served) as caller:
        assert caller.socket is not None
        await caller.socket.close(code)
        async with asyncio.timeout(5):
            await served.eventually(lambda: served.runtime.slots.sessions == 0, "freed")


async def test_without_a_time_to_resume_a_lost_session_ends(serve: Serve) -> None:
    async with serve(AVATAR_RESUME_TTL_S="0") as served:
        async with connect(f"ws://{served.sessions}/v1/realtime") as socket:
            assert json.loads(await socket.recv())["resume"] is None
            socket.transport.abort()
            await served.eventually(lambda: served.runtime.slots.sessions == 0, "freed")


async def test_a_pod_that_stops_ends_the_sessions_that_wait(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runtime, "MOVE_S", 0.2)
    async with serve(AVATAR_DRAIN_TIMEOUT_S="1") as served, calling(served) as caller:
        assert caller.socket is not None
        caller.socket.transport.abort()
        async with asyncio.timeout(15):
            await served.runtime.drain()
        assert served.runtime.connections == set()


async def test_a_session_that_waits_has_its_longest_duration(serve: Serve) -> None:
    async with serve(AVATAR_MAX_DURATION_S="2") as served, calling(served) as caller:
        assert caller.socket is not None
        caller.socket.transport.abort()
        async with asyncio.timeout(5):
            await served.eventually(lambda: served.runtime.slots.sessions == 0, "ended")


async def test_a_defect_ends_its_session_and_no_other(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serve() as served, calling(served) as caller:
        session = served.live().session

        def fail(now: float) -> None:
            raise RuntimeError("a defect")

        monkeypatch.setattr(session, "pull", fail)
        assert caller.socket is not None
        async with calling(served) as other:
            await caller.say("output_video_buffer.request_keyframe")
            with pytest.raises(ConnectionClosed) as end:
                await caller.socket.recv()
            assert end.value.rcvd is not None
            assert end.value.rcvd.code == 1011
            other.script, other.sent = [append(speech(3)), COMMIT], 0
            await other.write()
            await other.read(lambda event: event["type"] == "response.done")
        await served.eventually(lambda: served.runtime.slots.sessions == 0, "freed")
