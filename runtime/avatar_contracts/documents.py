"""Reads JSON objects that another process sent, so that no content can end the reader."""

from __future__ import annotations

import json
from math import isinf
from typing import Any, Final

MAX_LINE_BYTES: Final = 1 << 16
"""The longest line of a state stream; a real one has about 1 KiB."""


def parse(text: bytes | bytearray | str) -> Any:
    """Return the value of a JSON text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or has a number that is too large.
            Python otherwise reads NaN, Infinity and 1e999 as numbers that JSON cannot repeat.
    """
    try:
        return _DECODER.decode(text if isinstance(text, str) else text.decode())
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _reject_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if isinf(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


_DECODER: Final = json.JSONDecoder(parse_constant=_reject_constant, parse_float=_finite)
"""Made once: `json.loads` with these arguments makes one for each text."""


def parse_object(text: bytes | bytearray | str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or is not an object.
    """
    document = parse(text)
    if not isinstance(document, dict):
        raise ValueError(f"the JSON is a {type(document).__name__}, must be an object")
    return document


def take_lines(buffer: bytearray) -> list[bytearray]:
    """Remove the complete lines from a buffer, and return them without their line ends."""
    *lines, rest = buffer.split(b"\n")
    buffer[:] = rest
    return lines
