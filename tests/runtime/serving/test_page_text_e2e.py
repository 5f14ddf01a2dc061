"""A text that is written on the page in a real browser is said, or the page says why not."""

from __future__ import annotations

import re
import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect
from tests import browser
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

AVATARS = runtime_page.ROOT / "examples/avatars"

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    browser.NEEDS_CHROMIUM,
]


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
async def test_the_avatar_says_what_is_written(tmp_path: Path) -> None:
    async with (
        runtime_page.speaking_runtime(AVATARS, tmp_path) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await page.get_by_label("Text to say").fill("Good morning.")
        await page.get_by_role("button", name="Say").press("Enter")
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=30_000)
        await expect(page.locator("#status")).to_have_text("Connected", timeout=30_000)
        await page.get_by_role("heading", name="Details").click()
        assert int(re.findall(r"\d+", await page.locator("#frames").inner_text())[0]) > 10
        assert faults == []


async def test_a_service_in_mode_drive_offers_no_text() -> None:
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await expect(page.get_by_role("button", name="Talk")).to_be_visible()
        await expect(page.get_by_label("Text to say")).to_be_hidden()
        assert faults == []
