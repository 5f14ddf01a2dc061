"""Wrong values, and faults in the text of a message."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

VALUES: Final[tuple[Any, ...]] = (
    *(None, True, False, 0, 1, -1, 7, 0.5, -0.0, 1e308, -1e308, 5e-324, 2**31, 2**53 + 1, 10**99),
    *(
        "",
        " ",
        "x",
        "0",
        "null",
        "audio",
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "é\u0301",
        "\U0001f600",
    ),
    *("x" * 64, "y" * 65, "x" * 600, "../../etc/passwd", "%s%n", "\u202egnp", "\r\n\r\n"),
    *([], [[]], [None], ["audio", "text"], [0] * 40, {}, {"": ""}, {"type": "x"}, {"a": {"b": {}}}),
)
"""Values for any field."""

_LIKELY: Final[tuple[Any, ...]] = (
    *("resp_up_1", "item_resp_up_1", "audio", "response.done", "\u2028", "y" * 2000),
    *([{"id": 1}, "a", None], {"id": "resp_up_2", "type": "message", "content": [1, {"type": []}]}),
)
"""Values that some field has elsewhere, and parts of objects."""

TOKENS: Final = (
    *(
        "NaN",
        "Infinity",
        "-Infinity",
        "1e999",
        "-1e999",
        "0" * 50,
        "9" * 101,
        "1" * 99,
        "-0",
        "1e-9",
    ),
    *(
        '"\\ud800"',
        '"\\udc00\\ud800"',
        '"\\u0000"',
        "'x'",
        "undefined",
        "0x10",
        "01",
        "[[[[",
        "{}{}",
    ),
)
"""Texts in the place of a JSON value; many of them are not JSON."""

_NOISE: Final = (
    "\x00",
    "\ufeff",
    "\n",
    '"',
    "\\",
    "{",
    "}",
    "[",
    "]",
    ",",
    ":",
    "\ud800",
    "€",
    "-",
    "e",
)


def wrong(random: Random) -> Any:
    """Return any JSON value."""
    if random.random() < 0.05:
        return nested(random.choice((2, 8, 30, 31, 32, 40)), random)
    return random.choice(VALUES)


def nested(depth: int, random: Random) -> Any:
    """Return arrays and objects inside each other."""
    value: Any = 1
    for _ in range(depth):
        value = [value] if random.random() < 0.5 else {"a": value}
    return value


def mutate(document: dict[str, Any], random: Random) -> dict[str, Any]:
    """Return the document with one field that is missing, wrong, renamed, new or doubly nested."""
    mutated = json.loads(json.dumps(document))
    target = _some_object(mutated, random)
    names = [name for name in target if name != "event_id" or random.random() < 0.1]
    name = random.choice(names) if names else "extra"
    match random.randrange(6):
        case 0 if names:
            del target[name]
        case 1:
            target[_name(random)] = wrong(random)
        case 2 if names:
            target[_name(random)] = target.pop(name)
        case 3 if names:
            target[name] = {name: target[name]} if random.random() < 0.5 else [target[name]]
        case _:
            target[name] = wrong(random)
    return dict(mutated)


def scramble(value: Any, random: Random) -> Any:
    """Return a JSON value that is changed at many places, in any depth."""
    if random.random() < 0.15:
        return random.choice((wrong(random), random.choice(_LIKELY), random.randint(-5, 5)))
    if isinstance(value, dict):
        kept = {
            name: scramble(part, random) for name, part in value.items() if random.random() > 0.05
        }
        if random.random() < 0.1:
            name = random.choice(("item", "response", "seq", "epoch", "output_index"))
            kept[name] = random.choice(_LIKELY)
        return kept
    if isinstance(value, list):
        return [scramble(part, random) for part in value]
    return value


def _some_object(document: dict[str, Any], random: Random) -> dict[str, Any]:
    objects = [document]
    for found in objects:
        objects.extend(child for child in found.values() if isinstance(child, dict))
    return random.choice(objects)


def _name(random: Random) -> str:
    names = (
        "",
        "extra",
        "__proto__",
        "type",
        "session",
        "audio",
        "x" * 300,
        "\ud800",
        "event-id",
        "seq",
    )
    return random.choice(names)


def _cut(text: str, random: Random) -> str:
    return text[: random.randrange(len(text) + 1)]


def _insert(text: str, random: Random) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(_NOISE) + text[at:]


def _swap(text: str, random: Random) -> str:
    at = random.randrange(len(text) + 1)
    return text[:at] + random.choice(_NOISE) + text[at + 1 :]


def _twice(text: str, random: Random) -> str:
    return text + random.choice(("", " ", ",", "\n")) + text


def _token(text: str, random: Random) -> str:
    head, colon, tail = text.rpartition(":")
    return head + colon + random.choice(TOKENS) + tail[-1:]


def _deep(text: str, random: Random) -> str:
    depth = random.choice((5, 33, 500, 5_000))
    opening, closing = random.choice((("[", "]"), ('{"a":', "}")))
    return opening * depth + text + closing * (depth if random.random() < 0.8 else 0)


_FAULTS: Final[tuple[Callable[[str, Random], str], ...]] = (
    *(_cut, _insert, _swap, _twice, _token, _deep),
)


def corrupt(text: str, random: Random) -> str:
    """Return the text of a message with one to three faults."""
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        text = random.choice(_FAULTS)(text, random)
    return text
