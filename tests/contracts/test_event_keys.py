"""The keys are those of the JavaScript client: tests/page/javascript/connection.test.mjs."""

from __future__ import annotations

from typing import Any

import pytest

from avatar_contracts.event_keys import event_key


@pytest.mark.parametrize(
    ("kind", "fields", "key"),
    [
        ("session.created", {}, "996155b3"),
        ("response.created", {"response": {"id": "resp_1"}}, "b52b79fe"),
        (
            "response.done",
            {"response": None, "item": 7, "error": []},
            event_key("response.done", {}),
        ),
    ],
)
def test_a_key_says_what_an_event_is_about(kind: str, fields: dict[str, Any], key: str) -> None:
    assert event_key(kind, fields) == key


def test_events_about_different_things_have_different_keys() -> None:
    fields: list[dict[str, Any]] = [
        {},
        {"response_id": "a"},
        {"item_id": "a"},
        {"item": {"id": "b"}},
        {"error": {"code": "a"}},
        {"response_id": "a", "item_id": "a"},
    ]
    assert len({event_key("x", each) for each in fields}) == len(fields)
