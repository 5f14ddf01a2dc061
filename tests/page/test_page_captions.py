"""Captions on the page: where they are, when they come, and when they go."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest
from playwright.async_api import expect
from tests.page import instruments
from tests.page.test_page import AVATARS, SPEAKS_MS, has_picture, shoot
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Page

pytestmark = [
    *instruments.PAGE_MARKS,
    pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed"),
]

SENTENCE: Final = (
    "Four score and seven years ago our fathers brought forth on this continent a new nation,"
    " conceived in liberty, and dedicated to the proposition that all are created equal."
)
VIEWS: Final = {"phone": (360, 740), "desktop": (1280, 800)}


async def _say(page: Page, text: str) -> None:
    await page.get_by_label("Text to say").fill(text)
    await page.get_by_role("button", name="Say").click()


@pytest.mark.parametrize("view", VIEWS)
async def test_a_long_sentence_passes_below_the_picture(view: str, tmp_path: Path) -> None:
    width, height = VIEWS[view]
    viewport = {"width": width, "height": height}
    async with (
        runtime_page.speaking_runtime(AVATARS, tmp_path) as address,
        runtime_page.page(address, viewport=viewport) as (page, faults),
    ):
        await has_picture(page)
        await _say(page, f"Good morning. {SENTENCE}")
        line = page.locator("#captions p")
        await expect(line).to_have_text("Good morning.", timeout=SPEAKS_MS)
        await expect(line).to_contain_text("Four score", timeout=SPEAKS_MS)
        frame, band = [await page.locator(name).bounding_box() for name in ("#frame", "#captions")]
        assert frame is not None
        assert band is not None
        assert band["y"] >= frame["y"] + frame["height"]
        assert band["y"] + band["height"] <= height  # without scrolling
        lines = "e => e.scrollHeight / parseFloat(getComputedStyle(e).lineHeight)"
        assert await line.evaluate(lines) < 2.2
        await shoot(page, f"captions-{view}")
        await expect(line).to_contain_text("created equal.", timeout=SPEAKS_MS)
        assert await line.evaluate(lines) < 2.2
        await expect(line).not_to_contain_text("Four score")
        await expect(page.locator("#status")).to_have_text("Connected", timeout=SPEAKS_MS)
        await expect(line).to_contain_text("created equal.")
        await expect(line).to_be_empty(timeout=10_000)
        assert faults == []


async def test_a_caption_comes_with_its_sound_and_goes_with_stop(tmp_path: Path) -> None:
    heard: Final = "avatar.heard"
    script = f"""() => {{ window["{heard}"] = []; new MutationObserver(() => {{
      window["{heard}"].push(document.querySelector("#captions p").textContent);
    }}).observe(document.getElementById("captions"), {{ subtree: true, childList: true }}); }}"""
    async with (
        runtime_page.speaking_runtime(AVATARS, tmp_path) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await page.evaluate(script)
        await _say(page, f"{SENTENCE} This is never said.")
        await expect(page.locator("#captions p")).to_contain_text("Four", timeout=SPEAKS_MS)
        await expect(page.locator("#played")).not_to_have_text("0.0 s")
        early: Any = await page.locator("#played").inner_text()
        await expect(page.locator("#played")).not_to_have_text(early)  # in the middle of a response
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#captions p")).to_be_empty()
        await expect(page.locator("#status")).to_have_text("Connected")
        await _say(page, "Again.")
        await expect(page.locator("#captions p")).to_have_text("Again.", timeout=SPEAKS_MS)
        assert "never" not in " ".join(await page.evaluate(f'window["{heard}"]'))
        assert faults == []
