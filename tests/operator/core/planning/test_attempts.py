"""Pods that fail to start: what is deleted, what is tried again, and when."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.operator.conftest import NOW

from avatar_operator.core.planning import attempts, failures
from avatar_operator.core.planning.actions import CreatePod, DeletePod, DrainPod
from avatar_operator.core.planning.disruption import LOST_S
from avatar_operator.core.planning.failures import Failure
from avatar_operator.core.planning.sharing import fair_limits
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios

NO_CPU = "not scheduled: 0/4 nodes are available: 2 Insufficient cpu, 2 node(s) didn't match"
NO_GPU = "not scheduled: 0/4 nodes are available: 2 Insufficient nvidia.com/gpu"
NO_CLAIM = 'not scheduled: 0/4 nodes are available: persistentvolumeclaim "x" not found'
CORDONED = "not scheduled: 0/4 nodes are available: 4 node(s) were unschedulable"
NO_MANIFEST = (
    'ImagePullBackOff: Back-off pulling image "r.example/x:1": ErrImagePull: rpc error: code = '
    'NotFound desc = failed to pull and unpack image "r.example/x:1": ... not found'
)
"""What kubelet 1.31 and newer report with containerd, shortened in the middle."""
TWO_CLASSES = {"gpuClasses": ["rtx-4090", "h100-80gb"]}
PENDING = {"whenFull": "createPending"}


def rejected(scenario: Scenario, name: str, *, for_s: float, why: str = NO_CPU) -> None:
    scenario.add(name, ready=False, running=False, node="", rejected_at=NOW - for_s, trouble=why)


def stuck(scenario: Scenario, name: str, *, for_s: float, **changes: Any) -> None:
    known = {"waiting": "ImagePullBackOff", "trouble": "ImagePullBackOff: no x", **changes}
    scenario.add(name, ready=False, running=False, bound_at=NOW - for_s, **known)


def failure(scenario: Scenario, **changes: Any) -> Failure:
    known = Failure(scenario.hash, "", 1, 1, NOW - 1.0, 2, "p0", "ImagePullBackOff")
    return dataclasses.replace(known, **changes)


def with_h100(scenario: Scenario, make: Make) -> None:
    scenario.profiles = list(make.shipped())
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-PCIe", "nvidia.com/gpu.memory": "81559"}
    scenario.nodes.append(make.node("n2", labels=labels))


def test_a_pod_that_no_node_accepts_is_deleted_and_recorded(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    rejected(scenario, "p0", for_s=attempts.REJECTED_S - 1)
    plan = scenario.plan()
    assert (plan.actions, plan.wake_after_s, plan.failures) == ((), 1.0, ())
    plan = scenario.plan(NOW + 1)
    (delete,) = plan.actions
    assert isinstance(delete, DeletePod)
    assert (delete.uid, delete.resource_version) == ("uid-p0", "7")
    assert (delete.because, delete.reason) == (Reason.REPLACING, f"it failed to start: {NO_CPU}")
    assert plan.failures == (Failure(scenario.hash, "rtx-4090", 1, 1, NOW + 1, 2, "p0", NO_CPU),)


def test_a_class_that_rejected_a_pod_is_left_for_the_next_one(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, placement=TWO_CLASSES)
    with_h100(scenario, make)
    scenario.failures = (failure(scenario, gpu_class="rtx-4090"),)
    (create,) = scenario.plan().new_pods
    assert create.gpu_class == "h100-80gb"
    later = scenario.plan(NOW + failures.FIRST_RETRY_S)
    assert later.new_pods[0].gpu_class == "rtx-4090"


def test_a_class_is_tried_again_at_once_when_its_gpus_change(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1, gpus=3)
    scenario.failures = (failure(scenario, gpu_class="rtx-4090", gpus=3),)
    plan = scenario.plan()
    assert (plan.actions, plan.missing, plan.held) == ((), 0, 1)
    assert plan.wake_after_s == failures.FIRST_RETRY_S - 1
    scenario.failures = (failure(scenario, gpu_class="rtx-4090", gpus=2),)
    assert len(scenario.plan().new_pods) == 1


@pytest.mark.parametrize("when_full", ["fallThrough", "wait"])
def test_a_service_demands_no_class_that_rejected_its_pod(
    scenarios: Scenarios, make: Make, when_full: str
) -> None:
    scenario = scenarios(replicas=1, placement={**TWO_CLASSES, "whenFull": when_full})
    with_h100(scenario, make)
    scenario.failures = (failure(scenario, gpu_class="rtx-4090"),)
    demand = fair_limits.demand(scenario.service, scenario.plan(), NOW)
    assert demand.classes == (("h100-80gb",) if when_full == "fallThrough" else ())


def test_a_pod_on_a_full_class_is_deleted_without_a_delay_for_the_next_one(
    scenarios: Scenarios,
) -> None:
    scenario = scenarios(replicas=1, gpus=1)
    rejected(scenario, "p0", for_s=attempts.REJECTED_S, why=NO_GPU)
    scenario.add("other", owner_uid="another")  # holds the GPU
    plan = scenario.plan()
    assert [type(each) for each in plan.actions] == [DeletePod]
    assert plan.failures == ()


def test_a_pod_that_waits_for_a_gpu_that_became_free_is_left_to_the_scheduler(
    scenarios: Scenarios,
) -> None:
    scenario = scenarios(replicas=1, gpus=1)
    rejected(scenario, "p0", for_s=attempts.RESCHEDULED_S - 2, why=NO_GPU)
    plan = scenario.plan()
    assert (plan.actions, plan.wake_after_s) == ((), 2.0)
    assert [each.gpu_class for each in scenario.plan(NOW + 2).failures] == ["rtx-4090"]


def test_a_pending_pod_that_may_wait_moves_only_to_a_free_gpu(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, placement={**TWO_CLASSES, **PENDING})
    rejected(scenario, "p0", for_s=600.0)
    assert scenario.actions() == []
    with_h100(scenario, make)
    assert scenario.actions() == [("DeletePod", "p0")]
    scenario.failures = (failure(scenario, gpu_class="h100-80gb"),)
    assert scenario.actions() == []


def test_of_a_spec_that_no_node_has_accepted_one_pod_is_created(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=4, gpus=4)
    plan = scenario.plan()
    assert (len(plan.new_pods), plan.held, plan.missing) == (1, 3, 0)
    scenario.add("p0", ready=False, running=False, node="")
    plan = scenario.plan()
    assert (plan.actions, plan.held) == ((), 3)
    scenario.pods = [dataclasses.replace(scenario.pods[0], node="n1")]
    assert len(scenario.plan().new_pods) == 3


def test_the_rest_may_wait_for_nodes_if_only_gpus_are_lacking(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=3, gpus=0, placement=PENDING)
    assert len(scenario.plan().new_pods) == 1
    rejected(scenario, "p0", for_s=600.0, why=NO_GPU)
    assert len(scenario.plan().new_pods) == 2


@pytest.mark.parametrize(
    ("why", "created", "unfit"),
    [(NO_GPU, 2, 0), (CORDONED, 2, 1), (NO_CPU, 0, 1), (NO_CLAIM, 0, 1)],
)
def test_what_the_scheduler_lacks_decides_whether_others_follow(
    scenarios: Scenarios, why: str, created: int, unfit: int
) -> None:
    scenario = scenarios(replicas=3, gpus=0, placement=PENDING)
    rejected(scenario, "p0", for_s=600.0, why=why)
    plan = scenario.plan()
    assert (len(plan.new_pods), plan.unfit) == (created, unfit)
    demand = fair_limits.demand(scenario.service, plan, NOW)
    assert demand.lacks == (why in (NO_GPU, CORDONED))


def test_one_failing_pod_stops_the_others(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=4, gpus=4)
    stuck(scenario, "p0", for_s=1.0, waiting="ErrImagePull")
    assert scenario.plan().new_pods == ()


@pytest.mark.parametrize(
    ("changes", "after_s"),
    [
        pytest.param({}, attempts.STUCK_S, id="no image"),
        pytest.param({"waiting": "InvalidImageName"}, attempts.MISSING_S, id="no such name"),
        pytest.param({"trouble": NO_MANIFEST}, attempts.MISSING_S, id="no such image"),
        pytest.param(
            {"waiting": "CreateContainerConfigError", "trouble": 'x: secret "a" : not found'},
            attempts.STUCK_S,
            id="no secret",
        ),
        pytest.param({"waiting": "CrashLoopBackOff", "restarts": 2}, attempts.STUCK_S, id="ends"),
        pytest.param({"waiting": "CrashLoopBackOff", "restarts": 1}, None, id="ended twice"),
        pytest.param({"waiting": "ContainerCreating"}, None, id="being created"),
        pytest.param(
            {"waiting": "ContainerCreating", "mounted": False}, attempts.UNMOUNTED_S, id="no mount"
        ),
        pytest.param({"running": True, "waiting": ""}, None, id="runs"),
        pytest.param({"terminating": True}, None, id="being deleted"),
    ],
)
def test_a_pod_that_does_not_start_gives_its_gpu_back(
    scenarios: Scenarios, changes: dict[str, Any], after_s: float | None
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", **{"ready": False, "running": False, "waiting": "ImagePullBackOff",
                          "bound_at": NOW, **changes})  # fmt: skip
    if after_s is None:
        kinds = {kind for kind, _ in scenario.actions(NOW + 10_000)}
        assert "DeletePod" not in kinds
        return
    before = scenario.plan(NOW + after_s - 1)
    assert (before.actions, before.wake_after_s) == ((), 1.0)
    plan = scenario.plan(NOW + after_s)
    assert [type(each) for each in plan.actions] == [DeletePod]
    (recorded,) = plan.failures
    assert (recorded.gpu_class, recorded.rounds, recorded.pod) == ("", 1, "p0")


def test_a_pod_with_a_recent_state_is_not_deleted(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    stuck(scenario, "p0", for_s=600.0)
    scenario.states["uid-p0"] = make.state(1, age_s=LOST_S)
    assert "DeletePod" not in {kind for kind, _ in scenario.actions()}
    scenario.states["uid-p0"] = make.state(1, age_s=LOST_S + 0.1)
    assert ("DeletePod", "p0") in scenario.actions()


def test_each_round_doubles_the_delay_up_to_the_maximum(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    delays = [failure(scenario, rounds=n, failed_at=0.0).retry_at for n in (1, 2, 3, 5, 6, 99)]
    assert delays == [10.0, 20.0, 40.0, 160.0, 300.0, 300.0]


def test_pods_that_fail_together_are_one_round(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=3, gpus=3)
    for number in range(3):
        stuck(scenario, f"p{number}", for_s=600.0)
    (first,) = scenario.plan().failures
    assert (first.rounds, first.pods) == (1, 3)
    scenario.failures, scenario.pods = (first,), []
    assert (scenario.plan().actions, scenario.plan().held) == ((), 3)
    again = scenario.plan(NOW + failures.FIRST_RETRY_S)
    assert len(again.new_pods) == 1  # one pod proves the spec before the others are made
    stuck(scenario, "p3", for_s=0.0)
    (second,) = scenario.plan(NOW + 60).failures
    assert (second.rounds, second.pods) == (2, 1)


def test_a_failing_pod_does_not_delay_the_others_of_a_service_that_works(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=4, gpus=4)
    scenario.add("p0", make.state(2))
    scenario.failures = (failure(scenario),)
    plan = scenario.plan()
    assert (len(plan.new_pods), plan.held) == (2, 1)
    stuck(scenario, "p1", for_s=600.0)
    assert {each.name for each in scenario.plan().actions if isinstance(each, DeletePod)} == {"p1"}
    assert not [each for each in scenario.plan().actions if isinstance(each, DrainPod)]


def test_a_later_pod_disproves_a_failure(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.failures = (failure(scenario), failure(scenario, gpu_class="rtx-4090"))
    scenario.add("p1", ready=False, running=False, created_at=NOW)
    assert [each.gpu_class for each in scenario.plan().failures] == [""]
    scenario.pods = []
    scenario.add("p1", make.state(), created_at=NOW)
    assert scenario.plan().failures == ()
    scenario.pods = []
    scenario.add("p1", make.state(), created_at=NOW - 60)
    assert len(scenario.plan().failures) == 2


def test_a_new_spec_is_tried_at_once(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.failures = (failure(scenario, spec_hash="old"),)
    plan = scenario.plan()
    assert (len(plan.new_pods), plan.failures) == (1, ())


def test_a_rollout_that_failed_is_halted_and_tried_again(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2, gpus=3)
    scenario.add("old-a", make.state(1), spec_hash="old")
    scenario.add("old-b", make.state(0), spec_hash="old")
    scenario.failures = (failure(scenario),)
    plan = scenario.plan()
    assert plan.halted is not None
    assert plan.halted.reason is Reason.NEW_PODS_FAILING
    assert plan.halted.message == "new pods are failing: p0: ImagePullBackOff"
    assert plan.actions == ()
    again = scenario.plan(NOW + failures.FIRST_RETRY_S)
    assert [type(each) for each in again.actions] == [CreatePod]
    assert again.halted is not None


@pytest.mark.parametrize("gpu_class", ["", "rtx-4090"])
@pytest.mark.parametrize("after_s", [0.0, 3600.0])
def test_no_pod_that_works_makes_room_for_one_that_failed(
    scenarios: Scenarios, make: Make, gpu_class: str, after_s: float
) -> None:
    scenario = scenarios(replicas=2, gpus=2)
    scenario.add("old-a", make.state(1), spec_hash="old")
    scenario.add("old-b", make.state(0), spec_hash="old")
    scenario.failures = (failure(scenario, gpu_class=gpu_class),)
    assert scenario.actions(NOW + after_s) == []


def test_an_outdated_pod_that_no_node_accepts_is_deleted(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1, gpus=2, placement=PENDING)
    scenario.add("new", ready=False, running=True)
    rejected(scenario, "old", for_s=60.0)
    scenario.pods[-1] = dataclasses.replace(scenario.pods[-1], spec_hash="old")
    plan = scenario.plan()
    assert [(type(each), each.name) for each in plan.actions] == [(DeletePod, "old")]
    assert plan.failures == ()


def test_a_paused_service_keeps_what_failed(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.service = dataclasses.replace(scenario.service, paused=True)
    rejected(scenario, "p0", for_s=60.0)
    plan = scenario.plan()
    assert (plan.actions, plan.failures, plan.wake_after_s) == ((), (), None)


def test_failures_survive_the_status(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    known = (failure(scenario), failure(scenario, gpu_class="rtx-4090", rounds=4, pods=3))
    status = {"failures": failures.to_status(known)}
    assert failures.read_failures(status) == known
    assert failures.read_failures({}) == ()


pods = st.fixed_dictionaries(
    {
        "ready": st.booleans(),
        "running": st.booleans(),
        "terminating": st.booleans(),
        "node": st.sampled_from(["", "n1", "lost"]),
        "waiting": st.sampled_from(["", "ImagePullBackOff", "CrashLoopBackOff"]),
        "mounted": st.booleans(),
        "restarts": st.integers(0, 3),
        "rejected_at": st.none() | st.sampled_from([NOW - 100, NOW - 1]),
        "bound_at": st.none() | st.sampled_from([NOW - 100, NOW - 1]),
        "trouble": st.sampled_from(["", NO_CPU, NO_GPU]),
        "old": st.booleans(),
        "state": st.none() | st.tuples(st.integers(0, 2), st.sampled_from([0.1, 4.9, 30.0])),
    }
)
records = st.lists(
    st.tuples(
        st.sampled_from(["", "rtx-4090"]), st.integers(1, 9), st.sampled_from([NOW - 5, NOW - 500])
    ),
    max_size=2,
)


@given(
    st.lists(pods, max_size=5),
    records,
    st.integers(0, 5),
    st.sampled_from(["fallThrough", "wait", "createPending"]),
)
def test_no_plan_deletes_a_pod_that_may_have_sessions(
    scenarios: Scenarios,
    make: Make,
    kinds: list[dict[str, Any]],
    known: list[tuple[str, int, float]],
    replicas: int,
    when_full: str,
) -> None:
    scenario = scenarios(replicas=replicas, gpus=3, placement={"whenFull": when_full})
    scenario.failures = tuple(
        failure(scenario, gpu_class=gpu_class, rounds=rounds, failed_at=at)
        for gpu_class, rounds, at in known
    )
    for number, kind in enumerate(kinds):
        fields = dict(kind)
        state, old = fields.pop("state"), fields.pop("old")
        if fields["node"]:
            fields["rejected_at"] = None
        else:
            fields.update(running=False, ready=False, bound_at=None)
        scenario.add(
            f"p{number}",
            None if state is None else make.state(state[0], age_s=state[1]),
            **fields,
            **({"spec_hash": "old"} if old else {}),
        )
    plan = scenario.plan()
    by_uid = {pod.uid: pod for pod in scenario.pods}
    deletes = [each for each in plan.actions if isinstance(each, DeletePod)]
    assert len({each.uid for each in deletes}) == len(deletes)
    for delete in deletes:
        pod, state = by_uid[delete.uid], scenario.states.get(delete.uid)
        assert not pod.terminating
        if pod.running:
            assert state is not None
            assert (state.sessions, state.draining) == (0, True)
        else:
            assert delete.resource_version == pod.resource_version
    used = sum(pod.node == "n1" for pod in scenario.pods)
    used += sum(not pod.node and pod.rejected_at is None for pod in scenario.pods)
    created = len(plan.new_pods)
    assert created <= max(0, 3 - used) or when_full == "createPending"
    healthy = any(
        pod.ready and pod.spec_hash == scenario.hash and not pod.ended for pod in scenario.pods
    )
    assert created <= 1 or healthy or not plan.failures
    if any(not each.gpu_class and NOW < each.retry_at for each in plan.failures):
        assert not created or healthy
