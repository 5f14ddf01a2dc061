"""Draws the contact sheet: some frames with their boxes, in silence, and with a test sound."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np

from avatar_runtime import errors
from avatar_runtime.audio import resampling, utterance
from avatar_runtime.avatars import geometry, idle_pictures, masks
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import given_files

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import AudioWindow

COLUMNS: Final = 6
"""Frames on the sheet."""
_TILE: Final = 256  # pixels
_QUALITY: Final = 90
_MAX_SOUND_S: Final = 10
_RATE: Final = 16_000
_MIN_RATE: Final = 8_000
_MAX_RATE: Final = 192_000
# A vowel "ah": formants of an adult and their bandwidths, Hz (Peterson and Barney, 1952).
_FORMANTS: Final = ((730, 90), (1090, 110), (2440, 170))
_PITCH_HZ: Final = 120
_BOX_COLOUR: Final = (0, 255, 255)
_MASK_COLOUR: Final = (0, 160, 0)


def pick(valid: Sequence[bool], count: int = COLUMNS) -> list[int]:
    """Return up to `count` valid frames, evenly spaced, in order."""
    known = [i for i, is_valid in enumerate(valid) if is_valid]
    if len(known) <= count:
        return known
    return [known[round(k * (len(known) - 1) / (count - 1))] for k in range(count)]


def vowel(seconds: float = 1.0) -> NDArray[np.int16]:
    """Return the vowel "ah" as mono PCM16 at 16 kHz: pulses through three resonators."""
    samples = np.zeros(int(seconds * _RATE))
    samples[:: _RATE // _PITCH_HZ] = 1.0
    for frequency, bandwidth in _FORMANTS:
        radius = np.exp(-np.pi * bandwidth / _RATE)
        a1, a2 = 2 * radius * np.cos(2 * np.pi * frequency / _RATE), -(radius**2)
        one = two = 0.0
        for i, value in enumerate(samples):
            one, two = value + a1 * one + a2 * two, one
            samples[i] = one
    return np.asarray(samples / np.abs(samples).max() * 0.4 * 32767, np.int16)


def read_sound(path: Path) -> tuple[NDArray[np.int16], int]:
    """Return the first 10 s of a WAV file as mono PCM16, and its rate.

    Raises:
        AssetError: the file does not exist or is not a WAV file of 16-bit samples.
    """
    given_files.require_file(path)
    try:
        with wave.open(str(path), "rb") as file:
            rate, width, channels = file.getframerate(), file.getsampwidth(), file.getnchannels()
            data = file.readframes(min(file.getnframes(), _MAX_SOUND_S * rate))
    except OSError as error:
        raise errors.AssetError(str(path), f"cannot be read: {error.strerror}") from error
    except (EOFError, wave.Error) as error:
        fault = "is not a WAV file, must be one of 16-bit samples"
        raise errors.AssetError(str(path), fault) from error
    if width != 2 or not _MIN_RATE <= rate <= _MAX_RATE:
        fault = f"it has {8 * width} bits at {rate} Hz"
        limit = f"must have 16 bits at {_MIN_RATE} to {_MAX_RATE} Hz"
        raise errors.AssetError(str(path), f"{fault}, {limit}")
    samples = np.frombuffer(data[: len(data) // (2 * channels) * 2 * channels], "<i2")
    if not samples.size:
        raise errors.AssetError(str(path), "it has no sound")
    mono = samples.reshape(-1, channels).mean(axis=1)
    if rate not in resampling.INPUT_RATES:
        # Linear interpolation is enough to look at a mouth.
        at = np.arange(len(mono) * _RATE // rate) * rate / _RATE
        mono, rate = np.interp(at, np.arange(len(mono)), mono), _RATE
    return np.asarray(mono, np.int16), rate


def windows(samples: NDArray[np.int16], rate: int, context_s: int, count: int) -> list[AudioWindow]:
    """Return the windows of the loudest video frame in each of `count` equal parts of a sound."""
    speech = utterance.Utterance(rate, 25, context_s)
    speech.append(samples.astype("<i2").tobytes())
    speech.finish()
    found = list(speech.take())
    per_frame = rate // 25
    padded = np.pad(samples.astype(np.float64), (0, len(found) * per_frame))
    loud = (padded[: len(found) * per_frame].reshape(len(found), -1) ** 2).sum(axis=1)
    chosen = []
    for k in range(count):
        begin = k * len(found) // count
        end = max(begin + 1, (k + 1) * len(found) // count)
        chosen.append(found[begin + int(np.argmax(loud[begin:end]))])
    return chosen


def sheet(
    avatar: Avatar, draw: Callable[[Sequence[int]], Sequence[NDArray[np.uint8]]]
) -> NDArray[np.uint8]:
    """Return the contact sheet as a JPEG file, `(bytes,) uint8`.

    `draw` returns frames with a test sound, `(h, w, 3) uint8` BGR. The rows are: the frame with
    the face box and the mask, the crop box in silence, the crop box with the sound.
    """
    chosen = pick([avatar.valid(i) for i in range(avatar.manifest.frames)])
    spoken = draw(chosen)
    columns = []
    for index, loud in zip(chosen, spoken, strict=True):
        silent, around = idle_pictures.decode(avatar, index), geometry.crop_box(avatar.box(index))
        tiles = [
            _titled(_fitted(_marked(avatar, index)), f"frame {index}"),
            _titled(_fitted(masks.padded(silent, around)), "silence"),
            _titled(_fitted(masks.padded(loud, around)), "sound"),
        ]
        columns.append(np.vstack(tiles))
    options = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return np.asarray(cv2.imencode(".jpg", np.hstack(columns), options)[1], np.uint8)


def _marked(avatar: Avatar, index: int) -> NDArray[np.uint8]:
    """Return a frame with its mask in green and its face box."""
    frame, box = avatar.decode(index), avatar.box(index)
    part = frame[box.y1 : box.y2, box.x1 : box.x2]
    share = avatar.mask(index)[:, :, None] / 255 * 0.5
    tinted = part * (1 - share) + np.array(_MASK_COLOUR) * share
    frame[box.y1 : box.y2, box.x1 : box.x2] = tinted.astype(np.uint8)
    thickness = max(1, max(frame.shape) // 400)
    cv2.rectangle(frame, (box.x1, box.y1), (box.x2 - 1, box.y2 - 1), _BOX_COLOUR, thickness)
    return _around(frame, box)


def _around(frame: NDArray[np.uint8], box: Box) -> NDArray[np.uint8]:
    """Return the square of three face sizes, so that the head is in the tile."""
    half = 3 * max(box.width, box.height) // 2
    x, y = (box.x1 + box.x2) // 2, (box.y1 + box.y2) // 2
    return masks.padded(frame, Box(x - half, y - half, x + half, y + half))


def _fitted(square: NDArray[np.uint8]) -> NDArray[np.uint8]:
    method = cv2.INTER_AREA if square.shape[0] > _TILE else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(square, (_TILE, _TILE), interpolation=method), np.uint8)


def _titled(tile: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    for colour, thickness in (((0, 0, 0), 3), ((255, 255, 255), 1)):
        cv2.putText(tile, text, (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, thickness)
    return tile
