from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from avatar_operator.core.resources.gpu_profile import Calibration, Device
from avatar_operator.core.status import conditions
from avatar_operator.names import Condition, Reason

if TYPE_CHECKING:
    from tests.operator.conftest import Make, Scene, Scenes

ANY = {"products": ["*H100*"], "memoryMiB": {"min": 1, "max": 10**6}}
H100 = {"nvidia.com/gpu.product": "NVIDIA-H100-PCIe", "nvidia.com/gpu.memory": "81559"}


def find(scene: Scene, *failures: str) -> dict[Condition, conditions.Finding]:
    found = conditions.find(scene.service, scene.plan(), scene.states, failures)
    return {finding.condition: finding for finding in found}


def said(scene: Scene, condition: Condition) -> tuple[bool, Reason, str]:
    finding = find(scene)[condition]
    return finding.status, finding.reason, finding.message


def test_enough_ready_pods_are_ready(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=1)
    scene.add("p0", make.state(1))
    assert said(scene, Condition.READY) == (True, Reason.SERVING, "1 of 1 pods take sessions")
    assert said(scene, Condition.PROGRESSING)[:2] == (False, Reason.UP_TO_DATE)
    assert said(scene, Condition.GPU_AVAILABLE)[:2] == (True, Reason.GPU_ALLOCATED)
    assert said(scene, Condition.DRAINING)[:2] == (False, Reason.NOT_DRAINING)
    assert said(scene, Condition.STATE_FRESH)[:2] == (True, Reason.STATE_KNOWN)
    assert said(scene, Condition.DEGRADED)[:2] == (False, Reason.APPLIED)


def test_a_service_without_pods_on_purpose_is_ready(scenes: Scenes) -> None:
    scene = scenes(replicas=0)
    assert said(scene, Condition.READY)[:2] == (True, Reason.SCALED_TO_ZERO)
    assert said(scene, Condition.GPU_AVAILABLE)[:2] == (True, Reason.NOTHING_ASKED)


def test_pods_to_come_are_starting(scenes: Scenes) -> None:
    scene = scenes(replicas=2)
    scene.add("p0", ready=False, running=False)
    assert said(scene, Condition.READY) == (
        False,
        Reason.PODS_STARTING,
        "0 of 2 pods take sessions; starting: p0",
    )
    assert said(scene, Condition.PROGRESSING) == (
        True,
        Reason.SCALING_UP,
        "2 of 2 pods are starting",
    )


def test_no_free_gpu_says_what_was_asked_and_what_there_is(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=3, placement={"gpuClasses": ["rtx-4090", "a100-80gb"]})
    scene.profiles = list(make.shipped())
    scene.nodes.append(make.node("n2", labels=H100, gpus=1))
    for name in ("p0", "p1"):
        scene.add(name, make.state())
    message = (
        "no free GPU: asked for rtx-4090 or a100-80gb; the cluster has rtx-4090 0 free of 2, "
        "h100-80gb 1 free of 1 (not allowed by spec.placement.gpuClasses)"
    )
    assert said(scene, Condition.GPU_AVAILABLE) == (False, Reason.NO_FREE_GPU, message)
    assert said(scene, Condition.READY) == (False, Reason.NO_FREE_GPU, message)
    assert said(scene, Condition.PROGRESSING)[:2] == (False, Reason.NO_FREE_GPU)


def test_no_gpu_node_says_so_and_names_the_nodes_left_out(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=1)
    scene.nodes = [make.node(f"n{number}", ready=False) for number in range(4)]
    _, reason, message = said(scene, Condition.GPU_AVAILABLE)
    assert reason is Reason.NO_GPU_NODE
    assert message == (
        "no GPU node fits: asked for any class with a curve for v15/sd-vae/fp16; the cluster has "
        "node n0 left out: not ready, node n1 left out: not ready, node n2 left out: not ready, "
        "1 more nodes left out"
    )
    scene.nodes = []
    assert said(scene, Condition.GPU_AVAILABLE)[2].endswith("the cluster has none")


def test_a_class_that_cannot_hold_the_batch_says_why(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=2, batchSize=64)
    assert said(scene, Condition.GPU_AVAILABLE)[1] is Reason.NO_BATCH_FITS
    assert "rtx-4090: spec.batchSize is 64 and needs" in said(scene, Condition.READY)[2]
    scene.profiles = list(make.shipped())
    scene.nodes.append(make.node("n2", labels=H100, gpus=1))
    scene.add("p0", make.state(), gpu_class="h100-80gb", node="n2")
    _, reason, message = said(scene, Condition.GPU_AVAILABLE)
    assert reason is Reason.NO_FREE_GPU
    assert "rtx-4090 2 free of 2 (spec.batchSize is 64 and needs" in message


def test_a_class_that_is_waited_for_is_named(scenes: Scenes, make: Make) -> None:
    placement = {"whenFull": "wait", "gpuClasses": ["rtx-4090", "other"]}
    scene = scenes(replicas=3, placement=placement)
    scene.profiles.append(make.profile("other", match=ANY))
    scene.nodes.append(make.node("n2", labels=H100, gpus=4))
    scene.add("p0")
    scene.add("p1")
    status, reason, message = said(scene, Condition.GPU_AVAILABLE)
    assert (status, reason) == (False, Reason.NO_FREE_GPU)
    assert "asked for rtx-4090 (spec.placement.whenFull is wait)" in message


def calibrate(scene: Scene, factor: float) -> None:
    given = scene.profiles[0].curves[0]
    points = tuple((b, ms * factor) for b, ms in given.frame_batch_ms)
    curve = replace(given, frame_batch_ms=points)
    measured = Calibration(curve, Device.CUDA, "acme/p9", "n1", "2026-01-01T00:00:00Z")
    scene.profiles[0] = replace(scene.profiles[0], calibrations=(measured,))


def test_batches_are_calibrated_once_a_pod_has_measured_the_class(scenes: Scenes) -> None:
    scene = scenes(replicas=1)
    assert said(scene, Condition.BATCH_CALIBRATED) == (
        False,
        Reason.NOT_CALIBRATED,
        "no pod has measured rtx-4090 yet",
    )
    calibrate(scene, 1.1)
    assert said(scene, Condition.BATCH_CALIBRATED) == (
        True,
        Reason.CALIBRATED,
        "rtx-4090 measured by acme/p9",
    )


def test_a_measurement_that_contradicts_the_profile_is_told(scenes: Scenes) -> None:
    scene = scenes(replicas=1)
    scene.add("p0")
    calibrate(scene, 3)
    assert said(scene, Condition.BATCH_CALIBRATED) == (
        False,
        Reason.CALIBRATION_DIFFERS,
        "measured, and used: rtx-4090: a batch of 1 takes 67 ms instead of 22 (+200%)",
    )
    assert said(scene, Condition.READY)[0]  # it informs, and blocks nothing


def test_without_a_class_that_serves_nothing_is_calibrated(scenes: Scenes) -> None:
    scene = scenes(replicas=1, batchSize=64)
    message = said(scene, Condition.BATCH_CALIBRATED)[2]
    assert message == "no pod has measured a class that can serve yet"


def test_a_cluster_without_profiles_says_so(scenes: Scenes) -> None:
    scene = scenes(replicas=1)
    scene.profiles = []
    assert said(scene, Condition.READY)[1] is Reason.NO_PROFILE


def test_what_keeps_pods_from_starting_is_the_reason(scenes: Scenes) -> None:
    scene = scenes(replicas=2)
    scene.add("p0", ready=False, running=False, trouble="ErrImagePull: no such image")
    scene.add("p1", phase="Failed", failed_at=0.0, trouble="Evicted")
    status, reason, message = said(scene, Condition.READY)
    assert (status, reason) == (False, Reason.PODS_FAILING)
    assert message == (
        "0 of 2 pods take sessions; p0: ErrImagePull: no such image; p1 Failed: Evicted"
    )


def test_a_lost_node_is_named_with_the_sessions_that_it_had(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=1)
    scene.add("p0", node="gone")
    assert "p0 is on the lost node gone" in said(scene, Condition.READY)[2]
    scene.add("p1", make.state(3), node="gone")
    scene.add("p2", make.state())
    assert said(scene, Condition.READY)[0]  # another one serves in its place
    why = "p0 is on the lost node gone; p1 is on the lost node gone with 3 sessions"
    assert said(scene, Condition.DEGRADED) == (True, Reason.NODE_LOST, why)


def test_waiting_before_the_next_try_is_progress(scenes: Scenes) -> None:
    scene = scenes(replicas=1)
    for number in range(2):
        scene.add(f"p{number}", phase="Failed", failed_at=10_000.0)
    assert said(scene, Condition.PROGRESSING)[:2] == (True, Reason.REPLACING)


def test_a_draining_pod_takes_no_sessions_and_is_waited_for(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=1)
    scene.add("p0", make.state(2))
    scene.add("p1", make.state(1, draining=True))
    scene.add("p2", terminating=True)
    assert said(scene, Condition.DRAINING) == (
        True,
        Reason.WAITING_FOR_SESSIONS,
        "waits for the sessions of p1 (1 session), p2",
    )
    assert said(scene, Condition.PROGRESSING)[:2] == (True, Reason.SCALING_DOWN)
    assert said(scene, Condition.READY)[2] == "1 of 1 pods take sessions"


def test_a_rollout_is_progress_while_the_service_stays_ready(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=1)
    scene.add("old", make.state(1), spec_hash="old")
    assert said(scene, Condition.READY)[0]
    assert said(scene, Condition.PROGRESSING)[:2] == (True, Reason.ROLLING_OUT)


def test_a_silent_pod_is_named(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=2)
    scene.add("p0", make.state(1, age_s=6.0))
    scene.add("p1")
    assert said(scene, Condition.STATE_FRESH) == (
        False,
        Reason.STATE_MISSING,
        "no state for 3.5 s from p0, p1",
    )


def test_a_pod_that_hangs_is_the_reason(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=1)
    scene.add("p0", make.state(1, age_s=6.0), ready=False)
    why = "0 of 1 pods take sessions; p0 does not answer: no state for 3.5 s"
    assert said(scene, Condition.READY) == (False, Reason.PODS_FAILING, why)
    assert said(scene, Condition.STATE_FRESH)[1] is Reason.STATE_MISSING


def test_a_paused_service_names_the_annotation(scenes: Scenes) -> None:
    scene = scenes(replicas=1)
    scene.service = replace(scene.service, paused=True)
    assert said(scene, Condition.READY)[1] is Reason.PAUSED
    assert "avatar.musetalk.io/paused" in said(scene, Condition.READY)[2]


@pytest.mark.parametrize("exists", [True, False])
def test_a_class_below_real_time_degrades_once_it_is_used(scenes: Scenes, exists: bool) -> None:
    scene = scenes(replicas=1)
    (curve,) = scene.profiles[0].curves
    slow = replace(curve, frame_batch_ms=tuple((b, ms * 4) for b, ms in curve.frame_batch_ms))
    scene.profiles = [replace(scene.profiles[0], curves=(slow,))]
    if exists:
        scene.add("p0")
    status, reason, message = said(scene, Condition.DEGRADED)
    assert (status, reason) == (True, Reason.BELOW_REAL_TIME)
    assert message == ("rtx-4090 makes 14.5 frames/s at batch 2, one session needs 25 (spec.fps)")
    scene.service = replace(scene.service, fps=10)
    assert not said(scene, Condition.DEGRADED)[0]


def test_failed_actions_degrade(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=1)
    scene.add("p0", make.state())
    finding = find(scene, "POST pods: 403 quota", "again")[Condition.DEGRADED]
    assert (finding.status, finding.message) == (True, "POST pods: 403 quota; again")


def test_an_invalid_spec_is_stalled(scenes: Scenes) -> None:
    found = {finding.condition: finding.status for finding in conditions.invalid("bad")}
    assert found == {
        Condition.READY: False,
        Condition.PROGRESSING: False,
        Condition.STALLED: True,
    }


def test_pods_that_wait_for_a_node_are_the_reason(scenes: Scenes, make: Make) -> None:
    scene = scenes(replicas=2, gpus=1, placement={"whenFull": "createPending"})
    scene.add("p0", make.state())
    why = "not scheduled: 0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
    scene.add("p1", ready=False, running=False, node="", trouble=why)
    message = f"waiting for a node: p1 (rtx-4090): {why}; the cluster has rtx-4090 0 free of 1"
    assert said(scene, Condition.GPU_AVAILABLE) == (False, Reason.WAITING_FOR_NODE, message)
    assert said(scene, Condition.READY) == (False, Reason.WAITING_FOR_NODE, message)
