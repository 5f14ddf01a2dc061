"""Mode speech over real sockets: a real speech server, faulty ones, and the official client."""

from __future__ import annotations

import asyncio
import base64
import json
import shutil
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from aiohttp import web
from openai import AsyncOpenAI
from tests.runtime.upstream.endpoints import running, serving

from avatar_client import __main__ as command
from avatar_client.traces import Trace
from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.upstream.pcm import Converter, WavReader
from localcluster import speech_server

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from tests.runtime.serving.conftest import Client, Serve, Served
    from tests.runtime.upstream.endpoints import Handler

pytestmark = pytest.mark.realtime

TRANSCRIPT = "response.output_audio_transcript.delta"
SOUND = bytes(range(256)) * 75  # 400 ms at 24 kHz
KEY = "sk-not-to-be-shown"
DEADLINE_S = 60
SENTENCE = "Good morning, and welcome to the museum of talking pictures."

needs_espeak = pytest.mark.skipif(
    shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"
)


def upstream(url: str, **more: Any) -> str:
    speech = {"url": f"{url}/v1/audio/speech", "voice": "en", "model": "m", "timeoutSeconds": 1}
    return json.dumps({"mode": "speech", "speech": {**speech, "apiKeyEnv": "KEY"}, **more})


@asynccontextmanager
async def speaking(serve: Serve, url: str, **more: Any) -> AsyncIterator[tuple[Served, Client]]:
    variables = {"AVATAR_UPSTREAM": upstream(url, **more), "KEY": KEY}
    async with serve(**variables) as served, served.client() as client:
        yield served, client


async def write(client: Client, text: str) -> None:
    part = {"type": "input_text", "text": text}
    item = {"type": "message", "role": "user", "content": [part]}
    await client.send("conversation.item.create", item=item)
    await client.send("response.create")


def violations(client: Client) -> list[str]:
    trace = Trace(keep_media=True)
    for index, event in enumerate(client.events):
        trace.receive(event, float(index))
    return [str(each) for each in trace.violations]


def sound_of(client: Client) -> bytes:
    deltas = client.of("response.output_audio.delta")
    return b"".join(base64.b64decode(event["delta"]) for event in deltas)


def sending(body: bytes, content_type: str = "audio/pcm", status: int = 200) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type, status=status)

    return handler


@needs_espeak
async def test_the_official_client_writes_and_hears(serve: Serve) -> None:
    async with running(speech_server.app()) as url:
        document = upstream(url)
        async with serve(AVATAR_UPSTREAM=document, KEY=KEY) as served:
            client = AsyncOpenAI(api_key="unused", websocket_base_url=f"ws://{served.sessions}/v1")
            async with client.realtime.connect(model="acme/concierge") as connection:
                await connection.conversation.item.create(
                    item={
                        "type": "message",
                        "role": "user",
                        "content": [{"type": "input_text", "text": SENTENCE}],
                    }
                )
                await connection.response.create(response={"metadata": {"turn": "1"}})
                kinds, received, said = [], b"", ""
                async with asyncio.timeout(20.0):
                    async for event in connection:
                        kinds.append(str(event.type))
                        if event.type == "response.output_audio.delta":
                            received += base64.b64decode(event.delta)
                        if event.type == "response.output_audio_transcript.delta":
                            said += event.delta
                        if event.type == "response.done":
                            assert event.response.status == "completed"
                            assert event.response.metadata == {"turn": "1"}
                            break
        made = await whole(SENTENCE)
    assert said == SENTENCE
    assert received == made
    assert kinds.count("response.video.delta") > 25
    assert "error" not in kinds
    assert "warning" not in kinds


async def whole(text: str) -> bytes:
    """Return what espeak-ng says, in the format of the session."""
    reader, samples = WavReader(), b""
    async for chunk in speech_server.spoken(text):
        samples += reader.push(chunk)
    converter = Converter(reader.rate, PCM_24K)
    return converter.push(samples) + converter.finish()


@needs_espeak
async def test_the_first_frame_follows_the_first_sound_within_400_ms(serve: Serve) -> None:
    async with running(speech_server.app()) as url, aiohttp.ClientSession() as http:
        body = {"input": SENTENCE, "voice": "en", "response_format": "pcm"}
        own = []
        for _ in range(3):
            started_at = time.monotonic()
            async with http.post(f"{url}/v1/audio/speech", json=body) as response:
                await response.content.readany()
                own.append(time.monotonic() - started_at)
        async with speaking(serve, url) as (_, client):
            times = []
            for _ in range(3):
                started_at = time.monotonic()
                await write(client, SENTENCE)
                await client.until("response.video.delta")
                times.append(time.monotonic() - started_at)
                await client.until("response.done")
    overhead_s = sorted(times)[1] - sorted(own)[1]
    assert overhead_s <= 0.4, (own, times)


@needs_espeak
async def test_every_frame_comes_after_its_sound(serve: Serve) -> None:
    # A busy machine may start espeak-ng late, and make the frames late: none may be dropped.
    patient = json.loads(upstream(""))["speech"] | {"timeoutSeconds": DEADLINE_S}
    async with (
        running(speech_server.app()) as url,
        speaking(serve, url, speech={**patient, "url": f"{url}/v1/audio/speech"}) as pair,
    ):
        served, client = pair
        flow = {"overrun": "pause"}
        await client.send("session.update", session={"type": "realtime", "avatar": {"flow": flow}})
        await client.until("session.updated")
        await write(client, f"{SENTENCE} Here is a second sentence. And a third one.")
        await client.until("response.done")
    assert violations(client) == []
    texts = [event["delta"] for event in client.of(TRANSCRIPT)]
    assert texts == [f"{SENTENCE} ", "Here is a second sentence. ", "And a third one."]
    # The text of a sentence leaves before its sound, or within the second of sound that is sent
    # at once.
    starts = [0]
    for text in texts[:2]:
        starts.append(starts[-1] + len(await whole(text.strip())) // 2)
    heard, at = 0, []
    for event in client.events:
        if event["type"] == "response.output_audio.delta":
            heard = event["offset_samples"] + len(base64.b64decode(event["delta"])) // 2
        if event["type"] == TRANSCRIPT:
            at.append(heard)
    for start, position in zip(starts, at, strict=True):
        assert start - 960 <= position <= start + 24_000
    windows = [request.window for batch in served.engine.batches for request in batch]
    assert [window.frame_index for window in windows] == list(range(len(windows)))


async def test_a_busy_endpoint_is_asked_again(serve: Serve) -> None:
    seen = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        if seen == 1:
            return web.Response(status=429, headers={"Retry-After": "0"})
        return web.Response(body=SOUND, content_type="audio/pcm")

    async with serving(handler) as url, speaking(serve, url) as (served, client):
        await write(client, "Hello.")
        done = await client.until("response.done")
        text = (await metrics(served)).replace(".0", "")
    assert done["response"]["status"] == "completed"
    assert sound_of(client) == SOUND
    assert 'avatar_runtime_upstream_retries_total{leg="speech"} 1' in text
    assert 'avatar_runtime_upstream_requests_total{leg="speech",outcome="completed"} 1' in text
    assert 'avatar_runtime_upstream_first_byte_seconds_count{leg="speech"} 1' in text


async def metrics(served: Served) -> str:
    async with aiohttp.ClientSession() as http, http.get(f"http://{served.admin}/metrics") as got:
        return await got.text()


def stalling(sound: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        await response.write(sound)
        await asyncio.sleep(60)
        return response

    return handler


def killed(sound: bytes) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        headers = {"Content-Type": "audio/pcm", "Content-Length": "10000000"}
        response = web.StreamResponse(headers=headers)
        await response.prepare(request)
        await response.write(sound)
        assert request.transport is not None
        request.transport.abort()
        return response

    return handler


@pytest.mark.parametrize(
    ("handler", "said"),
    [
        pytest.param(sending(b"", status=401), "answered with status 401", id="refused"),
        pytest.param(sending(b"", status=400), "answered with status 400", id="bad request"),
        pytest.param(
            sending(b"{}", "application/json"), "content type application/json", id="json"
        ),
        pytest.param(sending(b"<html>", "text/html"), "content type text/html", id="page"),
        pytest.param(sending(b""), "sent no sound", id="nothing"),
        pytest.param(stalling(b""), "sent nothing for 1 s", id="stalled"),
        pytest.param(stalling(SOUND), "sent nothing for 1 s", id="stalled in mid-sentence"),
        pytest.param(killed(SOUND), "broke the connection", id="killed in mid-sentence"),
    ],
)
async def test_a_faulty_endpoint_ends_the_response_and_the_session_goes_on(
    serve: Serve, handler: Handler, said: str
) -> None:
    handlers = [handler]

    async def current(request: web.Request) -> web.StreamResponse:
        return await handlers[-1](request)

    async with serving(current) as url, speaking(serve, url) as (_, client):
        await write(client, "Hello.")
        done = await client.until("response.done")
        (error,) = client.of("error")
        assert error["error"]["code"] == "speech_failed"
        assert said in error["error"]["message"]
        assert error["error"]["message"].startswith("the speech endpoint ")
        assert done["response"]["status"] == "failed"
        assert done["response"]["status_details"]["error"]["code"] == "speech_failed"
        handlers.append(sending(SOUND))
        await write(client, "Again.")
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
    assert violations(client) == []
    assert KEY not in json.dumps(client.events)


async def test_an_endpoint_that_is_gone_is_told(serve: Serve) -> None:
    async with speaking(serve, "http://127.0.0.1:9") as (_, client):
        await write(client, "Hello.")
        done = await client.until("response.done")
    assert done["response"]["status"] == "failed"
    assert client.of("error")[0]["error"]["message"] == "the speech endpoint cannot be reached"


@pytest.mark.parametrize("end", ["response.cancel", "output_audio_buffer.clear", "hang up"])
async def test_an_end_closes_the_connection_to_the_endpoint_at_once(serve: Serve, end: str) -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        try:
            while True:
                await response.write(SOUND)
                await asyncio.sleep(0.05)
        finally:
            left.set()

    async with serving(handler) as url, speaking(serve, url) as (_, client):
        await write(client, "Hello.")
        await client.until("response.video.delta")
        assert not left.is_set()
        if end == "hang up":
            await client.socket.close()
        else:
            await client.send(end)
            done = await client.until("response.done")
            assert done["response"]["status"] == "cancelled"
        async with asyncio.timeout(20):
            await left.wait()


async def test_a_huge_answer_is_taken_no_faster_than_it_is_spoken(serve: Serve) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        while True:
            await response.write(SOUND * 10)

    async with serving(handler) as url, speaking(serve, url) as (served, client):
        await write(client, "Hello.")
        for _ in range(75):
            await client.until("response.video.delta")
        live = served.live()
        answers = live.session.mode.dialogue.answers  # type: ignore[attr-defined]
        turn = answers.find(client.of("response.created")[0]["response"]["id"]).turn
        waiting_s = (turn.samples - turn.samples_sent) / 24_000
        assert 19.0 < waiting_s < 21.0
        await client.send("response.cancel")
        done = await client.until("response.done")
    assert done["response"]["status"] == "cancelled"


def chat_endpoint(answer: str, seen: list[Any]) -> Handler:
    async def handler(request: web.Request) -> web.StreamResponse:
        seen.append((await request.json())["messages"])
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        for word in answer.split(" "):
            delta = {"choices": [{"delta": {"content": f"{word} "}}]}
            await response.write(f"data: {json.dumps(delta)}\n\n".encode())
        await response.write(b"data: [DONE]\n\n")
        return response

    return handler


def ears(text: str, seen: list[Any]) -> Handler:
    async def handler(request: web.Request) -> web.Response:
        form = await request.post()
        file: Any = form["file"]
        seen.append(file.file.read())
        return web.json_response({"text": text})

    return handler


@needs_espeak
async def test_a_caller_is_heard_thought_about_and_answered(serve: Serve) -> None:
    thought: list[Any] = []
    heard: list[Any] = []
    async with (
        running(speech_server.app()) as url,
        serving(chat_endpoint("I am well. Thank you!", thought)) as chat,
        serving(ears("How are you?", heard)) as transcription,
        serve(
            AVATAR_UPSTREAM=upstream(url, chat={"url": chat}, transcription={"url": transcription}),
            KEY=KEY,
            AVATAR_TURN_DETECTION="server_vad",
        ) as served,
        served.client() as client,
    ):
        sound = await whole("How are you?")
        reading = asyncio.create_task(client.until("response.done"))
        for start in range(0, len(sound) + 96_000, 4800):
            audio = base64.b64encode(sound[start : start + 4800].ljust(4800, b"\0")).decode()
            await client.send("input_audio_buffer.append", audio=audio)
            await asyncio.sleep(0.1)  # the pace of a microphone
        done = await reading
        metrics = served.runtime.metrics.render().decode()
    for leg in ("transcription", "chat", "speech", "upstream", "avatar"):
        assert f'avatar_runtime_turn_latency_seconds_count{{leg="{leg}"}} 1.0' in metrics
    assert done["response"]["status"] == "completed"
    (event,) = client.of("conversation.item.input_audio_transcription.completed")
    assert event["transcript"] == "How are you?"
    assert thought == [[{"role": "user", "content": "How are you?"}]]
    assert heard[0][:4] == b"RIFF"
    said = "".join(event["delta"] for event in client.of(TRANSCRIPT))
    assert said.strip() == "I am well. Thank you!"
    assert client.of("error") == []
    assert violations(client) == []


@pytest.mark.parametrize("leg", ["chat", "transcription"])
async def test_a_failed_leg_is_named_with_its_status(serve: Serve, leg: str) -> None:
    seen: list[Any] = []
    async with (
        serving(sending(SOUND)) as url,
        serving(sending(b"no", status=403)) as broken,
        serving(ears("Hello.", seen)) as transcription,
    ):
        more = {"chat": {"url": broken}, "transcription": {"url": transcription}}
        if leg == "transcription":
            more["transcription"] = {"url": broken}
        async with speaking(serve, url, **more) as (_, client):
            await client.speak(25)
            await client.send("response.create")
            done = await client.until("response.done")
    assert done["response"]["status"] == "failed"
    (error,) = client.of("error")
    message = f"the {leg} endpoint answered with status 403"
    assert (error["error"]["code"], error["error"]["message"]) == (f"{leg}_failed", message)


async def test_the_command_line_client_says_a_text(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = tmp_path / "said.json"
    async with (
        serving(sending(SOUND)) as url,
        serve(AVATAR_UPSTREAM=upstream(url), KEY=KEY) as served,
    ):
        arguments = ["say", "Hello.", "--url", f"ws://{served.sessions}", "--json", str(figures)]
        status = await asyncio.to_thread(command.main, arguments)
    report = json.loads(figures.read_text())
    assert json.loads(capsys.readouterr().out) == report
    assert (status, report["ok"], report["audio_ms"], report["frames"]) == (0, True, 400, 10)


async def test_the_command_line_client_names_a_failed_endpoint(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    async with (
        serving(sending(b"", status=401)) as url,
        serve(AVATAR_UPSTREAM=upstream(url), KEY=KEY) as served,
    ):
        arguments = ["say", "Hello.", "--url", f"ws://{served.sessions}"]
        status = await asyncio.to_thread(command.main, arguments)
    assert status == 1
    assert "the speech endpoint answered with status 401" in capsys.readouterr().err
