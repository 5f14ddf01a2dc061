"""The messages of the errors, and how a value is shown in them."""

from __future__ import annotations

import math

import pytest

from avatar_contracts.environment import Fault
from avatar_runtime import errors


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("x" * 64, "x" * 64),
        ("x" * 65, "x" * 64),
        ({"a": 1}, "an object"),
        ([1], "an array"),
        (2**53 - 1, 2**53 - 1),
        (2**53, "a huge number"),
        (-(2**53) + 1, -(2**53) + 1),
        (1.5, 1.5),
        (math.inf, "inf"),
        (-math.inf, "-inf"),
        (True, True),
        (None, None),
    ],
)
def test_an_error_shows_scalars_and_names_everything_else(value: object, expected: object) -> None:
    assert errors.shown(value) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("64", '"64"'),
        ("", '""'),
        ("a\n\u00e9", '"a\\n\u00e9"'),
        ("x" * 65, f'"{"x" * 64}"'),
        (64, "64"),
        (2**53, "a huge number"),
        (True, "true"),
        (None, "null"),
        (math.inf, "inf"),
        ([0, 1.5], "[0, 1.5]"),
        ([], "[]"),
        ({"a": "b"}, '{"a": "b"}'),
        ([1] * 10**6, "[" + "1, " * 21 + "..."),
        (["x" * 10**6], '["' + "x" * 62 + "..."),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_a_message_writes_a_value_as_json(value: object, expected: str) -> None:
    assert errors.quoted(value) == expected


def test_supported_values_are_listed() -> None:
    assert errors.supported(["a", 1, None]) == "supported: a, 1, None"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.SettingsError(Fault("A", "x" * 70, "set")), f"A is {'x' * 64!r}, must be set"),
        (errors.ProtocolError("c", "a message"), "a message"),
        (errors.Rejection(503, 1013, "c", "a message"), "a message"),
        (
            errors.IllegalEvent("open", "finish"),
            "event 'finish' is not allowed while the turn is open",
        ),
        (errors.AssetError("a/b", "is missing"), "a/b: is missing"),
        (errors.SourceError("a/b", "is empty"), "a/b: is empty"),
        (errors.DeviceMemoryError(5, 3), "5 bytes wanted on the device, 3 are free"),
        (errors.DeviceMemoryError(None, 3), "more bytes wanted on the device, 3 are free"),
        (errors.DeliveryError("http://a", "no answer"), "http://a: no answer"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_builds_its_message_from_its_data(error: Exception, message: str) -> None:
    assert str(error) == message
