"""Rules for the fields of a manifest: a predicate, and what the field must be in words."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any, Final

Rule = tuple[Callable[[Any], bool], str]
"""Whether a value is right, and the end of the sentence "NAME is VALUE, must be ..."."""

MAX_TEXT: Final = 2000
"""Characters of a text of several lines at most."""
FOLDER_NAME_LIMIT: Final = (
    "must have 1 to 200 letters, digits, '-', '_' or '.', and start with a letter or digit"
)
"""The end of a sentence about a name that `is_folder_name` refuses."""
_FOLDER_NAME: Final = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,199}")
_MAX_SHOWN: Final = 80  # characters of a wrong value that an error shows
_MAX_BITS: Final = 64
_MAX_DEPTH: Final = 4


def integer(low: int, high: int) -> Rule:
    """A whole number in a range; `true` is none."""
    return (
        lambda value: type(value) is int and low <= value <= high,
        f"a whole number from {low} to {high}",
    )


def ratio(low: float, high: float) -> Rule:
    """A finite number in a range."""
    return (
        lambda value: type(value) in (int, float) and math.isfinite(value) and low <= value <= high,
        f"a number from {low:g} to {high:g}",
    )


def text(limit: int, *, least: int = 0) -> Rule:
    """Printable text in one line."""
    kind = f"text of {least} to {limit} printable characters in one line"
    return (
        lambda value: (
            isinstance(value, str) and least <= len(value) <= limit and value.isprintable()
        ),
        kind,
    )


def choice(choices: tuple[str, ...]) -> Rule:
    """One of several texts."""
    return (
        lambda value: isinstance(value, str) and value in choices,
        f"one of {', '.join(choices)}",
    )


def is_folder_name(name: str) -> bool:
    """Whether a new avatar may have a name. It is the name of a folder in the folder of avatars."""
    return _FOLDER_NAME.fullmatch(name) is not None


def is_note(value: object) -> bool:
    """Whether a value is text of several lines without other control characters."""
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        return False
    return all(line.isprintable() for line in value.replace("\t", " ").splitlines())


def is_ascending(value: object) -> bool:
    """Whether a value is a tuple of ascending whole numbers from 0."""
    if not isinstance(value, tuple) or not all(type(i) is int and i >= 0 for i in value):
        return False
    return all(a < b for a, b in pairwise(value))


def is_text_mapping(value: object) -> bool:
    """Whether a value maps text to text."""
    return isinstance(value, Mapping) and all(
        isinstance(k, str) and isinstance(v, str) for k, v in value.items()
    )


def is_plain(value: object, depth: int = 0) -> bool:
    """Whether a value is plain JSON of at most `_MAX_DEPTH` levels."""
    if value is None or isinstance(value, bool | str):
        return True
    if isinstance(value, int | float):
        return math.isfinite(value)
    if depth == _MAX_DEPTH:
        return False
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and is_plain(v, depth + 1) for k, v in value.items())
    return isinstance(value, list | tuple) and all(is_plain(v, depth + 1) for v in value)


def shown(value: object) -> str:
    """Return a wrong value as an error shows it."""
    if isinstance(value, int) and value.bit_length() > _MAX_BITS:
        return "a huge number"
    text = repr(value)
    return text if len(text) <= _MAX_SHOWN else text[:_MAX_SHOWN] + "..."
