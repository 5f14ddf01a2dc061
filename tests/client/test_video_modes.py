"""The client in the modes jpeg, h264 and fmp4, with a runtime on a simulated device."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file
from tests.runtime.serving import runtime_page

from avatar_client import decoding, errors, sound
from avatar_client.traces import Patch, VideoFrame
from avatar_runtime.avatars import cache
from localcluster.fakes import callers

if TYPE_CHECKING:
    from numpy.typing import NDArray

AVATARS = Path(__file__).parents[2] / "examples/avatars"


async def _talk(
    url: str,
    folder: Path,
    mode: str,
    *options: str,
    name: str = "",
    audio: Path = callers.SPEECH,
) -> dict[str, Any]:
    name = name or mode
    result = folder / f"{name}.json"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "avatar_client", "talk", "--url", url, "--every-frame", "--burst"),
        *("--video", mode, "--audio", str(audio), "--json", str(result)),
        *("--out", str(folder / f"{name}.mp4"), "--sheet", str(folder / f"{name}.png")),
        *options,
    )
    assert await process.wait() == 0
    document: dict[str, Any] = json.loads(result.read_text())
    return document


def _frames(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [
            np.asarray(cv2.cvtColor(f.to_ndarray(format="yuv420p"), cv2.COLOR_YUV2BGR_I420))
            for f in container.decode(video=0)
        ]


MODES = ("jpeg", "h264", "fmp4")
MIN_PSNR_DB = 34
"""Between frames of two modes, each of which was compressed twice: by the server, and here."""


@pytest.mark.slow
async def test_all_modes_give_the_same_frames_at_the_same_times(tmp_path: Path) -> None:
    async with runtime_page.runtime(AVATARS) as url:
        results = {mode: await _talk(url, tmp_path, mode) for mode in MODES}

    same = ("frames", "frames_dropped", "audio_ms", "video_ms", "max_pts_error_ms", "violations")
    for one, other in itertools.combinations(MODES, 2):
        assert {key: results[one][key] for key in same} == {
            key: results[other][key] for key in same
        }
    assert results["h264"]["frames"] == results["h264"]["frames_due"] > 100
    assert (results["jpeg"]["audio_unchanged"], results["fmp4"]["audio_unchanged"]) == (True, None)
    # In a file the avatar has moved on before the response, so that its pictures are others.
    recorded = {mode: _frames(tmp_path / f"{mode}.mp4") for mode in MODES}
    for left, right in zip(recorded["jpeg"], recorded["h264"], strict=True):
        assert cv2.PSNR(left, right) > MIN_PSNR_DB
    assert len(recorded["fmp4"]) == len(recorded["jpeg"])
    # A simulated device shows the source frames, which hardly move.
    assert results["h264"]["video_kbps"] < 0.3 * results["jpeg"]["video_kbps"]
    assert results["fmp4"]["video_kbps"] < 0.35 * results["jpeg"]["video_kbps"]  # with sound
    sounds = {mode: _sound(tmp_path / f"{mode}.mp4") for mode in MODES}
    for mode in ("h264", "fmp4"):
        assert _lag(sounds["jpeg"], sounds[mode]) == 0


def _second_of_speech(folder: Path) -> Path:
    speech = sound.read(callers.SPEECH)
    path = folder / "speech.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, speech.rate, 0, "NONE", ""))
        file.writeframes(speech.pcm[: 2 * speech.rate])
    return path


PATCHES = {
    "full": (),
    "patch": ("--region", "patch"),
    "binary": ("--region", "patch", "--transport", "binary"),
}


@pytest.mark.slow
async def test_patches_give_the_same_video_as_whole_frames(tmp_path: Path) -> None:
    audio = _second_of_speech(tmp_path)
    size = ("--resolution", "250x300")
    async with runtime_page.runtime(AVATARS) as url:
        results = {
            name: await _talk(url, tmp_path, "jpeg", *size, *options, name=name, audio=audio)
            for name, options in PATCHES.items()
        }

    same = ("frames", "frames_dropped", "audio_ms", "video_ms", "max_pts_error_ms", "violations")
    for name in ("patch", "binary"):
        assert {key: results[name][key] for key in same} == {
            key: results["full"][key] for key in same
        }
        assert results[name]["audio_unchanged"]
        assert results[name]["video_kbps"] < 0.6 * results["full"]["video_kbps"]
        for left, right in zip(
            _frames(tmp_path / "full.mp4"), _frames(tmp_path / f"{name}.mp4"), strict=True
        ):
            assert cv2.PSNR(left, right) > MIN_PSNR_DB
    assert results["full"]["frames"] == 25


PICTURE = "/v1/avatars/anna/idle/3.jpg?version=0f"


def _jpeg(height: int, width: int, level: int) -> bytes:
    image = np.full((height, width, 3), level, np.uint8)
    return bytes(cv2.imencode(".jpg", image)[1])


def _patched(data: bytes, rect: tuple[int, int, int, int]) -> VideoFrame:
    return VideoFrame(7, 280, 0.0, data, patch=Patch(rect, PICTURE))


def test_a_patch_is_drawn_over_its_picture() -> None:
    decoder = decoding.Decoder({PICTURE: _jpeg(96, 128, 50)})
    whole = decoder.decode(_patched(b"", (0, 0, 0, 0)))
    assert (whole.shape, whole.min(), whole.max()) == ((96, 128, 3), 50, 50)
    image = decoder.decode(_patched(_jpeg(32, 16, 200), (64, 48, 16, 32)))
    assert (image[48:80, 64:80] == 200).all()
    image[48:80, 64:80] = 50
    assert (image == 50).all()


@pytest.mark.parametrize(
    ("pictures", "data", "rect", "fault"),
    [
        ({}, _jpeg(16, 16, 9), (0, 0, 16, 16), "idle/3.jpg"),
        ({PICTURE: b"no image"}, _jpeg(16, 16, 9), (0, 0, 16, 16), "idle/3.jpg"),
        ({PICTURE: _jpeg(32, 32, 9)}, b"", (0, 0, 16, 16), "16 x 16"),
        ({PICTURE: _jpeg(32, 32, 9)}, _jpeg(16, 16, 9), (0, 0, 32, 16), "32 x 16"),
        ({PICTURE: _jpeg(32, 32, 9)}, _jpeg(16, 16, 9), (24, 24, 16, 16), "inside the picture"),
    ],
    ids=["no picture", "a broken picture", "no image", "another size", "outside"],
)
def test_a_patch_that_cannot_be_drawn_is_named(
    pictures: dict[str, bytes], data: bytes, rect: tuple[int, int, int, int], fault: str
) -> None:
    with pytest.raises(errors.RecordingError, match=f"frame 7.*{fault}"):
        decoding.Decoder(pictures).decode(_patched(data, rect))


def _cut_out(folder: Path) -> None:
    """Write the avatar of the examples with alpha, opaque in a circle with a soft edge."""
    whole = cache.read(AVATARS / "anna")
    tensors = {
        name: np.asarray(tensor)
        for file in ("avatar.safetensors", "pixels.safetensors")
        for name, tensor in load_file(AVATARS / "anna" / file).items()
    }
    rows, columns = np.indices((whole.manifest.height, whole.manifest.width))
    edge = 150 - np.hypot(rows - 192, columns - 192)
    mask = cv2.imencode(".png", np.clip(edge * 20, 0, 255).astype(np.uint8))[1]
    packed = cache.pack([np.asarray(mask, np.uint8)] * whole.manifest.frames)
    tensors["alpha_pixels"], tensors["alpha_offsets"] = packed
    cache.write(folder / "anna", whole.manifest, tensors)


@pytest.mark.slow
async def test_an_avatar_with_alpha_stands_over_any_page(tmp_path: Path) -> None:
    _cut_out(tmp_path / "avatars")
    audio = _second_of_speech(tmp_path)
    size = ("--resolution", "256x256")
    async with runtime_page.runtime(tmp_path / "avatars") as url:
        for name, mode, background in (
            ("white", "jpeg", "#ffffff"),
            ("jpeg", "jpeg", "alpha"),
            ("h264", "h264", "alpha"),
            ("fmp4", "fmp4", "alpha"),
        ):
            options = (*size, "--background", background)
            result = await _talk(url, tmp_path, mode, *options, name=name, audio=audio)
            assert result["violations"] == []
    # A recording shows alpha over white, so that the server's white is the same.
    white = _frames(tmp_path / "white.mp4")
    for name in ("jpeg", "h264"):
        recorded = _frames(tmp_path / f"{name}.mp4")
        assert len(recorded) == len(white) == 25
        for one, other in zip(white, recorded, strict=True):
            assert one.shape == other.shape == (256, 256, 3)
            assert (other[:20, :20] > 240).all()
            assert cv2.PSNR(one, other) > MIN_PSNR_DB
    in_file = _frames(tmp_path / "fmp4.mp4")
    assert len(in_file) == 25
    assert (in_file[12].shape, in_file[12][:20, :20].min() > 240) == ((256, 256, 3), True)


def test_a_picture_with_alpha_is_split() -> None:
    image = np.zeros((8, 6, 3), np.uint8)
    image[:4], image[4:] = (10, 20, 30), 51  # premultiplied; one fifth
    split = decoding.cut_out(image)
    assert (split.shape, split[0, 0].tolist()) == ((4, 6, 4), [10, 20, 30, 51])
    assert decoding.over(image)[0, 0].tolist() == [214, 224, 234]
    assert decoding.over(image, (0, 100, 250))[3, 5].tolist() == [10, 100, 230]


def _sound(path: Path) -> NDArray[np.float32]:
    """Return the sound of a recording at 24 kHz."""
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("fltp", "mono", 24_000)
        parts = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([part.to_ndarray()[0] for part in parts])


def _lag(one: NDArray[np.float32], other: NDArray[np.float32]) -> int:
    """Return by how many samples the other sound is later, at most 1000."""
    length = min(len(one), len(other)) - 2000
    middle = other[1000 : 1000 + length]
    likeness = [float(np.dot(one[at : at + length], middle)) for at in range(2001)]
    return 1000 - int(np.argmax(likeness))


@pytest.mark.parametrize("data", [b"", b"\x00\x00\x00\x01", b"not a frame", bytes(1000)])
@pytest.mark.parametrize("codec", ["jpeg", "h264"])
def test_a_frame_that_cannot_be_decoded_is_named(codec: str, data: bytes) -> None:
    with pytest.raises(errors.RecordingError, match="frame 7"):
        decoding.Decoder().decode(VideoFrame(7, 280, 0.0, data, codec))
