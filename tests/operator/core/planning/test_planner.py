from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.planning import planner, scale_up
from avatar_operator.core.planning.disruption import ProtectPod, ReleasePod
from avatar_operator.core.planning.planner import (
    ApplyBudget,
    ApplyControlSecret,
    CreatePod,
    DeletePod,
    DrainPod,
    UndrainPod,
)
from avatar_operator.core.resources.departure import TAINTS
from avatar_operator.core.resources.node import Taint
from avatar_operator.names import Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios

NOW = 10_000.0


def test_a_new_service_gets_its_secret_and_its_pods(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2)
    scenario.has_secret = False
    first, second = f"concierge-{scenario.hash[:5]}-0", f"concierge-{scenario.hash[:5]}-1"
    assert scenario.actions() == [("ApplyControlSecret", "concierge"), ("CreatePod", first)]
    create = scenario.plan().actions[1]
    assert isinstance(create, CreatePod)
    assert (create.gpu_class, create.because) == ("rtx-4090", Reason.SCALING_UP)
    assert create.reason == "0 of 1 pods exist, rtx-4090 has 2 of 2 GPUs free"
    scenario.has_secret = True
    scenario.add(first, ready=False, running=False)  # a node has accepted it
    assert scenario.actions() == [("CreatePod", second)]
    create = scenario.plan().actions[0]
    assert isinstance(create, CreatePod)
    assert (create.gpu_class, create.because) == ("rtx-4090", Reason.SCALING_UP)
    assert create.reason == "1 of 2 pods exist, rtx-4090 has 1 of 2 GPUs free"
    assert ApplyControlSecret("x").gpu_class is None


def test_the_same_cluster_gives_the_same_names(scenarios: Scenarios) -> None:
    assert scenarios(replicas=2).actions() == scenarios(replicas=2).actions()


def test_no_more_pods_are_created_than_gpus_are_free(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=5, gpus=3)
    scenario.prove()
    plan = scenario.plan()
    assert len(plan.actions) == 3
    assert plan.missing == 2


def test_the_next_class_is_filled_when_the_first_is_full(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=3, placement={"gpuClasses": ["rtx-4090", "h100-80gb", "gone"]})
    scenario.profiles = list(make.shipped())
    labels = {"nvidia.com/gpu.product": "NVIDIA-H100-PCIe", "nvidia.com/gpu.memory": "81559"}
    scenario.nodes.append(make.node("n2", labels=labels))
    scenario.prove()
    classes = [action.gpu_class for action in scenario.plan().actions]
    assert classes == ["rtx-4090", "rtx-4090", "h100-80gb"]


def test_names_in_use_are_not_given_again(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.add(f"concierge-{scenario.hash[:5]}-0", terminating=True)
    assert scenario.actions() == [("CreatePod", f"concierge-{scenario.hash[:5]}-1")]


def test_a_service_that_is_as_it_should_be_is_left_alone(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(2))
    plan = scenario.plan()
    assert (plan.actions, plan.wake_after_s, plan.missing) == ((), None, 0)


def test_the_pod_with_the_fewest_sessions_drains_first(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(2))
    scenario.add("p1", make.state(1))
    assert scenario.actions() == [("DrainPod", "p1")]


def test_a_pod_that_was_never_heard_goes_before_a_full_one(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(5))
    scenario.add("p1")
    assert scenario.actions() == []  # it may have sessions: nothing is done until it is heard
    scenario.add("p2", make.state(0))
    assert scenario.actions() == [("DrainPod", "p2")]


def test_a_pod_that_drains_already_goes_on_draining(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(2, draining=True))
    scenario.add("p1", make.state(0))
    assert scenario.actions() == []


@pytest.mark.parametrize(
    ("state", "actions", "wake_after_s"),
    [
        pytest.param({"sessions": 1, "draining": True}, [], None, id="sessions go on"),
        pytest.param(
            {"sessions": 0, "draining": True}, [("DeletePod", "p1")], None, id="drained and empty"
        ),
        pytest.param(
            {"sessions": 0, "draining": True, "age_s": 1.0}, [], 0.25, id="empty a second ago"
        ),
        pytest.param(
            {"sessions": 0, "draining": False}, [("DrainPod", "p1")], None, id="empty, accepting"
        ),
        pytest.param(None, [], 1.0, id="nothing known"),
    ],
)
def test_a_pod_is_deleted_only_when_it_just_said_that_it_is_drained_and_empty(
    scenarios: Scenarios,
    make: Make,
    state: dict[str, Any] | None,
    actions: list[tuple[str, str]],
    wake_after_s: float | None,
) -> None:
    scenario = scenarios(replicas=0)
    scenario.add("p1", None if state is None else make.state(**state))
    assert scenario.actions() == actions
    assert scenario.plan().wake_after_s == wake_after_s


def test_a_pod_that_never_started_is_deleted_in_exactly_this_version(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=0)
    scenario.add("p0", running=False, ready=False)
    (delete,) = scenario.plan().actions
    assert isinstance(delete, DeletePod)
    assert (delete.uid, delete.resource_version) == ("uid-p0", "7")


def test_a_drained_pod_is_deleted_by_its_uid_and_version(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=0)
    scenario.add("p0", make.state(draining=True))
    (delete,) = scenario.plan().actions
    assert isinstance(delete, DeletePod)
    assert (delete.uid, delete.resource_version) == ("uid-p0", "7")


def test_a_draining_pod_that_is_needed_again_accepts_sessions_again(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", make.state(1, draining=True))
    scenario.add("p1", make.state(1))
    (action,) = scenario.plan().actions
    assert isinstance(action, UndrainPod)
    assert (action.name, action.gpu_class) == ("p0", "rtx-4090")


def test_a_failed_pod_is_replaced_at_once_and_kept_until_then(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", phase="Failed", failed_at=NOW - 1)
    (create,) = scenario.plan().actions
    assert isinstance(create, CreatePod)
    assert create.because is Reason.REPLACING
    scenario.add("p1")
    assert scenario.actions() == [("DeletePod", "p0")]


def test_pods_that_fail_again_and_again_are_replaced_less_often(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", phase="Failed", failed_at=NOW - 20)
    scenario.add("p1", phase="Failed", failed_at=NOW - 4)
    plan = scenario.plan()
    assert (plan.actions, plan.wake_after_s, plan.missing) == ((), 6.0, 0)
    assert len(scenario.plan(NOW + 6).actions) == 1


def test_only_the_latest_failures_are_kept(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    for number in range(7):
        scenario.add(f"p{number}", phase="Failed", failed_at=NOW - 100 + number)
    scenario.add("old", phase="Failed", failed_at=NOW, spec_hash="old")
    deleted = [name for kind, name in scenario.actions() if kind == "DeletePod"]
    assert deleted == ["p0", "p1", "old"]


def test_a_pod_on_a_lost_node_is_replaced_and_left_alone(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.nodes.append(make.node("n2", ready=False))
    scenario.add("p0", make.state(3), node="n2")
    (create,) = scenario.plan().actions
    assert isinstance(create, CreatePod)
    assert create.because is Reason.REPLACING


def test_a_pod_of_an_earlier_service_of_that_name_is_left_to_the_collector(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", owner_uid="another")
    assert [kind for kind, _ in scenario.actions()] == ["CreatePod"]


def test_a_rollout_brings_the_new_pod_first(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1), spec_hash="old")
    (create,) = scenario.plan().actions
    assert isinstance(create, CreatePod)
    assert create.because is Reason.ROLLING_OUT
    scenario.add("new", ready=False)
    assert scenario.actions() == []
    scenario.pods[-1] = dataclasses.replace(scenario.pods[-1], ready=True)
    (drain,) = scenario.plan().actions
    assert isinstance(drain, DrainPod)
    assert (drain.name, drain.because) == ("old", Reason.ROLLING_OUT)


def test_without_a_spare_gpu_one_old_pod_makes_room(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("old-a", make.state(2), spec_hash="old")
    scenario.add("old-b", make.state(1), spec_hash="old")
    assert scenario.actions() == [("DrainPod", "old-b")]
    scenario.states["uid-old-b"] = make.state(1, draining=True)
    assert scenario.actions() == []
    scenario.pods[1] = dataclasses.replace(scenario.pods[1], terminating=True)
    assert scenario.actions() == []


def test_no_old_pod_makes_room_for_new_ones_that_could_not_run_there(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, gpus=1, batchSize=64)
    scenario.add("old", make.state(1), spec_hash="old")
    plan = scenario.plan()
    assert (plan.actions, plan.missing) == ((), 1)


def test_a_class_that_is_no_longer_allowed_is_left(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1, placement={"gpuClasses": ["h100-80gb"]})
    pod = scenario.add("p0", make.state(1))
    assert scenario.plan().fleet.outdated == (pod,)
    scenario = scenarios(replicas=1, placement={"gpuClasses": ["rtx-4090"]})
    pod = scenario.add("p0", make.state(1))
    assert scenario.plan().fleet.current == (pod,)


pod_kinds = st.fixed_dictionaries(
    {
        "hash": st.sampled_from(["current", "old"]),
        "phase": st.sampled_from(["Pending", "Running", "Failed"]),
        "ready": st.booleans(),
        "terminating": st.booleans(),
        "node": st.sampled_from(["n1", "gone"]),
        "state": st.none()
        | st.fixed_dictionaries(
            {
                "sessions": st.integers(0, 2),
                "draining": st.booleans(),
                "age_s": st.sampled_from([0.1, 0.9, 1.0, 30.0]),
            }
        ),
    }
)


@given(st.lists(pod_kinds, max_size=6), st.integers(0, 4), st.integers(0, 6))
def test_no_plan_ends_a_session_or_takes_a_gpu_that_is_not_there(
    scenarios: Scenarios, make: Make, kinds: list[dict[str, Any]], replicas: int, gpus: int
) -> None:
    scenario = scenarios(replicas=replicas, gpus=gpus)
    for number, kind in enumerate(kinds):
        running = kind["phase"] == "Running"
        scenario.add(
            f"p{number}",
            None if kind["state"] is None or not running else make.state(**kind["state"]),
            spec_hash=scenario.hash if kind["hash"] == "current" else "old",
            phase=kind["phase"],
            running=running,
            ready=kind["ready"] and running,
            terminating=kind["terminating"],
            node=kind["node"],
            failed_at=NOW - 500 if kind["phase"] == "Failed" else None,
        )
    plan = scenario.plan()
    by_name = {pod.name: pod for pod in scenario.pods}
    creates = [action for action in plan.actions if isinstance(action, CreatePod)]
    used = sum(not pod.ended and pod.node == "n1" for pod in scenario.pods)
    assert len(creates) <= max(0, gpus - used)
    assert not {create.name for create in creates} & set(by_name)
    assert len(plan.fleet.current) + len(creates) <= max(replicas, len(plan.fleet.current))
    marks = ProtectPod | ReleasePod
    touched = [action.name for action in plan.actions if not isinstance(action, marks)]
    assert len(touched) == len(set(touched))
    for action in plan.actions:
        if isinstance(action, DeletePod) and by_name[action.name].running:
            state = scenario.states[by_name[action.name].uid]
            assert (state.sessions, state.draining) == (0, True)
            assert state.age_s < planner.FRESH_S
        if isinstance(action, DrainPod | DeletePod):
            assert not by_name[action.name].terminating


@given(st.integers(0, 3), st.integers(1, 4), st.data())
def test_a_service_reaches_what_it_wants_and_then_rests(
    scenarios: Scenarios, make: Make, before: int, gpus: int, data: st.DataObject
) -> None:
    """Play the cluster: pods start, sessions end, drained pods are deleted."""
    replicas = data.draw(st.integers(0, gpus))
    scenario = scenarios(replicas=replicas, gpus=gpus)
    for number in range(min(before, gpus)):
        state = make.state(data.draw(st.integers(0, 2)))
        old = data.draw(st.booleans())
        scenario.add(f"p{number}", state, spec_hash="old" if old else scenario.hash)
    for _ in range(20):
        plan = scenario.plan()
        if not plan.actions and all(not state.sessions for state in scenario.states.values()):
            break
        _play(scenario, plan)
    assert [pod.spec_hash for pod in scenario.pods] == [scenario.hash] * replicas


def _play(scenario: Scenario, plan: planner.Plan) -> None:
    for uid, state in scenario.states.items():
        left, empty_s = max(0, state.sessions - 1), state.empty_s + 1.0
        scenario.states[uid] = dataclasses.replace(
            state, sessions=left, empty_s=0.0 if state.sessions else empty_s
        )
    for action in plan.actions:
        match action:
            case CreatePod():
                scenario.add(action.name, scenario.make.state())
            case DrainPod() | UndrainPod():
                draining = isinstance(action, DrainPod)
                state = scenario.states[action.uid]
                scenario.states[action.uid] = dataclasses.replace(state, draining=draining)
            case DeletePod():
                scenario.pods = [pod for pod in scenario.pods if pod.uid != action.uid]
                del scenario.states[action.uid]
            case ProtectPod() | ReleasePod():
                live = isinstance(action, ProtectPod)
                scenario.pods = [
                    dataclasses.replace(pod, live=live, shielded=live)
                    if pod.uid == action.uid
                    else pod
                    for pod in scenario.pods
                ]
            case ApplyControlSecret() | ApplyBudget():
                raise AssertionError("the Secret and the budget are there")


PENDING = {"whenFull": "createPending"}


def test_pods_are_created_for_nodes_to_come_once(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=3, placement=PENDING)
    scenario.prove()
    creates = [each for each in scenario.plan().actions if isinstance(each, CreatePod)]
    assert len(creates) == 3
    for number in range(3):
        node = "n1" if number < 2 else ""
        scenario.add(f"p{number}", ready=False, running=False, node=node)
    assert scenario.actions() == []


def test_a_rollout_makes_room_rather_than_wait_for_a_node(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2, placement=PENDING)
    for number in range(2):
        scenario.add(f"old{number}", make.state(1), spec_hash="old")
    assert scenario.actions() == [("DrainPod", "old0")]


def test_a_cordoned_node_is_replaced_by_one_to_come(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1, placement=PENDING)
    scenario.nodes = [make.node(unschedulable=True)]
    scenario.add("p0", make.state(1))
    assert [kind for kind, _ in scenario.actions()] == ["CreatePod"]


def test_a_class_whose_only_node_is_lost_is_asked_for_by_its_labels(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, placement=PENDING)
    scenario.nodes = [make.node(ready=False)]
    (create,) = (each for each in scenario.plan().actions if isinstance(each, CreatePod))
    assert ("nvidia.com/gpu.memory", "24564") in create.pool.stock.selectors[0]
    scenario.nodes = []  # a class that was never seen: nobody knows its labels
    plan = scenario.plan()
    assert (plan.missing, plan.actions) == (1, ())


def test_a_class_that_was_never_seen_is_asked_for_by_the_labels_of_its_profile(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, placement=PENDING)
    labels = {"karpenter.k8s.aws/instance-gpu-name": "l4"}
    scenario.profiles = [make.profile(newNodes={"labels": labels})]
    scenario.nodes = []
    (create,) = (each for each in scenario.plan().actions if isinstance(each, CreatePod))
    assert create.pool.stock.selectors == (tuple(labels.items()),)
    scenario.nodes = [make.node(gpus=0)]  # full: a node like it, or one that Karpenter knows
    (create,) = (each for each in scenario.plan().actions if isinstance(each, CreatePod))
    known, new = create.pool.stock.selectors
    assert ("nvidia.com/gpu.memory", "24564") in known
    assert new == tuple(labels.items())
    scenario.nodes = [make.node(gpus=1)]  # a free GPU: no pod may start anywhere else
    (create,) = (each for each in scenario.plan().actions if isinstance(each, CreatePod))
    assert create.pool.stock.selectors == (known,)


def test_a_pod_on_a_cordoned_node_makes_no_room(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.nodes = [make.node(unschedulable=True)]
    scenario.add("p0", make.state(1))
    plan = scenario.plan()
    assert (plan.missing, plan.actions) == (1, ())  # no new pod could use its GPU


@pytest.mark.parametrize(
    "key",
    [
        "karpenter.sh/disrupted",
        "karpenter.sh/disruption",
        "ToBeDeletedByClusterAutoscaler",
        "aws-node-termination-handler/rebalance-recommendation",
    ],
)
def test_a_node_that_leaves_keeps_its_pod_until_another_is_ready(
    scenarios: Scenarios, make: Make, key: str
) -> None:
    scenario = scenarios(replicas=1)
    leaving = make.node(taints=(Taint(key, "", "NoSchedule"),))
    scenario.nodes = [leaving]
    scenario.add("p0", make.state(1))
    assert scenario.plan().actions == ()  # no other GPU: its sessions go on
    scenario.nodes = [leaving, make.node("n2")]
    assert [kind for kind, _ in scenario.actions()] == ["CreatePod"]
    scenario.add("p1", make.state(0), node="n2")
    (drain,) = scenario.plan().actions
    assert isinstance(drain, DrainPod)
    assert (drain.name, drain.because) == ("p0", Reason.NODE_LEAVING)


def test_a_pod_leaves_a_disrupted_node_although_it_tolerates_every_taint(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, placement={"tolerations": [{"operator": "Exists"}]})
    scenario.nodes = [make.node(taints=(Taint("karpenter.sh/disrupted", "", "NoSchedule"),))]
    scenario.add("p0", make.state(1))
    assert scenario.plan().missing == 1


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"taints": (Taint(key, "", "NoSchedule"),)}, id=key)
        for key, departure in TAINTS.items()
        if departure.at_once
    ]
    + [pytest.param({"event": "Preempt"}, id="event of Azure")],
)
def test_a_node_that_leaves_at_once_takes_no_new_sessions(
    scenarios: Scenarios, make: Make, changes: dict[str, Any]
) -> None:
    scenario = scenarios(replicas=1)
    scenario.nodes = [make.node(**changes)]
    scenario.add("p0", make.state(1))
    (drain,) = scenario.plan().actions
    assert isinstance(drain, DrainPod)
    assert drain.because is Reason.NODE_LEAVING


def test_a_pod_on_a_candidate_of_the_cluster_autoscaler_leaves_first(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    taint = Taint("DeletionCandidateOfClusterAutoscaler", "1", "PreferNoSchedule")
    scenario.nodes = [make.node(), make.node("n2", taints=(taint,))]
    scenario.add("p0", make.state(0))
    scenario.add("p1", make.state(0), node="n2")
    assert scenario.actions() == [("DrainPod", "p1")]
    scenario.states["uid-p1"] = make.state(1)  # a hint never outweighs a session
    assert ("DrainPod", "p0") in scenario.actions()


def test_a_pod_that_was_asked_to_drain_makes_room(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1, gpus=1)
    scenario.add("p0", make.state(1), drain_asked=True)
    (drain,) = scenario.plan().actions
    assert isinstance(drain, DrainPod)
    assert (drain.name, drain.because) == ("p0", Reason.DRAIN_ASKED)


def test_only_one_outdated_pod_makes_room_at_a_time(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2, gpus=2)
    scenario.add("p0", make.state(1), spec_hash="old")
    scenario.add("p1", make.state(2), spec_hash="old")
    assert scenario.actions() == [("DrainPod", "p0")]
    scenario.add("p2", terminating=True)
    assert scenario.actions() == []  # p2 makes room already


def test_no_pod_makes_room_on_a_class_that_cannot_serve(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1, gpus=1)
    scenario.add("p0", make.state(1), spec_hash="old", gpu_class="gone")
    assert scenario.actions() == []


def test_no_pod_makes_room_while_a_new_one_starts(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2, gpus=2)
    scenario.add("old", make.state(1), spec_hash="old")
    scenario.add("new", ready=False, running=True, created_at=NOW)
    assert scenario.plan().missing == 1
    assert scenario.actions() == []


def test_a_pod_that_has_not_started_is_removed_before_a_ready_one(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(0))
    scenario.add("p1", ready=False, running=False)
    assert scenario.actions() == [("DeletePod", "p1")]


def test_a_pod_of_the_least_preferred_class_is_removed_first(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, placement={"gpuClasses": ["rtx-4090", "l4"]})
    scenario.profiles = list(make.shipped())
    scenario.add("p0", make.state(0), gpu_class="rtx-4090")
    scenario.add("p1", make.state(0), gpu_class="l4")
    assert scenario.actions() == [("DrainPod", "p1")]


def test_all_failed_pods_are_deleted_once_enough_pods_are_ready(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", phase="Failed", failed_at=NOW - 9)
    scenario.add("p1", phase="Succeeded", failed_at=NOW - 8)
    scenario.add("p2", make.state(0))
    deleted = [each for each in scenario.plan().actions if isinstance(each, DeletePod)]
    assert [(each.name, each.reason) for each in deleted] == [
        ("p0", "its phase is Failed"),
        ("p1", "its phase is Succeeded"),
    ]
    assert {each.because for each in deleted} == {Reason.REPLACING}


@pytest.mark.parametrize(
    ("failures", "wait_s"), [(1, 0.0), (2, 10.0), (3, 20.0), (5, 80.0), (7, 80.0)]
)
def test_each_further_failure_doubles_the_back_off(
    scenarios: Scenarios, failures: int, wait_s: float
) -> None:
    scenario = scenarios(replicas=1)
    for number in range(failures):
        scenario.add(f"p{number}", phase="Failed", failed_at=NOW)
    assert scale_up.back_off_s(scenario.plan().fleet, scenario.hash, NOW) == wait_s


def test_orphans_are_deleted_in_their_version_and_not_twice(make: Make) -> None:
    deleted = planner.delete_orphans([make.pod("p1"), make.pod("p0", terminating=True)])
    assert [(each.uid, each.resource_version, each.because) for each in deleted] == [
        ("uid-p1", "7", Reason.SERVICE_GONE)
    ]


def test_a_paused_service_is_planned_but_only_protected(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2)
    scenario.service = dataclasses.replace(scenario.service, paused=True)
    scenario.has_secret = scenario.has_pdb = False
    scenario.add("p0", make.state(1), live=False, shielded=False)
    assert scenario.actions() == [("ProtectPod", "p0")]
    assert scenario.plan().new_pods == ()


def test_a_new_pod_whose_state_is_unknown_replaces_no_old_pod(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1, gpus=2)
    scenario.add("old", make.state(0), spec_hash="old")
    new = scenario.add("new")
    scenario.silent = {new.uid: "HTTP status 401"}
    assert scenario.actions() == []
    scenario.silent = {}
    scenario.states[new.uid] = make.state(0)
    assert scenario.actions() == [("DrainPod", "old")]


def test_old_pods_whose_sessions_are_unknown_are_neither_drained_nor_deleted(
    scenarios: Scenarios, make: Make
) -> None:
    """As after the loss of the master key, until the pods accept the new tokens."""
    scenario = scenarios(replicas=2, gpus=4)
    old = [scenario.add(name, spec_hash="old") for name in ("o0", "o1")]
    for name in ("n0", "n1"):
        scenario.add(name, make.state(0))
    scenario.silent = {pod.uid: "the pod refused every token" for pod in old}
    assert scenario.actions() == []
    scenario.silent = {}
    for pod in old:
        scenario.states[pod.uid] = make.state(1)
    assert ("DrainPod", "o0") in scenario.actions()
    assert not [kind for kind, _ in scenario.actions() if kind == "DeletePod"]


@pytest.mark.parametrize("paused", [False, True])
def test_a_relabelled_pod_counts_and_gets_its_labels_back(
    scenarios: Scenarios, make: Make, paused: bool
) -> None:
    scenario = scenarios(replicas=1)
    scenario.service = dataclasses.replace(scenario.service, paused=paused)
    scenario.add("p0", make.state(1), relabelled=True)
    scenario.add("p1", relabelled=True, owner_uid="an earlier service")
    scenario.add("p2", relabelled=True, terminating=True)
    assert scenario.actions() == [("RestoreLabels", "p0")]


def test_a_rollout_is_planned_again_after_a_second(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1, gpus=2)
    scenario.add("old", make.state(1), spec_hash="old")
    assert scenario.plan().wake_after_s == planner.ROLLING_S
    scenario.service = dataclasses.replace(scenario.service, paused=True)
    assert scenario.plan().wake_after_s is None


def test_a_pod_that_is_deleted_keeps_its_protection_until_it_is_gone(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=0)
    state = make.state(0, draining=True, empty_s=9.0)
    scenario.add("p0", state, live=True, shielded=True)
    assert scenario.actions() == [("DeletePod", "p0")]  # one write, not two


def test_a_pod_without_a_state_is_removed_before_one_with_a_session(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1))
    scenario.add("p1")
    assert scenario.actions() == []  # p1 leaves, once its state is known
    assert scenario.plan().wake_after_s == planner.FRESH_S
