"""Other forms of the protocol and sessions without video, on real sockets."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
from websockets.asyncio.client import connect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.runtime.serving.conftest import Client, Serve

pytestmark = pytest.mark.slow

BETA: dict[str, Any] = {"additional_headers": {"OpenAI-Beta": "realtime=v1"}}
SUBPROTOCOL = {"subprotocols": ["realtime", "openai-beta.realtime-v1"]}


def kinds(client: Client) -> set[str]:
    return {event["type"] for event in client.events}


@pytest.mark.parametrize("options", [BETA, SUBPROTOCOL], ids=["header", "subprotocol"])
async def test_a_client_of_the_beta_interface_gets_its_own_names(
    serve: Serve, options: dict[str, Any]
) -> None:
    async with serve() as served, served.client("?video=jpeg", **options) as client:
        session = client.events[0]["session"]
        assert session["input_audio_format"] == session["output_audio_format"] == "pcm16"
        assert session["modalities"] == ["text", "audio"]
        update = {"modalities": ["text", "audio"], "input_audio_format": "g711_ulaw"}
        await client.send("session.update", session=update)
        updated = await client.until("session.updated")
        assert updated["session"]["input_audio_format"] == "g711_ulaw"
        await client.say(bytes(320 * 4))
        done = await client.until("response.done")
        assert done["response"]["output_audio_format"] == "g711_ulaw"
        assert {"response.audio.delta", "response.audio.done", "response.video.delta"} <= kinds(
            client
        )
        assert "error" not in kinds(client)


async def test_azure_voice_live_gets_sound_and_on_request_video(
    serve: Serve, make_client: Callable[[Any], Client]
) -> None:
    async with serve() as served:
        url = f"ws://{served.sessions}/voice-live/realtime?api-version=2025-10-01"
        async with connect(f"{url}&model=acme/concierge") as socket:
            client = make_client(socket)
            await client.until("session.created")
            assert client.events[0]["session"]["modalities"] == ["text", "audio"]
            assert client.events[0]["session"]["input_audio_sampling_rate"] == 24000
            await client.speak(5)
            await client.until("response.done")
            assert "response.audio.delta" in kinds(client)
            assert "response.video.delta" not in kinds(client)
            wanted = ["text", "audio", "avatar"]
            await client.send("session.update", session={"modalities": wanted})
            updated = await client.until("session.updated")
            assert updated["session"]["modalities"] == wanted
            await client.speak(5)
            await client.until("response.done")
            frames = client.of("response.video.delta")
            assert [frame["codec"] for frame in frames] == ["jpeg"] * 5
            assert "error" not in kinds(client)
        async with connect(url) as socket:
            client = make_client(socket)
            await client.send("session.update", session={"voice": "alloy"})
            warning = await client.until("warning")  # it is an event of Azure's
            assert warning["warning"]["param"] == "session.voice"


async def test_a_session_without_video_costs_the_engine_nothing(serve: Serve) -> None:
    async with serve() as served, served.client("?video=none") as client:
        await client.send("session.update", session={"type": "realtime", "instructions": "x"})
        await client.speak(60)  # more than the window: the rest waits for the time
        done = await client.until("response.done")
        assert done["response"]["status"] == "completed"
        await client.until("output_audio_buffer.stopped")
        assert not served.engine.batches
        assert not served.engine.rested
        unknown = {kind for kind in kinds(client) if "video" in kind or "avatar" in kind}
        assert unknown | ({"warning"} & kinds(client)) == set()


async def test_the_log_has_some_of_the_warnings_that_a_client_does_not_get(
    serve: Serve, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    async with serve() as served, served.client("?video=none") as client:
        for number in range(40):
            update = {"type": "realtime", "instructions": str(number)}
            await client.send("session.update", session=update)
            await client.until("session.updated")
    lines = [each.getMessage() for each in caplog.records if "not sent" in each.getMessage()]
    assert len(lines) == 16
    assert '"param":"session.instructions"' in lines[0]


async def test_a_client_that_knows_the_avatar_gets_warnings_without_video(serve: Serve) -> None:
    async with serve() as served, served.client("?video=none") as client:
        update = {"type": "realtime", "avatar": {"video": {"mode": "none"}, "style": "casual"}}
        await client.send("session.update", session=update)
        warning = await client.until("warning")
        assert warning["warning"]["param"] == "session.avatar.style"
        numbers = [event["seq"] for event in client.events]
        assert numbers == list(range(1, len(numbers) + 1))


async def test_messages_that_are_no_objects_are_reported_in_every_form(serve: Serve) -> None:
    async with serve() as served, served.client(**BETA) as client:
        for text in ("{", "[]", json.dumps({"type": "session.update", "session": 5})):
            await client.socket.send(text)
            await client.until("error")
        codes = [event["error"]["code"] for event in client.of("error")]
        assert codes == ["invalid_json", "invalid_json", "invalid_type"]
