"""How a video file says that it is generated: a line in its metadata, and a visible label."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2

from avatar_contracts import labels

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

COMMENT: Final = "AI generated"
"""The metadata field `comment` of each video file."""
_HEIGHT: Final = 0.045  # of the text, in heights of the picture
_MIN_PIXELS: Final = 10  # of the text: smaller letters are not legible
_WHITE: Final = (255, 255, 255)


def printable(text: object) -> str:
    """Return a text as a label: one line of at most `labels.MAX_DISCLOSURE` characters.

    A value that is no text gives no label.
    """
    if not isinstance(text, str):
        return ""
    return "".join(c for c in text if c.isprintable())[: labels.MAX_DISCLOSURE].strip()


def comment(text: str) -> str:
    """Return the metadata field `comment` of a video with a label, which may be empty."""
    return f"{COMMENT}: {text}" if text and text != COMMENT else COMMENT


def draw(image: NDArray[np.uint8], text: str) -> NDArray[np.uint8]:
    """Return a picture with a label in its bottom left corner, white on a darkened bar.

    `image` is `(h, w, 3) uint8` BGR. An empty text gives the picture itself. A text that is too
    long for the picture is drawn smaller.
    """
    if not text:
        return image
    height, width = image.shape[:2]
    font = cv2.FontFace("sans")
    size = max(_MIN_PIXELS, round(height * _HEIGHT))
    pad = size // 2
    space = max(1, width - 2 * pad)
    needed = _text_width(text, font, size)
    if needed > space:
        size = max(1, size * space // needed)
    labelled = image.copy()
    top = max(0, height - size - 2 * pad)
    labelled[top:] //= 4
    cv2.putText(labelled, text, (pad, height - pad - size // 5), _WHITE, font, size)
    return labelled


def _text_width(text: str, font: cv2.FontFace, size: int) -> int:
    _, _, width, _ = cv2.getTextSize((0, 0), text, (0, 0), font, size)
    return int(width)
