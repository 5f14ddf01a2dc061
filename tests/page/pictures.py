"""Make the pictures of the README: `PYTHONPATH=tests/cluster python -m tests.page.pictures`.

A runtime on the CPU computes what they show, with the model of `examples/models/demo`. Chromium
takes the picture of the page. The command needs espeak-ng and chromium.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
from PIL import Image
from playwright.async_api import expect
from tests.page.test_page import has_picture
from tests.runtime.serving import runtime_page
from tests.runtime.upstream.endpoints import running

from localcluster import speech_server

if TYPE_CHECKING:
    import numpy as np

ROOT: Final = Path(__file__).parents[2]
MEDIA: Final = ROOT / "docs/media"
AVATARS: Final = ROOT / "examples/avatars"
SAMPLE: Final = ROOT / "runtime/avatar_contracts/page/sample.wav"
TEXT: Final = "Good morning. I say what you write, while you watch."
STRIP_SIDE: Final = 240
STRIP_STEP: Final = 2  # of 25 frames a second
QUALITY: Final = 70
MAX_BYTES: Final = 1 << 20
_VIEW: Final = {"width": 760, "height": 806}


async def main() -> None:
    """Make both pictures, and check their size."""
    MEDIA.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        await _page(Path(folder))
        videos = [await _video(Path(folder), name) for name in ("anna", "ben")]
    _strip(videos)
    size = sum(path.stat().st_size for path in MEDIA.iterdir())
    assert size <= MAX_BYTES, f"the pictures have {size} bytes, at most {MAX_BYTES} are allowed"


async def _page(folder: Path) -> None:
    """Take the picture of the page while the avatar says a text."""
    async with running(speech_server.app()) as url:
        document = folder / "upstream.json"
        speech = {"url": f"{url}/v1/audio/speech", "voice": "en-us"}
        document.write_text(json.dumps({"mode": "speech", "speech": speech}))
        async with (
            runtime_page.runtime(AVATARS, f"--upstream={document}", "--device=cpu") as address,
            runtime_page.page(address, viewport=_VIEW) as (page, faults),
        ):
            await has_picture(page)
            await page.get_by_label("Text to say").fill(TEXT)
            await page.get_by_role("button", name="Say").click()
            captions = page.get_by_role("log", name="Captions")
            await expect(captions).to_contain_text("while you watch", timeout=60_000)
            await page.get_by_label("Text to say").fill("And now something else.")
            shot = folder / "page.png"
            await page.screenshot(path=shot)
            assert faults == []
    Image.open(shot).save(MEDIA / "page.webp", quality=90, method=6)


async def _video(folder: Path, avatar: str) -> list[np.ndarray[Any, Any]]:
    """Return the frames of an avatar that speaks the sample, RGB."""
    out = folder / f"{avatar}.mp4"
    async with runtime_page.runtime(AVATARS, "--device=cpu") as address:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "avatar_client", "talk", "--avatar", avatar),
            *("--url", address.replace("http", "ws"), "--audio", str(SAMPLE), "--out", str(out)),
            "--every-frame",
        )
        assert await process.wait() == 0
    with av.open(str(out)) as file:
        return [frame.to_ndarray(format="rgb24") for frame in file.decode(video=0)]


def _strip(videos: list[list[np.ndarray[Any, Any]]]) -> None:
    pictures = []
    for frames in zip(*(video[::STRIP_STEP] for video in videos), strict=False):
        sides = [Image.fromarray(frame).resize((STRIP_SIDE, STRIP_SIDE)) for frame in frames]
        strip = Image.new("RGB", (STRIP_SIDE * len(sides), STRIP_SIDE))
        for place, side in enumerate(sides):
            strip.paste(side, (place * STRIP_SIDE, 0))
        pictures.append(strip)
    first, *rest = pictures
    first.save(
        MEDIA / "speaking.webp",
        save_all=True,
        append_images=rest,
        duration=40 * STRIP_STEP,
        loop=0,
        quality=QUALITY,
        method=6,
    )


if __name__ == "__main__":
    asyncio.run(main())
