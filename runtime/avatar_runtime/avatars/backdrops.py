"""What is behind an avatar that was cut out: another colour, or nothing.

A stored picture shows the avatar over one colour: `alpha * front + (1 - alpha) * before`. Over
another colour it is the picture plus `(1 - alpha) * (after - before)`, so that the colour in front
need not be known. Over black it has premultiplied alpha.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import cv2
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
    steps = [new - old for new, old in zip(after, before, strict=True)]
    clear = cv2.cvtColor(~alpha, cv2.COLOR_GRAY2BGR)
    # Each is rounded to nearest. A channel rises or falls, so that the order has no effect.
    for apply, sign in ((cv2.add, 1), (cv2.subtract, -1)):
        part = [max(0, sign * step) for step in steps]
        if any(part):
            picture = apply(picture, cv2.multiply(clear, (*part, 0), scale=1 / 255))
    return np.asarray(picture, np.uint8)
