from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.resources.node import Taint, parse_node
from avatar_operator.core.resources.pod import PodUse, parse_runtime_pod, parse_use
from avatar_operator.names import TOKEN_VOLUME

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make

GPU = {"resources": {"limits": {"nvidia.com/gpu": "1"}}}
TWO = {"resources": {"requests": {"nvidia.com/gpu": 2}}}
NONE = {"name": "side"}


def test_a_node_is_read_as_far_as_gpus_are_concerned(make: Make) -> None:
    body = make.node_body(gpus=4)
    body["spec"] = {"unschedulable": True, "taints": [{"key": "k", "effect": "NoExecute"}]}
    node = parse_node(body)
    assert (node.name, node.gpus, node.ready, node.unschedulable) == ("n1", 4, True, True)
    assert node.taints == (Taint("k", "", "NoExecute"),)


def test_a_node_that_says_nothing_has_no_gpus_and_is_not_ready() -> None:
    node = parse_node({"metadata": {"name": "n"}})
    assert (node.gpus, node.ready, node.unschedulable, node.taints) == (0, False, False, ())


@pytest.mark.parametrize(
    ("spec", "gpus"),
    [
        pytest.param({"containers": [GPU, TWO, NONE]}, 3, id="containers add up"),
        pytest.param({"containers": [GPU], "initContainers": [TWO]}, 2, id="larger init"),
        pytest.param({"containers": [TWO], "initContainers": [GPU]}, 2, id="smaller init"),
        pytest.param(
            {"containers": [GPU], "initContainers": [{**GPU, "restartPolicy": "Always"}]},
            2,
            id="side-car",
        ),
    ],
)
def test_gpus_of_a_pod_add_up_as_for_the_scheduler(spec: Body, gpus: int) -> None:
    use = parse_use({"metadata": {}, "spec": {**spec, "nodeName": "n"}})
    assert use == PodUse("n", gpus, "")


def asking(resource: str, count: str = "1", **more: str) -> Body:
    return {"resources": {"requests": {resource: count}}, **more}


def test_an_init_container_runs_beside_the_side_cars_before_it() -> None:
    side_car = asking("nvidia.com/gpu", restartPolicy="Always")
    spec = {"initContainers": [side_car, asking("nvidia.com/gpu", "3"), side_car]}
    use = parse_use({"spec": {**spec, "containers": [asking("nvidia.com/gpu")]}})
    assert use == PodUse("", 4, "")


def test_parts_of_gpus_are_counted_by_their_resource() -> None:
    slices = "nvidia.com/mig-1g.10gb"
    containers = [asking(slices, "2"), asking("nvidia.com/gpu.shared"), asking("cpu", "4")]
    use = parse_use({"spec": {"containers": containers, "nodeName": "n"}})
    assert use == PodUse("n", 0, "", (("nvidia.com/gpu.shared", 1), (slices, 2)))


def test_a_node_tells_every_gpu_resource_it_has(make: Make) -> None:
    body = make.node_body()
    gpus = {"nvidia.com/gpu": "1", "nvidia.com/mig-1g.10gb": "7", "nvidia.com/gpu.shared": "0"}
    body["status"]["allocatable"] = {**gpus, "cpu": "64"}
    body["status"]["capacity"] = {**gpus, "nvidia.com/gpu": "2", "memory": "1Gi"}
    node = parse_node(body)
    assert (node.gpus, node.others) == (1, (("nvidia.com/mig-1g.10gb", 7),))
    assert node.capacity == (("nvidia.com/gpu", 2), ("nvidia.com/mig-1g.10gb", 7))


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_a_pod_that_ended_uses_nothing(make: Make, phase: str) -> None:
    assert parse_use(make.pod_body(status={"phase": phase})) is None


def test_a_pod_without_gpus_uses_nothing(make: Make) -> None:
    assert parse_use(make.pod_body(gpus=0)) is None


def test_a_pod_of_ours_is_counted_with_its_class(make: Make) -> None:
    assert parse_use(make.pod_body()) == PodUse("n1", 1, "rtx-4090")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"controller": False}, id="not the controller"),
        pytest.param({"kind": "ReplicaSet", "apiVersion": "apps/v1"}, id="another kind"),
        pytest.param({"apiVersion": "example.org/v1"}, id="another group"),
    ],
)
def test_a_pod_that_no_service_controls_is_no_runtime_pod(make: Make, change: Body) -> None:
    (owner,) = make.owners()
    assert parse_runtime_pod(make.pod_body(metadata={"ownerReferences": []})) is None
    body = make.pod_body(metadata={"ownerReferences": [{**owner, **change}]})
    assert parse_runtime_pod(body) is None
    assert parse_use(body) == PodUse("n1", 1, "")  # its labels name a class, which proves nothing


def _with_environment(make: Make) -> Body:
    body = make.pod_body()
    secret = {"secretKeyRef": {"name": "of-an-earlier-release", "key": "token"}}
    body["spec"]["containers"][0]["env"] = [
        {"name": "AVATAR_SERVICE", "value": "acme/concierge"},
        {"name": "AVATAR_GPU_CLASS", "value": "rtx-4090"},
        {"name": "AVATAR_ADMIN_TOKEN", "valueFrom": secret},
        {"name": "AVATAR_SERVICE", "value": "acme/of-the-template"},
    ]
    return body


def test_a_pod_says_itself_where_it_reads_its_token(make: Make) -> None:
    body = _with_environment(make)
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert (pod.control_secret, pod.origin.name) == ("of-an-earlier-release", "concierge")
    assert not pod.relabelled
    body["spec"]["volumes"] = [{"name": TOKEN_VOLUME, "secret": {"secretName": "own"}}]
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert pod.control_secret == "own"


@pytest.mark.parametrize(
    "label",
    [
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/managed-by",
        "avatar.musetalk.io/service",
        "avatar.musetalk.io/gpu-class",
    ],
)
@pytest.mark.parametrize("value", [None, "other"])
def test_a_relabelled_pod_stays_a_pod_of_its_service(
    make: Make, label: str, value: str | None
) -> None:
    body = _with_environment(make)
    labels = body["metadata"]["labels"]
    labels.pop(label) if value is None else labels.update({label: value})
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert (pod.service, pod.owner_uid, pod.gpu_class) == ("concierge", "s1", "rtx-4090")
    assert pod.relabelled


def test_the_origin_of_an_adopted_pod_does_not_depend_on_its_label(make: Make) -> None:
    body = _with_environment(make)
    body["metadata"]["ownerReferences"] = make.owners("s2", "second")
    labels = body["metadata"]["labels"]
    labels.update({"avatar.musetalk.io/service": "second", "app.kubernetes.io/instance": "second"})
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert (pod.origin.name, pod.made_for, pod.relabelled) == ("concierge", "concierge", True)
    labels["avatar.musetalk.io/made-for"] = "concierge"
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert not pod.relabelled


def test_a_runtime_pod_is_read(make: Make) -> None:
    pod = parse_runtime_pod(make.pod_body())
    assert pod == make.pod(created_at=1767225600.0, image="image")
    assert not pod.ended


def test_a_pod_that_just_began_is_not_running(make: Make) -> None:
    pod = parse_runtime_pod(make.pod_body(status={"containerStatuses": []}))
    assert pod is not None
    assert (pod.running, pod.trouble) == (False, "")


def test_a_deleted_pod_is_terminating(make: Make) -> None:
    body = make.pod_body(metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"})
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert pod.terminating


@pytest.mark.parametrize(
    ("statuses", "failed_at"),
    [
        pytest.param([], 1767225600.0, id="never started"),
        pytest.param(
            [{"state": {"terminated": {"finishedAt": "2026-01-01T00:01:00Z"}}}, {"state": {}}],
            1767225660.0,
            id="ran",
        ),
    ],
)
def test_a_failed_pod_ended_when_its_last_container_did(
    make: Make, statuses: list[Body], failed_at: float
) -> None:
    body = make.pod_body(status={"phase": "Failed", "containerStatuses": statuses})
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert pod.ended
    assert pod.failed_at == failed_at


@pytest.mark.parametrize(
    ("status", "trouble"),
    [
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]},
            "not scheduled: 0/3 nodes",
            id="not scheduled",
        ),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "False", "reason": "Gated"}]},
            "not scheduled: Gated",
            id="only a reason",
        ),
        pytest.param(
            {"conditions": [{"type": "Ready", "status": "False", "message": "not ready yet"}]},
            "",
            id="another condition",
        ),
        pytest.param(
            {"conditions": [{"type": "PodScheduled", "status": "True", "message": "odd"}]},
            "",
            id="scheduled",
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {"name": "side"},
                    {
                        "name": "runtime",
                        "state": {"waiting": {"reason": "ErrImagePull", "message": "no such"}},
                    },
                ]
            },
            "ErrImagePull: no such",
            id="image",
        ),
        pytest.param(
            {
                "containerStatuses": [
                    {"name": "runtime", "state": {"waiting": {"reason": "ContainerCreating"}}}
                ]
            },
            "",
            id="creating is no trouble",
        ),
        pytest.param({"reason": "Evicted"}, "Evicted", id="evicted"),
    ],
)
def test_what_keeps_a_pod_from_starting_is_told(make: Make, status: Body, trouble: str) -> None:
    pod = parse_runtime_pod(make.pod_body(status=status))
    assert pod is not None
    assert pod.trouble == trouble


def test_odd_counts_count_nothing(make: Make) -> None:
    annotations = {"avatar.musetalk.io/batch-size": "many"}
    pod = parse_runtime_pod(make.pod_body(metadata={"annotations": annotations}))
    assert pod is not None
    assert (pod.batch_size, pod.sessions_per_pod) == (0, 0)


LAST = "Traceback\n  File x\nFileNotFoundError: no such folder: /models\n"


@pytest.mark.parametrize(
    ("container", "trouble"),
    [
        pytest.param(
            {"state": {"waiting": {"reason": "ImagePullBackOff", "message": "Back-off x"}}},
            "ImagePullBackOff: Back-off x",
            id="an image that is not there",
        ),
        pytest.param(
            {
                "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
                "lastState": {"terminated": {"exitCode": 1, "reason": "Error", "message": LAST}},
            },
            "CrashLoopBackOff: exit code 1: FileNotFoundError: no such folder: /models",
            id="a crash, in its last words",
        ),
        *(
            pytest.param(
                {"state": {"terminated": {"exitCode": 1, "message": f"first\n{line}\n"}}},
                f"exit code 1: {quoted}",
                id=id_,
            )
            for id_, line, quoted in (
                ("JSON record", '{"level": "error", "message": "no\\nmodel"}', "no model"),
                ("JSON without message", '{"level": "error"}', '{"level": "error"}'),
                ("JSON with empty message", '{"message": " "}', '{"message": " "}'),
                ("JSON with other message", '{"message": 1}', '{"message": 1}'),
                ("JSON that is cut", '"error", "message": "x"}', '"error", "message": "x"}'),
                ("JSON that is no record", "[1]", "[1]"),
            )
        ),
        pytest.param(
            {"state": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}},
            "OOMKilled 137",
            id="an end without words",
        ),
        pytest.param(
            {"state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}},
            "restarted after exit code 1",
            id="it tries again",
        ),
        pytest.param(
            {"ready": True, "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 1}}},
            "",
            id="it works again",
        ),
        pytest.param(
            {"state": {"waiting": {"reason": "X", "message": "y" * 500}}},
            f"X: {'y' * 196}\u2026",
            id="a long story is cut",
        ),
        pytest.param(
            {"state": {"waiting": {"reason": "ContainerCreating"}}}, "", id="nothing is wrong"
        ),
    ],
)
def test_the_trouble_of_a_pod_is_one_sentence(
    make: Make, container: dict[str, Any], trouble: str
) -> None:
    statuses = [{"name": "runtime", "restartCount": 3, **container}]
    pod = parse_runtime_pod(make.pod_body(status={"containerStatuses": statuses}))
    assert pod is not None
    assert (pod.trouble, pod.restarts) == (trouble, 3)


def test_marks_and_wishes_of_a_pod_are_read(make: Make) -> None:
    body = make.pod_body()
    body["metadata"]["labels"]["avatar.musetalk.io/live"] = "true"
    body["metadata"]["annotations"].update(
        {
            "cluster-autoscaler.kubernetes.io/safe-to-evict": "false",
            "avatar.musetalk.io/drain": "true",
        }
    )
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert (pod.live, pod.shielded, pod.drain_asked) == (True, True, True)


REJECTED = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "lastTransitionTime": "1970-01-01T00:01:40Z",
    "message": "0/4 nodes are available: 2 Insufficient cpu, 2 node(s) had untolerated taint "
    "{team: globex}. no new claims to deallocate, preemption: 0/4 nodes are available: 4 "
    "Preemption is not helpful for scheduling.",
}


def test_a_pod_that_the_scheduler_rejects_uses_no_gpu(make: Make) -> None:
    body = make.pod_body(spec={"nodeName": ""}, status={"conditions": [REJECTED]})
    assert parse_use(body) is None
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert (pod.rejected_at, pod.bound_at) == (100.0, None)
    assert pod.trouble == (
        "not scheduled: 0/4 nodes are available: 2 Insufficient cpu, 2 node(s) had untolerated "
        "taint"
    )


@pytest.mark.parametrize(
    ("spec", "status", "use"),
    [
        pytest.param({}, {}, PodUse("", 1, "rtx-4090"), id="not seen by the scheduler"),
        pytest.param(
            {},
            {"conditions": [{**REJECTED, "reason": "SchedulingGated"}]},
            PodUse("", 1, "rtx-4090"),
            id="gated",
        ),
        pytest.param(
            {},
            {"conditions": [REJECTED], "nominatedNodeName": "n2"},
            PodUse("n2", 1, "rtx-4090"),
            id="the scheduler makes room",
        ),
        pytest.param(
            {"nodeName": "n1"},
            {"conditions": [REJECTED]},
            PodUse("n1", 1, "rtx-4090"),
            id="bound, with the condition of before",
        ),
    ],
)
def test_a_pod_that_a_node_may_accept_uses_its_gpu(
    make: Make, spec: Body, status: Body, use: PodUse
) -> None:
    body = make.pod_body(spec={"nodeName": "", **spec}, status={"conditions": [], **status})
    assert parse_use(body) == use
    pod = parse_runtime_pod(body)
    assert pod is not None
    assert pod.rejected_at is None


def test_when_a_pod_was_bound_and_why_it_waits_are_read(make: Make) -> None:
    conditions = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": "1970-01-01T00:01:40Z"},
        {"type": "PodReadyToStartContainers", "status": "False"},
    ]
    waiting = {"name": "runtime", "state": {"waiting": {"reason": "ContainerCreating"}}}
    status = {"conditions": conditions, "containerStatuses": [waiting]}
    pod = parse_runtime_pod(make.pod_body(status=status))
    assert pod is not None
    assert (pod.bound_at, pod.waiting, pod.mounted) == (100.0, "ContainerCreating", False)
    pod = parse_runtime_pod(make.pod_body())
    assert pod is not None
    assert (pod.bound_at, pod.waiting, pod.mounted, pod.rejected_at) == (None, "", True, None)


def test_only_a_failed_scheduling_keeps_a_pod_from_being_scheduled(make: Make) -> None:
    conditions = [
        {"type": "PodScheduled", "status": "True", "message": "scheduled to n1"},
        {"type": "Ready", "status": "False", "message": "containers are not ready"},
    ]
    pod = parse_runtime_pod(make.pod_body(status={"conditions": conditions}))
    assert pod is not None
    assert pod.trouble == ""
