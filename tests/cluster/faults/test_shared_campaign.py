"""The scenario of a seed of the shared-cluster campaign, and the problems that it detects."""

from __future__ import annotations

import collections
import contextlib
import json
from typing import TYPE_CHECKING, Any, Final

import pytest

from localcluster import paths, waiting
from localcluster.fakes.mixed_nodes import MixedNodes
from localcluster.faults import shared_campaign
from localcluster.faults.shared_campaign import Apply, Begin, Delete, Observed, Suspicion, Watch

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

Body = dict[str, Any]
NODES: Final = {"node-a": shared_campaign.CLASSES[0], "node-b": shared_campaign.CLASSES[1]}
FIRST, SECOND, THIRD = (each.name for each in shared_campaign.CLASSES)
SEEDS: Final = range(50)
WORDS: Final = (
    *('"cpu": "100"', "missing.example", "claimName", '["l4"]', '"replicas": 10', "minReplicas"),
    *('"wait"', "createPending", "cheapest"),
)
"""What the specs of some seeds contain."""


def service(name: str = "s", status: Body | None = None, **spec: Any) -> Body:
    metadata = {"namespace": "tenant-a", "name": name, "uid": f"uid-{name}"}
    return {"metadata": metadata, "spec": spec, "status": status or {}}


def pod(name: str, owner: str = "s", node: str = "", **more: Any) -> Body:
    owners = [{"kind": "AvatarService", "uid": f"uid-{owner}"}] if owner else []
    metadata = {"namespace": "tenant-a", "name": name, "uid": name, "ownerReferences": owners}
    containers = [{"resources": {"limits": {shared_campaign.GPU: "1"}}}]
    spec = {"containers": containers, **({"nodeName": node} if node else {})}
    return {"metadata": {**metadata, **more.pop("metadata", {})}, "spec": spec, "status": more}


def waits(reason: str) -> Body:
    return {"containerStatuses": [{"state": {"waiting": {"reason": reason}}}]}


def found(check: str, services: list[Body], pods: list[Body], **more: Any) -> list[str]:
    seen = Observed(services, pods, NODES, **more)
    return [each.subject for each in shared_campaign.suspicions(seen) if each.check == check]


def test_a_seed_determines_everything() -> None:
    assert shared_campaign.generate(7) == shared_campaign.generate(7)
    assert shared_campaign.generate(7) != shared_campaign.generate(8)


def test_cluster_and_seeds_are_as_large_as_the_campaign_promises() -> None:
    assert (len(shared_campaign.TENANTS), len(shared_campaign.CLASSES)) == (3, 3)
    assert shared_campaign.GPUS == 12
    for seed in SEEDS:
        scenario = shared_campaign.generate(seed)
        keys = {step.act.key for step in scenario.steps if isinstance(step.act, Apply)}
        assert len(keys) == 20
        assert {foreign.key for foreign in scenario.foreign} <= keys
        assert {foreign.kind for foreign in scenario.foreign} == {
            *("secret", "poddisruptionbudget", "pod")
        }
        times = [step.at_s for step in scenario.steps]
        assert times == sorted(times)
        assert times[-1] <= shared_campaign.ACTIVE_S


def test_seeds_apply_change_and_delete_services_of_all_kinds() -> None:
    kinds: collections.Counter[str] = collections.Counter()
    for seed in SEEDS:
        applied: set[shared_campaign.Key] = set()
        for act in (step.act for step in shared_campaign.generate(seed).steps):
            if isinstance(act, Apply):
                kinds["changed" if act.key in applied else "created"] += 1
                applied.add(act.key)
                kinds["possible" if shared_campaign.usable(act.spec) else "impossible"] += 1
                text = json.dumps(act.spec)
                kinds.update(word for word in WORDS if word in text)
            elif isinstance(act, Delete):
                kinds["deleted"] += 1
            elif isinstance(act, Begin):
                kinds["sessions"] += 1
    acts = {"changed", "created", "possible", "impossible", "deleted", "sessions"}
    assert set(kinds) == acts | set(WORDS)
    assert 0.15 < kinds["impossible"] / (kinds["possible"] + kinds["impossible"]) < 0.35


def test_weights_are_generated_only_where_the_api_has_them() -> None:
    def weighted(*, weights: bool) -> list[bool]:
        acts = [step.act for step in shared_campaign.generate(1, weights=weights).steps]
        return ["weight" in act.spec for act in acts if isinstance(act, Apply)]

    assert any(weighted(weights=True))
    assert not any(weighted(weights=False))


def test_absent_classes_have_a_profile_and_no_node() -> None:
    profiles = (paths.REPOSITORY / "charts/avatar-operator/gpu-profiles.yaml").read_text()
    for name in (*shared_campaign.ABSENT_CLASSES, FIRST, SECOND, THIRD):
        assert f"\n{name}:\n" in profiles
    assert {FIRST, SECOND, THIRD}.isdisjoint(shared_campaign.ABSENT_CLASSES)


@pytest.mark.parametrize(
    ("spec", "classes"),
    [
        ({}, (FIRST, SECOND, THIRD)),
        ({"placement": {"gpuClasses": [SECOND, "l4", FIRST]}}, (SECOND, FIRST)),
        ({"placement": {"gpuClasses": [SECOND, FIRST], "whenFull": "wait"}}, (SECOND,)),
        ({"placement": {"gpuClasses": ["l4"]}}, ()),
        ({"template": {"image": shared_campaign.MISSING_IMAGE}}, ()),
        ({"template": {"resources": {"requests": {"cpu": "100"}}}}, ()),
        ({"model": {"source": {"persistentVolumeClaim": {"claimName": "missing"}}}}, ()),
    ],
)
def test_classes_that_a_spec_can_use(spec: Body, classes: tuple[str, ...]) -> None:
    assert shared_campaign.usable(spec) == classes


def test_idle_gpu_beside_a_service_that_could_use_it_is_noticed() -> None:
    wants = service(replicas=1, placement={"gpuClasses": [FIRST]})
    assert found("idle_gpu", [wants], []) == [f"tenant-a/s {FIRST}"]
    assert found("idle_gpu", [wants], [pod("p")]) == [f"tenant-a/s {FIRST}"]  # Pending: no GPU


def test_no_idle_gpu_is_reported_where_nothing_is_wrong() -> None:
    wants = service(replicas=1, placement={"gpuClasses": [FIRST]})
    others = [pod(f"other-{number}", "", "node-a") for number in range(2)]
    assert found("idle_gpu", [wants], [pod("p", "s", "node-a")]) == []
    assert found("idle_gpu", [wants], others) == []  # its class is full, the other one is idle
    assert found("idle_gpu", [service(replicas=0)], []) == []
    assert found("idle_gpu", [wants], [], excused=frozenset({("tenant-a", "s")})) == []


def test_pods_that_leave_or_drain_do_not_count_for_their_service() -> None:
    wants = service(replicas=1, placement={"gpuClasses": [FIRST]})
    ending = pod("p", "s", "node-a", metadata={"deletionTimestamp": "now"})
    assert found("idle_gpu", [wants], [ending]) != []
    draining = frozenset({"p"})
    assert found("idle_gpu", [wants], [pod("p", "s", "node-a")], draining=draining) != []


@pytest.mark.parametrize(
    ("spec", "desired", "pods"),
    [
        ({}, 0, 1),
        ({"replicas": 4}, 0, 4),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 5}}, 1, 2),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 5}}, 4, 4),
        ({"autoscaling": {"minReplicas": 2, "maxReplicas": 5}}, 9, 5),
    ],
)
def test_pods_that_a_service_wants(spec: Body, desired: int, pods: int) -> None:
    wants = service(status={"desiredReplicas": desired}, **spec)
    assert shared_campaign.wanted(wants) == pods


def test_failing_pod_that_holds_a_gpu_which_another_could_use_is_noticed() -> None:
    wants = service(replicas=1, placement={"gpuClasses": [FIRST]})
    bad = pod("bad", "", "node-a", **waits("ImagePullBackOff"))
    assert found("failing_holds_gpu", [wants], [bad]) == ["tenant-a/bad tenant-a/s"]
    starting = pod("new", "", "node-a", **waits("ContainerCreating"))
    assert found("failing_holds_gpu", [wants], [starting]) == []
    assert found("failing_holds_gpu", [service(replicas=0)], [bad]) == []
    check = {**bad, "spec": {**bad["spec"], "containers": [{"name": "image-check"}]}}
    assert found("failing_holds_gpu", [wants], [check]) == []


def test_pending_pod_must_be_named_by_the_status_or_by_one_like_it() -> None:
    pods = [pod("p-0"), pod("p-1")]
    silent = service(replicas=2, placement={"gpuClasses": [THIRD]})
    assert found("pending_unsaid", [silent], pods) == ["tenant-a/p-0 p-0", "tenant-a/p-1 p-1"]
    ready = {"type": "Ready", "status": "False", "reason": "PodsFailing", "message": "p-0: no cpu"}
    says = service(status={"conditions": [ready]}, replicas=2, placement={"gpuClasses": [THIRD]})
    assert found("pending_unsaid", [says], pods) == []
    condition = {"type": "PodScheduled", "status": "False", "message": "another cause"}
    other = pod("p-2", conditions=[condition])
    assert found("pending_unsaid", [says], [*pods, other]) == ["tenant-a/p-2 p-2"]


def test_only_a_suspicion_that_lasts_becomes_a_problem() -> None:
    watch = Watch()
    lasting = Suspicion("idle_gpu", "a", "one GPU is idle", 10)
    passing = Suspicion("idle_gpu", "b", "another GPU is idle", 10)
    watch.take([lasting, passing], 0)
    assert watch.open == [lasting, passing]
    watch.take([lasting], 6)
    watch.take([lasting, passing], 10)
    assert watch.problems == {}
    watch.take([lasting, passing], 11)
    assert list(watch.problems) == [("idle_gpu", "a")]
    assert watch.open == [passing]
    watch.take([], 12)
    assert list(watch.problems) == [("idle_gpu", "a")]  # it stays one


def test_imprint_shows_every_change_but_a_written_status_of_a_budget() -> None:
    secret = {"kind": "Secret", "metadata": {"uid": "u", "resourceVersion": "1"}}
    touched = {"kind": "Secret", "metadata": {"uid": "u", "resourceVersion": "2"}}
    assert shared_campaign.imprint(secret) != shared_campaign.imprint(touched)
    managed = [{"manager": "user"}]
    pdb: Body = {
        "kind": "PodDisruptionBudget",
        "metadata": {"uid": "u", "resourceVersion": "1", "managedFields": managed},
        "spec": {"minAvailable": 0},
    }
    controller = {"manager": "controller", "subresource": "status"}
    metadata = {**pdb["metadata"], "resourceVersion": "2", "managedFields": [*managed, controller]}
    counted = {**pdb, "metadata": metadata, "status": {"expectedPods": 1}}
    assert shared_campaign.imprint(pdb) == shared_campaign.imprint(counted)
    labelled = {**pdb, "metadata": {**pdb["metadata"], "labels": {"a": "b"}}}
    assert shared_campaign.imprint(pdb) != shared_campaign.imprint(labelled)
    changed = {**pdb, "spec": {"minAvailable": 1}}
    assert shared_campaign.imprint(pdb) != shared_campaign.imprint(changed)


def test_starved_services_are_those_beside_a_service_with_a_pod_to_spare() -> None:
    poor = service("poor", replicas=1, placement={"gpuClasses": [FIRST]})
    rich = service("rich", replicas=2)
    pods = [pod("r-0", "rich", "node-a"), pod("r-1", "rich", "node-a")]
    assert shared_campaign.starved(Observed([poor, rich], pods, NODES)) == 1
    assert shared_campaign.starved(Observed([poor, rich], pods[:1], NODES)) == 0
    elsewhere = [pod("r-0", "rich", "node-b"), pod("r-1", "rich", "node-b")]
    assert shared_campaign.starved(Observed([poor, rich], elsewhere, NODES)) == 0


class RecordingApi:
    """An API server that accepts everything."""

    def __init__(self) -> None:
        self.deleted: list[str] = []

    async def merge(self, path: str, body: Body, uid: str = "") -> None: ...

    async def post(self, path: str, body: Body) -> Body:
        return body

    async def delete(self, path: str, body: Body | None = None, uid: str = "") -> None:
        self.deleted.append(path.rsplit("/", 1)[1])


GRACE_S: Final = 3630


def bound_pod(nodes: MixedNodes, image: str = "runtime", **metadata: Any) -> Body:
    spec = {
        "nodeName": next(iter(nodes.node_classes)),
        "terminationGracePeriodSeconds": GRACE_S,
        "containers": [{"name": "runtime", "image": image}],
    }
    return {"metadata": {"namespace": "n", "name": "p", "uid": "u", **metadata}, "spec": spec}


def leaving(grace_s: int) -> Body:
    return {"deletionTimestamp": "now", "deletionGracePeriodSeconds": grace_s}


@contextlib.asynccontextmanager
async def pod_with_a_session() -> AsyncIterator[tuple[MixedNodes, RecordingApi]]:
    api = RecordingApi()
    nodes = MixedNodes(api, shared_campaign.CLASSES, shared_campaign.MISSING_IMAGE)  # type: ignore[arg-type]
    async with nodes.running():
        nodes.on_pod_event("ADDED", bound_pod(nodes))
        await until(nodes.open_pods)
        (hollow_pod,) = nodes.open_pods()
        await nodes.set_sessions(hollow_pod, 1)
        yield nodes, api


async def until(holds: Callable[[], object]) -> None:
    async def read() -> bool:
        return bool(holds())

    await waiting.until(read, bool, "the hollow nodes have acted", 10)


@pytest.mark.slow
async def test_pod_that_is_deleted_gracefully_ends_with_its_last_session() -> None:
    async with pod_with_a_session() as (nodes, api):
        (hollow_pod,) = nodes.busy_pods()
        nodes.on_pod_event("MODIFIED", bound_pod(nodes, **leaving(GRACE_S)))
        await until(nodes.draining)
        assert (nodes.open_pods(), api.deleted) == ([], [])
        await nodes.set_sessions(hollow_pod, 0)
        assert api.deleted == ["p"]
        nodes.on_pod_event("DELETED", bound_pod(nodes))
        await until(lambda: not nodes.hollow_pods)
        assert nodes.deleted_with_sessions == []


@pytest.mark.slow
@pytest.mark.parametrize("grace_s", [0, 30])
async def test_pod_that_is_deleted_before_its_session_ends_counts_as_cut(grace_s: int) -> None:
    async with pod_with_a_session() as (nodes, api):
        nodes.on_pod_event("MODIFIED", bound_pod(nodes, **leaving(grace_s)))
        await until(lambda: api.deleted == ["p"])
        assert [each.name for each in nodes.deleted_with_sessions] == ["p"]


@pytest.mark.slow
async def test_pod_that_disappears_with_a_session_counts_as_cut() -> None:
    async with pod_with_a_session() as (nodes, _):
        nodes.on_pod_event("DELETED", bound_pod(nodes))
        await until(lambda: not nodes.hollow_pods)
        assert [each.name for each in nodes.deleted_with_sessions] == ["p"]
