"""The Events of tenants: one for each change, at a bounded rate, and the last state is told."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.status.tenant_events import REPEAT_S, EventHistory, decide

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_operator.core.status.service_status import Notice

NEW = EventHistory()
OVER = ("QuotaExceeded", "True", "Sessions")
WITHIN = ("QuotaExceeded", "False", "WithinLimits")
UNKNOWN = ("QuotaExceeded", "Unknown", "SharedStateUnavailable")


def status(*conditions: tuple[str, str, str]) -> dict[str, Any]:
    names = ("type", "status", "reason")
    rows = [dict(zip(names, each, strict=True)) for each in conditions]
    return {"conditions": [{**row, "message": "why"} for row in rows]}


def said(notices: Sequence[Notice]) -> list[tuple[str, str, bool]]:
    return [(each.reason.value, each.message, each.warning) for each in notices]


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (WITHIN, OVER, [("Sessions", "QuotaExceeded is True: why", True)]),
        (OVER, WITHIN, [("WithinLimits", "QuotaExceeded is False: why", False)]),
        (OVER, ("QuotaExceeded", "True", "GPUs"), [("GPUs", "QuotaExceeded is True: why", True)]),
        (
            ("KeysValid", "True", "KeysUsable"),
            ("KeysValid", "False", "KeysUnusable"),
            [("KeysUnusable", "KeysValid is False: why", True)],
        ),
        (
            ("IssuersAvailable", "True", "KeySetsFetched"),
            ("IssuersAvailable", "False", "KeySetsUnavailable"),
            [("KeySetsUnavailable", "IssuersAvailable is False: why", True)],
        ),
        (
            ("Ready", "False", "NoService"),
            ("Ready", "True", "ServicesAvailable"),
            [("ServicesAvailable", "Ready is True: why", False)],
        ),
        (WITHIN, UNKNOWN, []),
        (UNKNOWN, WITHIN, []),
        (UNKNOWN, OVER, [("Sessions", "QuotaExceeded is True: why", True)]),
        (OVER, OVER, []),
        (("Other", "True", "x"), ("Other", "False", "y"), []),
    ],
    ids=[
        "limit", "within", "other limit", "keys", "issuer", "ready", "unknown", "known and good",
        "known and bad", "same", "another condition",
    ],
)  # fmt: skip
def test_a_change_gets_an_event(before: Any, after: Any, expected: Any) -> None:
    assert said(decide(status(before), status(after), NEW, 0.0).notices) == expected


def test_a_new_tenant_gets_warnings_only() -> None:
    after = status(("Ready", "False", "NoService"), ("KeysValid", "True", "KeysUsable"), WITHIN)
    found = decide({}, after, NEW, 0.0)
    assert said(found.notices) == [("NoService", "Ready is False: why", True)]


def test_unknown_in_between_is_no_change() -> None:
    first = decide(status(OVER), status(UNKNOWN), NEW, 0.0)
    second = decide(status(UNKNOWN), status(OVER), first.history, 1.0)
    assert second.notices == ()


def test_the_last_state_is_reported_later() -> None:
    history = decide(status(WITHIN), status(OVER), NEW, 0.0).history
    history = decide(status(OVER), status(WITHIN), history, 1.0).history
    held = decide(status(WITHIN), status(OVER), history, 2.0)
    assert held.notices == ()
    assert held.wait_s == REPEAT_S - 2
    later = decide(status(OVER), status(OVER), held.history, REPEAT_S)
    assert [each.reason.value for each in later.notices] == ["Sessions"]
    assert later.wait_s is None


@given(st.lists(st.tuples(st.sampled_from([OVER, WITHIN, UNKNOWN]), st.floats(0, 30))))
def test_a_flapping_condition_posts_a_bounded_number(changes: list[tuple[Any, float]]) -> None:
    history, now, last, posted = NEW, 0.0, WITHIN, []
    for state, pause_s in changes:
        now += pause_s
        found = decide(status(last), status(state), history, now)
        history, last = found.history, state
        posted += [(now, each.reason) for each in found.notices]
    for reason in {reason for _, reason in posted}:
        times = [at for at, each in posted if each is reason]
        gaps = [after - before for before, after in itertools.pairwise(times)]
        assert all(gap >= REPEAT_S - 1e-6 for gap in gaps)
    # Once nothing is held back, the last Event says what is.
    final = decide(status(last), status(last), history, now + REPEAT_S)
    posted += [(now, each.reason) for each in final.notices]
    if posted and last is not UNKNOWN:
        assert posted[-1][1].value == last[2]
