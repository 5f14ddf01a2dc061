"""What a browser plays and shows, recorded outside the code of the page."""

from __future__ import annotations

import asyncio
import base64
import dataclasses
import json
import wave
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import av
import cv2
import numpy as np
import pytest
from safetensors.numpy import load_file
from tests import browser

from avatar_client.binary_media import BinaryMediaReader
from avatar_contracts import binary_messages
from avatar_runtime.avatars import cache, tensor_files

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from playwright.async_api import Page, WebSocket

PAGE_MARKS: Final = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.realtime,  # the page draws at the pace of the sound
    pytest.mark.timeout(300),
    browser.NEEDS_CHROMIUM,
]
"""Of the tests of the page."""
HERE: Final = Path(__file__).parent
ROOT: Final = HERE.parents[1]
RATE: Final = 24000
CODED_FRAMES: Final = 250
"""Ten seconds, which is longer than any recording of the tests: no time code comes twice."""
_BITS: Final = 8
_ROWS: Final = 16
_LOUDEST: Final = 2000
_DEADLINE_S: Final = 30.0


INSTRUMENTED: Final[dict[str, Any]] = {"bypass_csp": True}
"""The context of a page with instruments: the policy of the page permits no code of a test."""


async def install(page: Page) -> None:
    """Record what the page will play and show; the context is `INSTRUMENTED`."""
    worklet = (HERE / "recorder-worklet.js").read_text()
    await page.add_init_script(f"window.recorderSource = {json.dumps(worklet)};")
    await page.add_init_script(path=HERE / "instruments.js")


def noise(path: Path, seconds: float, seed: int = 1) -> NDArray[np.int16]:
    """Write a WAV file in which no sample is zero, and return its samples."""
    generator = np.random.default_rng(seed)
    signs = generator.choice([-1, 1], round(seconds * RATE))
    samples = (signs * generator.integers(1, _LOUDEST, signs.size)).astype("<i2")
    write(path, samples)
    return samples


def write(path: Path, samples: NDArray[np.int16]) -> None:
    """Write a WAV file of 24 kHz."""
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", "not compressed"))
        file.writeframes(samples.tobytes())


def coded_avatar(folder: Path) -> Path:
    """Write an avatar whose source frames show their number, and return the folder of avatars."""
    source = ROOT / "examples/avatars/anna"
    tensors: dict[str, Any] = {}
    for name in tensor_files.NAMES:
        tensors |= load_file(source / name)
    avatar = cache.read(source)
    order = [cache.fold(i, avatar.manifest.frames) for i in range(CODED_FRAMES)]
    pictures = [_coded(avatar.decode(index), code) for code, index in enumerate(order)]
    made = {name: tensors[name][order] for name in ("latents", "boxes", "crop_boxes", "valid")}
    made |= _joined("masks", "mask_offsets", _parts(tensors, "masks", "mask_offsets", order))
    made |= _joined("pixels", "pixel_offsets", pictures)
    if "idle_pixels" in tensors:
        idle = _parts(tensors, "idle_pixels", "idle_offsets", order)
        made |= _joined("idle_pixels", "idle_offsets", idle)
    described = dataclasses.replace(avatar.manifest, frames=CODED_FRAMES)
    cache.write(folder / "coded", described, made)
    return folder


def _parts(
    tensors: dict[str, Any], content: str, offsets: str, order: Sequence[int]
) -> list[NDArray[np.uint8]]:
    at = tensors[offsets]
    return [tensors[content][at[i] : at[i + 1]] for i in order]


def _joined(
    content: str, offsets: str, parts: Sequence[NDArray[np.uint8]]
) -> dict[str, NDArray[Any]]:
    ends = np.cumsum([0, *(part.size for part in parts)]).astype(np.int64)
    return {content: np.concatenate(parts), offsets: ends}


def _coded(image: NDArray[np.uint8], code: int) -> NDArray[np.uint8]:
    width = image.shape[1] // _BITS
    for bit in range(_BITS):
        image[:_ROWS, bit * width : (bit + 1) * width] = 255 * (code >> bit & 1)
    done, file = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])
    assert done
    return np.asarray(file, np.uint8).reshape(-1)


def code_of(image: NDArray[np.uint8]) -> int:
    """Return the number that a picture shows."""
    width = image.shape[1] / _BITS
    centres = [int((bit + 0.5) * width) for bit in range(_BITS)]
    return sum(int(image[8, x].mean() > 127) << bit for bit, x in enumerate(centres))


class SentFrames:
    """What the browser received and sent, in one form for both transports: that of JSON."""

    def __init__(self, page: Page) -> None:
        self.events: list[dict[str, Any]] = []
        self.sent: list[dict[str, Any]] = []
        self.received_bytes = 0
        self._reader = BinaryMediaReader()
        page.on("websocket", self._follow)

    def _follow(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._receive)
        socket.on("framesent", self._send)

    def _receive(self, message: str | bytes) -> None:
        self.received_bytes += len(message)
        if isinstance(message, bytes):
            event = self._reader.read(message)
            event["delta"] = base64.b64encode(event.pop("data")).decode()
        else:
            event = json.loads(message)
            self._reader.observe(event)
        self.events.append(event)

    def _send(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            _, sound = binary_messages.unpack(message)
            audio = base64.b64encode(sound).decode()
            self.sent.append({"type": "input_audio_buffer.append", "audio": audio})
        else:
            self.sent.append(json.loads(message))

    def of(self, kind: str) -> list[dict[str, Any]]:
        """Return the events of a type."""
        return [event for event in self.events if event["type"] == kind]

    def codes(self) -> dict[int, int]:
        """Return the time code of each frame of the one response, by its time in ms."""
        frames = [frame for frame in self.of("response.video.delta") if not frame["idle"]]
        data = [base64.b64decode(frame["delta"]) for frame in frames]
        if frames[0]["mode"] == "jpeg":
            decoded = [cv2.imdecode(np.frombuffer(each, np.uint8), 1) for each in data]
        else:
            decoder = av.CodecContext.create("h264", "r")
            pictures = [
                picture for each in data for picture in decoder.decode(av.Packet(each))
            ] + decoder.decode(None)
            decoded = [picture.to_ndarray(format="bgr24") for picture in pictures]
        assert len(decoded) == len(frames)
        return {
            round(frame["pts_ms"]): code_of(np.asarray(image))
            for frame, image in zip(frames, decoded, strict=True)
        }


class Recording:
    """What was played and shown."""

    def __init__(self, found: dict[str, Any]) -> None:
        chunks = sorted(found["sound"])
        self.start = chunks[0][0] if chunks else 0
        """Number of the first sample, from the start of the audio context."""
        self.sound = np.concatenate(
            [np.asarray(part, np.int16) for _, part in chunks] or [np.zeros(0, np.int16)]
        )
        self.pictures: list[tuple[float, int]] = [(at, code) for at, code in found["pictures"]]
        self.clicks: list[tuple[float, str]] = [(at, name) for at, name in found["clicks"]]

    def played(self, samples: NDArray[np.int16]) -> list[tuple[int, int, int]]:
        """Return runs `(first, position, length)` of the samples as they were played.

        `first` counts samples of the context, `position` samples of the recording.
        """
        runs, position, at = [], 0, 0
        while position < samples.size:
            found = np.flatnonzero(self.sound[at:] == samples[position])
            if not found.size:
                break
            at += int(found[0])
            length = min(samples.size - position, self.sound.size - at)
            same = self.sound[at : at + length] == samples[position : position + length]
            count = length if same.all() else int(np.argmin(same))
            runs.append((self.start + at, position, count))
            at, position = at + count, position + count
        return runs

    def last_sound_s(self) -> float:
        """Return the time of the context at which the last sample was played."""
        return float(self.start + np.flatnonzero(self.sound)[-1]) / RATE


async def recording(page: Page) -> Recording:
    """Return what was played and shown so far."""
    script = "({ sound: record.sound, pictures: record.pictures, clicks: record.clicks })"
    return Recording(await page.evaluate(script))


async def is_silent(page: Page, seconds: float) -> None:
    """Wait until the page has played nothing for a time."""
    script = """(samples) => {
      let silent = 0;
      for (const [, part] of record.sound.toReversed()) {
        const last = part.findLastIndex((sample) => sample !== 0);
        silent += part.length - 1 - last;
        if (last >= 0 || silent > samples) break;
      }
      return silent > samples;
    }"""
    async with asyncio.timeout(_DEADLINE_S):
        await page.wait_for_function(script, arg=round(seconds * RATE), timeout=_DEADLINE_S * 1000)
