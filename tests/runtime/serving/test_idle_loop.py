"""The pictures of an avatar in silence over HTTP."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from avatar_runtime.avatars import cache
from avatar_runtime.engine.rendering import idle_frames
from avatar_runtime.errors import Rejection
from avatar_runtime.protocol.session_config import Character
from avatar_runtime.serving import idle_loop
from avatar_runtime.serving.idle_loop import IdleLoop

if TYPE_CHECKING:
    from tests.runtime.serving.conftest import Serve

AVATARS = Path(__file__).parents[3] / "examples/avatars"
DEADLINE_S = 60.0
ANNA = Character("anna", 384, 256, key="anna@v2", frames=50)


def test_a_request_says_all_that_the_picture_depends_on() -> None:
    query = {"version": "v2", "width": "100", "height": "50", "quality": "33", "crop": "1,2,101,52"}
    request = idle_loop.parse(ANNA, "7", query, ())
    assert (request.avatar, request.source_frame, request.quality) == ("anna@v2", 7, 33)
    assert (request.width, request.height, request.crop) == (100, 50, (1, 2, 101, 52))
    assert request.window.silent
    assert not request.patch
    plain = idle_loop.parse(ANNA, "0", {}, ())
    assert (plain.width, plain.height, plain.quality, plain.crop) == (384, 256, 80, None)
    cropped = idle_loop.parse(ANNA, "0", {"crop": "0,0,64,100"}, ())
    assert (cropped.width, cropped.height) == (64, 100)


def test_a_session_gets_the_version_that_it_has() -> None:
    assert idle_loop.parse(ANNA, "0", {"version": "v1"}, {"anna@v1"}).avatar == "anna@v1"
    with pytest.raises(Rejection, match="version is v1; this version of anna is not served"):
        idle_loop.parse(ANNA, "0", {"version": "v1"}, {"ben@v1"})


@pytest.mark.parametrize(
    ("frame", "query", "param"),
    [
        ("100000", {}, "frame"),
        ("-1", {}, "frame"),
        ("\u0663", {}, "frame"),
        ("0", {"width": "0"}, "width"),
        ("0", {"width": "9000"}, "width"),
        ("0", {"height": "1e3"}, "height"),
        ("0", {"quality": "101"}, "quality"),
        ("0", {"crop": "0,0,64"}, "crop"),
        ("0", {"crop": "0,0,385,64"}, "crop"),
        ("0", {"crop": "64,0,64,64"}, "crop"),
        ("0", {"crop": "0,0,64,64,64"}, "crop"),
    ],
    ids=[
        *("a frame too far", "a negative frame", "another digit", "no width", "too wide"),
        *("not an integer", "too good", "three corners", "outside", "empty", "five corners"),
    ],
)
def test_a_wrong_value_is_named(frame: str, query: dict[str, str], param: str) -> None:
    with pytest.raises(Rejection) as refused:
        idle_loop.parse(ANNA, frame, query, ())
    assert (refused.value.status, refused.value.code) == (400, "invalid_query")
    assert refused.value.param == param
    assert refused.value.value is not None
    assert refused.value.limit is not None


class _Runtime:
    """A runtime whose pictures wait for a test."""

    def __init__(self) -> None:
        self.avatars = {"anna": ANNA}
        self.gate = asyncio.Event()
        self.at_once = self.most_at_once = 0
        self.picture = b"jpeg"

    def avatars_in_use(self) -> set[str]:
        return set()

    async def idle_picture(self, request: Any) -> bytes:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await self.gate.wait()
        self.at_once -= 1
        return self.picture


async def test_pictures_are_made_one_after_another_and_few_wait() -> None:
    runtime = _Runtime()
    loop = IdleLoop(runtime)  # type: ignore[arg-type]
    reads = [
        asyncio.create_task(loop.read("anna", str(n), {})) for n in range(idle_loop.MAX_WAITING)
    ]
    await asyncio.sleep(0)
    with pytest.raises(Rejection) as refused:
        await loop.read("anna", "0", {})
    assert (refused.value.status, refused.value.retry_after_s) == (503, 1)
    left = reads.pop()  # a client that leaves gives its place back
    left.cancel()
    with suppress(asyncio.CancelledError):
        await left
    runtime.gate.set()
    assert await asyncio.gather(*reads) == [b"jpeg"] * len(reads)
    assert runtime.most_at_once == 1
    assert await loop.read("anna", "0", {}) == b"jpeg"


async def test_a_picture_has_a_bound() -> None:
    runtime = _Runtime()
    runtime.gate.set()
    runtime.picture = bytes(idle_loop.MAX_BYTES + 1)
    with pytest.raises(Rejection, match="must have at most 2097152"):
        await IdleLoop(runtime).read("anna", "0", {})  # type: ignore[arg-type]


async def test_a_picture_is_cached_by_its_version(serve: Serve) -> None:
    async with (
        serve() as served,
        httpx.AsyncClient(base_url=f"http://{served.sessions}", timeout=DEADLINE_S) as http,
    ):
        answer = await http.get("/v1/avatars/anna/idle/3.jpg", params={"version": "hash"})
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
        assert answer.headers["Cache-Control"] == "private, max-age=31536000, immutable"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert served.engine.rested[-1][0].avatar == "anna@hash"
        changing = await http.get("/v1/avatars/anna/idle/3.jpg")
        assert changing.headers["Cache-Control"] == "no-store"
        for path, query, status in (
            ("nobody/idle/3.jpg", {}, 404),
            ("anna/idle/3.jpg", {"version": "other"}, 404),
            ("anna/idle/x.jpg", {}, 400),
            ("anna/idle/3.jpg", {"quality": "0"}, 400),
        ):
            refused = await http.get(f"/v1/avatars/{path}", params=query)
            assert refused.status_code == status
            assert refused.headers["Cache-Control"] == "no-store"
        served.engine.failing = True
        failed = await http.get("/v1/avatars/anna/idle/4.jpg")
        assert (failed.status_code, failed.json()["error"]["code"]) == (500, "internal_error")


async def test_a_pod_that_needs_a_session_token_shows_none_without_it(serve: Serve) -> None:
    async with (
        serve(AVATAR_SESSION_TOKEN="s3cret") as served,
        httpx.AsyncClient(base_url=f"http://{served.sessions}") as http,
    ):
        assert (await http.get("/v1/avatars/anna/idle/0.jpg")).status_code == 401


def test_it_is_the_picture_of_a_session_in_silence() -> None:
    avatar = cache.read(AVATARS / "anna")
    info = avatar.info
    character = Character("anna", info.width, info.height, key=info.key, frames=info.frames)
    request = idle_loop.parse(character, "2", {"quality": "80"}, ())
    frames = idle_frames.IdleFrames({info.key: avatar}, 1 << 20)
    of_session = replace(request, session="s", response_ref=-1, source_frame=2 + 2 * info.frames)
    assert frames.frame(request).image == frames.frame(of_session).image
