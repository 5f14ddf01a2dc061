from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.planning.disruption import ProtectPod, ReleasePod, protect

if TYPE_CHECKING:
    from tests.operator.conftest import Make

MARKED = {"live": True, "shielded": True}
READY = frozenset({"n1"})


@pytest.mark.parametrize(
    ("pod", "state", "change", "wait_s"),
    [
        pytest.param({}, {"sessions": 1}, ProtectPod, None, id="a first session"),
        pytest.param({"live": True}, {"sessions": 1}, ProtectPod, None, id="half of the marks"),
        pytest.param(MARKED, {"sessions": 1}, None, None, id="marked already"),
        pytest.param({}, {"sessions": 0}, None, None, id="nothing is written at rest"),
        pytest.param(MARKED, {"empty_s": 1.0}, None, 4.0, id="empty a moment ago"),
        pytest.param(MARKED, {"empty_s": 5.0}, ReleasePod, None, id="empty for long"),
        pytest.param({"shielded": True}, {"empty_s": 9.0}, ReleasePod, None, id="an old pod"),
        pytest.param(
            MARKED, {"empty_s": 9.0, "age_s": 2.0}, None, 0.25, id="empty, but not heard lately"
        ),
        pytest.param(MARKED, {"empty_s": 9.0, "age_s": 60.0}, None, None, id="silent"),
        pytest.param(MARKED, None, None, None, id="nothing known"),
        pytest.param({**MARKED, "node": "n2"}, None, ReleasePod, None, id="lost node, silent"),
        pytest.param(
            {**MARKED, "node": "n2"},
            {"sessions": 2, "age_s": 9.0},
            ReleasePod,
            None,
            id="lost node, silent since",
        ),
        pytest.param(
            {**MARKED, "node": "n2"},
            {"sessions": 2, "age_s": 4.0},
            None,
            1.0,
            id="lost node, silent a moment",
        ),
        pytest.param(
            {**MARKED, "node": "n2"}, {"sessions": 2}, None, None, id="lost node, heard of"
        ),
        pytest.param(
            {"node": "n2"}, {"sessions": 2}, ProtectPod, None, id="only its kubelet is lost"
        ),
        pytest.param({**MARKED, "running": False}, None, ReleasePod, None, id="it does not run"),
        pytest.param({"terminating": True}, {"sessions": 1}, None, None, id="it goes anyway"),
    ],
)
def test_marks_follow_the_sessions(
    make: Make,
    pod: dict[str, Any],
    state: dict[str, Any] | None,
    change: type[object] | None,
    wait_s: float | None,
) -> None:
    one = make.pod("p0", **pod)
    states = {} if state is None else {one.uid: make.state(**state)}
    changes, wait = protect([one], states, READY)
    assert [type(each) for each in changes] == ([] if change is None else [change])
    assert wait == wait_s
