"""What is behind an avatar that was cut out: another colour, or nothing.

A stored picture shows the avatar over one colour: `alpha * front + (1 - alpha) * before`. Over
another colour it is the picture plus `(1 - alpha) * (after - before)`, so that the colour in front
need not be known. Over black it has premultiplied alpha.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Colour = tuple[int, int, int]

BLACK: Final = (0, 0, 0)


def parse(text: str) -> Colour:
    """Return the blue, green and red of `#rrggbb`; black if the text is empty."""
    if not text:
        return BLACK
    red, green, blue = bytes.fromhex(text.removeprefix("#"))
    return blue, green, red


def replace(
    picture: NDArray[np.uint8], alpha: NDArray[np.uint8], before: Colour, after: Colour
) -> NDArray[np.uint8]:
    """Return a picture, `(h, w, 3) uint8` BGR, over another colour; `alpha` is `(h, w) uint8`."""
    if before == after:
        return picture
    step = np.subtract(after, before, dtype=np.int32)
    # For each alpha, what is added to each channel, rounded to nearest.
    table = np.rint((255 - np.arange(256))[:, None] * step / 255).astype(np.int16)
    return np.asarray(np.clip(picture + table[alpha], 0, 255), np.uint8)
