"""A speech endpoint like `/v1/audio/speech` of OpenAI over espeak-ng, for demos and tests.

python -m localcluster.speech_server --port 8090
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from avatar_runtime.protocol.audio_formats import PCM_24K
from avatar_runtime.upstream.pcm import Converter, WavReader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

MAX_CHARACTERS: Final = 4096
MAX_PROCESSES: Final = 4
_CHUNK_BYTES: Final = 8 * 1024
_TYPES: Final = {"pcm": "audio/pcm", "wav": "audio/wav"}


def app() -> web.Application:
    """Return the server; each request runs one espeak-ng."""
    application = web.Application(client_max_size=64 * 1024)
    slots = asyncio.Semaphore(MAX_PROCESSES)

    async def speak(request: web.Request) -> web.StreamResponse:
        fields = await _fields(request)
        response = web.StreamResponse(headers={"Content-Type": _TYPES[fields["response_format"]]})
        async with slots:
            sound = spoken(fields["input"], fields["voice"], fields["speed"])
            if fields["response_format"] == "pcm":
                sound = _pcm(sound)
            async for chunk in sound:
                if not response.prepared:
                    await response.prepare(request)
                await response.write(chunk)
        if not response.prepared:
            raise _refused("input has nothing to say", "input")
        await response.write_eof()
        return response

    application.router.add_post("/v1/audio/speech", speak)
    application.router.add_get("/healthz", _healthy)
    return application


async def spoken(text: str, voice: str = "en", speed: float = 1.0) -> AsyncIterator[bytes]:
    """Yield the WAV file that espeak-ng makes of a text, as it is made."""
    process = await asyncio.create_subprocess_exec(
        *("espeak-ng", "-v", voice, "-s", str(round(175 * speed)), "--stdin", "--stdout"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(text.encode())
        process.stdin.close()
        while chunk := await process.stdout.read(_CHUNK_BYTES):
            yield chunk
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


async def _pcm(file: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    reader, converter = WavReader(), None
    async for chunk in file:
        samples = reader.push(chunk)
        if converter is None and reader.rate:
            converter = Converter(reader.rate, PCM_24K)
        if converter is not None and (sound := converter.push(samples)):
            yield sound
    if converter is not None and (sound := converter.finish()):
        yield sound


async def _fields(request: web.Request) -> dict[str, Any]:
    try:
        body = await request.json()
    except ValueError:
        raise _refused("the body is not JSON", None) from None
    text = body.get("input") if isinstance(body, dict) else None
    if not isinstance(text, str) or not 1 <= len(text) <= MAX_CHARACTERS:
        raise _refused(f"input must be a string of 1 to {MAX_CHARACTERS} characters", "input")
    kind = body.get("response_format", "wav")
    if kind not in _TYPES:
        raise _refused("response_format must be pcm or wav", "response_format")
    speed = body.get("speed", 1.0)
    if isinstance(speed, bool) or not isinstance(speed, int | float) or not 0.25 <= speed <= 4:
        raise _refused("speed must be a number from 0.25 to 4", "speed")
    voice = body.get("voice")
    is_language = isinstance(voice, str) and voice.isascii() and 2 <= len(voice) <= 3
    return {
        "input": text,
        "voice": voice if is_language else "en",  # OpenAI's names mean the English voice
        "speed": float(speed),
        "response_format": kind,
    }


def _refused(message: str, param: str | None) -> web.HTTPBadRequest:
    error = {"message": message, "type": "invalid_request_error", "param": param, "code": None}
    body = web.json_response({"error": error}).body
    return web.HTTPBadRequest(body=body, content_type="application/json")


async def _healthy(request: web.Request) -> web.Response:
    return web.Response(text="ok")


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve on a loopback address until the process is stopped."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, default=8090, help="default: 8090")
    options = parser.parse_args(arguments)
    web.run_app(app(), host="127.0.0.1", port=options.port, print=None, access_log=None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
