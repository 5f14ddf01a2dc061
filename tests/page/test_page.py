"""What a visitor does on the page, in a real browser, with a real runtime on a simulated GPU."""

from __future__ import annotations

import asyncio
import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import pytest
from playwright.async_api import expect
from tests import browser
from tests.page import instruments
from tests.page.instruments import RATE
from tests.runtime.serving import runtime_page

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.async_api import Page

ROOT: Final = runtime_page.ROOT
AVATARS: Final = ROOT / "examples/avatars"
SPEECH: Final = ROOT / "examples/speech.wav"
SCREENSHOTS: Final = ROOT / "build/page"
SPEAKS_MS: Final = 20_000
SKEW_S: Final = 0.020
"""Most that a frame is early or late when it is drawn, for 95 % of the frames."""
MAX_SKEW_S: Final = 0.060

pytestmark = instruments.PAGE_MARKS


async def shoot(page: Page, name: str) -> None:
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    await page.screenshot(path=SCREENSHOTS / f"{name}.png", full_page=True)


async def has_picture(page: Page) -> None:
    """Wait until the canvas shows something that is not of one colour."""
    script = """() => {
      const face = document.getElementById("face");
      if (face.hidden) return false;
      const { data } = face.getContext("2d").getImageData(0, 0, face.width, face.height);
      return new Set(data.filter((_, i) => i % 4 === 0)).size > 50;
    }"""
    await page.wait_for_function(script, timeout=SPEAKS_MS)


async def test_the_page_opens_with_the_avatar_and_one_large_action() -> None:
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await has_picture(page)
        await expect(page.locator("#status")).to_have_text("Ready")
        talk = page.get_by_role("button", name="Talk")
        sizes = {
            await button.inner_text(): await button.bounding_box()
            for button in await page.get_by_role("button").all()
            if await button.is_visible()
        }
        height = {name: box["height"] for name, box in sizes.items() if box}
        assert height.pop("Talk") > 1.3 * max(height.values())
        await expect(talk).to_be_enabled()
        await expect(page.locator("#text-form")).to_be_hidden()  # mode drive says no text
        await expect(page.locator("#key-form")).to_be_hidden()
        assert await page.get_by_role("radio").count() == 2
        loaded = await page.locator(".thumb").evaluate_all("all => all.map(i => i.naturalWidth)")
        assert loaded == [384, 384]
        await shoot(page, "ready")
        assert faults == []


async def test_the_sample_is_over_when_it_has_been_heard() -> None:
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=instruments.install, **instruments.INSTRUMENTED) as (
            page,
            faults,
        ),
    ):
        sent = instruments.SentFrames(page)
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.get_by_role("button", name="Stop")).to_be_visible()
        await shoot(page, "speaking")
        await page.wait_for_function(
            "() => document.getElementById('status').textContent !== 'Speaking'", timeout=SPEAKS_MS
        )
        seen_at = await page.evaluate("record.context.currentTime")
        await instruments.is_silent(page, 0.5)
        found = await instruments.recording(page)
        # The last 200 ms of the sample are quiet; a status that came with the last message would
        # be a second early.
        assert found.last_sound_s() < seen_at + 0.2
        sound = sum(
            len(event["delta"]) * 3 // 4 for event in sent.of("response.output_audio.delta")
        )
        assert abs(sound / 2 / RATE - found.sound.nonzero()[0].size / RATE) < 0.4
        await expect(page.locator("#status")).to_have_text("Connected")
        await page.get_by_role("button", name="End").click()
        await expect(page.locator("#status")).to_have_text("Ended")
        assert faults == []


async def test_a_microphone_is_heard_and_answered() -> None:
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, arguments=browser.microphone(SPEECH)) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await page.get_by_role("button", name="Talk").click()
        mute = page.get_by_role("button", name="Mute")
        await expect(mute).to_have_attribute("aria-pressed", "true")
        await expect(page.locator("#status")).to_have_text("Listening", timeout=SPEAKS_MS)
        await page.wait_for_function(
            "() => document.getElementById('talk').style.getPropertyValue('--level') > 0.1"
        )
        await shoot(page, "listening")
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await mute.click()
        await expect(page.get_by_role("button", name="Talk")).to_be_visible()
        assert sent.of("input_audio_buffer.speech_started")
        assert faults == []


MICROPHONES: Final = {
    "refused": (
        ("--use-fake-device-for-media-stream", "--deny-permission-prompts"),
        "The browser does not let this page use the microphone.",
    ),
    "missing": (("--use-fake-ui-for-media-stream",), "No microphone was found."),
}


@pytest.mark.parametrize("name", MICROPHONES)
async def test_a_microphone_that_cannot_be_used_is_explained(name: str) -> None:
    arguments, sentence = MICROPHONES[name]
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, arguments=arguments) as (page, _),
    ):
        await has_picture(page)
        await page.get_by_role("button", name="Talk").click()
        await expect(page.locator("#problem")).to_have_text(sentence)
        await expect(page.locator("#status")).to_have_text("Ready")  # no place was taken
        await expect(page.get_by_role("button", name="Talk")).to_be_enabled()
        await shoot(page, f"microphone-{name}")


@pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="espeak-ng is not installed")
async def test_a_text_is_said_with_captions(tmp_path: Path) -> None:
    async with (
        runtime_page.speaking_runtime(AVATARS, tmp_path) as address,
        runtime_page.page(address) as (page, faults),
    ):
        await expect(page.get_by_role("button", name="Talk")).to_be_hidden()  # nobody hears
        await page.get_by_label("Text to say").fill("Good morning. How are you today?")
        await page.get_by_role("button", name="Say").press("Enter")
        log = page.get_by_role("log", name="Captions")
        await expect(log).to_contain_text("Good morning.", timeout=SPEAKS_MS)
        await expect(page.locator("#status")).to_have_text("Speaking")
        await shoot(page, "typing")
        await expect(log).to_contain_text("How are you today?", timeout=SPEAKS_MS)
        await expect(page.locator("#status")).to_have_text("Connected", timeout=SPEAKS_MS)
        assert faults == []


async def test_stop_is_silent_at_once_and_ends_all_that_waits(tmp_path: Path) -> None:
    instruments.noise(tmp_path / "noise.wav", 8)
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=instruments.install, **instruments.INSTRUMENTED) as (
            page,
            faults,
        ),
    ):
        sent = instruments.SentFrames(page)
        await page.get_by_text("Speak a sound file").click()
        await page.set_input_files("#file", tmp_path / "noise.wav")
        await page.locator("#speak").click()
        await page.locator("#speak").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await page.get_by_role("button", name="Stop").click()
        await expect(page.locator("#status")).to_have_text("Connected")
        await instruments.is_silent(page, 1.0)
        found = await instruments.recording(page)
        (stopped,) = (at for at, name in found.clicks if name == "stop")
        assert found.last_sound_s() - stopped <= 0.1
        assert len(sent.of("response.created")) == 1  # the second one never started
        (done,) = sent.of("response.done")
        assert done["response"]["status"] == "cancelled"
        (truncated,) = sent.of("conversation.item.truncated")
        played = sum(length for _, _, length in found.played(_samples(tmp_path / "noise.wav")))
        assert abs(truncated["audio_end_ms"] - played * 1000 / RATE) < 100
        await shoot(page, "interrupted")
        # The session goes on.
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await page.keyboard.press("Escape")
        await expect(page.locator("#status")).to_have_text("Connected")
        assert faults == []


async def test_a_file_of_four_minutes_is_sent_at_its_pace(tmp_path: Path) -> None:
    instruments.noise(tmp_path / "long.wav", 240)
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await page.get_by_text("Speak a sound file").click()
        await page.set_input_files("#file", tmp_path / "long.wav")
        await page.locator("#speak").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.locator("#details")).to_be_attached()
        async with asyncio.timeout(30):
            while len(_appends(sent)) <= 50:  # noqa: ASYNC110  the second burst
                await asyncio.sleep(0.1)
        assert len(_appends(sent)) <= 100
        await expect(page.locator("#status")).to_have_text("Speaking")
        await page.get_by_role("button", name="Stop").click()
        assert sent.of("error") == []
        assert faults == []


async def test_new_speech_interrupts_the_answer(tmp_path: Path) -> None:
    said = _samples(SPEECH)[: round(2.5 * RATE)]
    silence = np.zeros(round(1.2 * RATE), "<i2")  # 0.5 s end the turn, the rest hears the answer
    sound = np.concatenate([said, silence, said, np.zeros(12 * RATE, "<i2")])
    instruments.write(tmp_path / "two.wav", sound)
    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(
            address,
            arguments=browser.microphone(tmp_path / "two.wav"),
            prepare=instruments.install,
            **instruments.INSTRUMENTED,
        ) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await has_picture(page)
        await page.get_by_role("button", name="Talk").click()
        async with asyncio.timeout(SPEAKS_MS / 1000):
            while len(sent.of("response.done")) < 2:  # noqa: ASYNC110  the browser receives them
                await asyncio.sleep(0.05)
        await instruments.is_silent(page, 0.5)
        first, second = (event["response"] for event in sent.of("response.done"))
        assert (first["status"], second["status"]) == ("cancelled", "completed")
        assert first["status_details"]["reason"] == "turn_detected"
        assert faults == []


NO_DECODER: Final = "delete window.VideoDecoder;"
BAD_DECODER: Final = """
  VideoDecoder.prototype.configure = function () {
    throw new DOMException("no decoder", "NotSupportedError");
  };
"""


@pytest.mark.parametrize("script", [NO_DECODER, BAD_DECODER], ids=["missing", "refuses"])
async def test_a_browser_that_cannot_decode_h264_gets_jpeg(script: str) -> None:
    async def prepare(page: Page) -> None:
        await page.add_init_script(script)

    async with (
        runtime_page.runtime(AVATARS) as address,
        runtime_page.page(address, prepare=prepare) as (page, faults),
    ):
        sent = instruments.SentFrames(page)
        await page.get_by_role("button", name="Play a sample").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.locator("#status")).to_have_text("Connected", timeout=SPEAKS_MS)
        modes = [frame["mode"] for frame in sent.of("response.video.delta")]
        assert modes[-1] == "jpeg"
        assert ("h264" in modes) == (script is BAD_DECODER)
        await page.get_by_role("heading", name="Details").click()
        await expect(page.locator("#mode")).to_have_text("jpeg")
        assert faults == []


@pytest.mark.parametrize("mode", ["jpeg", "h264"])
async def test_each_frame_is_drawn_with_its_sound(mode: str, tmp_path: Path) -> None:
    """Sound and picture carry the time themselves: random samples, and a number in each frame.

    A recorder in the thread of the sound knows at which time of the audio context each sample was
    played, and a reader of the canvas at which time each number appeared.
    """
    samples = instruments.noise(tmp_path / "noise.wav", 6)
    avatars = instruments.coded_avatar(tmp_path / "avatars")
    async with (
        runtime_page.runtime(avatars) as address,
        runtime_page.page(
            address, f"/?video={mode}", prepare=instruments.install, **instruments.INSTRUMENTED
        ) as (
            page,
            faults,
        ),
    ):
        sent = instruments.SentFrames(page)
        await page.evaluate("record.readsCodes = true")
        await page.get_by_text("Speak a sound file").click()
        await page.set_input_files("#file", tmp_path / "noise.wav")
        await page.locator("#speak").click()
        await expect(page.locator("#status")).to_have_text("Speaking", timeout=SPEAKS_MS)
        await expect(page.locator("#status")).to_have_text("Connected", timeout=SPEAKS_MS)
        found = await instruments.recording(page)
        codes = sent.codes()
        assert {frame["mode"] for frame in sent.of("response.video.delta")} == {mode}
        assert faults == []
    skews = _skews(found, samples, codes)
    SCREENSHOTS.mkdir(parents=True, exist_ok=True)
    report = {
        "frames_sent": len(codes),
        "frames_drawn": len(skews),
        "p95_ms": float(np.percentile(np.abs(skews), 95) * 1000),
        "max_ms": float(np.abs(skews).max() * 1000),
        "median_ms": float(np.median(skews) * 1000),
    }
    (SCREENSHOTS / f"skew-{mode}.json").write_text(json.dumps(report, indent=1) + "\n")
    assert len(codes) == 150
    assert len(skews) > 0.8 * len(codes)
    assert report["p95_ms"] <= SKEW_S * 1000, report
    assert report["max_ms"] <= MAX_SKEW_S * 1000, report


def _skews(
    found: instruments.Recording, samples: np.ndarray[Any, Any], codes: dict[int, int]
) -> np.ndarray[Any, Any]:
    """Return how much later than its sound each frame was drawn, seconds."""
    runs = found.played(samples)
    assert sum(length for *_, length in runs) == samples.size
    times = {code: pts / 1000 for pts, code in codes.items()}
    assert len(times) == len(codes)  # no number occurs twice
    skews = []
    for at, code in found.pictures:
        run = next((run for run in reversed(runs) if run[0] / RATE <= at), None)
        if run is None or code not in times:
            continue  # the picture before the response
        first, position, length = run
        heard = (position + min(at * RATE - first, length)) / RATE
        skews.append(heard - times[code])
    return np.asarray(skews)


def _samples(path: Path) -> np.ndarray[Any, Any]:
    return np.frombuffer(path.read_bytes()[44:], "<i2")


def _appends(sent: instruments.SentFrames) -> list[dict[str, Any]]:
    return [event for event in sent.sent if event["type"] == "input_audio_buffer.append"]
