"""The page goes on after a cut: nothing that was said is lost, and the visitor is told."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

import pytest
from playwright.async_api import expect
from tests.page import instruments
from tests.page.cutting_proxy import CuttingProxy
from tests.page.test_page import SPEAKS_MS, shoot
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

AVATARS: Final = runtime_page.ROOT / "examples/avatars"
SECONDS: Final = 8

pytestmark = instruments.PAGE_MARKS


@pytest.mark.parametrize("mode", ["jpeg", "h264"])
async def test_a_recording_is_heard_completely_though_the_connection_is_cut(
    mode: str, tmp_path: Path
) -> None:
    samples = instruments.noise(tmp_path / "noise.wav", SECONDS)
    async with runtime_page.runtime(AVATARS) as address:
        target = urlsplit(address).port
        assert target is not None
        async with (
            CuttingProxy(target).running() as proxy,
            runtime_page.page(
                f"http://127.0.0.1:{proxy.port}",
                f"/?video={mode}",
                prepare=instruments.install,
                **instruments.INSTRUMENTED,
            ) as (page, faults),
        ):
            sent = instruments.SentFrames(page)
            await page.get_by_text("Speak a sound file").click()
            await page.set_input_files("#file", tmp_path / "noise.wav")
            await page.locator("#speak").click()
            await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
            proxy.accepts = False
            proxy.cut()
            status = page.locator("#status")
            await expect(status).to_have_text("The connection was lost. Reconnecting…")
            await shoot(page, f"reconnecting-{mode}")
            proxy.accepts = True
            await expect(status).to_have_text("Speaking", timeout=SPEAKS_MS)
            proxy.cut()
            await expect(status).to_have_text("Connected", timeout=SPEAKS_MS)
            assert len(sent.of("session.resumed")) >= 2
            await instruments.is_silent(page, 0.5)
            found = await instruments.recording(page)
    runs = found.played(samples)
    assert sum(length for *_, length in runs) == samples.size
    frames = [frame for frame in sent.of("response.video.delta") if not frame["idle"]]
    assert {frame["frame_index"] for frame in frames} == set(range(SECONDS * 25))
    # The browser itself reports connections that were cut.
    assert all("WebSocket connection" in fault for fault in faults)


async def test_a_page_that_is_closed_gives_its_place_back(tmp_path: Path) -> None:
    async with runtime_page.runtime(AVATARS, capacity=1) as address:
        for _ in range(2):
            async with runtime_page.page(address) as (page, faults):
                await page.get_by_role("button", name="Play a sample").click()
                await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
                await page.goto("about:blank")
                assert faults == []
