"""Compares generated with drawn faces: errors, mask borders and flicker next to the mouth."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import cv2
import numpy as np
import numpy.typing as npt

from avatar_runtime.avatars import cache
from avatar_training.crops import frame_mouth
from avatar_training.posing import Mouth

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_training.measuring import Picture
    from avatar_training.rendering import DrawnAvatar
    from avatar_training.speech import Utterance

_COMPARED_FRAMES: Final = 200
_QUALITY: Final = 95
"""Of the stored source frames, and of the frames that the offline path finishes."""
_FULL_COLOUR: Final = (
    cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
)  # fmt: skip
_STILL_LEVELS: Final = 2
_COMMON: Final = (192, 144)
"""Size of the mask of moving pixels."""
_SOFT: Final = (8, 247)
_NO_ERROR: Final = 1e-10  # 100 dB

Inside = npt.NDArray[np.bool_]


def compare(
    avatar: DrawnAvatar, said: Utterance, faces: Sequence[Picture]
) -> dict[str, float | dict[str, float]]:
    """Return the errors and the flicker of generated faces, in dB and in levels of 255.

    Flicker is the mean absolute difference of consecutive frames in the face box, in two regions:
    outside the mouth's rectangle, and outside all pixels that move in the drawing during the
    utterance. Source, drawn and generated frames all pass the JPEG encoding of the store and of the
    offline path.
    """
    moments = [
        _moment(avatar, said, faces, frame) for frame in range(min(len(faces), _COMPARED_FRAMES))
    ]
    moved = np.max([_resized(moment.moved, _COMMON) for moment in moments], axis=0)
    errors, rectangle, still = _Errors(), _Flicker(), _Flicker()
    for moment in moments:
        errors.add(moment)
    for before, now in itertools.pairwise(moments):
        # A box that moved by a pixel shows another part of the frame, so it is not compared.
        shape = now.truth.shape[:2]
        if before.truth.shape[:2] == shape:
            rectangle.add(before, now, ~mouth_rectangle(*shape))
            still.add(before, now, _resized(moved, shape) == 0)
    return errors.report() | {
        "flicker_outside_mouth_rectangle": rectangle.report(),
        "flicker_outside_what_the_truth_moves": still.report(),
    }


@dataclass(frozen=True, slots=True)
class _Moment:
    """The face box of one frame."""

    pictures: dict[str, Picture]
    truth: Picture
    moved: npt.NDArray[np.uint8]
    """1 where the drawn face differs from the resting face, and close to it."""
    mask: Picture


def _moment(avatar: DrawnAvatar, said: Utterance, faces: Sequence[Picture], frame: int) -> _Moment:
    mouth = frame_mouth(said.mouth, frame)
    index = cache.fold(frame, avatar.stored.info.frames)
    truth, rest = avatar.drawn(frame, mouth), avatar.drawn(frame, Mouth())
    stored = _compressed(avatar.whole(frame, mouth), *_FULL_COLOUR)
    moved = np.abs(truth.astype(np.int16) - rest).max(axis=2) > _STILL_LEVELS
    return _Moment(
        {
            "source": avatar.face(frame, _compressed(avatar.stored.frame(index))),
            "drawn": avatar.face(frame, _compressed(stored)),
            "generated": faces[frame],
        },
        truth,
        # The soft edge of a moving region is part of it.
        cv2.dilate(moved.astype(np.uint8), np.ones((3, 3), np.uint8)),
        avatar.stored.mask(index),
    )


def _resized(picture: npt.NDArray[np.uint8], shape: tuple[int, ...]) -> npt.NDArray[np.uint8]:
    """Return 0 and 1 in another size; boxes differ by a pixel."""
    size = (shape[1], shape[0])
    return np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_NEAREST), np.uint8)


@dataclass(slots=True)
class _Flicker:
    """Mean changes between frames, one list entry per pair of frames."""

    changes: dict[str, list[float]] = field(default_factory=dict)

    def add(self, before: _Moment, now: _Moment, where: Inside) -> None:
        for name, picture in now.pictures.items():
            change = np.abs(picture.astype(np.int16) - before.pictures[name])[where]
            self.changes.setdefault(name, []).append(float(change.mean()))

    def report(self) -> dict[str, float]:
        return {name: round(float(np.mean(v)), 3) for name, v in self.changes.items()}


@dataclass(slots=True)
class _Errors:
    """Errors of generated faces, one list entry per frame."""

    mouth: list[float] = field(default_factory=list)
    border: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)

    def add(self, moment: _Moment) -> None:
        error = moment.pictures["generated"].astype(np.float32) - moment.truth
        levels, mask = np.abs(error).mean(axis=2), moment.mask
        mouth = mouth_rectangle(*levels.shape)
        low, high = _SOFT
        self.mouth.append(float(np.square(error)[mouth].mean()))
        self.border.append(float(levels[(mask > low) & (mask < high) & ~mouth].mean()))
        self.inside.append(float(levels[(mask >= high) & ~mouth].mean()))

    def report(self) -> dict[str, float | dict[str, float]]:
        share = max(float(np.mean(self.mouth)) / 255**2, _NO_ERROR)
        return {
            "mouth_psnr_db": round(-10 * math.log10(share), 2),
            "border_error_levels": round(float(np.mean(self.border)), 3),
            "inside_error_levels": round(float(np.mean(self.inside)), 3),
        }


def mouth_rectangle(height: int, width: int) -> Inside:
    """Return the mouth's rectangle of a face box as a mask."""
    inside = np.zeros((height, width), bool)
    inside[round(height * 0.62) : round(height * 0.93), width // 5 : width * 4 // 5] = True
    return inside


def _compressed(picture: Picture, *options: int) -> Picture:
    encoded = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY, *options])[1]
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR), np.uint8)
