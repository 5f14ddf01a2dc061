"""Sessions over real sockets."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import re
import socket
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts import socket_buffers
from avatar_runtime.protocol.client_events import MAX_MESSAGE_BYTES
from avatar_runtime.serving import connection

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime.serving.conftest import Client, FakeEngine, Serve

pytestmark = pytest.mark.slow

# At 24 kHz, 10 frames that are loud and 15 that are silent.
WORD = np.tile(np.repeat(np.array([9000, -9000], "<i2"), 24), 10 * 20).tobytes()
PAUSE = bytes(2 * 960 * 15)
STILL = b"\xff\xd8" + bytes(100) + b"\xff\xd9"


async def test_a_session_speaks_and_ends(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        await client.speak(10)
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
        frames = client.of("response.video.delta")
        assert [frame["frame_index"] for frame in frames] == list(range(10))
        assert base64.b64decode(frames[0]["delta"]) == served.engine.jpeg
        assert [event["seq"] for event in client.events] == list(range(1, len(client.events) + 1))
        stopped = await client.until("session.avatar.switch_to_idle")
        assert stopped["turn_id"] == done["response"]["id"]
        assert served.runtime.state()["sessions"] == 1
        await client.socket.close()
        await served.eventually(lambda: served.runtime.slots.sessions == 0, "left")


async def test_silent_frames_need_no_batch_and_keep_their_times(serve: Serve) -> None:
    async with serve(AVATAR_SILENCE_DBFS="-50") as served, served.client() as client:
        await client.say(WORD + PAUSE + WORD)
        done = await client.until("response.video.done")
        assert (done["frames"], done["dropped"], done["audio_ms"]) == (35, 0, 1400)
        frames = client.of("response.video.delta")
        assert [frame["frame_index"] for frame in frames] == list(range(35))
        assert [frame["pts_ms"] for frame in frames] == [40 * i for i in range(35)]
        silent = [i for i, f in enumerate(frames) if base64.b64decode(f["delta"]) == STILL]
        assert silent == [*range(17, 23), 34]  # the tail of the filter lasts one step
        drawn = [r.frame_index for batch in served.engine.batches for r in batch]
        assert sorted([*drawn, *silent]) == list(range(35))
        text = served.runtime.metrics.render().decode()
        assert 'avatar_runtime_frames_total{kind="drawn"} 28.0' in text
        assert 'avatar_runtime_frames_total{kind="silent"} 7.0' in text


async def test_silence_never_waits_for_a_batch(serve: Serve) -> None:
    async with serve(AVATAR_SILENCE_DBFS="-50") as served:
        async with served.client() as one, served.client("?avatar=ben") as two:
            served.engine.gate.clear()
            await one.say(WORD)
            await served.eventually(lambda: bool(served.engine.batches), "asked the engine")
            await two.say(PAUSE)
            done = await two.until("response.done")
            assert done["response"]["status"] == "completed"
            served.engine.gate.set()
            await one.until("response.done")
        assert {r.avatar for batch in served.engine.batches for r in batch} == {"anna@hash"}


async def test_a_failure_of_silent_frames_fails_their_response(serve: Serve) -> None:
    async with serve(AVATAR_SILENCE_DBFS="-50") as served, served.client() as client:
        served.engine.failing = True
        await client.say(PAUSE)
        done = await client.until("response.done")
        assert done["response"]["status"] == "failed"
        served.engine.failing = False
        await client.say(PAUSE)
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


async def test_no_silent_frame_of_an_old_epoch_leaves(serve: Serve) -> None:
    async with serve(AVATAR_SILENCE_DBFS="-50") as served, served.client() as client:
        for _ in range(5):
            await client.say(PAUSE * 9)
            await client.until("response.video.delta")
            await client.send("response.cancel")
            done = await client.until("response.done")
            after = len(client.events)
            await client.say(PAUSE)
            await client.until("response.done")
            media = [e for e in client.events[after:] if e["type"].endswith(".delta")]
            assert {e["epoch"] for e in media} == {done["epoch"]}


async def test_sessions_share_batches(serve: Serve, make_engine: Callable[..., FakeEngine]) -> None:
    async with (
        serve() as served,
        served.client() as one,
        served.client("?avatar=ben") as two,
    ):
        served.engine.gate.clear()
        await one.speak(10)
        await served.eventually(lambda: len(served.engine.batches) > 0, "asked the engine")
        await two.speak(10)
        await served.eventually(lambda: served.runtime.state()["speaking"] == 2, "both spoke")
        served.engine.gate.set()
        await asyncio.gather(one.until("response.done"), two.until("response.done"))
        mixed = [{r.session for r in batch} for batch in served.engine.batches]
        assert any(len(sessions) == 2 for sessions in mixed)
        assert {r.avatar for batch in served.engine.batches for r in batch} == {
            "anna@hash",
            "ben@hash",
        }
        assert max(len(batch) for batch in served.engine.batches) <= 8


async def test_a_batch_limit_holds_from_the_next_batch(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        served.runtime.set_batch_limit(3)
        await client.speak(12)
        await client.until("response.done")
        assert max(len(batch) for batch in served.engine.batches) == 3


async def test_a_failed_batch_answers_every_request_and_the_next_one_works(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        served.engine.failing = True
        await client.speak(10)
        done = await client.until("response.done")
        assert done["response"]["status"] == "failed"
        assert client.of("error")[0]["error"]["code"] == "internal_error"
        served.engine.failing = False
        await client.speak(10)
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"


async def test_no_frame_of_the_old_epoch_follows_a_cancel(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        for turn in range(10):
            await client.speak(100)
            await client.until("response.video.delta")
            if turn % 2:
                served.engine.gate.clear()  # a batch is in the engine when the cancel comes
            await client.send("response.cancel")
            done = await client.until("response.done")
            served.engine.gate.set()
            assert done["response"]["status"] == "cancelled"
            after = len(client.events)
            await client.speak(3)
            await client.until("response.done")
            media = [e for e in client.events[after:] if e["type"].endswith(".delta")]
            assert {e["epoch"] for e in media} == {done["epoch"]}
            assert {e["response_id"] for e in media} != {done["response"]["id"]}


async def test_a_client_that_vanishes_frees_its_slot_and_its_frames(serve: Serve) -> None:
    async with serve(AVATAR_CAPACITY="1", AVATAR_RESUME_TTL_S="0") as served:
        async with served.client() as client:
            served.engine.gate.clear()
            await client.speak(100)
            await served.eventually(lambda: bool(served.engine.batches), "asked the engine")
            client.socket.transport.abort()
            await served.eventually(lambda: served.runtime.slots.sessions == 0, "left")
        assert served.runtime.state()["speaking"] == 0
        served.engine.gate.set()
        async with served.client() as again:
            await again.speak(5)
            await again.until("response.done")
        assert len({r.session for r in served.engine.batches[-1]}) == 1


async def test_invalid_messages_are_answered_and_other_sessions_continue(serve: Serve) -> None:
    async with serve() as served, served.client() as bad, served.client() as good:
        talking = asyncio.create_task(_talk(good, 3))
        for message in ("{", "[]", '{"type":"x"}', b"\xa7", '{"type":"input_audio_buffer.commit"}'):
            await bad.socket.send(message)
            error = await bad.until("error")
            assert error["error"]["code"]
        await bad.speak(5)
        assert (await bad.until("response.done"))["response"]["status"] == "completed"
        assert await talking == ["completed"] * 3


async def _talk(client: Client, turns: int) -> list[str]:
    ended = []
    for _ in range(turns):
        await client.speak(10)
        ended.append((await client.until("response.done"))["response"]["status"])
    return ended


@pytest.mark.parametrize(
    ("message", "code"),
    [
        (" " * (MAX_MESSAGE_BYTES + 1), 1009),
        (" " * (MAX_MESSAGE_BYTES + 3 * 1024 * 1024), 1009),
    ],
    ids=["reported", "not read"],
)
async def test_a_message_that_is_too_large_closes_1009(
    serve: Serve, message: str, code: int
) -> None:
    async with serve() as served, served.client() as client:
        with contextlib.suppress(ConnectionClosed):  # the server may close while it is sent
            await client.socket.send(message)
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


async def test_invalid_utf8_closes_1007(serve: Serve) -> None:
    async with serve() as served, served.client() as client:
        await client.socket.send(b"\xff\xfe", text=True)
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == 1007
        await served.eventually(lambda: served.runtime.slots.sessions == 0, "left")


@pytest.mark.parametrize(
    ("variables", "code"),
    [({"AVATAR_MAX_DURATION_S": "1"}, 4410), ({"AVATAR_IDLE_TIMEOUT_S": "1"}, 4408)],
    ids=["longest", "idle"],
)
async def test_limits_of_time_close_with_their_code(
    serve: Serve, variables: dict[str, str], code: int
) -> None:
    async with serve(**variables) as served, served.client() as client:
        with pytest.raises(ConnectionClosed) as closed:
            await client.until("never")
        assert closed.value.rcvd is not None
        assert closed.value.rcvd.code == code


class NonReadingClient:
    """A client without a library: it sends, and never reads by itself."""

    def __init__(self, address: str, receive_buffer: int = 4096) -> None:
        host, _, port = address.partition(":")
        self.socket = socket.socket()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        self.socket.settimeout(10)
        self.socket.connect((host, int(port)))
        self.socket.sendall(
            b"GET /v1/realtime HTTP/1.1\r\nHost: " + address.encode() + b"\r\n"
            b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\n"
            b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        )
        answer = b""
        while not answer.endswith(b"\r\n\r\n"):  # a client sends nothing before it is accepted
            answer += self.socket.recv(1) or pytest.fail(f"refused: {answer!r}")

    def send(self, kind: str, **fields: Any) -> None:
        text = json.dumps({"type": kind, **fields}).encode()
        length = len(text).to_bytes(8, "big")
        self.socket.sendall(b"\x81\xff" + length + bytes(4) + text)

    def read_until(self, text: bytes) -> bytes:
        """Read until the server has sent a text, and return all that came."""
        received = bytearray()
        while text not in received[-(2**17) :]:
            data = self.socket.recv(2**16)
            assert data, "the server has closed the connection"
            received += data
        return bytes(received)


async def test_a_client_that_never_reads_is_closed_and_does_not_affect_others(
    serve: Serve, make_engine: Callable[..., FakeEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "STALL_S", 1.5)
    engine = make_engine(jpeg=bytes(60_000))
    async with serve(engine=engine, AVATAR_RESUME_TTL_S="0") as served, served.client() as good:
        stalled = await asyncio.to_thread(NonReadingClient, served.sessions)
        audio = base64.b64encode(bytes(1920 * 25 * 60)).decode()
        await asyncio.to_thread(stalled.send, "input_audio_buffer.append", audio=audio)
        await served.eventually(lambda: served.runtime.state()["speaking"] == 1, "spoke")
        await good.speak(25)
        assert (await good.until("response.done"))["response"]["status"] == "completed"
        await served.eventually(
            lambda: served.runtime.slots.sessions == 1, "closed the stalled client"
        )
        stalled.socket.close()
        await good.speak(5)
        assert (await good.until("response.done"))["response"]["status"] == "completed"


@pytest.mark.parametrize(
    ("more", "last"),
    [(0, b""), (3, b""), (0, b"\x88\x80" + bytes(4))],
    ids=["idle", "more was sent", "close frame"],
)
async def test_a_client_that_takes_nothing_and_ends_its_side_leaves_at_once(
    serve: Serve, make_engine: Callable[..., FakeEngine], more: int, last: bytes
) -> None:
    """Its slot does not wait for the 30 s after which a socket that takes nothing is closed."""
    async with serve(engine=make_engine(jpeg=bytes(60_000)), AVATAR_RESUME_TTL_S="0") as served:
        gone = await asyncio.to_thread(NonReadingClient, served.sessions)
        audio = base64.b64encode(bytes(1920 * 25 * 60)).decode()
        await asyncio.to_thread(gone.send, "input_audio_buffer.append", audio=audio)
        await served.eventually(lambda: served.runtime.state()["speaking"] == 1, "spoke")
        for _ in range(more):  # the runtime does not read them while the client takes nothing
            await asyncio.to_thread(gone.send, "input_audio_buffer.append", audio="AAAA")
        await served.eventually(
            lambda: sum(map(len, served.engine.batches)) >= 20, "made more than a socket takes"
        )
        await asyncio.sleep(0.5)
        assert served.runtime.slots.sessions == 1
        gone.socket.sendall(last)
        gone.socket.shutdown(socket.SHUT_WR)
        ended_at = asyncio.get_running_loop().time()
        await served.eventually(lambda: served.runtime.slots.sessions == 0, "freed the slot")
        assert asyncio.get_running_loop().time() - ended_at < 10.0
        gone.socket.close()


async def test_a_slow_client_gets_all_audio_and_reports_of_dropped_frames(
    serve: Serve, make_engine: Callable[..., FakeEngine]
) -> None:
    engine = make_engine(jpeg=bytes(150_000))
    async with serve(engine=engine) as served, served.client(max_queue=1) as client:
        await client.send(
            "session.update",
            session={"type": "realtime", "avatar": {"flow": {"window_ms": 200}}},
        )
        await client.until("session.updated")
        await client.speak(120)
        await client.until("response.video.delta")
        # Reading stops here: the socket fills, and the window advances with the clock.
        await served.eventually(
            lambda: sum(len(batch) for batch in engine.batches) >= 110, "made most frames"
        )
        await client.until("response.done")
        [done] = client.of("response.video.done")
        assert done["dropped"] > 0
        assert done["frames"] + done["dropped"] == 120
        dropped = client.of("response.video.dropped")
        assert (
            sum(d["last_frame_index"] - d["first_frame_index"] + 1 for d in dropped)
            == (done["dropped"])
        )
        sound = b"".join(
            base64.b64decode(e["delta"]) for e in client.of("response.output_audio.delta")
        )
        assert len(sound) == 1920 * 120


async def test_what_a_slow_client_has_not_taken_is_discarded_by_its_cancel(
    serve: Serve, make_engine: Callable[..., FakeEngine]
) -> None:
    frame, receive_buffer = 30_000, 64 * 1024
    async with serve(engine=make_engine(jpeg=bytes(frame))) as served:
        slow = await asyncio.to_thread(NonReadingClient, served.sessions, receive_buffer)
        await asyncio.to_thread(slow.read_until, b'"conversation.created"')
        audio = base64.b64encode(bytes(1920 * 30)).decode()
        await asyncio.to_thread(slow.send, "input_audio_buffer.append", audio=audio)
        made = served.engine.batches
        await served.eventually(lambda: sum(map(len, made)) >= 25, "made one window of frames")
        sent: list[int] = []

        def is_full() -> bool:
            text = served.runtime.metrics.render().decode()
            [count] = re.findall(r'_frames_total{kind="drawn"} (\S+)', text)
            sent.append(int(float(count)))
            return len(sent) > 20 and sent[-20] == sent[-1] > 0

        await served.eventually(is_full, "filled the socket")
        await asyncio.to_thread(slow.send, "response.cancel")
        received = await asyncio.to_thread(slow.read_until, b'"status":"cancelled"')
        slow.socket.close()
    # The kernel doubles the buffer of the client. The server holds one frame in the kernel and one
    # in the transport; each may be exceeded by the message that reaches the limit.
    allowed = 2 * receive_buffer + socket_buffers.UNSENT_BYTES + 3 * frame * 4 // 3
    stale = received.count(b'"idle":false')
    assert 0 < stale * frame * 4 // 3 <= allowed
    assert stale < 15


async def test_the_faults_of_a_caller_are_one_line_of_the_log(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serve() as served:
        with pytest.raises(InvalidStatus):
            async with connect(f"ws://{served.sessions}/v1/realtime?avatar=nobody"):
                pass
        reader, writer = await asyncio.open_connection(*served.sessions.split(":"))
        upgrade = "GET /v1/realtime HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\n"
        writer.write(f"{upgrade}Connection: Upgrade\r\nSec-WebSocket-Key: short\r\n\r\n".encode())
        assert b" 400 " in await reader.readline()
        writer.close()
        async with served.client() as client:
            await client.socket.send(b"\xff\xfe", text=True)
            await client.socket.wait_closed()
            assert client.socket.close_code == 1007
        await served.eventually(lambda: "session ended" in caplog.text, "ended")
    lines = [record.getMessage() for record in caplog.records if record.name != "asyncio"]
    for line in (
        "session refused code=avatar_not_found status=404",
        "handshake refused status=400",
        "closing a connection after invalid UTF-8 code=1007",
    ):
        assert lines.count(line) == 1
    assert all(record.levelno < logging.WARNING for record in caplog.records)
    assert all(record.exc_info is None for record in caplog.records)
