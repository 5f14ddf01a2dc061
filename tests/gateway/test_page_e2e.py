"""The page in a real browser, through a real gateway, to a real runtime with a simulated GPU."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
from playwright.async_api import expect
from tests import browser

from avatar_contracts.tokens import gateway_key, state_token

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from playwright.async_api import Page

    Until = Callable[..., Awaitable[None]]

ROOT = Path(__file__).parents[2]
KEY = "a-key-of-some-length"
MASTER = "a-master-secret-of-the-operator"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    browser.NEEDS_CHROMIUM,
]


@asynccontextmanager
async def _runtime(capacity: int = 2) -> AsyncIterator[tuple[int, int]]:
    """Run a pod's process and yield its ports."""
    sessions, admin = browser.free_port(), browser.free_port()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "avatar_runtime", "serve", "--device=simulated:h100-80gb"),
        f"--model={ROOT / 'examples/models/demo'}",
        f"--avatars={ROOT / 'examples/avatars'}",
        f"--listen=127.0.0.1:{sessions}",
        f"--admin=127.0.0.1:{admin}",
        env={
            "PATH": os.environ["PATH"],
            "AVATAR_SERVICE": "acme/concierge",
            "AVATAR_POD": "p1",
            "AVATAR_CAPACITY": str(capacity),
            "AVATAR_STATE_TOKEN": state_token(gateway_key(MASTER), "acme/concierge"),
        },
    )
    try:
        await _is_ready(sessions)
        yield sessions, admin
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


@asynccontextmanager
async def _page(address: str) -> AsyncIterator[Page]:
    async with browser.new_page() as page:
        await page.goto(address)
        yield page


async def _is_ready(port: int) -> None:
    async with asyncio.timeout(30), aiohttp.ClientSession() as http:
        while True:
            with suppress(aiohttp.ClientConnectionError):
                async with http.get(f"http://127.0.0.1:{port}/readyz") as response:
                    if response.status == 200:
                        return
            await asyncio.sleep(0.1)


async def test_a_browser_sees_and_hears_the_avatar(
    start_gateway: Any, fake: Any, until: Until, tmp_path: Path
) -> None:
    async with _runtime() as (sessions, admin), start_gateway() as gateway:
        _announce(fake, sessions, admin)
        address = f"http://127.0.0.1:{gateway.ports[0]}/?model=acme/concierge#key={KEY}"
        async with _page(address) as page:
            await expect(page.locator("#status")).to_have_text("Ready", timeout=10_000)
            assert KEY not in page.url
            await expect(page.locator("#face")).to_be_visible()
            await page.get_by_text("Speak a sound file").click()
            await page.set_input_files("#file", ROOT / "examples/speech.wav")
            before = await page.locator("#face").screenshot()
            await page.click("#speak")
            await expect(page.locator("#status")).to_have_text("Speaking", timeout=30_000)
            await expect(page.locator("#status")).to_have_text("Connected", timeout=30_000)
            await page.get_by_role("heading", name="Details").click()
            await expect(page.locator("#played")).to_have_text("7.4 s")
            face = await page.locator("#face").screenshot(path=tmp_path / "face.png")
            received, drawn, dropped, late, *_ = map(
                int, re.findall(r"\d+", await page.locator("#frames").inner_text())
            )
            assert face != before
            assert (received, dropped) == (186, 0)
            assert drawn + late == received
            assert drawn > 0.9 * received


async def test_a_browser_is_asked_for_the_key_at_once(
    start_gateway: Any, fake: Any, until: Until, tmp_path: Path
) -> None:
    del until, tmp_path
    async with start_gateway() as gateway:
        service = {"metadata": {"name": "concierge", "namespace": "acme", "resourceVersion": "2"}}
        fake.events["avatarservices"].put_nowait({"type": "ADDED", "object": service})
        async with _page(f"http://127.0.0.1:{gateway.ports[0]}/?model=acme/concierge") as page:
            key = page.get_by_label("Access key")
            await expect(key).to_be_focused(timeout=10_000)
            await expect(page.get_by_role("button", name="Talk")).to_be_hidden()
            await page.screenshot(path=_screenshot("key"))
            await key.fill("wrong")
            await key.press("Enter")
            await expect(page.get_by_role("alert")).to_have_text("This key is not accepted.")
            await page.screenshot(path=_screenshot("key-refused"))
            await key.fill(KEY)
            await key.press("Enter")
            # No pod runs: a session may wait for one.
            await expect(page.locator("#status")).to_have_text("Ready", timeout=10_000)
            stored = "() => [localStorage.length, sessionStorage.length, document.cookie]"
            assert await page.evaluate(stored) == [0, 0, ""]


async def test_a_browser_waits_in_the_queue_and_gets_the_place(
    start_gateway: Any, fake: Any, until: Until, tmp_path: Path
) -> None:
    del until, tmp_path
    async with _runtime(capacity=1) as (sessions, admin), start_gateway() as gateway:
        _announce(fake, sessions, admin)
        async with asyncio.timeout(20):
            while await gateway.status("/readyz") != 200:  # noqa: ASYNC110  another process
                await asyncio.sleep(0.05)
        address = f"http://127.0.0.1:{gateway.ports[0]}"
        headers = {"Authorization": f"Bearer {KEY}"}
        realtime = f"{address}/v1/realtime?model=acme/concierge&wait_ms=10000"
        async with (
            aiohttp.ClientSession(headers=headers) as http,
            http.ws_connect(realtime) as other,
            _page(f"{address}/?model=acme/concierge#key={KEY}") as page,
        ):
            while (await other.receive_json())["type"] != "session.created":
                pass
            await page.get_by_role("button", name="Play a sample").click()
            status = page.locator("#status")
            await expect(status).to_contain_text("You are next", timeout=10_000)
            await page.screenshot(path=_screenshot("queue-gateway"))
            await other.close()
            await expect(status).to_have_text("Speaking", timeout=20_000)


async def test_a_browser_with_a_wrong_key_is_told_so(start_gateway: Any, fake: Any) -> None:
    del fake
    async with start_gateway() as gateway:
        address = f"http://127.0.0.1:{gateway.ports[0]}/?model=acme/concierge#key=wrong"
        async with _page(address) as page:
            await expect(page.get_by_role("alert")).to_have_text(
                "This key is not accepted.", timeout=10_000
            )


def _announce(fake: Any, sessions: int, admin: int) -> None:
    """Tell the gateway of a service and its pod."""
    ports = [
        {"name": "sessions", "containerPort": sessions},
        {"name": "admin", "containerPort": admin},
    ]
    service = {"metadata": {"name": "concierge", "namespace": "acme", "resourceVersion": "2"}}
    fake.events["avatarservices"].put_nowait({"type": "ADDED", "object": service})
    pod = fake.pod("p1", 3, ports, podIP="127.0.0.1")
    fake.events["pods"].put_nowait({"type": "ADDED", "object": pod})


def _screenshot(name: str) -> Path:
    folder = ROOT / "build/page"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{name}.png"
