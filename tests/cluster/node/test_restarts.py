"""Whether and when an ended container starts again."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localcluster.node.restarts import BackOff, restarts


def test_default_back_off_equals_that_of_the_kubelet() -> None:
    waits = [BackOff().delay_s(crashes) for crashes in range(1, 9)]
    assert waits == [0, 10, 20, 40, 80, 160, 300, 300]


@given(st.integers(0, 10_000), st.floats(0.1, 100), st.floats(1, 10_000))
def test_delays_grow_up_to_the_limit(crashes: int, base_s: float, max_s: float) -> None:
    back_off = BackOff(base_s, max_s)
    assert 0 <= back_off.delay_s(crashes) <= back_off.delay_s(crashes + 1) <= max_s


def test_a_long_run_resets_the_number_of_crashes() -> None:
    back_off = BackOff(base_s=1, max_s=4)
    assert back_off.crashes(5, ran_s=7.9) == 6
    assert back_off.crashes(5, ran_s=8.0) == 1


@pytest.mark.parametrize(
    ("policy", "code", "init", "again"),
    [
        ("Always", 0, False, True),
        ("Always", 1, False, True),
        ("OnFailure", 0, False, False),
        ("OnFailure", 137, False, True),
        ("Never", 0, False, False),
        ("Never", 1, False, False),
        ("Always", 0, True, False),
        ("Always", 1, True, True),
        ("Never", 1, True, False),
    ],
)
def test_the_policy_decides_on_a_restart(policy: str, code: int, init: bool, again: bool) -> None:
    assert restarts(policy, code, init=init) is again
