"""The parser of a pod's usage lines reads them as the claims of a stranger."""

from __future__ import annotations

from typing import Any

import pytest

from avatar_contracts import usage
from avatar_contracts.state import StateFault

ID = "sess_" + "0a" * 12
GOOD = {"id": ID, "frames": 25, "speech_ms": 1000, "ended": False}


def test_a_line_of_a_pod_is_read() -> None:
    document = {"pod": "p", "sessions": [GOOD]}
    assert usage.parse_usage(document) == [usage.SessionUsage(ID, 25, 1000, ended=False)]
    assert usage.parse_usage({"sessions": []}) == []


@pytest.mark.parametrize(
    ("key", "change"),
    [
        ("sessions[0].id", {"id": "sess_1"}),
        ("sessions[0].id", {"id": ID + "\n"}),
        ("sessions[0].id", {"id": None}),
        ("sessions[0].frames", {"frames": -1}),
        ("sessions[0].frames", {"frames": True}),
        ("sessions[0].frames", {"frames": 10**13}),
        ("sessions[0].speech_ms", {"speech_ms": 1.5}),
        ("sessions[0].ended", {"ended": 1}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_wrong_figure_is_named(key: str, change: dict[str, Any]) -> None:
    fault = usage.parse_usage({"sessions": [GOOD | change]})
    assert isinstance(fault, StateFault)
    assert fault.key == key


@pytest.mark.parametrize("sessions", [None, {}, "x", [GOOD] * 1001], ids=range(4))
def test_sessions_that_are_no_list_or_too_many_are_refused(sessions: object) -> None:
    fault = usage.parse_usage({"sessions": sessions})
    assert isinstance(fault, StateFault)
    assert fault.key == "sessions"


def test_a_session_that_is_no_object_is_refused() -> None:
    fault = usage.parse_usage({"sessions": [GOOD, []]})
    assert fault == StateFault("sessions[1]", "list", "an object")


def test_connections_that_have_ended_are_read_and_older_pods_report_none() -> None:
    connections = [{"account": "gAAAA_-=", "connected_ms": 1500}]
    assert usage.parse_connections({"sessions": [], "connections": connections}) == [
        usage.ConnectionUsage("gAAAA_-=", 1500)
    ]
    assert usage.parse_connections({"sessions": []}) == []


@pytest.mark.parametrize(
    ("key", "connections"),
    [
        ("connections", None),
        ("connections", {}),
        ("connections", [{"account": "a", "connected_ms": 1}] * 101),
        ("connections[0]", ["a"]),
        ("connections[0].account", [{"connected_ms": 1}]),
        ("connections[0].account", [{"account": "", "connected_ms": 1}]),
        ("connections[0].account", [{"account": "a b", "connected_ms": 1}]),
        ("connections[0].account", [{"account": "a" * 1025, "connected_ms": 1}]),
        ("connections[0].connected_ms", [{"account": "a", "connected_ms": -1}]),
        ("connections[0].connected_ms", [{"account": "a", "connected_ms": 1.5}]),
        ("connections[0].connected_ms", [{"account": "a", "connected_ms": True}]),
    ],
    ids=range(11),
)
def test_a_wrong_connection_is_named(key: str, connections: object) -> None:
    fault = usage.parse_connections({"sessions": [], "connections": connections})
    assert isinstance(fault, StateFault)
    assert fault.key == key
