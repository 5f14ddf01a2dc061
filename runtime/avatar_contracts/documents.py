"""Reads JSON objects that another process sent, so that no content can end the reader."""

from __future__ import annotations

import json
from typing import Any, Final

MAX_LINE_BYTES: Final = 1 << 16
"""The longest line of a state stream; a real one has about 1 KiB."""


def parse_object(text: bytes | bytearray | str) -> dict[str, Any]:
    """Return the JSON object in a text.

    Raises:
        ValueError: the text is not JSON, is nested too deeply, or is not an object.
    """
    try:
        document = json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
    if not isinstance(document, dict):
        raise ValueError(f"the JSON is a {type(document).__name__}, must be an object")
    return document


def take_lines(buffer: bytearray) -> list[bytearray]:
    """Remove the complete lines from a buffer, and return them without their line ends."""
    *lines, rest = buffer.split(b"\n")
    buffer[:] = rest
    return lines
