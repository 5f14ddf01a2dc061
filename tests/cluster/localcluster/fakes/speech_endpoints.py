"""The endpoints of a service in mode speech, without models: the example speech, one sentence.

The sound comes in pieces, as fast as the connection takes it.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

from aiohttp import web

from localcluster import live_speaker

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

SOUND_S: Final = 6.0
_PIECE: Final = 16 * 1024


@asynccontextmanager
async def serving() -> AsyncIterator[dict[str, Any]]:
    """Serve on a free port of the loopback address; yields `spec.upstream` with the endpoints."""
    sound = live_speaker.speech()[: int(SOUND_S * live_speaker.RATE) * 2]

    async def speak(request: web.Request) -> web.StreamResponse:
        await request.read()
        response = web.StreamResponse(headers={"Content-Type": "audio/pcm"})
        await response.prepare(request)
        for start in range(0, len(sound), _PIECE):
            await response.write(sound[start : start + _PIECE])
        await response.write_eof()
        return response

    async def transcribe(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"text": "Please go on."})

    application = web.Application(client_max_size=1 << 26)
    application.router.add_post("/v1/audio/speech", speak)
    application.router.add_post("/v1/audio/transcriptions", transcribe)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1/audio"
        yield {
            "mode": "speech",
            "speech": {"url": f"{url}/speech", "voice": "one"},
            "transcription": {"url": f"{url}/transcriptions"},
        }
    finally:
        await runner.cleanup()
