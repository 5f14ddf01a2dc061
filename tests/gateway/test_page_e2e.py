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
    pytest.mark.skipif(browser.CHROMIUM is None, reason="needs the chromium package of the system"),
]


@asynccontextmanager
async def _runtime() -> AsyncIterator[tuple[int, int]]:
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
            "AVATAR_CAPACITY": "2",
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
        ports = [
            {"name": "sessions", "containerPort": sessions},
            {"name": "admin", "containerPort": admin},
        ]
        service = {"metadata": {"name": "concierge", "namespace": "acme", "resourceVersion": "2"}}
        fake.events["avatarservices"].put_nowait({"type": "ADDED", "object": service})
        pod = fake.pod("p1", 3, ports, podIP="127.0.0.1")
        fake.events["pods"].put_nowait({"type": "ADDED", "object": pod})
        address = f"http://127.0.0.1:{gateway.ports[0]}/?model=acme/concierge#key={KEY}"
        async with _page(address) as page:
            await page.set_input_files("#file", ROOT / "examples/speech.wav")
            before = await page.locator("#face").screenshot()
            await page.click("#speak")
            await expect(page.locator("#status")).to_have_text(
                "The response is completed.", timeout=30_000
            )
            face = await page.locator("#face").screenshot(path=tmp_path / "face.png")
            received, drawn, dropped = map(
                int, re.findall(r"\d+", await page.locator("#frames").inner_text())
            )
            assert face != before
            assert (received, dropped) == (186, 0)
            # The sound goes on for up to a second after the last message.
            assert drawn > 0.7 * received
            assert float((await page.locator("#played").inner_text()).split()[0]) > 7


async def test_a_browser_with_a_wrong_key_is_told_so(start_gateway: Any, fake: Any) -> None:
    del fake
    async with start_gateway() as gateway:
        address = f"http://127.0.0.1:{gateway.ports[0]}/?model=acme/concierge#key=wrong"
        async with _page(address) as page:
            await page.set_input_files("#file", ROOT / "examples/speech.wav")
            await page.click("#speak")
            await expect(page.locator("#status")).to_contain_text("API key", timeout=10_000)
