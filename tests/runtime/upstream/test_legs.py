"""The legs against servers on real sockets: what they send, what they take, how they fail."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import traceback
import wave
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from aiohttp import web
from tests.runtime.upstream.endpoints import bench, endpoint, serving

from avatar_contracts.upstream import KeySource, SpeechEndpoint, TranscriptionEndpoint
from avatar_runtime.protocol.audio_formats import A_LAW, FORMATS, MU_LAW, PCM_16K, PCM_24K
from avatar_runtime.upstream.chat_leg import MAX_CHARACTERS, ChatLeg
from avatar_runtime.upstream.errors import LegError
from avatar_runtime.upstream.speech_leg import SpeechLeg
from avatar_runtime.upstream.transcription_leg import TranscriptionLeg

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.runtime.upstream.endpoints import Bench

    from avatar_runtime.protocol.audio_formats import AudioFormat

KEY = "sk-not-to-be-shown"
MESSAGES = [{"role": "user", "content": "Hello?"}]


@pytest.fixture(name="parts")
async def bench_of_legs() -> AsyncIterator[Bench]:
    async with bench({"MY_KEY": KEY}) as parts:
        yield parts


def tone(rate: int, seconds: float = 1.0) -> bytes:
    times = np.arange(int(rate * seconds)) / rate
    return (np.sin(2 * np.pi * 220 * times) * 8000).astype("<i2").tobytes()


def wav_file(rate: int, channels: int = 1) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        samples = np.frombuffer(tone(rate), "<i2")
        file.writeframes(np.repeat(samples, channels).astype("<i2").tobytes())
    return buffer.getvalue()


def speech(
    parts: Bench, url: str, kind: str = "pcm", rate: int = 24000, **changes: Any
) -> SpeechLeg:
    return SpeechLeg(parts.http(url, **changes), SpeechEndpoint(endpoint(url), "alloy", kind, rate))


async def spoken(leg: SpeechLeg, audio: AudioFormat = PCM_24K) -> bytes:
    return b"".join([chunk async for chunk in leg.speak("Hello.", audio)])


async def answered(parts: Bench, url: str) -> str:
    leg = ChatLeg(parts.http(url, "chat"))
    return "".join([text async for text in leg.answer(MESSAGES)])


def delta(text: str, **more: Any) -> bytes:
    document = {"choices": [{"delta": {"content": text}, **more}]}
    return b"data: " + json.dumps(document).encode() + b"\n\n"


async def test_a_request_says_what_the_endpoint_documents(parts: Bench) -> None:
    seen: list[Any] = []

    async def handler(request: web.Request) -> web.Response:
        seen.append((request.method, request.path_qs, await request.json()))
        seen.append(request.headers["Authorization"])
        return web.Response(body=tone(24000), content_type="audio/pcm")

    async with serving(handler) as url:
        leg = speech(parts, f"{url}/v1/audio/speech?api-version=1", key=KeySource("MY_KEY"))
        await spoken(leg)
    fields = {"model": "m", "input": "Hello.", "voice": "alloy", "response_format": "pcm"}
    assert seen == [("POST", "/v1/audio/speech?api-version=1", fields), f"Bearer {KEY}"]
    assert (
        parts.value("avatar_runtime_upstream_requests_total", leg="speech", outcome="completed")
        == 1
    )
    assert parts.value("avatar_runtime_upstream_first_byte_seconds_count", leg="speech") == 1


@pytest.mark.parametrize("audio", FORMATS, ids=lambda audio: f"{audio.kind}-{audio.rate}")
@pytest.mark.parametrize("rate", [8000, 16000, 22050, 24000, 44100, 48000])
@pytest.mark.parametrize("kind", ["pcm", "wav", "stereo"])
async def test_sound_of_any_rate_has_the_length_and_tone_of_the_session(
    parts: Bench, audio: AudioFormat, rate: int, kind: str
) -> None:
    body = tone(rate) if kind == "pcm" else wav_file(rate, 2 if kind == "stereo" else 1)

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        for start in range(0, len(body), 777):  # splits samples and the header
            await response.write(body[start : start + 777])
        return response

    async with serving(handler) as url:
        leg = speech(parts, url, "pcm" if kind == "pcm" else "wav", rate)
        sound = await spoken(leg, audio)
    samples = decoded(sound, audio)
    assert len(samples) == pytest.approx(audio.rate, abs=audio.rate * 0.004)
    spectrum = np.abs(np.fft.rfft(samples))
    peak = np.argmax(spectrum) * audio.rate / len(samples)
    assert peak == pytest.approx(220, abs=2)
    assert np.sqrt(np.mean(samples**2)) == pytest.approx(8000 / np.sqrt(2), rel=0.03)


def decoded(sound: bytes, audio: AudioFormat) -> Any:
    from avatar_runtime.audio import g711

    if audio is MU_LAW:
        sound = g711.decode_ulaw(sound)
    if audio is A_LAW:
        sound = g711.decode_alaw(sound)
    return np.frombuffer(sound, "<i2").astype(np.float64)


async def test_a_wav_file_is_found_where_pcm_was_asked_for(parts: Bench) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=wav_file(16000), content_type="application/octet-stream")

    async with serving(handler) as url:
        sound = await spoken(speech(parts, url), PCM_16K)
    assert sound == tone(16000)


async def test_sound_is_passed_on_before_the_answer_ends(parts: Bench) -> None:
    goes_on = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        await response.write(tone(24000, 0.1))
        await goes_on.wait()
        await response.write(tone(24000, 0.1))
        return response

    async with serving(handler) as url:
        chunks = speech(parts, url).speak("Hello.", PCM_24K)
        first = await anext(chunks)
        goes_on.set()
        rest = b"".join([chunk async for chunk in chunks])
    assert first + rest == tone(24000, 0.1) * 2


@pytest.mark.parametrize("status", [429, 500, 503])
async def test_a_busy_endpoint_is_asked_again(parts: Bench, status: int) -> None:
    statuses = [status, status, 200]

    async def handler(request: web.Request) -> web.Response:
        headers = {"Retry-After": "0", "Content-Type": "audio/pcm"}
        return web.Response(status=statuses.pop(0), body=tone(24000), headers=headers)

    async with serving(handler) as url:
        assert await spoken(speech(parts, url)) == tone(24000)
    assert statuses == []
    assert parts.value("avatar_runtime_upstream_retries_total", leg="speech") == 2


async def test_the_pause_is_the_one_that_the_endpoint_asks_for(parts: Bench) -> None:
    times: list[float] = []

    async def handler(request: web.Request) -> web.Response:
        times.append(asyncio.get_running_loop().time())
        if len(times) == 1:
            return web.Response(status=429, headers={"Retry-After": "1"})
        return web.Response(body=tone(24000), content_type="audio/pcm")

    async with serving(handler) as url:
        await spoken(speech(parts, url))
    assert 0.5 <= times[1] - times[0] < 3.0  # jitter takes at most half of it


@pytest.mark.parametrize(
    ("status", "headers", "tries"),
    [
        (401, {}, 1),
        (400, {}, 1),
        (302, {"Location": "/"}, 1),
        (429, {"Retry-After": "60"}, 1),
        (503, {}, 3),
    ],
)
async def test_an_endpoint_that_refuses_ends_the_request(
    parts: Bench, status: int, headers: dict[str, str], tries: int
) -> None:
    seen = 0

    async def handler(request: web.Request) -> web.Response:
        nonlocal seen
        seen += 1
        return web.Response(status=status, text=f"the key {KEY} is wrong", headers=headers)

    async with serving(handler) as url:
        with pytest.raises(LegError) as caught:
            await spoken(speech(parts, url))
    assert (str(caught.value), caught.value.status) == (
        f"the speech endpoint answered with status {status}",
        status,
    )
    assert seen == tries
    assert (
        parts.value("avatar_runtime_upstream_requests_total", leg="speech", outcome="failed") == 1
    )


async def test_nothing_shows_a_key(parts: Bench, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    async def handler(request: web.Request) -> web.Response:
        return web.Response(status=503, text=request.headers["api-key"])

    async with serving(handler) as url:
        with pytest.raises(LegError) as caught:
            await spoken(
                speech(
                    parts, f"{url}/?token={KEY}", key=KeySource("MY_KEY"), authorization="api-key"
                )
            )
    ours = [record.getMessage() for record in caplog.records if "avatar" in record.name]
    assert any("leg=speech" in message for message in ours)
    assert KEY not in " ".join(ours)  # the access log of the test's own server has the URL
    assert KEY not in repr(caught.value)
    assert KEY not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("application/json", b"{}", "sent content type application/json, must be one of audio/pcm"),
        ("text/html", b"<html>", "sent content type text/html"),
        ("audio/mpeg", b"ID3", "sent content type audio/mpeg"),
        ("audio/wav", b"RIFX" + bytes(40), "sent no WAV file"),
        ("audio/wav", wav_file(24000)[:30], "sent a WAV file without samples"),
        ("audio/wav", b"RIFF\0\0\0\0WAVEdata\0\0\0\0", "sent a WAV file whose format is missing"),
        ("audio/wav", wav_file(24000).replace(b"\x01\0\x01\0", b"\x55\0\x01\0", 1), "encoding 85"),
        (
            "audio/wav",
            b"RIFF\0\0\0\0WAVEjunk\xff\xff\xff\x7f" + bytes(70000),
            "with a header of more",
        ),
        ("audio/pcm", b"", "sent no sound"),
        ("audio/pcm", bytes(24000 * 2 * 121), "sent more than 120 s of sound for one sentence"),
    ],
)
async def test_what_is_no_sound_is_named(
    parts: Bench, content_type: str, body: bytes, said: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type)

    async with serving(handler) as url:
        with pytest.raises(LegError) as caught:
            await spoken(speech(parts, url))
    assert said in str(caught.value)


async def test_an_endpoint_that_stalls_is_given_up(parts: Bench) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        await response.write(tone(24000, 0.1))
        await asyncio.sleep(30)
        return response

    async with serving(handler) as url:
        with pytest.raises(LegError, match="the speech endpoint sent nothing for 1 s"):
            await spoken(speech(parts, url))


async def test_an_endpoint_that_never_answers_is_given_up(parts: Bench) -> None:
    async def handler(request: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    async with serving(handler) as url:
        with pytest.raises(LegError, match="sent nothing for 1 s"):
            await spoken(speech(parts, url))


async def test_an_endpoint_that_breaks_off_is_an_error(parts: Bench) -> None:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(
            headers={"Content-Type": "audio/pcm", "Content-Length": "99999"}
        )
        await response.prepare(request)
        await response.write(tone(24000, 0.1))
        assert request.transport is not None
        request.transport.abort()
        return response

    async with serving(handler) as url:
        with pytest.raises(LegError, match="the speech endpoint broke the connection"):
            await spoken(speech(parts, url))


async def test_an_endpoint_that_is_not_there_is_an_error(parts: Bench) -> None:
    with pytest.raises(LegError, match="the speech endpoint cannot be reached"):
        await spoken(speech(parts, "http://127.0.0.1:9/v1"))
    assert parts.value("avatar_runtime_upstream_retries_total", leg="speech") == 2


async def test_a_cancelled_request_leaves_the_endpoint_at_once(parts: Bench) -> None:
    left = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        try:
            while True:
                await response.write(tone(24000, 0.1))
        except (ConnectionError, asyncio.CancelledError):
            left.set()
            raise

    async with serving(handler) as url:
        started = asyncio.Event()

        async def use() -> None:
            async for _ in speech(parts, url).speak("Hello.", PCM_24K):
                started.set()
                await asyncio.sleep(30)

        task = asyncio.create_task(use())
        await started.wait()
        task.cancel()
        await asyncio.wait([task])
        async with asyncio.timeout(5):
            await left.wait()


async def test_an_answer_is_read_as_it_is_written(parts: Bench) -> None:
    goes_on = asyncio.Event()

    async def handler(request: web.Request) -> web.StreamResponse:
        body = await request.json()
        assert body == {"model": "m", "messages": MESSAGES, "stream": True}
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await response.prepare(request)
        await response.write(b": comment\r\n\r\n" + delta("Hel")[:20])
        await response.write(delta("Hel")[20:])
        await goes_on.wait()
        await response.write(delta("lo.") + delta("", finish_reason="stop") + b"data: [DONE]\n\n")
        return response

    async with serving(handler) as url:
        parts_of_answer = ChatLeg(parts.http(url, "chat")).answer(MESSAGES)
        assert await anext(parts_of_answer) == "Hel"
        goes_on.set()
        assert [text async for text in parts_of_answer] == ["lo."]


async def test_an_answer_may_come_as_a_whole(parts: Bench) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.json_response({"choices": [{"message": {"content": "Hello."}}]})

    async with serving(handler) as url:
        assert await answered(parts, url) == "Hello."


@pytest.mark.parametrize(
    ("content_type", "body", "said"),
    [
        ("text/html", b"<html>", "sent content type text/html"),
        ("text/event-stream", b"data: {\n\n", "sent something else than JSON"),
        ("text/event-stream", b'data: {"error": {"message": "x"}}\n\n', "reported an error"),
        ("text/event-stream", delta("Hel"), "broke off its answer"),
        ("text/event-stream", b"data: " + b"x" * 300_000, "sent an event of more than"),
        ("text/event-stream", delta("x" * 9000) * 2, f"an answer of more than {MAX_CHARACTERS}"),
        ("application/json", b"[]", "sent something else than JSON"),
        ("application/json", b"[" * 100_000, "sent something else than JSON"),
    ],
)
async def test_what_is_no_answer_is_named(
    parts: Bench, content_type: str, body: bytes, said: str
) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type=content_type)

    async with serving(handler) as url:
        with pytest.raises(LegError) as caught:
            await answered(parts, url)
    assert said in str(caught.value)


@pytest.mark.parametrize("audio", FORMATS, ids=lambda audio: f"{audio.kind}-{audio.rate}")
async def test_an_utterance_is_sent_as_a_wav_file(parts: Bench, audio: AudioFormat) -> None:
    seen: dict[str, Any] = {}

    async def handler(request: web.Request) -> web.Response:
        seen.update(await request.post())
        seen["bytes"] = seen["file"].file.read()
        return web.json_response({"text": " Hello. "})

    async with serving(handler) as url:
        leg = TranscriptionLeg(
            parts.http(url, "transcription"), TranscriptionEndpoint(endpoint(url), "en")
        )
        sound = audio.silence * audio.rate
        assert await leg.transcribe(sound, audio) == "Hello."
        with wave.open(io.BytesIO(seen["bytes"]), "rb") as file:
            assert (file.getframerate(), file.getnframes()) == (audio.rate, audio.rate)
            assert (file.getnchannels(), file.getsampwidth()) == (1, 2)
    assert (seen["model"], seen["language"], seen["response_format"]) == ("m", "en", "json")


@pytest.mark.parametrize("body", [b"Hello.", b'{"text": 1}', b'{"text": "' + b"x" * 33000 + b'"}'])
async def test_what_is_no_transcript_is_named(parts: Bench, body: bytes) -> None:
    async def handler(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    async with serving(handler) as url:
        leg = TranscriptionLeg(
            parts.http(url, "transcription"), TranscriptionEndpoint(endpoint(url), "")
        )
        with pytest.raises(LegError, match="sent something else than JSON with a text"):
            await leg.transcribe(bytes(480), PCM_24K)
