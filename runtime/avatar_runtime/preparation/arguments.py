"""The arguments of `avatar-runtime prepare`."""

from __future__ import annotations

import argparse
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.engine.device import PRECISIONS, VERSIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

_COLOUR: Final = re.compile(r"#[0-9a-f]{6}")
_MAX_PIXELS: Final = 65_535
_MAX_NAME: Final = 255  # bytes of a part of a path, PATH_MAX for the whole: Linux, limits.h
_MAX_PATH: Final = 4095
# Equal to the constants of the modules that use them, which load OpenCV or torch.
MASK_MODES: Final = ("raw", "neck", "jaw")
PIXELS: Final = ("jpeg", "png")
FACE_RESIZES: Final = ("bilinear", "lanczos")
CHEEK_WIDTH: Final = 90
SMOOTHING: Final = 1.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of the command."""
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--source", metavar="FILE", type=_path, help="video, photo or folder")
    source.add_argument(
        "--from-upstream", metavar="DIR", type=_path, help="avatar folder of upstream MuseTalk"
    )
    parser.add_argument("--model", metavar="DIR", type=_path, required=True)
    parser.add_argument(
        "--out", metavar="DIR", type=_path, required=True, help="folder to create; its name is used"
    )
    parser.add_argument(
        "--consent",
        metavar="TEXT",
        required=True,
        help="who allowed the use of the face, and how; kept in the avatar",
    )
    parser.add_argument(
        "--disclosure", metavar="TEXT", default="", help="visible label, such as 'AI generated'"
    )
    _add_selection(parser)
    _add_mask(parser)
    _add_tools(parser)


def _add_selection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--start", metavar="S", type=_seconds, help="first second of the source")
    parser.add_argument("--end", metavar="S", type=_seconds, help="last second of the source")
    parser.add_argument("--crop", metavar="X,Y,W,H", type=_crop, help="part of the picture, pixels")
    parser.add_argument(
        "--background",
        metavar="#RRGGBB",
        type=_colour,
        default="",
        help="colour under transparent pixels; default: black",
    )
    parser.add_argument("--pixels", choices=PIXELS, default="jpeg")
    parser.add_argument(
        "--smoothing",
        metavar="FRAMES",
        type=_smoothing,
        default=SMOOTHING,
        help=f"width of the filter of the boxes; 0: none; default: {SMOOTHING:g}",
    )


def _add_mask(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--mask-mode", choices=MASK_MODES, help="default: jaw for v15, raw for v1")
    parser.add_argument(
        "--upper-boundary", metavar="RATIO", type=_ratio, default=0.5, help="default: 0.5"
    )
    parser.add_argument(
        "--cheek-width",
        metavar="PIXELS",
        type=_integer(0, 256),
        default=CHEEK_WIDTH,
        help=f"smaller keeps more of a beard; default: {CHEEK_WIDTH}",
    )
    parser.add_argument(
        "--bbox-shift",
        metavar="PIXELS",
        type=_integer(-1000, 1000),
        default=0,
        help="for models of version v1",
    )
    parser.add_argument("--face-resize", choices=FACE_RESIZES, default="bilinear")


def _add_tools(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dwpose", metavar="ONNX", type=_path, help="landmarks as upstream's")
    parser.add_argument("--face-parser", metavar="PTH", type=_path, help="masks as upstream's")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    parser.add_argument("--precision", choices=PRECISIONS, help="default: fp32")
    parser.add_argument("--batch-size", metavar="N", type=_integer(1, 256), default=8)
    parser.add_argument("--version", choices=VERSIONS, help="default: the newest of the model")
    parser.add_argument("--sound", metavar="WAV", type=_path, help="sound of the preview")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="continue an interrupted run with the same inputs",
    )
    parser.add_argument("--force", action="store_true", help="replace an avatar that exists")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def _path(text: str) -> Path:
    """Return a path that the system accepts; an empty one would be the current folder."""
    if not text.strip():
        raise argparse.ArgumentTypeError("is empty, must name a file or a folder")
    encoded = os.fsencode(text)
    longest = max(len(part) for part in encoded.split(b"/"))
    if longest > _MAX_NAME or len(encoded) > _MAX_PATH:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}... has {len(encoded)} bytes, must have at most {_MAX_PATH}, "
            f"and {_MAX_NAME} between two slashes"
        )
    return Path(text)


def _seconds(text: str) -> float:
    return _number(text, 0, 24 * 3600, "seconds from 0")


def _ratio(text: str) -> float:
    return _number(text, 0, 1, "a number from 0 to 1")


def _smoothing(text: str) -> float:
    return _number(text, 0, 25, "a number of frames from 0 to 25")


def _number(text: str, low: float, high: float, expected: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not low <= value <= high:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not {expected}")
    return value


def _integer(low: int, high: int) -> Any:
    def parse(text: str) -> int:
        if not re.fullmatch(r"-?\d{1,9}", text, re.ASCII) or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(
                f"{text[:40]!r} is not a whole number from {low} to {high}"
            )
        return int(text)

    return parse


def _crop(text: str) -> tuple[int, int, int, int]:
    parts: Sequence[str] = text.split(",")
    if len(parts) != 4 or not all(re.fullmatch(r"\d{1,5}", part, re.ASCII) for part in parts):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not X,Y,W,H in whole pixels")
    x, y, width, height = map(int, parts)
    if min(width, height) < 16 or max(x + width, y + height) > _MAX_PIXELS:
        raise argparse.ArgumentTypeError(
            f"{text[:40]!r}: width and height must be 16 or more, within {_MAX_PIXELS} pixels"
        )
    return x, y, width, height


def _colour(text: str) -> str:
    if text and not _COLOUR.fullmatch(text.lower()):
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a colour #rrggbb")
    return text.lower()
