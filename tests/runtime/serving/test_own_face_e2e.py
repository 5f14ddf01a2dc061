"""The panel "Your own face" in a real browser, with a real preparation and a real session."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import socket
import sys
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest
from playwright.async_api import async_playwright, expect

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from playwright.async_api import Page

ROOT = Path(__file__).parents[3]
CHROMIUM = shutil.which("chromium")
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PREPARED_MS = 240_000
DROP = """(zone, name) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["not a picture"], name));
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true, bubbles: true }));
}"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="needs the chromium package of the system"),
]


@asynccontextmanager
async def _runtime(avatars: Path, *options: str) -> AsyncIterator[str]:
    """Run a runtime with a simulated GPU and yield the address of its page."""
    sessions, admin = _free_port(), _free_port()
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "avatar_runtime", "serve", "--device=simulated:h100-80gb", *options),
        *(f"--model={ROOT / 'examples/models/demo'}", f"--avatars={avatars}"),
        *(f"--listen=127.0.0.1:{sessions}", f"--admin=127.0.0.1:{admin}"),
        env={"PATH": os.environ["PATH"], "AVATAR_CAPACITY": "2"},
    )
    address = f"http://127.0.0.1:{sessions}"
    try:
        async with asyncio.timeout(60), httpx.AsyncClient() as http:
            while True:
                with suppress(httpx.TransportError):
                    if (await http.get(f"{address}/readyz")).status_code == 200:
                        break
                await asyncio.sleep(0.1)
        yield address
    finally:
        if child.returncode is None:
            child.terminate()
        await child.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def _page(address: str) -> AsyncIterator[tuple[Page, list[str]]]:
    """Open the page; yield it with what the browser reported or asked of others."""
    faults: list[str] = []
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            executable_path=CHROMIUM, headless=True, args=ARGUMENTS
        )
        page = await browser.new_page()
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((address, "data:"))
                else faults.append(f"asked {request.url}")
            ),
        )
        await page.goto(address)
        yield page, faults
        await browser.close()


@pytest.fixture
def avatars(tmp_path: Path) -> Path:
    """A writable folder with one avatar."""
    folder = tmp_path / "avatars"
    shutil.copytree(ROOT / "examples/avatars/anna", folder / "anna")
    return folder


async def _clip(path: Path) -> Path:
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "avatar_training", "clip", "--out", str(path)
    )
    assert await child.wait() == 0
    return path


async def test_a_clip_becomes_an_avatar_that_speaks(avatars: Path, tmp_path: Path) -> None:
    clip = await _clip(tmp_path / "mira.mp4")
    async with _runtime(avatars, "--prepare") as address, _page(address) as (page, faults):
        await expect(page.get_by_role("heading", name="Your own face")).to_be_visible()
        await page.set_input_files("#own-file", clip)
        await page.get_by_label("Name of the avatar").fill("anna")
        await expect(page.locator("#prepare")).to_have_text("Replace this avatar")
        await page.get_by_label("Name of the avatar").fill("mira")
        await page.get_by_label("Consent").fill("Drawn by the project")
        await page.get_by_role("button", name="Prepare").press("Enter")
        await expect(page.locator("#use")).to_be_visible(timeout=PREPARED_MS)
        await expect(page.locator("#own-status")).to_contain_text("The clip is good")
        await expect(page.locator("#own-status")).not_to_have_attribute("data-bad", "")
        width = await page.locator("#preview").evaluate("picture => picture.naturalWidth")
        assert width == 6 * 256
        await page.get_by_role("button", name="Speak as mira").click()
        await expect(page.locator("#status")).to_have_text(
            "The response is completed.", timeout=30_000
        )
        received = int(re.findall(r"\d+", await page.locator("#frames").inner_text())[0])
        assert 70 <= received <= 80
        assert "avatar=mira" in page.url
        assert faults == []


async def test_a_dropped_file_that_is_no_picture_shows_the_reason(avatars: Path) -> None:
    async with _runtime(avatars, "--prepare") as address, _page(address) as (page, _):
        await page.locator("#drop").evaluate(DROP, "photo.png")
        name = await page.locator("#own-file").evaluate("input => input.files[0].name")
        assert name == "photo.png"
        await page.fill("#own-name", "mira")
        await page.fill("#own-consent", "Drawn by the project")
        await page.click("#prepare")
        await expect(page.locator("#own-status")).to_contain_text("the file:", timeout=60_000)
        await expect(page.locator("#own-status")).to_have_attribute("data-bad", "")
        await expect(page.locator("#use")).to_be_hidden()


async def test_a_runtime_that_prepares_nothing_shows_no_panel(avatars: Path) -> None:
    async with _runtime(avatars) as address, _page(address) as (page, faults):
        await page.wait_for_load_state("networkidle")
        await expect(page.locator("#own")).to_be_hidden()
        assert faults == []
