"""Mode bridge over real sockets: a runtime, a scripted upstream, and clients."""

from __future__ import annotations

import asyncio
import base64
import json
import logging
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest
from openai import AsyncOpenAI
from openai.types.realtime import RealtimeServerEvent
from pydantic import TypeAdapter
from tests.runtime.serving.scripted_upstream import DEADLINE_S, FRAME, upstream
from websockets.asyncio.client import connect as connect_websocket
from websockets.exceptions import ConnectionClosed

from avatar_client.traces import Trace

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.runtime.serving.conftest import Client, Serve, Served
    from tests.runtime.serving.scripted_upstream import Upstream
    from websockets.asyncio.client import ClientConnection

pytestmark = pytest.mark.slow

OFFICIAL: TypeAdapter[Any] = TypeAdapter(RealtimeServerEvent)
KEY = "sk-secret-0123456789"


@asynccontextmanager
async def bridged(
    serve: Serve, *, is_beta: bool = False, **fields: Any
) -> AsyncIterator[tuple[Served, Upstream]]:
    """Serve a runtime in mode bridge, and its upstream."""
    async with upstream(is_beta=is_beta) as up:
        document = {
            "mode": "bridge",
            "url": up.url,
            "model": "gpt-realtime",
            "apiKeyEnv": "BRIDGE_KEY",
            "beta": is_beta,
            **fields,
        }
        async with serve(AVATAR_UPSTREAM=json.dumps(document), BRIDGE_KEY=KEY) as served:
            yield served, up


def check(client: Client) -> None:
    """Check what a client got: the guarantees of the protocol, and the official types."""
    trace = Trace(keep_media=False)
    for event in client.events:
        trace.receive(event, 0.0)
        if not event["type"].startswith(("response.video", "session.avatar", "warning")):
            OFFICIAL.validate_json(json.dumps(event), strict=True)
    assert trace.violations == []


def audio(client: Client) -> bytes:
    deltas = client.of("response.output_audio.delta")
    return b"".join(base64.b64decode(event["delta"]) for event in deltas)


async def until_closed(socket: ClientConnection) -> tuple[list[str], int | None]:
    """Return all messages of a socket that the server closes, and its close code."""
    async with asyncio.timeout(DEADLINE_S):
        messages = [message async for message in _messages(socket)]
    return messages, socket.close_code


async def _messages(socket: ClientConnection) -> AsyncIterator[str]:
    try:
        while True:
            yield str(await socket.recv())
    except ConnectionClosed:
        return


async def test_the_upstream_hears_the_client_and_the_avatar_says_its_answer(serve: Serve) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        request = up.requests[0]
        assert request.path == "/v1/realtime?model=gpt-realtime"
        assert request.headers["Authorization"] == f"Bearer {KEY}"
        avatar = {"flow": {"overrun": "pause"}}  # a busy machine drops no frames
        session = {"type": "realtime", "instructions": "Sing.", "avatar": avatar}
        await client.send("session.update", session=session)
        updated = await client.until("session.updated")
        assert updated["session"]["audio"]["output"]["voice"] == "marin"
        await client.speak(10)
        await up.until("input_audio_buffer.commit")
        assert b"".join(
            base64.b64decode(event["audio"]) for event in up.of("input_audio_buffer.append")
        ) == bytes(2 * 9600)
        await client.send("response.create")
        await up.until("response.create")
        transcript = {"item_id": "item_user", "content_index": 0, "transcript": "hi"}
        usage = {"type": "duration", "seconds": 1.0}
        kind = "conversation.item.input_audio_transcription.completed"
        await up.say(kind, **transcript, usage=usage)
        await up.answer(1, 30)
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
        assert done["response"]["id"] == "resp_up_1"
        assert client.of(kind)[0]["transcript"] == "hi"
        assert audio(client) == FRAME * 30
        assert len(client.of("response.video.delta")) == 30
        check(client)
        metrics = served.runtime.metrics.render().decode()
    for leg in ("upstream", "avatar"):
        assert f'avatar_runtime_turn_latency_seconds_count{{leg="{leg}"}} 1.0' in metrics


async def test_a_tool_is_called_and_its_output_goes_back(serve: Serve) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        body = {"id": "resp_t", "object": "realtime.response", "status": "in_progress"}
        await up.say("response.created", response={**body, "output": []})
        item: dict[str, Any] = {"id": "call", "object": "realtime.item", "type": "function_call"}
        item |= {"name": "look", "call_id": "c1", "arguments": "", "status": "in_progress"}
        ids = {"response_id": "resp_t", "output_index": 0}
        await up.say("response.output_item.added", **ids, item=item)
        call = {**ids, "item_id": "call", "call_id": "c1"}
        await up.say("response.function_call_arguments.delta", **call, delta="{}")
        await up.say("response.function_call_arguments.done", **call, arguments="{}", name="look")
        done = {**item, "arguments": "{}", "status": "completed"}
        await up.say("response.output_item.done", **ids, item=done)
        await up.say("response.done", response={**body, "status": "completed", "output": [done]})
        await client.until("response.done")
        assert client.of("response.function_call_arguments.done")[0]["arguments"] == "{}"
        output = {"type": "function_call_output", "call_id": "c1", "output": "7"}
        await client.send("conversation.item.create", item=output)
        await client.send("response.create")
        assert (await up.until("conversation.item.create"))["item"] == output
        await up.until("response.create")
        await up.answer(2, 5)
        await client.until("response.done")
        check(client)


async def test_a_barge_in_stops_the_avatar_and_truncates_at_what_was_played(serve: Serve) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        await up.answer(1, 250)
        for _ in range(40):
            await client.until("response.video.delta")
        started = {"audio_start_ms": 900, "item_id": "item_user"}
        await up.say("input_audio_buffer.speech_started", **started)
        await client.until("conversation.item.truncated")
        (done,) = client.of("response.done")
        assert done["response"]["status_details"]["reason"] == "turn_detected"
        truncate = await up.until("conversation.item.truncate")
        assert truncate["item_id"] == "item_up_1"
        sent_ms = len(audio(client)) / 48
        assert 0 < truncate["audio_end_ms"] < sent_ms < 10_000
        sent = {name: truncate[name] for name in ("item_id", "content_index", "audio_end_ms")}
        await up.say("conversation.item.truncated", **sent)
        await up.answer(2, 5)
        assert (await client.until("response.created"))["epoch"] == 2
        await client.until("response.done")
        assert len(client.of("conversation.item.truncated")) == 1
        check(client)


async def test_a_cancel_reaches_the_upstream(serve: Serve) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        ids = ("resp_up_1", "item_up_1")
        await up.begin(*ids)
        await up.speak(100, *ids)
        await client.until("response.video.delta")
        await client.send("response.cancel")
        done = await client.until("response.done")
        assert done["response"]["status"] == "cancelled"
        cancel = await up.until("response.cancel")
        await up.until("conversation.item.truncate")
        error = {"type": "invalid_request_error", "code": "response_cancel_not_active"}
        error |= {"message": "no active response", "event_id": cancel["event_id"]}
        await up.say("error", error=error)
        await up.answer(2, 5)
        await client.until("response.done")
        assert client.of("error") == []
        check(client)


async def test_an_upstream_that_is_killed_in_a_word_fails_the_answer_and_comes_back(
    serve: Serve,
) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        ids = ("resp_up_1", "item_up_1")
        await up.begin(*ids)
        await up.speak(100, *ids, "I am")
        await client.until("response.video.delta")
        up.socket.transport.abort()
        done = await client.until("response.done")
        assert done["response"]["status"] == "failed"
        assert client.of("error")[0]["error"]["code"] == "upstream_unavailable"
        await up.connected(2)
        warning = await client.until("warning")
        assert warning["warning"]["code"] == "upstream_reconnected"
        await up.answer(2, 5)
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        check(client)
        metrics = served.runtime.metrics.render().decode()
    assert 'avatar_runtime_upstream_faults_total{code="upstream_unavailable"} 1.0' in metrics


async def test_a_stall_of_the_upstream_only_delays_the_answer(serve: Serve) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        ids = ("resp_up_1", "item_up_1")
        await up.begin(*ids)
        await up.speak(10, *ids)
        await client.until("response.video.delta")
        stalled = asyncio.get_running_loop().time() + 5.0
        # The stall is what is tested: nothing comes that one could wait for.
        await asyncio.sleep(5.0)
        assert asyncio.get_running_loop().time() >= stalled
        await up.speak(10, *ids)
        await up.end(*ids)
        assert (await client.until("response.done"))["response"]["status"] == "completed"
        assert audio(client) == FRAME * 20
        assert client.of("error") == []
        check(client)


async def test_a_rate_limit_is_an_error_and_the_connection_is_tried_again(serve: Serve) -> None:
    async with bridged(serve) as (served, up):
        up.refusals.append((429, {"Retry-After": "1"}))
        async with connect_websocket(f"ws://{served.sessions}/v1/realtime") as socket:
            refused = json.loads(await socket.recv())
            assert refused["error"]["code"] == "upstream_rate_limited"
            assert "429" in refused["error"]["message"]
            created = json.loads(await socket.recv())
            assert created["type"] == "session.created"


@pytest.mark.parametrize(
    ("status", "code", "tries"),
    [
        (401, "upstream_refused", 1),
        (403, "upstream_refused", 1),
        (404, "upstream_refused", 1),
        (302, "upstream_unavailable", 3),
        (503, "upstream_unavailable", 3),
    ],
)
async def test_a_refusal_ends_the_session(
    serve: Serve, status: int, code: str, tries: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with bridged(serve) as (served, up):
        up.refusals += [(status, {"Location": "ws://127.0.0.1:1/stolen"})] * 3
        async with connect_websocket(f"ws://{served.sessions}/v1/realtime") as socket:
            error = json.loads(await socket.recv())
            assert error["error"]["code"] == code
            messages, close_code = await until_closed(socket)
        assert KEY not in "".join(messages)
        assert close_code == 4502
        assert len(up.requests) == tries
    ours = [record for record in caplog.records if record.name != "websockets.server"]
    assert "upstream lost" in caplog.text
    assert KEY not in "".join(record.getMessage() for record in ours)


async def test_no_upstream_at_all_ends_the_session(serve: Serve) -> None:
    async with upstream() as up:
        url = up.url
    document = {"mode": "bridge", "url": url, "model": "m"}
    async with serve(AVATAR_UPSTREAM=json.dumps(document)) as served:
        async with connect_websocket(f"ws://{served.sessions}/v1/realtime") as socket:
            messages, close_code = await until_closed(socket)
        assert {json.loads(message)["type"] for message in messages} == {"error"}
        assert close_code == 4502
        await served.eventually(lambda: served.runtime.slots.sessions == 0, "free")


async def test_the_key_is_removed_from_what_the_upstream_says(serve: Serve) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        error = {"type": "invalid_request_error", "message": f"wrong key {KEY}"}
        await up.say("error", error=error)
        assert (await client.until("error"))["error"]["message"] == "wrong key ***"


async def test_an_upstream_that_does_not_read_slows_the_client_down(serve: Serve) -> None:
    async with bridged(serve) as (served, up), served.client() as client:
        up.reads.clear()
        second = base64.b64encode(bytes(48_000)).decode()
        loop = asyncio.get_running_loop()
        is_slow = False
        try:
            async with asyncio.timeout(3.0):
                for _ in range(2000):  # 128 MB, which no buffer of a socket holds
                    await client.send("input_audio_buffer.append", audio=second)
        except TimeoutError:
            is_slow = True
        assert is_slow
        slow_at = loop.time()
        up.reads.set()
        await up.until("input_audio_buffer.append", 20)
        assert loop.time() - slow_at < 10.0


async def test_a_beta_upstream_is_spoken_to_in_its_names(serve: Serve) -> None:
    async with bridged(serve, is_beta=True) as (served, up), served.client() as client:
        assert up.requests[0].headers["OpenAI-Beta"] == "realtime=v1"
        audio_settings = {"output": {"voice": "ash"}}
        await client.send("session.update", session={"type": "realtime", "audio": audio_settings})
        updated = await client.until("session.updated")
        assert updated["session"]["audio"]["output"]["voice"] == "ash"
        assert up.of("session.update")[-1]["session"] == {"voice": "ash"}
        await up.answer(1, 10)
        await client.until("response.done")
        assert audio(client) == FRAME * 10
        assert client.of("response.output_audio_transcript.done")[0]["transcript"] == "Hello"
        check(client)


async def test_an_upstream_with_other_sample_rates_gets_and_gives_them(serve: Serve) -> None:
    rates: Any = {"inputSampleRate": 16000, "outputSampleRate": 16000}
    async with bridged(serve, **rates) as (served, up), served.client() as client:
        formats = (await up.until("session.update"))["session"]["audio"]
        assert formats["input"]["format"] == {"type": "audio/pcm", "rate": 16000}
        await client.speak(25)
        await up.until("input_audio_buffer.commit")
        heard = [base64.b64decode(e["audio"]) for e in up.of("input_audio_buffer.append")]
        assert len(b"".join(heard)) == 2 * 16000
        await up.answer(1, 15)  # frames of 40 ms at 24 kHz last 60 ms at 16 kHz
        await client.until("response.done")
        assert len(audio(client)) == 2 * 24000 * 60 * 15 // 1000
        check(client)


async def test_the_official_client_has_a_conversation(serve: Serve) -> None:
    async with bridged(serve, authorization="api-key") as (served, up):
        openai = AsyncOpenAI(api_key="unused", websocket_base_url=f"ws://{served.sessions}/v1")
        async with openai.realtime.connect(model="acme/concierge") as connection:
            await up.connected(1)
            assert up.requests[0].headers["api-key"] == KEY
            assert "Authorization" not in up.requests[0].headers
            await connection.session.update(
                session={"type": "realtime", "instructions": "Answer briefly."}
            )
            sound = base64.b64encode(bytes(48_000)).decode()
            await connection.input_audio_buffer.append(audio=sound)
            await up.until("input_audio_buffer.append")
            user = {"item_id": "item_user"}
            await up.say("input_audio_buffer.speech_started", **user, audio_start_ms=0)
            await up.say("input_audio_buffer.speech_stopped", **user, audio_end_ms=900)
            await up.say("input_audio_buffer.committed", **user, previous_item_id=None)
            await up.answer(1, 20)
            kinds, received = [], b""
            async with asyncio.timeout(20.0):
                async for event in connection:
                    kinds.append(str(event.type))
                    if event.type == "response.output_audio.delta":
                        received += base64.b64decode(event.delta)
                    if event.type == "response.done":
                        assert event.response.status == "completed"
                        break
        assert received == FRAME * 20
        assert "error" not in kinds
        assert kinds.count("response.video.delta") == 20


async def test_a_second_runtime_is_a_good_upstream(serve: Serve) -> None:
    """The upstream is a runtime in mode drive: its avatar repeats what it hears."""
    async with serve() as echo:
        document = {"mode": "bridge", "url": f"ws://{echo.sessions}/v1/realtime"}
        document["model"] = "acme/concierge"
        async with (
            serve(AVATAR_UPSTREAM=json.dumps(document)) as served,
            served.client() as client,
        ):
            for turn in range(3):
                await client.say(FRAME * (20 + turn))
                done = await client.until("response.done")
                assert done["response"]["status"] == "completed"
            assert audio(client) == FRAME * 63
            await client.say(FRAME * 200)
            await client.until("response.output_audio.delta")
            await client.send("response.cancel")
            done = await client.until("response.done")
            assert done["response"]["status"] == "cancelled"
            await client.say(FRAME * 5)
            assert (await client.until("response.done"))["response"]["status"] == "completed"
            assert client.of("error") == []
            check(client)
