"""A page that is hidden or paused loses no sound, and the avatar moves while it is silent."""

from __future__ import annotations

import base64
from typing import TYPE_CHECKING, Final

from playwright.async_api import expect
from tests.page import instruments
from tests.page.instruments import RATE
from tests.page.test_page import SPEAKS_MS
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Page

SECONDS: Final = 4
PAUSE_MS: Final = 4000
"""Longer than the sound that is left, which the server would send meanwhile by its own clock."""

pytestmark = instruments.PAGE_MARKS

# As a browser does with a hidden page, and more: no pictures of the screen and no timers.
HIDEABLE: Final = """
const { setInterval, setTimeout, requestAnimationFrame } = window;
window.isHidden = false;
const unlessHidden = (run) => (...values) => { if (!window.isHidden) run(...values); };
window.setInterval = (run, ms) => setInterval(unlessHidden(run), ms);
window.requestAnimationFrame = (run) => {
  const draw = (now) => { if (window.isHidden) setTimeout(draw, 100, now); else run(now); };
  return requestAnimationFrame(draw);
};
"""


def _received(sent: instruments.SentFrames) -> int:
    """Return the number of samples that the server has sent."""
    deltas = sent.of("response.output_audio.delta")
    return sum(len(base64.b64decode(event["delta"])) // 2 for event in deltas)


async def test_a_hidden_page_that_is_paused_loses_no_sound(tmp_path: Path) -> None:
    async def prepare(page: Page) -> None:
        await page.add_init_script(HIDEABLE)
        await instruments.install(page)

    samples = instruments.noise(tmp_path / "noise.wav", SECONDS)
    avatars = instruments.coded_avatar(tmp_path / "avatars")
    async with (
        runtime_page.runtime(avatars) as address,
        runtime_page.page(address, prepare=prepare, **instruments.INSTRUMENTED) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await page.get_by_text("Speak a sound file").click()
        await page.set_input_files("#file", tmp_path / "noise.wav")
        await page.locator("#speak").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await page.evaluate("isHidden = true; record.context.suspend(); at = performance.now()")
        await page.wait_for_function(
            f"performance.now() > at + {PAUSE_MS}", polling=100, timeout=SPEAKS_MS
        )
        assert 0 < _received(sent) < samples.size  # the server waits
        await page.evaluate("record.context.resume()")
        await expect(page.locator("#status")).to_have_text("Connected", timeout=SPEAKS_MS)
        await page.evaluate("isHidden = false")
        await instruments.is_silent(page, 0.5)
        found = await instruments.recording(page)
        assert sent.of("error") == []
        # The avatar goes on moving while it is silent.
        await page.evaluate("record.readsCodes = true; record.pictures = []")
        await page.wait_for_function("record.pictures.length > 10", timeout=SPEAKS_MS)
        assert faults == []
    assert _received(sent) == samples.size
    assert sum(length for *_, length in found.played(samples)) == samples.size
    (stopped,) = sent.of("output_audio_buffer.stopped")
    assert stopped["response_id"] == sent.of("response.done")[0]["response"]["id"]
    assert RATE * SECONDS == samples.size
