"""The page plays the file of a session by MediaSource, and goes on without it where it must."""

from __future__ import annotations

import asyncio
import base64
import io
import json
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
from playwright.async_api import expect
from tests.page import instruments
from tests.page.test_page import SCREENSHOTS, SPEAKS_MS, shoot
from tests.page.test_page_looks import ScriptedServer
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Page

AVATARS: Final = runtime_page.ROOT / "examples/avatars"
WATCH: Final = (instruments.HERE / "film.js").read_text()
SILENT_S: Final = 1.0
"""Most that sound may go on after a stop: far more than it does, and less than what is left."""

pytestmark = instruments.PAGE_MARKS


async def _prepare(page: Page) -> None:
    await instruments.install(page)
    await page.add_init_script(WATCH)


def _codes(sent: instruments.SentFrames) -> dict[int, int]:
    """Return the number that each picture of the file shows, by its time in ms."""
    parts = [base64.b64decode(event["delta"]) for event in sent.of("response.video.delta")]
    with av.open(io.BytesIO(b"".join(parts))) as container:
        return {
            round((frame.time or 0.0) * 1000): instruments.code_of(frame.to_ndarray(format="bgr24"))
            for frame in container.decode(video=0)
        }


async def _speak(page: Page, sound: Path) -> None:
    await page.set_input_files("#file", sound)
    await page.locator("#speak").click()
    await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)


async def test_a_file_is_played_in_step_and_stops_when_it_is_told_to(tmp_path: Path) -> None:
    """Each picture shows its number, and the sound is noise until it is stopped."""
    instruments.noise(tmp_path / "long.wav", 8)
    avatars = instruments.coded_avatar(tmp_path / "avatars")
    async with (
        runtime_page.runtime(avatars) as address,
        runtime_page.page(
            address, "/?video=fmp4", prepare=_prepare, **instruments.INSTRUMENTED
        ) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await page.evaluate("watchFilm()")
        await page.get_by_text("Speak a sound file").click()
        await _speak(page, tmp_path / "long.wav")
        await expect(page.locator("#film")).to_be_visible()
        await page.wait_for_function("film.seen.length > 20", timeout=SPEAKS_MS)
        await shoot(page, "speaking-fmp4")
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#status")).to_have_text("Connected")
        await instruments.is_silent(page, 0.5)
        stopped = await instruments.recording(page)
        # The avatar goes on moving, and speaks again.
        await page.wait_for_function("film.seen.length > 40", timeout=SPEAKS_MS)
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.locator("#status")).to_have_text("Connected", timeout=SPEAKS_MS)
        seen: list[tuple[float, float, int]] = await page.evaluate("film.seen")
        await expect(page.locator("#mode")).to_have_text("fmp4")
        assert sent.of("error") == []
        assert [d["response"]["status"] for d in sent.of("response.done")] == [
            "cancelled",
            "completed",
        ]
        assert faults == []
        await page.get_by_role("button", name="End").click()
        await expect(page.locator("#film")).to_be_hidden()
        codes = _codes(sent)
    (clicked,) = (at for at, name in stopped.clicks if name == "stop")
    silent_after_s = stopped.last_sound_s() - clicked
    assert np.abs(stopped.sound).max() > 1000
    assert silent_after_s < SILENT_S
    # A busy machine skips pictures, but each that is shown is the one of its time.
    assert len(seen) > 40
    assert [code for _, _, code in seen] == [codes[round(time * 1000)] for _, time, _ in seen]
    skews_ms = np.array([(time - now) * 1000 for now, time, _ in seen])
    assert np.median(np.abs(skews_ms)) < 200
    report = {
        "pictures": len(seen),
        "median_ms": float(np.median(skews_ms)),
        "p95_ms": float(np.percentile(np.abs(skews_ms), 95)),
        "silent_after_ms": silent_after_s * 1000,
    }
    (SCREENSHOTS / "skew-fmp4.json").write_text(json.dumps(report, indent=1) + "\n")


NO_SOURCE: Final = "delete window.MediaSource;"


async def test_a_browser_without_media_source_shows_frames_in_the_video_element() -> None:
    async def prepare(page: Page) -> None:
        await page.add_init_script(NO_SOURCE)

    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=prepare) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await page.get_by_role("heading", name="Details").click()
        await page.get_by_label("Video of the next session").select_option("fmp4")
        assert "video=fmp4" in page.url
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.locator("#film")).to_be_visible()
        await page.wait_for_function(
            "() => document.getElementById('film').videoWidth === 384", timeout=SPEAKS_MS
        )
        await expect(page.locator("#mode")).to_have_text("h264")
        assert "fmp4" not in {frame["mode"] for frame in sent.of("response.video.delta")}
        assert faults == []


async def _asked_for(page: Page, server: ScriptedServer, updates: int) -> dict[str, Any]:
    """Wait until the page has asked for settings of the avatar so many times; return the last."""
    asked: list[dict[str, Any]] = []
    async with asyncio.timeout(SPEAKS_MS / 1000):
        while len(asked) < updates:
            await page.wait_for_timeout(20)
            changes = [each for each in server.received if each["type"] == "session.update"]
            asked = [each for each in changes if "avatar" in each["session"]]
    assert len(asked) == updates
    return asked[-1]


async def test_the_page_goes_on_without_what_a_pod_refuses() -> None:
    server = ScriptedServer()
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, "/?video=fmp4", prepare=server.install) as (page, faults),
    ):
        await page.get_by_role("button", name="Play a sample").click()
        await server.is_asked(page)
        server.create()
        wanted: dict[str, Any] = {
            "transport": "binary",
            "flow": {"mode": "ack"},
            "idle": "stream",
            "video": {"mode": "fmp4"},
        }
        update = await _asked_for(page, server, 1)
        assert update["session"]["avatar"] == wanted
        for number, field in enumerate(("idle", "flow.mode", "video.mode"), start=2):
            error = {"code": "invalid_value", "message": "no", "param": f"session.avatar.{field}"}
            server.send("error", seq=number, error={**error, "event_id": update["event_id"]})
            update = await _asked_for(page, server, number)
            wanted.pop(field.partition(".")[0])
            if field == "video.mode":
                wanted["video"] = {"mode": "h264"}
            assert update["session"]["avatar"] == wanted
        await expect(page.locator("#status")).to_have_text("Connected")
        await expect(page.locator("#problem")).to_be_empty()
        assert faults == []


# A session that starts as a page is loaded. Browsers differ in what they let play without a
# gesture, and Playwright makes gestures of its own, so the rule is that of the test: nothing.
NO_GESTURE: Final = """
const { play } = HTMLMediaElement.prototype;
let hadGesture = false;
document.addEventListener("click", () => { hadGesture = true; }, true);
HTMLMediaElement.prototype.play = async function () {
  if (!hadGesture) throw new DOMException("no gesture", "NotAllowedError");
  return play.call(this);
};
window.addEventListener("load", async () => {
  const { createSession } = await import("/page/client/index.js");
  const video = document.getElementById("film");
  const session = createSession({ url: location.href, video });
  const told = window.told = [];
  session.addEventListener("suspended", () => told.push(video.paused ? "suspended" : "plays"));
  video.addEventListener("playing", () => told.push("playing"));
  document.addEventListener("click", () => session.resumeSound());
});
"""


async def test_a_session_without_a_gesture_says_so_and_plays_after_one() -> None:
    async def prepare(page: Page) -> None:
        await page.add_init_script(NO_GESTURE)

    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=prepare, **instruments.INSTRUMENTED) as (page, faults),
    ):
        await page.wait_for_function("window.told?.length === 1", timeout=SPEAKS_MS)
        await page.locator("h1").click()
        await page.wait_for_function("told.includes('playing')", timeout=SPEAKS_MS)
        assert (await page.evaluate("told"))[0] == "suspended"
        assert faults == []
