"""Reads an avatar folder of upstream MuseTalk, so that its boxes and masks are used again.

Upstream stores every list forward and then reversed. The latents are not read: they are random
samples in a pickle, and are encoded again.
"""

from __future__ import annotations

import filecmp
import hashlib
import re
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from avatar_runtime import errors
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import given_files, restricted_pickle

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_NUMBER: Final = re.compile(r"\d{1,8}\.png")
_EMPTY: Final = Box(0, 0, 0, 0)  # upstream's placeholder of a frame without a face
_BLOCK: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Imported:
    """One avatar of upstream, each frame once."""

    pictures: tuple[Path, ...]
    masks: tuple[Path, ...]
    boxes: tuple[Box | None, ...]
    """Face boxes; `None` where upstream found no face."""
    crops: tuple[Box, ...]
    notes: tuple[str, ...]


def read(folder: Path) -> Imported:
    """Return the frames of a folder with `coords.pkl`, `mask_coords.pkl`, `full_imgs`, `mask`.

    Raises:
        AssetError: a part is missing, or the parts do not fit together.
    """
    boxes = [Box(*row) for row in restricted_pickle.read_boxes(folder / "coords.pkl")]
    crops = [Box(*row) for row in restricted_pickle.read_boxes(folder / "mask_coords.pkl")]
    pictures, masks = _files(folder / "full_imgs"), _files(folder / "mask")
    counts = {
        "coords.pkl": len(boxes),
        "mask_coords.pkl": len(crops),
        "full_imgs": len(pictures),
        "mask": len(masks),
    }
    if len(set(counts.values())) > 1 or not boxes:
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        raise errors.AssetError(str(folder), f"the numbers of entries must be equal: {found}")
    frames = _undoubled(boxes, crops, pictures)
    notes = [
        f"{len(boxes)} entries of MuseTalk, forward and reversed, are {frames} frames"
        if frames < len(boxes)
        else f"the {frames} entries are not stored forward and reversed; all are used"
    ]
    return Imported(
        pictures=tuple(pictures[:frames]),
        masks=tuple(masks[:frames]),
        boxes=tuple(None if box == _EMPTY else box for box in boxes[:frames]),
        crops=tuple(crops[:frames]),
        notes=tuple(notes),
    )


def sha256(imported: Imported) -> str:
    """Return the hash of the pictures, the masks and the boxes, in order."""
    digest = hashlib.sha256(repr((imported.boxes, imported.crops)).encode())
    for path in (*imported.pictures, *imported.masks):
        with path.open("rb") as file:
            while block := file.read(_BLOCK):
                digest.update(block)
    return digest.hexdigest()


def _undoubled(boxes: Sequence[Box], crops: Sequence[Box], pictures: Sequence[Path]) -> int:
    """Return the number of frames before the reversed half, or all if there is none."""
    half = len(boxes) // 2
    if len(boxes) % 2 or any(
        list(values[half:]) != list(values[:half])[::-1] for values in (boxes, crops)
    ):
        return len(boxes)
    # The boxes of a still picture are their own reverse; the files decide.
    pairs = zip(pictures[:half], pictures[half:][::-1], strict=True)
    is_doubled = all(filecmp.cmp(one, two, shallow=False) for one, two in pairs)
    return half if is_doubled else len(boxes)


def _files(folder: Path) -> list[Path]:
    """Return the numbered PNG files of a folder in order, without a gap.

    Raises:
        AssetError: a number is missing, or an entry is not a regular file of the folder.
    """
    given_files.require_folder(folder)
    try:
        found = sorted(
            (path for path in folder.iterdir() if _NUMBER.fullmatch(path.name)),
            key=lambda path: int(path.stem),
        )
    except OSError as error:
        raise errors.AssetError(str(folder), f"cannot be read: {error.strerror}") from error
    for path in found:
        if path.is_symlink() or not path.is_file():
            raise errors.AssetError(str(path), "is not a regular file")
    for one, two in pairwise(found):
        if int(two.stem) != int(one.stem) + 1:
            raise errors.AssetError(
                str(folder), f"{two.name} follows {one.name}: a file is missing"
            )
    return found
