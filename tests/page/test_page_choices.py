"""What the address of the page chooses, and what a service that hears nothing offers."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest
from playwright.async_api import expect
from tests.page import instruments
from tests.page.test_page import AVATARS, SPEAKS_MS, has_picture, shoot
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = instruments.PAGE_MARKS


async def test_an_unknown_value_is_told_and_the_others_apply() -> None:
    query = "/?video=bogus&transport=json&idle=none&avatar=nobody"
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, query) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await has_picture(page)
        problem = page.locator("#problem")
        await expect(problem).to_contain_text("video=bogus, which is none of auto, h264,")
        await expect(problem).to_contain_text("The avatar nobody does not exist.")
        await expect(problem).to_contain_text("The page shows anna.")
        await shoot(page, "unknown-values")
        await page.get_by_role("heading", name="Details").click()
        await expect(page.locator("#wanted")).to_have_value("auto")
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.locator("#transport")).to_have_text("json, flow by ack")
        await expect(page.locator("#idle")).to_have_text("the last frame stays")
        assert sent.of("error") == []
        assert faults == []


async def test_a_session_without_video_says_so() -> None:
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, "/?video=none") as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await has_picture(page)
        await page.get_by_role("heading", name="Details").click()
        await expect(page.locator("#wanted")).to_have_value("none")
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.locator("#idle")).to_have_text("there is no video")
        assert sent.of("response.video.delta") == []
        assert sent.of("error") == []
        assert faults == []


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
async def test_a_service_that_hears_nothing_offers_only_text(tmp_path: Path) -> None:
    async with (
        runtime_page.speaking_runtime(AVATARS, tmp_path) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await has_picture(page)
        say = page.get_by_role("button", name="Say")
        await expect(say).to_be_visible()
        for name in ("#talk", "#sample", "#file-part"):
            await expect(page.locator(name)).to_be_hidden()
        await expect(say).to_be_disabled()
        await page.get_by_label("Text to say").fill("   ")
        await expect(say).to_be_disabled()
        await page.get_by_label("Text to say").press("Enter")
        await expect(page.locator("#status")).to_have_text("Ready")
        await page.get_by_label("Text to say").fill(" Yes. ")
        await say.click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        assert faults == []
