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
    from collections.abc import Callable, Coroutine

    from tests.runtime.serving.conftest import Serve

AVATARS = Path(__file__).parents[3] / "examples/avatars"
DEADLINE_S = 60.0
ANNA = Character("anna", 384, 256, key="anna@v2", frames=50)


def test_a_request_says_all_that_the_picture_depends_on() -> None:
    query = {"version": "v2", "width": "100", "height": "70", "quality": "33", "crop": "1,2,101,72"}
    request = idle_loop.parse(ANNA, "7", query)
    assert (request.avatar, request.source_frame, request.quality) == ("anna@v2", 7, 33)
    assert (request.width, request.height, request.crop) == (100, 70, (1, 2, 101, 72))
    assert request.window.silent
    assert not request.patch
    plain = idle_loop.parse(ANNA, "0", {})
    assert (plain.width, plain.height, plain.quality, plain.crop) == (384, 256, 80, None)
    cropped = idle_loop.parse(ANNA, "0", {"crop": "0,0,64,100"})
    assert (cropped.width, cropped.height) == (64, 100)


def test_a_session_gets_the_version_that_it_has() -> None:
    before = Character("anna", 500, 300, key="anna@v1", frames=70)
    avatars, in_use = {"anna": ANNA}, {"anna@v1": before}
    assert idle_loop.choose("anna", None, avatars, in_use) is ANNA
    assert idle_loop.choose("anna", "v2", avatars, {}) is ANNA
    assert idle_loop.choose("anna", "v1", avatars, in_use) is before
    assert idle_loop.choose("anna", "v1", {}, in_use) is before
    request = idle_loop.parse(before, "69", {"crop": "0,0,500,300"})
    assert (request.avatar, request.width) == ("anna@v1", 500)
    with pytest.raises(Rejection, match='version is "v1"; this version of anna is not served'):
        idle_loop.choose("anna", "v1", avatars, {"ben@v1": before})
    for version in (None, "v1"):
        with pytest.raises(Rejection, match='avatar is "anna"'):
            idle_loop.choose("anna", version, {"ben": before}, {})


@pytest.mark.parametrize(
    ("frame", "query", "param"),
    [
        ("0", {"width": "63"}, "width"),
        ("0", {"width": "2049"}, "width"),
        ("0", {"width": ""}, "width"),
        ("0", {"height": "1e3"}, "height"),
        ("0", {"quality": "101"}, "quality"),
        ("0", {"crop": "0,0,64"}, "crop"),
        ("0", {"crop": "0,0,385,64"}, "crop"),
        ("0", {"crop": "64,0,64,64"}, "crop"),
        ("0", {"crop": "0,0,63,64"}, "crop"),
        ("0", {"crop": "0,0,64,64,64"}, "crop"),
    ],
    ids=[
        *("too narrow", "too wide", "no width", "not an integer", "too good"),
        *("three corners", "outside", "empty", "a small crop", "five corners"),
    ],
)
def test_a_wrong_value_is_named(frame: str, query: dict[str, str], param: str) -> None:
    with pytest.raises(Rejection) as refused:
        idle_loop.parse(ANNA, frame, query)
    assert (refused.value.status, refused.value.code) == (400, "invalid_query")
    assert refused.value.param == param
    assert refused.value.value is not None
    assert refused.value.limit is not None


@pytest.mark.parametrize("frame", ["50", "100000", "-1", "\u0663", "00", "07", "", "x"])
def test_a_frame_that_the_loop_does_not_have_is_not_found(frame: str) -> None:
    with pytest.raises(Rejection) as refused:
        idle_loop.parse(ANNA, frame, {})
    assert (refused.value.status, refused.value.code) == (404, "not_found")
    assert (refused.value.param, refused.value.limit) == ("frame", [0, 49])
    assert str(refused.value) == f'frame is "{frame}"; must be 0 to 49'


def test_the_size_of_the_picture_itself_is_allowed() -> None:
    large = Character("anna", 4096, 16, frames=1)
    request = idle_loop.parse(large, "0", {"width": "4096", "height": "16"})
    assert (request.width, request.height) == (4096, 16)


class _Runtime:
    """A runtime whose pictures wait for a test."""

    def __init__(self) -> None:
        self.avatars = {"anna": ANNA}
        self.gate = asyncio.Event()
        self.at_once = self.most_at_once = 0
        self.picture = b"jpeg"
        self.made: list[int] = []

    def avatars_in_use(self) -> dict[str, Character]:
        return {}

    async def idle_picture(self, request: Any) -> bytes:
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        self.made.append(request.source_frame)
        await self.gate.wait()
        self.at_once -= 1
        return self.picture


async def _stays() -> bool:
    return False


def _loop(runtime: _Runtime) -> Callable[..., Coroutine[Any, Any, bytes | None]]:
    loop = IdleLoop(runtime)  # type: ignore[arg-type]

    async def read(frame: int, caller: str = "me", has_left: Any = _stays) -> bytes | None:
        return await loop.read("anna", str(frame), {}, caller, has_left)

    return read


async def test_pictures_are_made_one_after_another() -> None:
    runtime = _Runtime()
    read = _loop(runtime)
    reads = [asyncio.create_task(read(n)) for n in range(40)]
    await asyncio.sleep(0)
    left = reads.pop()  # a client that leaves gives its place back
    left.cancel()
    with suppress(asyncio.CancelledError):
        await left
    runtime.gate.set()
    assert await asyncio.gather(*reads) == [b"jpeg"] * len(reads)
    assert runtime.most_at_once == 1
    assert runtime.made == list(range(39))


async def test_a_picture_is_not_made_for_a_client_that_has_left() -> None:
    runtime = _Runtime()
    read = _loop(runtime)

    async def has_left() -> bool:
        return True

    reads = [asyncio.create_task(each) for each in (read(0), read(1, has_left=has_left), read(2))]
    await asyncio.sleep(0)
    runtime.gate.set()
    assert await asyncio.gather(*reads) == [b"jpeg", None, b"jpeg"]
    assert runtime.made == [0, 2]


async def test_a_picture_has_a_bound_and_is_not_made_again_to_find_it() -> None:
    runtime = _Runtime()
    runtime.gate.set()
    runtime.picture = bytes(idle_loop.MAX_BYTES + 1)
    read = _loop(runtime)
    for _ in range(2):
        with pytest.raises(Rejection, match="must have at most 2097152") as refused:
            await read(0)
        assert (refused.value.status, refused.value.value) == (413, idle_loop.MAX_BYTES + 1)
    assert runtime.made == [0]


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
            ("anna/idle/x.jpg", {}, 404),
            ("anna/idle/00.jpg", {}, 404),
            ("anna/idle/3.jpg", {"quality": "0"}, 400),
        ):
            refused = await http.get(f"/v1/avatars/{path}", params=query)
            assert refused.status_code == status
            assert refused.headers["Cache-Control"] == "no-store"
        head = await http.head("/v1/avatars/anna/idle/3.jpg", params={"version": "hash"})
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["Content-Length"] == answer.headers["Content-Length"]
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
    request = idle_loop.parse(character, "2", {"quality": "80"})
    frames = idle_frames.IdleFrames({info.key: avatar}, 1 << 20)
    of_session = replace(request, session="s", response_ref=-1, source_frame=2 + 2 * info.frames)
    assert frames.frame(request).image == frames.frame(of_session).image
