"""The routes of avatars over real sockets: the list, each refusal, and a real preparation."""

from __future__ import annotations

import asyncio
import sys
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import cv2
import httpx
import numpy as np
import pytest

from avatar_runtime.avatars import cache, idle_pictures
from avatar_runtime.preparation import staging
from avatar_runtime.serving import prepare_process, upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from tests.runtime.serving.conftest import Serve, Served

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
DEADLINE_S = 300.0
ALLOWED = {"name": "mira", "consent": "Drawn by code"}


@pytest.fixture
def preparing(serve: Serve, tmp_path: Path) -> Callable[..., Any]:
    """Give a context in which a runtime serves that prepares avatars."""

    @asynccontextmanager
    async def opened(**variables: str) -> AsyncIterator[tuple[Served, httpx.AsyncClient]]:
        folder = tmp_path / "avatars"
        folder.mkdir(exist_ok=True)
        given = {
            "AVATAR_PREPARE": "true",
            "AVATAR_AVATARS": "",
            "AVATAR_AVATAR_FOLDER": str(folder),
            "AVATAR_MODEL": str(ROOT / "examples/models/demo"),
            "AVATAR_DEVICE": "cpu",
        }
        async with serve(**{**given, **variables}) as served:
            address = f"http://{served.sessions}"
            async with httpx.AsyncClient(
                base_url=address, timeout=DEADLINE_S, headers={"Origin": address}
            ) as http:
                yield served, http

    return opened


async def test_without_the_setting_avatars_are_only_listed(serve: Serve) -> None:
    async with (
        serve() as served,
        httpx.AsyncClient(base_url=f"http://{served.sessions}") as http,
    ):
        assert (await http.get("/v1/avatars")).json() == {
            "avatars": [
                {"name": name, "version": "hash", "width": 64, "height": 64, "disclosure": ""}
                for name in ("anna", "ben")
            ],
            "mode": "drive",
            "hears": True,
            "says_text": False,
            "preparation": False,
            "progress": None,
        }
        assert (await http.post("/v1/avatars", params=ALLOWED)).status_code == 405
        assert (await http.get("/v1/avatars/anna/preview.jpg")).status_code == 404


async def test_a_pod_that_needs_a_session_token_lists_nothing_without_it(serve: Serve) -> None:
    async with (
        serve(AVATAR_SESSION_TOKEN="s3cret") as served,
        httpx.AsyncClient(base_url=f"http://{served.sessions}") as http,
    ):
        assert (await http.get("/v1/avatars")).status_code == 401


async def test_each_avatar_has_a_picture_of_its_silence(serve: Serve) -> None:
    folder = ROOT / "examples/avatars"
    given = {"AVATAR_AVATAR_FOLDER": str(folder), "AVATAR_AVATARS": "anna,ben"}
    async with (
        serve(**given) as served,
        httpx.AsyncClient(base_url=f"http://{served.sessions}", timeout=DEADLINE_S) as http,
    ):
        answer = await http.get("/v1/avatars/anna/picture.jpg")
        assert (answer.status_code, answer.headers["Content-Type"]) == (200, "image/jpeg")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"
        shown = cv2.imdecode(np.frombuffer(answer.content, np.uint8), cv2.IMREAD_COLOR)
        assert shown is not None
        wanted = idle_pictures.decode(cache.read(folder / "anna"), 0)
        difference = np.abs(shown.astype(float) - wanted)
        assert difference.mean() < 2
        missing = await http.get("/v1/avatars/nobody/picture.jpg")
        assert missing.status_code == 404
        assert missing.json()["error"]["limit"] == ["anna", "ben"]


async def test_a_pod_that_needs_a_session_token_shows_no_picture_without_it(serve: Serve) -> None:
    async with (
        serve(AVATAR_SESSION_TOKEN="s3cret") as served,
        httpx.AsyncClient(base_url=f"http://{served.sessions}") as http,
    ):
        assert (await http.get("/v1/avatars/anna/picture.jpg")).status_code == 401


@pytest.mark.parametrize(
    ("query", "headers", "body", "status", "message"),
    [
        (ALLOWED, {"Origin": "http://evil.example"}, b"x", 403, "use the page of this runtime"),
        (ALLOWED, {"Host": "evil.example"}, b"x", 403, "must be localhost"),
        ({**ALLOWED, "name": "../anna"}, {}, b"x", 400, "must have 1 to 200 letters"),
        ({**ALLOWED, "name": ".upload"}, {}, b"x", 400, "must have 1 to 200 letters"),
        ({"consent": "yes"}, {}, b"x", 400, "must have 1 to 200 letters"),
        ({"name": "mira"}, {}, b"x", 400, "consent is empty"),
        ({**ALLOWED, "consent": " \n"}, {}, b"x", 400, "consent is empty"),
        ({**ALLOWED, "consent": "a\0"}, {}, b"x", 400, "must be text of at most 2000"),
        ({**ALLOWED, "consent": "a" * 2001}, {}, b"x", 400, "must be text of at most 2000"),
        (ALLOWED, {}, b"", 400, "the file is empty"),
        (ALLOWED, {}, b"x" * 3000, 413, "has 3000 bytes, must have at most 2000"),
    ],
)
async def test_a_wrong_request_is_refused_before_any_work(
    preparing: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    query: dict[str, str],
    headers: dict[str, str],
    body: bytes,
    status: int,
    message: str,
) -> None:
    monkeypatch.setattr(upload, "MAX_BYTES", 2000)
    monkeypatch.setattr(prepare_process, "arguments", lambda *_: [sys.executable, "-c", ""])
    async with preparing() as (_, http):
        answer = await http.post("/v1/avatars", params=query, headers=headers, content=body)
        assert (answer.status_code, message in answer.json()["error"]["message"]) == (status, True)
    assert not list((tmp_path / "avatars").glob("[!.]*"))


async def test_a_file_that_is_no_video_gets_the_sentence_of_the_command(
    preparing: Any, tmp_path: Path
) -> None:
    async with preparing() as (_, http):
        answer = await http.post("/v1/avatars", params=ALLOWED, content=b"<html>" * 100)
    assert answer.status_code == 400, answer.text
    assert answer.json()["error"]["message"].startswith("the file: ")
    assert str(tmp_path) not in answer.text


async def _drawn_clip(tmp_path: Path) -> bytes:
    clip = tmp_path / "mira.mp4"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "avatar_training", "clip", "--out", str(clip)
    )
    assert await child.wait() == 0
    return clip.read_bytes()


async def test_a_drawn_clip_becomes_an_avatar_with_a_preview(
    preparing: Any, tmp_path: Path
) -> None:
    clip = await _drawn_clip(tmp_path)
    async with preparing() as (_, http):
        answer = await http.post("/v1/avatars", params=ALLOWED, content=clip)
        assert answer.status_code == 200, answer.text
        report = answer.json()
        preview = await http.get("/v1/avatars/mira/preview.jpg")
        missing = await http.get("/v1/avatars/nobody/preview.jpg")
        outside = await http.get("/v1/avatars/mira/preview.jpg", headers={"Host": "evil.example"})
    assert (report["name"], report["frames"]) == ("mira", 50)
    assert preview.headers["content-type"] == "image/jpeg"
    assert preview.content.startswith(b"\xff\xd8")
    assert (missing.status_code, outside.status_code) == (404, 403)
    avatar = cache.read(tmp_path / "avatars" / "mira")
    assert avatar.manifest.consent == "Drawn by code"
    assert avatar.info.content_hash == report["written"]["content_hash"]
    assert sorted(path.name for path in (tmp_path / "avatars").iterdir()) == [".upload", "mira"]


async def test_a_refused_clip_answers_with_the_report(preparing: Any, tmp_path: Path) -> None:
    grey = tmp_path / "grey.png"
    import cv2
    import numpy as np

    cv2.imwrite(str(grey), np.full((256, 256, 3), 128, np.uint8))
    async with preparing() as (_, http):
        answer = await http.post("/v1/avatars", params=ALLOWED, content=grey.read_bytes())
    assert answer.status_code == 422, answer.text
    assert answer.json()["verdict"] == "refused"
    assert not (tmp_path / "avatars" / "mira").exists()


@pytest.fixture
def endless(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Replace the command by one that writes its process id to this file and never ends."""
    note = tmp_path / "pid"
    code = (
        f"import os, sys, time, pathlib as p; n = p.Path({str(note)!r}); "
        "t = n.with_suffix('.new'); t.write_text(str(os.getpid())); t.rename(n); "
        "print('reading: 1/2 frames', file=sys.stderr, flush=True); time.sleep(600)"
    )

    def command(*_: object) -> Sequence[str]:
        return [sys.executable, "-c", code]

    monkeypatch.setattr(prepare_process, "arguments", command)
    return note


def _has_ended(note: Path) -> bool:
    return not Path(f"/proc/{note.read_text()}").exists()


async def _shows(http: httpx.AsyncClient, progress: str | None) -> None:
    async with asyncio.timeout(20):
        while (await http.get("/v1/avatars")).json()["progress"] != progress:  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def test_one_preparation_runs_and_ends_when_its_client_leaves(
    preparing: Any, endless: Path, tmp_path: Path
) -> None:
    async with preparing() as (served, http):
        with staging.opened(tmp_path / "avatars" / ALLOWED["name"], "key") as work:
            work.save("seen", 0, {"facts": np.zeros(1)})
        first = asyncio.create_task(http.post("/v1/avatars", params=ALLOWED, content=b"x"))
        await served.eventually(endless.exists, "started the command")
        second = await http.post("/v1/avatars", params=ALLOWED, content=bytes(30_000_000))
        assert second.status_code == 409
        await _shows(http, "reading: 1/2 frames")
        first.cancel()
        await served.eventually(lambda: _has_ended(endless), "killed the command")
        await _shows(http, None)
        await served.eventually(lambda: not work.folder.exists(), "removed what was finished")


async def test_the_end_of_the_server_ends_the_preparation(preparing: Any, endless: Path) -> None:
    async with preparing() as (served, http):
        request = asyncio.create_task(http.post("/v1/avatars", params=ALLOWED, content=b"x"))
        await served.eventually(endless.exists, "started the command")
        served.runtime.stop_watchers()
        answer = await request
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "stopped")
    assert _has_ended(endless)


async def test_a_refusal_reaches_a_client_that_sends_its_whole_file_first(preparing: Any) -> None:
    size = 30_000_000
    async with preparing() as (served, _):
        host, port = served.sessions.split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/avatars?name=mira HTTP/1.1\r\nHost: {served.sessions}\r\n"
            f"Origin: http://{served.sessions}\r\nContent-Length: {size}\r\n\r\n"
        )
        writer.write(head.encode() + bytes(size))
        async with asyncio.timeout(DEADLINE_S):
            await writer.drain()
            assert await reader.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        writer.close()


async def test_a_client_that_leaves_during_its_upload_leaves_nothing(
    preparing: Any, tmp_path: Path
) -> None:
    async with preparing() as (served, _):
        host, port = served.sessions.split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        head = (
            f"POST /v1/avatars?{urlencode(ALLOWED)} HTTP/1.1\r\nHost: {served.sessions}\r\n"
            f"Origin: http://{served.sessions}\r\nContent-Length: 1000\r\n\r\nhalf"
        )
        writer.write(head.encode())
        source = tmp_path / "avatars" / ".upload" / "source"
        await served.eventually(source.exists, "began the upload")
        writer.close()
        await served.eventually(lambda: not source.exists(), "removed the upload")
    assert [] == list((tmp_path / "avatars").glob("[!.]*"))
