from __future__ import annotations

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.autoscaling.inputs import ScalingContext
from avatar_operator.core.planning.failures import Failure
from avatar_operator.core.planning.quotas import QuotaShare, TenantTerms
from avatar_operator.core.resources.gpu_profile import Calibration, Device
from avatar_operator.core.resources.node import Taint
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.core.resources.tenant import Quota
from avatar_operator.core.status import conditions
from avatar_operator.core.status.refusals import FailedAction
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scenario, Scenarios

    from avatar_operator.core.status.findings import Finding

ANY = {"products": ["*H100*"], "memoryMiB": {"min": 1, "max": 10**6}}
NOW = 10_000.0
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-PCIe", "nvidia.com/gpu.memory": "81559"}


def find(scenario: Scenario, *failures: FailedAction) -> dict[Condition, Finding]:
    found = conditions.find(scenario.service, scenario.plan(), scenario.states, failures)
    return {finding.condition: finding for finding in found}


def said(scenario: Scenario, condition: Condition) -> tuple[bool | None, Reason, str]:
    finding = find(scenario)[condition]
    return finding.status, finding.reason, finding.message


def test_enough_ready_pods_are_ready(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1))
    assert said(scenario, Condition.READY) == (True, Reason.SERVING, "1 of 1 pods take sessions")
    assert said(scenario, Condition.PROGRESSING)[:2] == (False, Reason.UP_TO_DATE)
    assert said(scenario, Condition.GPU_AVAILABLE)[:2] == (True, Reason.GPU_ALLOCATED)
    assert said(scenario, Condition.DRAINING)[:2] == (False, Reason.NOT_DRAINING)
    assert said(scenario, Condition.STATE_FRESH)[:2] == (True, Reason.STATE_KNOWN)
    assert said(scenario, Condition.DEGRADED)[:2] == (False, Reason.APPLIED)


def test_a_service_without_pods_on_purpose_is_ready(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=0)
    assert said(scenario, Condition.READY)[:2] == (True, Reason.SCALED_TO_ZERO)
    assert said(scenario, Condition.GPU_AVAILABLE)[:2] == (True, Reason.NOTHING_ASKED)


def test_pods_to_come_are_starting(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", ready=False, running=False)
    assert said(scenario, Condition.READY) == (
        False,
        Reason.PODS_STARTING,
        "0 of 2 pods take sessions; starting: p0",
    )
    assert said(scenario, Condition.PROGRESSING) == (
        True,
        Reason.SCALING_UP,
        "2 of 2 pods are starting",
    )


def test_no_free_gpu_says_what_was_asked_and_what_there_is(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=3, placement={"gpuClasses": ["rtx-4090", "a100-80gb"]})
    scenario.profiles = list(make.shipped())
    scenario.nodes.append(make.node("n2", labels=H100, gpus=1))
    for name in ("p0", "p1"):
        scenario.add(name, make.state())
    message = (
        "no free GPU: needs rtx-4090 or a100-80gb; the cluster has rtx-4090 0 free of 2, "
        "h100-80gb 1 free of 1 (not allowed by spec.placement.gpuClasses)"
    )
    assert said(scenario, Condition.GPU_AVAILABLE) == (False, Reason.NO_FREE_GPU, message)
    assert said(scenario, Condition.READY) == (False, Reason.NO_FREE_GPU, message)
    assert said(scenario, Condition.PROGRESSING)[:2] == (False, Reason.NO_FREE_GPU)


def test_no_gpu_node_says_so_and_names_the_nodes_left_out(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.nodes = [make.node(f"n{number}", ready=False) for number in range(4)]
    _, reason, message = said(scenario, Condition.GPU_AVAILABLE)
    assert reason is Reason.NO_GPU_NODE
    assert message == (
        "no matching GPU node: needs any class with a curve for v15/sd-vae/fp16; the cluster has "
        "nodes n0, n1, n2 and 1 more excluded: not ready"
    )
    scenario.nodes = []
    assert said(scenario, Condition.GPU_AVAILABLE)[2].endswith("the cluster has none")


def test_a_class_that_cannot_hold_the_batch_says_why(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2, batchSize=64)
    assert said(scenario, Condition.GPU_AVAILABLE)[1] is Reason.NO_BATCH_FITS
    assert "rtx-4090: spec.batchSize is 64 and needs" in said(scenario, Condition.READY)[2]
    scenario.profiles = list(make.shipped())
    scenario.nodes.append(make.node("n2", labels=H100, gpus=1))
    scenario.add("p0", make.state(), gpu_class="h100-80gb", node="n2")
    _, reason, message = said(scenario, Condition.GPU_AVAILABLE)
    assert reason is Reason.NO_FREE_GPU
    assert "rtx-4090 2 free of 2 (spec.batchSize is 64 and needs" in message


def test_a_class_that_is_waited_for_is_named(scenarios: Scenarios, make: Make) -> None:
    placement = {"whenFull": "wait", "gpuClasses": ["rtx-4090", "other"]}
    scenario = scenarios(replicas=3, placement=placement)
    scenario.profiles.append(make.profile("other", match=ANY))
    scenario.nodes.append(make.node("n2", labels=H100, gpus=4))
    scenario.add("p0")
    scenario.add("p1")
    status, reason, message = said(scenario, Condition.GPU_AVAILABLE)
    assert (status, reason) == (False, Reason.NO_FREE_GPU)
    assert "needs rtx-4090 (spec.placement.whenFull is wait)" in message


def calibrate(scenario: Scenario, factor: float) -> None:
    given = scenario.profiles[0].curves[0]
    points = tuple((b, ms * factor) for b, ms in given.frame_batch_ms)
    curve = replace(given, frame_batch_ms=points)
    measured = Calibration(curve, Device.CUDA, "acme/p9", "n1", "2026-01-01T00:00:00Z")
    scenario.profiles[0] = replace(scenario.profiles[0], calibrations=(measured,))


def test_batches_are_calibrated_once_a_pod_has_measured_the_class(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    assert said(scenario, Condition.BATCH_CALIBRATED) == (
        False,
        Reason.NOT_CALIBRATED,
        "no pod has measured rtx-4090 yet",
    )
    calibrate(scenario, 1.1)
    assert said(scenario, Condition.BATCH_CALIBRATED) == (
        True,
        Reason.CALIBRATED,
        "rtx-4090 measured by acme/p9",
    )


def test_a_measurement_that_contradicts_the_profile_is_told(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0")
    calibrate(scenario, 3)
    assert said(scenario, Condition.BATCH_CALIBRATED) == (
        False,
        Reason.CALIBRATION_DIFFERS,
        "measurements differ from the GPUProfile and are used: "
        "rtx-4090: a batch of 1 takes 67 ms instead of 22 (+200%)",
    )
    assert said(scenario, Condition.READY)[0]  # it informs, and blocks nothing


def test_without_a_class_that_serves_nothing_is_calibrated(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1, batchSize=64)
    message = said(scenario, Condition.BATCH_CALIBRATED)[2]
    assert message == "no pod has measured a class that can serve yet"


def test_a_cluster_without_profiles_says_so(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.profiles = []
    assert said(scenario, Condition.READY)[1] is Reason.NO_PROFILE


def test_what_keeps_pods_from_starting_is_the_reason(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", ready=False, running=False, trouble="ErrImagePull: no such image")
    scenario.add("p1", phase="Failed", failed_at=0.0, trouble="Evicted")
    status, reason, message = said(scenario, Condition.READY)
    assert (status, reason) == (False, Reason.PODS_FAILING)
    assert message == (
        "0 of 2 pods take sessions; p0: ErrImagePull: no such image; p1 Failed: Evicted"
    )


def test_a_lost_node_is_named_with_the_sessions_that_it_had(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", node="gone")
    assert "p0 is on the lost node gone" in said(scenario, Condition.READY)[2]
    scenario.add("p1", make.state(3), node="gone")
    scenario.add("p2", make.state())
    assert said(scenario, Condition.READY)[0]  # another one serves in its place
    why = "p0 is on the lost node gone; p1 is on the lost node gone with 3 sessions"
    assert said(scenario, Condition.DEGRADED) == (True, Reason.NODE_LOST, why)


def test_waiting_before_the_next_try_is_progress(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    for number in range(2):
        scenario.add(f"p{number}", phase="Failed", failed_at=10_000.0)
    assert said(scenario, Condition.PROGRESSING)[:2] == (True, Reason.REPLACING)


def quota(pods: int, new: int, others: int) -> TenantTerms:
    share = QuotaShare(Quota(gpus=3), pods=pods, new=new, cost_left=None, others=others)
    return TenantTerms("acme", share=share)


def test_a_service_whose_quota_allows_no_pod_is_not_ready(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2)
    scenario.tenant = quota(pods=0, new=0, others=3)
    why = "AvatarTenant acme may use 3 GPUs (spec.limits.gpus), its other services use 3"
    message = f"the service may have no pod; {why}"
    assert said(scenario, Condition.READY) == (False, Reason.TENANT_QUOTA, message)
    assert said(scenario, Condition.SCALING_LIMITED)[2] == f"wants 2 pods, may have 0; {why}"
    waits = "waiting until the limits of AvatarTenant acme allow a pod"
    assert said(scenario, Condition.PROGRESSING) == (False, Reason.TENANT_QUOTA, waits)


def test_a_full_quota_of_cost_names_its_field(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2)
    limit = Quota(cost_per_hour=Decimal("8.50"))
    share = QuotaShare(limit, pods=0, new=0, cost_left=Decimal(0), cost=Decimal("8.50"))
    scenario.tenant = TenantTerms("acme", share=share)
    why = "AvatarTenant acme may spend 8.50 per hour (spec.limits.costPerHour), its pods cost 8.50"
    assert why in said(scenario, Condition.READY)[2]
    assert why in said(scenario, Condition.SCALING_LIMITED)[2]


def test_a_service_that_wants_no_pod_is_ready_beside_a_full_quota(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=0)
    scenario.tenant = quota(pods=0, new=0, others=3)
    assert said(scenario, Condition.READY)[:2] == (True, Reason.SCALED_TO_ZERO)
    assert said(scenario, Condition.PROGRESSING)[:2] == (False, Reason.UP_TO_DATE)


def test_an_unknown_class_is_told_behind_a_full_quota(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2, placement={"gpuClasses": ["rtx-9090"]})
    message = "no GPU class can serve: rtx-9090: there is no GPUProfile rtx-9090"
    expected = (False, Reason.NO_BATCH_FITS, message)
    assert said(scenario, Condition.READY) == expected
    scenario.tenant = quota(pods=0, new=0, others=3)
    assert said(scenario, Condition.GPU_AVAILABLE) == expected
    assert said(scenario, Condition.READY) == expected


@pytest.mark.parametrize(
    ("pods", "placement", "reason"),
    [
        (0, {"gpuClasses": ["rtx-9090"]}, Reason.NO_BATCH_FITS),
        (2, {"gpuClasses": ["rtx-9090"]}, Reason.NO_BATCH_FITS),
        (0, {"gpuClasses": ["rtx-4090"]}, Reason.TENANT_QUOTA),
        (2, {"gpuClasses": ["rtx-4090"]}, Reason.NO_FREE_GPU),
    ],
    ids=["unknown, quota full", "unknown", "quota full", "cluster full"],
)
def test_a_service_that_can_get_no_pod_is_never_ready(
    scenarios: Scenarios, make: Make, pods: int, placement: dict[str, object], reason: Reason
) -> None:
    """Also with an autoscaler, whose limits are a full cluster and a quota at the same time."""
    policy = {"minReplicas": 1, "maxReplicas": 3}
    scenario = scenarios(autoscaling=policy, placement=placement)
    scenario.context = ScalingContext()
    scenario.uses_of_others = [PodUse(node.name, node.gpus, "rtx-4090") for node in scenario.nodes]
    scenario.tenant = quota(pods=pods, new=pods, others=3 - pods)
    assert said(scenario, Condition.READY)[:2] == (False, reason)


def test_pods_that_wait_for_others_of_the_tenant_to_end_have_not_failed(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", make.state(1))
    scenario.tenant = quota(pods=2, new=0, others=2)
    status, reason, message = said(scenario, Condition.READY)
    assert (status, reason) == (True, Reason.SERVING)  # a fixed number is bound by what is left
    assert message == "1 of 1 pods take sessions"
    assert "failed" not in said(scenario, Condition.PROGRESSING)[2]


def test_a_draining_pod_takes_no_sessions_and_is_waited_for(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(2))
    scenario.add("p1", make.state(1, draining=True))
    scenario.add("p2", terminating=True)
    assert said(scenario, Condition.DRAINING) == (
        True,
        Reason.WAITING_FOR_SESSIONS,
        "waiting for the sessions of p1 (1 session), p2",
    )
    assert said(scenario, Condition.PROGRESSING)[:2] == (True, Reason.SCALING_DOWN)
    assert said(scenario, Condition.READY)[2] == "1 of 1 pods take sessions"


def test_a_rollout_is_progress_while_the_service_stays_ready(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1), spec_hash="old")
    assert said(scenario, Condition.READY)[0]
    assert said(scenario, Condition.PROGRESSING)[:2] == (True, Reason.ROLLING_OUT)


def test_a_silent_pod_is_named(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", make.state(1, age_s=6.0))
    scenario.add("p1")
    assert said(scenario, Condition.STATE_FRESH) == (
        False,
        Reason.STATE_MISSING,
        "no state for 3.5 s from p0, p1",
    )


def test_a_ready_pod_whose_state_is_unknown_does_not_count_and_is_named(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=2)
    scenario.add("p0", make.state(1))
    silent = scenario.add("p1")
    scenario.silent = {silent.uid: "the pod refused every token: HTTP status 401"}
    assert said(scenario, Condition.READY) == (
        False,
        Reason.PODS_FAILING,
        "1 of 2 pods take sessions; the sessions of p1 are unknown: "
        "the pod refused every token: HTTP status 401",
    )
    scenario.silent = {}
    scenario.states[silent.uid] = make.state(0)
    assert said(scenario, Condition.READY)[:2] == (True, Reason.SERVING)


def test_a_pod_that_hangs_is_the_reason(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state(1, age_s=6.0), ready=False)
    why = "0 of 1 pods take sessions; p0 does not answer: no state for 3.5 s"
    assert said(scenario, Condition.READY) == (False, Reason.PODS_FAILING, why)
    assert said(scenario, Condition.STATE_FRESH)[1] is Reason.STATE_MISSING


def test_a_paused_service_names_the_annotation(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.service = replace(scenario.service, paused=True)
    assert said(scenario, Condition.READY)[1] is Reason.PAUSED
    assert "avatar.musetalk.io/paused" in said(scenario, Condition.READY)[2]


@pytest.mark.parametrize("exists", [True, False])
def test_a_class_below_real_time_degrades_once_it_is_used(
    scenarios: Scenarios, exists: bool
) -> None:
    scenario = scenarios(replicas=1)
    (curve,) = scenario.profiles[0].curves
    slow = replace(curve, frame_batch_ms=tuple((b, ms * 4) for b, ms in curve.frame_batch_ms))
    scenario.profiles = [replace(scenario.profiles[0], curves=(slow,))]
    if exists:
        scenario.add("p0")
    status, reason, message = said(scenario, Condition.DEGRADED)
    assert (status, reason) == (True, Reason.BELOW_REAL_TIME)
    assert message == ("rtx-4090 renders 14.5 frames/s at batch 2, one session needs 25 (spec.fps)")
    scenario.service = replace(scenario.service, fps=10)
    assert not said(scenario, Condition.DEGRADED)[0]


def test_failed_actions_degrade(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state())
    failed = (FailedAction(Reason.APPLY_FAILED, text) for text in ("POST pods: 403 quota", "again"))
    finding = find(scenario, *failed)[Condition.DEGRADED]
    assert (finding.status, finding.message) == (True, "POST pods: 403 quota; again")


def test_an_invalid_spec_is_stalled(scenarios: Scenarios) -> None:
    found = {finding.condition: finding.status for finding in conditions.invalid("bad")}
    assert found == {
        Condition.READY: False,
        Condition.PROGRESSING: False,
        Condition.STALLED: True,
    }


def test_pods_that_wait_for_a_node_are_the_reason(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=2, gpus=1, placement={"whenFull": "createPending"})
    scenario.add("p0", make.state())
    why = "not scheduled: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    scenario.add("p1", ready=False, running=False, node="", trouble=why)
    message = f"waiting for a node: p1 (rtx-4090): {why}; the cluster has rtx-4090 0 free of 1"
    assert said(scenario, Condition.GPU_AVAILABLE) == (False, Reason.WAITING_FOR_NODE, message)
    assert said(scenario, Condition.READY) == (False, Reason.WAITING_FOR_NODE, message)


@pytest.mark.parametrize(
    ("replicas", "message"), [(0, "no GPU is needed"), (1, "every pod has its GPU")]
)
def test_the_message_tells_whether_gpus_are_needed(
    scenarios: Scenarios, make: Make, replicas: int, message: str
) -> None:
    scenario = scenarios(replicas=replicas)
    for number in range(replicas):
        scenario.add(f"p{number}", make.state(1))
    assert said(scenario, Condition.GPU_AVAILABLE)[2] == message


FAILED = "ImagePullBackOff: no x"


def failure(scenario: Scenario, **changes: object) -> Failure:
    known = Failure(scenario.hash, "", 1, 1, 9_999.0, 2, "p0", FAILED)
    return replace(known, **changes)  # type: ignore[arg-type]


def test_a_pod_that_failed_to_start_is_named_until_the_next_try(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=2)
    scenario.failures = (failure(scenario),)
    why = f"p0 failed to start and was deleted: {FAILED}; the next try is at 1970-01-01T02:46:49Z"
    status, reason, message = said(scenario, Condition.READY)
    assert (status, reason) == (False, Reason.PODS_FAILING)
    assert message == f"0 of 2 pods take sessions; {why}"
    gpu = said(scenario, Condition.GPU_AVAILABLE)
    assert gpu == (False, Reason.BACKING_OFF, f"no GPU is held between two tries: {why}")
    progressing = said(scenario, Condition.PROGRESSING)
    message = "waiting before another pod is tried"
    assert progressing == (False, Reason.BACKING_OFF, message)
    scenario.add("p1", ready=False, running=False)  # the next try
    assert said(scenario, Condition.READY)[2] == (
        f"0 of 2 pods take sessions; p0 failed to start and was deleted: {FAILED}"
    )
    scenario.pods[0] = replace(scenario.pods[0], trouble="ErrImagePull: no x")
    message = "0 of 2 pods take sessions; p1: ErrImagePull: no x"
    assert said(scenario, Condition.READY)[1:] == (Reason.PODS_FAILING, message)


def test_a_class_that_rejected_a_pod_is_named(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1, gpus=0)
    scenario.failures = (failure(scenario, gpu_class="rtx-4090", gpus=9),)
    status, reason, message = said(scenario, Condition.READY)
    assert (status, reason) == (False, Reason.NO_GPU_NODE)
    assert f"p0 failed to start on rtx-4090 and was deleted: {FAILED}" in message


def test_classes_that_all_rejected_the_spec_are_the_cause_and_not_the_free_gpus(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=2)
    scenario.profiles = list(make.shipped())
    scenario.nodes.append(make.node("n2", labels=H100, gpus=1))
    lacks_cpu = "not scheduled: 0/2 nodes are available: 2 Insufficient cpu"
    scenario.failures = tuple(
        failure(scenario, gpu_class=name, gpus=gpus, message=lacks_cpu)
        for name, gpus in (("h100-80gb", 1), ("rtx-4090", 2))
    )
    assert said(scenario, Condition.GPU_AVAILABLE) == (
        False,
        Reason.BACKING_OFF,
        "no GPU is held between two tries: p0 failed to start on h100-80gb and rtx-4090 and was "
        f"deleted: {lacks_cpu}; the next try is at 1970-01-01T02:46:49Z",
    )


def test_a_paused_service_names_its_pending_pods(scenarios: Scenarios) -> None:
    scenario = scenarios(replicas=1)
    scenario.service = replace(scenario.service, paused=True)
    scenario.add("p0", ready=False, running=False, node="", trouble="not scheduled: x")
    status, reason, message = said(scenario, Condition.READY)
    assert (status, reason) == (False, Reason.WAITING_FOR_NODE)
    assert message.startswith("waiting for a node: p0 (rtx-4090): not scheduled: x")


def test_a_refused_pod_is_the_reason_and_its_gpu_is_not_called_allocated(
    scenarios: Scenarios,
) -> None:
    scenario = scenarios(replicas=1)
    refused = FailedAction(Reason.QUOTA_EXCEEDED, "a quota allows no other pod", of_pod=True)
    found = find(scenario, refused)
    why = "0 of 1 pods take sessions; a quota allows no other pod"
    ready, progressing = found[Condition.READY], found[Condition.PROGRESSING]
    assert (ready.status, ready.reason, ready.message) == (False, Reason.QUOTA_EXCEEDED, why)
    assert (progressing.status, progressing.reason) == (False, Reason.QUOTA_EXCEEDED)
    gpu = found[Condition.GPU_AVAILABLE]
    assert (gpu.status, gpu.reason) == (True, Reason.GPU_FREE)
    assert gpu.message == "a GPU is free, but the pod that would use it cannot be created"
    assert found[Condition.DEGRADED].reason is Reason.QUOTA_EXCEEDED


def test_a_service_that_needs_no_pod_is_not_scaled_to_zero_while_sessions_live(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=0)
    scenario.add("p0", make.state(2, draining=True))
    scenario.add("p1", make.state(1), terminating=True)
    assert said(scenario, Condition.READY) == (
        True,
        Reason.SCALING_DOWN,
        "the service needs no pod; 2 pods with 3 sessions will be removed after the last session",
    )


def test_a_failing_pod_of_a_rollout_is_told_at_once(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("old", make.state(1), spec_hash="old")
    why = "ErrImagePull: no such image"
    scenario.add("new", ready=False, running=False, created_at=NOW, trouble=why)
    assert said(scenario, Condition.READY)[:2] == (True, Reason.SERVING)
    assert said(scenario, Condition.DEGRADED) == (
        True,
        Reason.PODS_FAILING,
        "new: ErrImagePull: no such image",
    )
    assert said(scenario, Condition.PROGRESSING) == (
        True,
        Reason.ROLLING_OUT,
        "pods to be replaced: old; new pod new: ErrImagePull: no such image",
    )


def test_a_pod_on_a_cordoned_node_says_why_it_is_replaced(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.nodes = [make.node(unschedulable=True)]
    scenario.add("p0", make.state(1))
    scenario.add("p1", make.state(1), drain_asked=True)
    assert said(scenario, Condition.PROGRESSING)[2] == (
        "pods to be replaced: p0 (its node n1 is cordoned), "
        "p1 (its annotation avatar.musetalk.io/drain is true)"
    )


def test_sessions_on_a_node_that_leaves_are_not_promised_to_survive(
    scenarios: Scenarios, make: Make
) -> None:
    scenario = scenarios(replicas=1)
    spot = Taint("aws-node-termination-handler/spot-itn", "", "NoSchedule")
    scenario.nodes = [make.node(taints=(spot,))]
    scenario.add("p0", make.state(1, draining=True))
    assert said(scenario, Condition.DRAINING)[2] == (
        "waiting for the sessions of p0 (1 session); its node n1 leaves: the cloud takes it back "
        "(spot or preemption notice): sessions that cannot move end with their node"
    )


def test_the_nodes_that_matter_are_named_first(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1, placement={"gpuClasses": ["rtx-4090"]})
    scenario.profiles = list(make.shipped())
    others = [make.node(f"a{number:02}", labels=H100, ready=False) for number in range(13)]
    unknown = make.node("b", labels={})
    scenario.nodes = [*others, unknown, make.node("z", unschedulable=True)]
    _, reason, message = said(scenario, Condition.GPU_AVAILABLE)
    assert reason is Reason.NO_GPU_NODE
    assert message == (
        "no matching GPU node: needs rtx-4090; the cluster has node z excluded: cordoned, "
        "node b excluded: no label names the GPU's product (is GPU feature discovery running?), "
        "nodes a00, a01, a02 and 10 more excluded: not ready"
    )


def test_causes_that_are_not_named_are_counted(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1, placement={"nodeSelector": {"rack": "7"}})
    product = "nvidia.com/gpu.product"
    strange = [make.node(f"s{n}", labels={product: f"P{n}"}) for n in range(3)]
    scenario.nodes = [*strange, make.node("a", ready=False), make.node("b", unschedulable=True)]
    message = said(scenario, Condition.GPU_AVAILABLE)[2]
    assert "has node a excluded: not ready, node b excluded: cordoned, node s0" in message
    assert message.endswith(", 2 more nodes excluded")


def test_a_wrong_annotation_degrades(scenarios: Scenarios, make: Make) -> None:
    scenario = scenarios(replicas=1)
    scenario.add("p0", make.state())
    scenario.service = replace(scenario.service, annotation_faults=("a is wrong", "b too"))
    assert said(scenario, Condition.DEGRADED) == (
        True,
        Reason.INVALID_ANNOTATION,
        "a is wrong; b too",
    )
    assert said(scenario, Condition.READY)[0]


@pytest.mark.parametrize(
    ("pods", "finalizers", "message"),
    [
        (0, ["foregroundDeletion"], "the service is being deleted"),
        (2, ["orphan"], "the service is being deleted; 2 pods left, each ends after its sessions"),
        (
            0,
            ["a.io/x", "foregroundDeletion", "b.io/y"],
            "the service is being deleted; the finalizers a.io/x and b.io/y keep the service until"
            " they are removed",
        ),
    ],
)
def test_a_service_that_is_being_deleted_says_what_keeps_it(
    pods: int, finalizers: list[str], message: str
) -> None:
    ready, progressing = conditions.terminating(pods, finalizers)
    assert (ready.status, progressing.status) == (False, True)
    assert {ready.reason, progressing.reason} == {Reason.TERMINATING}
    assert {ready.message, progressing.message} == {message}
