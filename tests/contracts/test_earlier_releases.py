"""What parts of an earlier release send, read by those of this one, and the other way around.

The files in `earlier/` were written by the code of 0.1.0. A release adds its own, and removes those
of the release before the last one (docs/upgrades.md).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import pytest
from tests.runtime.protocol.test_session_document import opened

from avatar_contracts import state
from avatar_gateway.core import model
from avatar_operator.core.resources import gateway
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.core.resources.state import parse_state

EARLIER: Final = Path(__file__).parent / "earlier"


def read(name: str) -> dict[str, Any]:
    document: dict[str, Any] = json.loads((EARLIER / name).read_text())
    return document


def test_the_operator_reads_the_state_of_an_earlier_pod() -> None:
    parsed = parse_state(read("pod_state.json"), 0.5)
    assert (parsed.sessions, parsed.capacity, parsed.free) == (9, 16, 7)
    assert (parsed.ready, parsed.draining) == (True, False)
    assert (parsed.vram_ratio, parsed.batch_share) == (0.8, 0.25)
    assert (parsed.first_frame_p95_ms, parsed.frame_p95_ms) == (176.5, 38.0)
    assert parsed.calibration is not None
    assert parsed.calibration.per_frame_mib == 410


def test_a_gateway_reads_the_state_of_an_earlier_pod() -> None:
    document = read("pod_state.json")
    service = document["service"]
    pod = model.Pod("acme", document["pod"], "u1", service, "10.0.0.1", 8088, 9090, False)
    parsed = model.parse_state(document, pod, 7.0)
    assert (parsed.sessions, parsed.capacity, parsed.free, parsed.ready) == (9, 16, 7, True)
    assert (parsed.sequence, parsed.at) == (4711, 7.0)


def test_the_operator_reads_the_callers_of_an_earlier_gateway() -> None:
    demand = gateway.parse_demand(read("gateway_state.json"))
    callers = demand[ServiceKey("acme", "concierge")]
    assert (callers.waiting, callers.arrived) == (2, 120)


@pytest.mark.parametrize(
    ("name", "document"),
    [
        ("pod_state.json", state.StateDocument),
        ("gateway_state.json", state.DemandDocument),
    ],
    ids=["pod", "gateway"],
)
def test_this_release_still_sends_what_an_earlier_one_reads(name: str, document: type) -> None:
    sent = document.__required_keys__  # type: ignore[attr-defined]
    assert sent >= read(name).keys()


def test_a_session_of_an_earlier_pod_continues() -> None:
    document = read("session.json")
    session = opened(document, 100.0, is_real=False)
    assert session.suffix == document["suffix"]
    assert session.config.flow.value == "ack"
