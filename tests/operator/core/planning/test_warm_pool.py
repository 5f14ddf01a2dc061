"""Tests of the reserve: pods that are loaded and empty, and promoted when they are needed."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.autoscaling import inputs
from avatar_operator.core.autoscaling.observation import Demand
from avatar_operator.core.gpus import pools
from avatar_operator.core.gpus.batch_size import NoBatch
from avatar_operator.core.gpus.inventory import ClassStock
from avatar_operator.core.planning import warm_pool
from avatar_operator.core.planning.planner import CreatePod, PromotePod, ReservePod
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.operator.conftest import Make

    from avatar_operator.core.resources.pod import RuntimePod
    from avatar_operator.core.resources.state import PodState

    Scenarios = Callable[..., Any]

AUTO = {
    "minReplicas": 1,
    "maxReplicas": 9,
    "reserve": 1,
    "freeSessions": {"min": 0, "percent": 0},
    "scaleDownAfterSeconds": 0,
}


CONTEXT = inputs.ScalingContext(Demand(gateways=1))
POOL = pools.Pool("rtx-4090", NoBatch(""), ClassStock("rtx-4090", 9, 9, 0, ()), None)


def decided(scenario: Any) -> list[tuple[str, str]]:
    scenario.context = CONTEXT
    plan = scenario.plan()
    marks = ("ApplyBudget", "ProtectPod", "ReleasePod")
    done = [(type(a).__name__, a.name) for a in plan.actions]
    return [each for each in done if each[0] not in marks]


def test_a_pod_more_than_is_needed_is_created_for_the_reserve(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2))
    scenario.context = CONTEXT
    plan = scenario.plan()
    creates = [action for action in plan.actions if isinstance(action, CreatePod)]
    assert (plan.desired, plan.decision.reserve) == (2, 1)
    assert [create.reserve for create in creates] == [True]


def test_of_new_pods_the_last_ones_are_the_reserve(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling={**AUTO, "minReplicas": 3})
    scenario.context = CONTEXT
    scenario.prove()
    creates = [action for action in scenario.plan().actions if isinstance(action, CreatePod)]
    assert [create.reserve for create in creates] == [False, False, False, True]


def test_a_pod_of_the_reserve_is_promoted_at_once_and_replaced(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling={**AUTO, "freeSessions": {"min": 1, "percent": 0}})
    scenario.add("p0", scenario.make.state(2))
    scenario.add("warm", scenario.make.state(0), reserve=True)
    scenario.context = CONTEXT
    plan = scenario.plan()
    promotes = [action for action in plan.actions if isinstance(action, PromotePod)]
    creates = [action for action in plan.actions if isinstance(action, CreatePod)]
    assert [action.name for action in promotes] == ["warm"]
    assert [create.reserve for create in creates] == [True]


def test_a_pod_of_the_reserve_that_has_sessions_is_one_of_the_others(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2))
    scenario.add("warm", scenario.make.state(1), reserve=True)
    scenario.context = CONTEXT
    plan = scenario.plan()
    (promoted,) = [action for action in plan.actions if isinstance(action, PromotePod)]
    assert (promoted.name, promoted.reason) == ("warm", "it has 1 session")
    assert plan.desired == 3


def test_the_reserve_is_used_up_where_no_gpu_is_free(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=2, autoscaling={**AUTO, "freeSessions": {"min": 1, "percent": 0}})
    scenario.add("p0", scenario.make.state(2))
    scenario.add("warm", scenario.make.state(0), reserve=True)
    assert decided(scenario) == [("PromotePod", "warm")]


def test_a_reserve_that_is_no_longer_asked_for_serves_or_goes(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, replicas=2)
    scenario.add("p0", scenario.make.state(2))
    scenario.add("warm", scenario.make.state(0), reserve=True)
    assert decided(scenario) == [("PromotePod", "warm")]


def test_an_empty_pod_becomes_the_reserve_instead_of_a_new_one(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2))
    scenario.add("p1", scenario.make.state(0))
    assert decided(scenario) == [("ReservePod", "p1")]


def test_with_its_reserve_a_service_at_rest_is_left_alone(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling=AUTO)
    scenario.add("p0", scenario.make.state(2))
    scenario.add("warm", scenario.make.state(0), reserve=True)
    assert decided(scenario) == []


def test_the_reserve_stays_when_others_go(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, replicas=1)
    p0 = scenario.add("p0", scenario.make.state(1))
    warm = scenario.add("warm", scenario.make.state(0), reserve=True)
    cold = scenario.add("cold", reserve=True, ready=False, running=False)
    assert warm_pool.reserve_to_keep([p0, warm, cold], scenario.states, 1) == {warm.uid}
    assert warm_pool.reserve_to_keep([p0, warm, cold], scenario.states, 0) == set()


def test_the_reserve_is_loaded_also_where_nobody_comes(scenarios: Scenarios) -> None:
    scenario = scenarios(gpus=4, autoscaling={**AUTO, "minReplicas": 0, "reserve": 2})
    scenario.context = CONTEXT
    plan = scenario.plan()
    assert (plan.desired, plan.decision.reserve) == (2, 2)


PODS = st.lists(
    st.tuples(st.booleans(), st.booleans(), st.integers(0, 2), st.booleans()), max_size=8
)


@given(PODS, st.integers(0, 4), st.integers(0, 8), st.integers(0, 3))
def test_roles_settle_and_never_take_a_pod_with_sessions(
    make: Make, drawn: list[tuple[bool, bool, int, bool]], new: int, desired: int, kept: int
) -> None:
    kept = min(kept, desired)
    there: dict[str, RuntimePod] = {}
    states: dict[str, PodState] = {}
    for index, (ready, is_reserve, sessions, draining) in enumerate(drawn):
        pod = make.pod(f"p{index}", ready=ready, reserve=is_reserve)
        there[pod.uid] = pod
        if ready:
            states[pod.uid] = make.state(sessions, draining=draining)
    creates = [CreatePod(f"n{i}", POOL, Reason.SCALING_UP, "") for i in range(new)]
    roles = warm_pool.assign_roles(
        list(there.values()), creates, states, desired=desired, reserve=kept
    )
    for change in roles.changes:
        pod = there[change.uid]
        assert pod.reserve == isinstance(change, PromotePod)
        if isinstance(change, ReservePod):
            assert pod.ready
            assert states[pod.uid].sessions == 0
        there[change.uid] = replace(pod, reserve=not pod.reserve)
    held = [p for p in there.values() if p.reserve]
    made = [create for create in roles.creates if create.reserve]
    assert all(states[p.uid].sessions == 0 for p in held if p.uid in states)
    assert len(held) + len(made) <= kept
    serving = len(there) - len(held) + len(roles.creates) - len(made)
    if held or made:
        assert serving >= min(desired - kept, serving + len(held) + len(made))
    again = warm_pool.assign_roles(list(there.values()), [], states, desired=desired, reserve=kept)
    assert not again.changes
