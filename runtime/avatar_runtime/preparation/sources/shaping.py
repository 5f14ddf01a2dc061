"""From a decoded frame to a frame of the result: pixels, colours, orientation, crop and size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from avatar_runtime.errors import SourceError
from avatar_runtime.preparation.sources import colours, fitting, orientation

if TYPE_CHECKING:
    from fractions import Fraction

    import numpy as np
    from numpy.typing import NDArray

    from avatar_runtime.preparation.source import SourceOptions
    from avatar_runtime.preparation.sources.fitting import Fit
    from avatar_runtime.preparation.sources.orientation import Orientation

TRANSPARENT: Final = "the source has transparent pixels, which show the background colour"
"""The note about a source whose first frame has pixels that are not opaque."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The steps that every frame of one source takes; found from its first frame."""

    stored: tuple[int, int]
    """Width and height of the decoded frames."""
    square: tuple[int, int]
    """Width and height in square pixels."""
    turn: Orientation
    fit: Fit
    notes: tuple[str, ...]


class Shaper:
    """Makes frames of the result."""

    def __init__(self, path: str, shape: Shape, converter: colours.Converter) -> None:
        self._path = path
        self._shape = shape
        self._converter = converter

    def make(self, frame: Any) -> NDArray[np.uint8]:
        """Return `(height, width, 3) uint8` BGR in the size of the result.

        Raises:
            SourceError: The frame has another size than the first one.
        """
        shape = self._shape
        if (frame.width, frame.height) != shape.stored:
            raise SourceError(
                self._path,
                f"changes its size from {shape.stored[0]}x{shape.stored[1]} to "
                f"{frame.width}x{frame.height} pixels in the middle",
            )
        size = shape.turn.size(*shape.fit.scaled) if shape.fit.whole else shape.square
        return shape.fit.apply(shape.turn.apply(self._converter.convert(frame, *size)))


def converter(path: str, options: SourceOptions) -> colours.Converter:
    """Return a converter with the background colour of the options.

    Raises:
        SourceError: The colour is not written as `#rrggbb`.
    """
    colour = colours.parse_background(options.background)
    if colour is None:
        text = options.background[:16]
        raise SourceError(path, f"the background {text!r} must be a colour such as #00ff00")
    return colours.Converter(colour)


def shape_of(path: str, frame: Any, aspect: Fraction | None, options: SourceOptions) -> Shape:
    """Return the steps for a source with this first frame.

    Raises:
        SourceError: The crop lies outside the picture, or the result is too small.
    """
    stored = (frame.width, frame.height)
    square, notes = _square(stored, aspect)
    turn = orientation.of_frame(frame)
    fit = fitting.plan(*turn.size(*square), options.crop, options.max_side)
    if isinstance(fit, str):
        raise SourceError(path, fit)
    if turn.describe():
        notes.append(f"the picture is {turn.describe()}" if turn.exact else turn.describe())
    notes += colours.read(frame).notes()
    if colours.transparent(frame):
        notes.append(TRANSPARENT)
    return Shape(stored, square, turn, fit, (*notes, *fit.notes()))


def _square(stored: tuple[int, int], aspect: Fraction | None) -> tuple[tuple[int, int], list[str]]:
    if not aspect or aspect == 1:
        return stored, []
    text = f"{aspect.numerator}:{aspect.denominator}"
    square = fitting.square_pixels(*stored, aspect)
    if square is None:
        return stored, [f"the file claims pixels of {text}, which is ignored"]
    if square == stored:
        return stored, []
    return square, [
        f"the pixels of the file are {text}; the picture is scaled from "
        f"{stored[0]}x{stored[1]} to {square[0]}x{square[1]} square pixels"
    ]
