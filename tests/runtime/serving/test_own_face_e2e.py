"""The panel "Your own face" in a real browser, with a real preparation and a real session."""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect
from tests import browser
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

ROOT = runtime_page.ROOT
PREPARED_MS = 240_000
DROP = """(zone, name) => {
  const dataTransfer = new DataTransfer();
  dataTransfer.items.add(new File(["not a picture"], name));
  zone.dispatchEvent(new DragEvent("drop", { dataTransfer, cancelable: true, bubbles: true }));
}"""

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    browser.NEEDS_CHROMIUM,
]


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
    async with (
        runtime_page.runtime(avatars, "--prepare") as address,
        runtime_page.page(address) as (page, faults),
    ):
        await page.get_by_role("heading", name="Your own face").click()
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
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=30_000)
        await expect(page.locator("#status")).to_have_text("Connected", timeout=30_000)
        await page.get_by_role("heading", name="Details").click()
        received = int(re.findall(r"\d+", await page.locator("#frames").inner_text())[0])
        assert 70 <= received <= 80
        assert "avatar=mira" in page.url
        assert faults == []


async def test_a_dropped_file_that_is_no_picture_shows_the_reason(avatars: Path) -> None:
    async with (
        runtime_page.runtime(avatars, "--prepare") as address,
        runtime_page.page(address) as (page, _),
    ):
        await page.get_by_role("heading", name="Your own face").click()
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
    async with (
        runtime_page.runtime(avatars) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await page.wait_for_load_state("networkidle")
        await expect(page.locator("#own")).to_be_hidden()
        assert faults == []
