"""A service in mode speech: its key, a Secret that is missing, and another endpoint meanwhile."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any, Final

import pytest
from aiohttp import web
from tests.runtime.upstream.endpoints import serving

from localcluster import waiting
from localcluster.release import condition

if TYPE_CHECKING:
    from asyncio.subprocess import Process

    from localcluster.release import Space

pytestmark = [pytest.mark.e2e, pytest.mark.asyncio(loop_scope="session")]

KEY: Final = "sk-of-the-end-to-end-tests"
RATE: Final = 24000
SOUND_S: Final = 8


class Endpoint:
    """An endpoint like `/v1/audio/speech` that says tones, and remembers who asked for what."""

    def __init__(self) -> None:
        self.keys: list[str | None] = []
        self.voices: list[str] = []

    async def handle(self, request: web.Request) -> web.Response:
        self.keys.append(request.headers.get("Authorization"))
        self.voices.append((await request.json())["voice"])
        sound = b"".join(
            ((index * 300) % 20000 - 10000).to_bytes(2, "little", signed=True)
            for index in range(RATE // 10)
        )
        return web.Response(body=sound * 10 * SOUND_S, content_type="audio/pcm")


def spec(url: str, **speech: Any) -> dict[str, Any]:
    endpoint = {"url": f"{url}/v1/audio/speech", "voice": "one", **speech}
    return {
        "replicas": 1,
        "placement": {"gpuClasses": ["h100-80gb"]},
        "upstream": {"mode": "speech", "speech": endpoint},
    }


async def say(space: Space, name: str) -> Process:
    """Start a session that says a text."""
    return await asyncio.create_subprocess_exec(
        sys.executable, "-m", "avatar_client", "say", "Good morning.",
        "--url", f"ws://{space.release.gateway}", "--model", f"{space.name}/{name}",
        "--key", space.release.key, "--wait-ms", "20000",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip


async def said(process: Process) -> dict[str, Any]:
    """Return the result of a session that was served to its end."""
    output, problems = await process.communicate()
    assert process.returncode == 0, output.decode() + problems.decode()
    found: dict[str, Any] = json.loads(output)
    return found


def message(service: dict[str, Any]) -> str:
    return str(condition(service, "Ready").get("message", ""))


async def test_a_missing_secret_is_told_and_its_key_is_sent(space: Space) -> None:
    endpoint = Endpoint()
    async with serving(endpoint.handle) as url:
        key = {"name": "voices", "key": "api-key"}
        await space.apply("speaker", **spec(url, apiKeySecretRef=key))
        service = await waiting.until(
            lambda: space.service("speaker"),
            lambda service: 'secret "voices" not found' in message(service),
            "the status names the Secret",
        )
        assert condition(service, "Ready")["status"] == "False"
        await space.kubectl(
            "create", "secret", "generic", "voices", f"--from-literal=api-key={KEY}"
        )
        service = await space.ready("speaker", within_s=90)
        (pod,) = await space.pods("speaker")
        result = await said(await say(space, "speaker"))
    assert endpoint.keys == [f"Bearer {KEY}"]
    assert result["first_frame_ms"] is not None
    assert KEY not in json.dumps([service, pod, result])
    assert KEY not in await space.kubectl("logs", pod["metadata"]["name"])


async def test_another_endpoint_rolls_out_around_the_session_that_speaks(
    space: Space,
) -> None:
    endpoint = Endpoint()
    async with serving(endpoint.handle) as url:
        await space.apply("speaker", **spec(url))
        await space.ready("speaker")
        (before,) = await space.pods("speaker")
        speaking = await say(space, "speaker")
        await waiting.until(
            lambda: space.service("speaker"),
            lambda service: service["status"].get("sessions") == 1,
            "the session is counted",
        )
        await space.apply("speaker", **spec(url, voice="two"))
        await said(speaking)
        await waiting.until(
            lambda: space.pods("speaker"),
            lambda pods: (
                [p["metadata"]["uid"] for p in pods] not in ([before["metadata"]["uid"]],)
                and len(pods) == 1
            ),
            "another pod",
            60,
        )
        await space.ready("speaker")
        await said(await say(space, "speaker"))
    assert endpoint.voices == ["one", "two"]
