"""The Python client goes on when its connection is lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from avatar_client import errors, session
from avatar_client.options import Options
from avatar_client.sound import Sound

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.runtime.serving.conftest import Serve, Served

CUTS = 15  # fewer than a session may be resumed at once
SOUND = Sound(Random(1).randbytes(2 * 24_000 * 2), 24_000)  # two seconds


@asynccontextmanager
async def calling(served: Served, options: Options | None = None) -> AsyncIterator[session.Session]:
    target = session.Target(f"ws://{served.sessions}", "acme/concierge", "")
    async with session.connect(target, options) as live:
        yield live


def cut(live: session.Session) -> None:
    """Lose the connection without a close frame."""
    live._socket._socket.transport.abort()


@pytest.mark.parametrize(
    ("transport", "flow"), [("json", "clock"), ("binary", "clock"), ("json", "ack")]
)
async def test_a_response_is_whole_although_the_connection_is_lost_again_and_again(
    serve: Serve, transport: Any, flow: Any
) -> None:
    # Late frames are not dropped: a busy machine makes some.
    options = Options(transport=transport, flow=flow, overrun="pause")
    async with serve() as served, calling(served, options) as live:
        speaking = asyncio.create_task(live.speak(SOUND))
        for _ in range(CUTS):
            await asyncio.wait([speaking], timeout=0.15)
            cut(live)
        response = await speaking
        assert live.resumed >= 5
        assert live.trace.violations == []
        assert bytes(response.pcm) == SOUND.pcm
        assert [frame.frame_index for frame in response.frames] == list(range(50))
        # The session goes on as if nothing had happened.
        again = await live.speak(SOUND, realtime=False)
        assert bytes(again.pcm) == SOUND.pcm
    await served.eventually(lambda: served.runtime.slots.sessions == 0, "left")


async def test_a_session_that_the_server_has_given_up_is_over(serve: Serve) -> None:
    async with serve(AVATAR_RESUME_TTL_S="0") as served, calling(served) as live:
        cut(live)
        with pytest.raises(errors.SessionEnded) as ended:
            await live.pause(5)
        assert ended.value.code == 1006


async def test_a_refused_resume_ends_the_session_at_once(serve: Serve) -> None:
    async with serve() as served, calling(served) as live:
        live._socket._token = "resume_x"
        cut(live)
        with pytest.raises(errors.SessionEnded):
            await live.pause(5)
