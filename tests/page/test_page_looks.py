"""How the page looks: each screen, the keyboard, a screen reader, and what each end tells."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.async_api import expect
from tests.clients import environments
from tests.page import instruments
from tests.page.test_page import SPEAKS_MS, has_picture, shoot
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from playwright.async_api import Page, WebSocketRoute

AVATARS: Final = runtime_page.ROOT / "examples/avatars"

pytestmark = instruments.PAGE_MARKS

VIEWS: Final = {
    "phone": {"viewport": {"width": 320, "height": 640}},
    "dark": {"viewport": {"width": 1000, "height": 900}, "color_scheme": "dark"},
    "4k": {"viewport": {"width": 3840, "height": 2160}},
    "landscape": {"viewport": {"width": 740, "height": 360}},
}


@pytest.mark.parametrize("view", VIEWS)
async def test_the_page_fits_each_screen(view: str) -> None:
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, **VIEWS[view]) as (page, faults),  # type: ignore[arg-type]
    ):
        await has_picture(page)
        await shoot(page, view)
        wide = "document.documentElement.scrollWidth > document.documentElement.clientWidth"
        assert not await page.evaluate(wide)
        await page.evaluate("document.documentElement.dir = 'rtl'")
        assert not await page.evaluate(wide)
        await shoot(page, f"{view}-rtl")
        assert faults == []


@pytest.fixture(scope="module")
def axe() -> str:
    _, folder = environments.node()
    return (folder / "node_modules/axe-core/axe.min.js").read_text()


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_axe_finds_no_violation(axe: str, scheme: Any) -> None:
    async with (
        runtime_page.runtime(AVATARS, "--prepare") as address,
        runtime_page.page(address, color_scheme=scheme) as (page, faults),
    ):
        await has_picture(page)
        for part in ("Speak a sound file", "Your own face", "Details"):
            await page.get_by_role("heading", name=part).click()
        await _check_axe(page, axe)
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await _check_axe(page, axe)
        await shoot(page, f"all-parts-{scheme}")
        assert faults == []


async def _check_axe(page: Page, axe: str) -> None:
    await page.evaluate(axe)
    result = await page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    found = [
        (each["id"], [node["html"] for node in each["nodes"]]) for each in result["violations"]
    ]
    assert found == []


async def test_everything_works_by_keyboard() -> None:
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await has_picture(page)
        names = []
        for _ in range(6):
            await page.keyboard.press("Tab")
            names.append(
                await page.evaluate("document.activeElement.id || document.activeElement.value")
            )
        assert names[:3] == ["talk", "sample", "anna"]
        await page.get_by_role("radio", name="anna").focus()
        await page.keyboard.press("ArrowRight")
        await expect(page.get_by_role("img", name="The avatar ben")).to_be_visible()
        assert "avatar=ben" in page.url
        await page.get_by_role("button", name="Play a sample").focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        assert faults == []


def _deadline() -> asyncio.Timeout:
    return asyncio.timeout(SPEAKS_MS / 1000)


class ScriptedServer:
    """A server of sessions, of which a test says what it sends."""

    def __init__(self) -> None:
        self.sockets: list[WebSocketRoute] = []
        self.received: list[dict[str, Any]] = []

    async def install(self, page: Page) -> None:
        """Take the place of the real one."""

        def connect(socket: WebSocketRoute) -> None:
            self.sockets.append(socket)
            socket.on_message(lambda text: self.received.append(json.loads(text)))

        await page.route_web_socket("**/v1/realtime*", connect)

    async def is_asked(self, page: Page, connections: int = 1) -> None:
        """Wait for a connection."""
        async with _deadline():
            while len(self.sockets) < connections:
                await page.wait_for_timeout(20)

    async def receives(self, page: Page, kind: str) -> dict[str, Any]:
        """Wait until the last message has a type, and return it."""
        async with _deadline():
            while not self.received or self.received[-1]["type"] != kind:
                await page.wait_for_timeout(20)
        return self.received[-1]

    def send(self, kind: str, **fields: Any) -> None:
        """Send an event over the last connection."""
        self.sockets[-1].send(json.dumps({"type": kind, **fields}))

    def create(self) -> None:
        """Open the session."""
        resume = {"token": "t1", "ttl_ms": 30000}
        session = {"id": "sess_1", "avatar": {"video": {"mode": "jpeg"}}}
        self.send("session.created", seq=1, session=session, resume=resume)


async def test_a_caller_who_waits_sees_the_place_and_the_time() -> None:
    server = ScriptedServer()
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=server.install) as (page, faults),
    ):
        await has_picture(page)
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Connecting…")
        await server.is_asked(page)
        server.send("session.queued", position=3, eta_ms=20400)
        status = page.locator("#status")
        await expect(status).to_have_text("You are number 3 in the queue, about 20 s.")
        await shoot(page, "queue")
        server.send("session.queued", position=1, eta_ms=None)
        await expect(status).to_have_text("You are next.")
        await expect(page.get_by_role("button", name="Stop waiting")).to_be_visible()
        server.create()
        await expect(status).to_have_text("Connected")
        assert faults == []


async def test_a_lost_connection_is_told_and_resumed() -> None:
    server = ScriptedServer()
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=server.install) as (page, faults),
    ):
        await has_picture(page)
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Connecting…")
        await server.is_asked(page)
        server.create()
        await expect(page.locator("#status")).to_have_text("Connected")
        await server.sockets[-1].close(code=1012)
        await expect(page.locator("#status")).to_have_text("The server restarts. Reconnecting…")
        await shoot(page, "reconnecting")
        await server.is_asked(page, connections=2)
        await server.receives(page, "session.resume")
        asked = dict(server.received[-1])
        assert asked.pop("received")  # from which a pod continues that has only a snapshot
        assert asked == {"type": "session.resume", "token": "t1", "last_seq": 1}
        assert "resume=sess_1" in server.sockets[-1].url
        server.send(
            "session.resumed",
            session={"id": "sess_1", "avatar": {"video": {"mode": "jpeg"}}},
            resume={"token": "t2", "ttl_ms": 30000},
            replay_from_seq=2,
            input_samples=0,
            input_messages=0,
            epoch=1,
        )
        await expect(page.locator("#status")).to_have_text("Connected")
        await server.receives(page, "response.create")
        kinds = [event["type"] for event in server.received if "resume" not in event["type"]]
        assert kinds.count("input_audio_buffer.append") > 10  # what the first one has not got
        assert faults == []


CLOSES: Final = {
    1008: "The server refused the messages of this page.",
    1011: "The server had an internal error.",
    1013: "All places are taken. Try again in a moment.",
    4404: "This service or this avatar does not exist.",
    4408: "The conversation ended because nothing was said for a while.",
    4410: "The conversation reached its longest duration.",
    4502: "The service behind the avatar cannot be reached.",
}


@pytest.mark.parametrize("code", CLOSES)
async def test_the_end_of_a_session_is_told_in_a_sentence(code: int) -> None:
    server = ScriptedServer()
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=server.install) as (page, faults),
    ):
        await has_picture(page)
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Connecting…")
        await server.is_asked(page)
        await server.sockets[-1].close(code=code)
        await expect(page.locator("#status")).to_have_text("Ended")
        await expect(page.locator("#problem")).to_have_text(CLOSES[code])
        await shoot(page, f"closed-{code}")
        await expect(page.get_by_role("button", name="Talk")).to_be_enabled()
        assert faults == []
