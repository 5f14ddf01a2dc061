from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_operator.core.cache.entries import ChangeImpact, Kind
from avatar_operator.core.cache.gpu_usage import ACCEPTED_S
from avatar_operator.core.cache.store import Store
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make


NOW = 0.0


def service(make: Make, version: int, **metadata: Any) -> Body:
    body = make.service_body(replicas=1)
    body["metadata"].update({"resourceVersion": str(version), **metadata})
    return body


def test_a_new_service_affects_itself(make: Make) -> None:
    store = Store(())
    assert store.observe(Kind.SERVICES, service(make, 1)) == ChangeImpact(("s1",), new_spec="s1")
    assert store.observe(Kind.SERVICES, service(make, 2)) == ChangeImpact()
    known = store.services.get("s1")
    assert known is not None
    assert (known.key, known.generation, known.deleting) == (("acme", "concierge"), 3, False)
    assert known.body["spec"] == {"replicas": 1}


def test_a_written_status_is_a_change_but_not_a_new_spec(make: Make) -> None:
    store = Store(())
    store.observe(Kind.SERVICES, service(make, 1))
    body = {**service(make, 2), "status": {"sessions": 1}}
    assert store.observe(Kind.SERVICES, body) == ChangeImpact(("s1",))
    assert store.observe(Kind.SERVICES, service(make, 3, generation=4)).new_spec == "s1"


@pytest.mark.parametrize("kind", [Kind.SERVICES, Kind.PODS])
def test_a_known_version_is_not_parsed_again(make: Make, kind: Kind) -> None:
    store = Store(())
    body = service(make, 7) if kind is Kind.SERVICES else make.pod_body()
    assert store.observe(kind, body) != ChangeImpact()
    assert (
        store.observe(kind, {"metadata": body["metadata"], "spec": {"replicas": 9}})
        == ChangeImpact()
    )


def test_pods_are_found_by_their_owner(make: Make) -> None:
    store = Store(())
    store.observe(Kind.PODS, make.pod_body("p0"))
    other = {"ownerReferences": make.owners("s2")}
    store.observe(Kind.PODS, make.pod_body("p1", metadata=other))
    assert [pod.name for pod in store.owned_by("s1")] == ["p0"]
    store.observe_deletion(Kind.PODS, "uid-p0")
    assert store.owned_by("s1") == ()


def test_a_pod_that_loses_its_owner_leaves_the_service_and_may_come_back(make: Make) -> None:
    store = Store(())
    store.observe(Kind.PODS, make.pod_body())
    lost = make.pod_body(metadata={"resourceVersion": "8", "ownerReferences": []})
    assert store.observe(Kind.PODS, lost) == ChangeImpact(("s1",), pod="uid-p0")
    assert (store.owned_by("s1"), store.pods_of(ServiceKey("acme", "concierge"))) == ((), ())
    assert [use.gpus for use in store.gpu_uses(NOW)] == [1]  # it still uses its GPU
    back = make.pod_body(metadata={"resourceVersion": "9"})
    assert store.observe(Kind.PODS, back).services == ("s1",)
    assert [pod.name for pod in store.owned_by("s1")] == ["p0"]


def test_a_pod_with_our_labels_and_no_owner_is_not_ours(make: Make) -> None:
    store = Store(())
    stranger = make.pod_body(metadata={"ownerReferences": []})
    assert store.observe(Kind.PODS, stranger) == ChangeImpact()
    assert store.pods_of(ServiceKey("acme", "concierge")) == ()
    assert [use.gpu_class for use in store.gpu_uses(NOW)] == [""]


def test_services_of_other_namespaces_are_ignored_and_reported_once(make: Make) -> None:
    store = Store(["elsewhere"])
    fault = "AvatarService acme/concierge is outside the namespaces that this operator watches"
    assert store.observe(Kind.SERVICES, service(make, 1)) == ChangeImpact(fault=fault)
    assert store.observe(Kind.SERVICES, service(make, 2)) == ChangeImpact()
    assert store.uids(Kind.SERVICES) == frozenset()


def test_the_deletion_of_a_service_reports_its_key(make: Make) -> None:
    store = Store(())
    store.observe(Kind.SERVICES, service(make, 1))
    assert store.observe_deletion(Kind.SERVICES, "s1") == ChangeImpact(
        deleted_service=ServiceKey("acme", "concierge")
    )
    assert store.observe_deletion(Kind.SERVICES, "s1") == ChangeImpact()


def test_nodes_and_profiles_affect_all_services_once(make: Make) -> None:
    store = Store(())
    for kind, body, impact in (
        (Kind.NODES, make.node_body(), ChangeImpact(all_services=True, node="n1")),
        (Kind.PROFILES, make.profile_body(), ChangeImpact(all_services=True)),
    ):
        uid = body["metadata"]["uid"]
        assert store.observe(kind, body) == impact
        assert store.observe(kind, body) == ChangeImpact()
        assert store.uids(kind) == {uid}
        assert store.observe_deletion(kind, uid) == impact
        assert store.observe_deletion(kind, uid) == ChangeImpact()
    assert store.nodes() == ()


def test_the_status_of_a_profile_affects_no_service(make: Make) -> None:
    store = Store([])
    assert store.profile_body("rtx-4090") is None
    body = make.profile_body()
    body["metadata"] |= {"generation": 3, "resourceVersion": "1"}
    store.observe(Kind.PROFILES, body)
    conditions = [{"type": "NodesRecognised", "status": "True"}]
    updated = {**body, "status": {"conditions": conditions}}
    updated["metadata"] = {**body["metadata"], "resourceVersion": "2"}
    assert not store.observe(Kind.PROFILES, updated).all_services
    known = store.profile_body("rtx-4090")
    assert known is not None
    assert (known.uid, known.generation) == ("rtx-4090", 3)
    assert known.status == {"conditions": conditions}
    store.observe_deletion(Kind.PROFILES, "rtx-4090")
    assert store.profile_body("rtx-4090") is None


def test_an_invalid_profile_is_not_used_and_reported_once(make: Make) -> None:
    store = Store(())
    store.observe(Kind.PROFILES, make.profile_body())
    assert [profile.name for profile in store.profiles()] == ["rtx-4090"]
    broken = make.profile_body(curves=[{"model": "m"}])
    impact = store.observe(Kind.PROFILES, broken)
    assert impact.all_services
    assert "frameBatchMs" in impact.fault
    assert store.profiles() == ()
    assert store.observe(Kind.PROFILES, broken) == ChangeImpact()


def test_a_runtime_pod_affects_its_service_and_its_deletion_frees_gpus(
    make: Make,
) -> None:
    store = Store(())
    body = make.pod_body()
    assert store.observe(Kind.PODS, body) == ChangeImpact(("s1",), pod="uid-p0")
    assert store.observe(Kind.PODS, body) == ChangeImpact()
    assert store.gpu_uses(NOW) == (PodUse("n1", 1, "rtx-4090"),)
    assert [pod.name for pod in store.pods_of(ServiceKey("acme", "concierge"))] == ["p0"]
    assert store.pods_of(ServiceKey("other", "concierge")) == ()
    assert store.uids(Kind.PODS) == {"uid-p0"}
    assert store.observe_deletion(Kind.PODS, "uid-p0") == ChangeImpact(
        ("s1",), freed_gpus=True, pod="uid-p0"
    )
    assert store.pods_of(ServiceKey("acme", "concierge")) == ()


def foreign(make: Make, **changes: Any) -> Body:
    body = make.pod_body(**changes)
    body["metadata"]["ownerReferences"] = []
    return body


def test_a_foreign_pod_counts_as_long_as_it_uses_gpus(make: Make) -> None:
    store = Store(())
    assert store.observe(Kind.PODS, foreign(make, gpus=0)) == ChangeImpact()
    assert store.uids(Kind.PODS) == frozenset()
    assert store.observe(Kind.PODS, foreign(make)) == ChangeImpact()
    assert store.gpu_uses(NOW) == (PodUse("n1", 1, ""),)
    ended = foreign(make, status={"phase": "Succeeded"})
    assert store.observe(Kind.PODS, ended) == ChangeImpact(freed_gpus=True)
    assert store.gpu_uses(NOW) == ()
    assert store.observe_deletion(Kind.PODS, "uid-p0") == ChangeImpact()


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_the_deletion_of_an_unknown_object_affects_nothing(kind: Kind) -> None:
    assert Store(()).observe_deletion(kind, "x") == ChangeImpact()


def moved(make: Make, version: str, service: str, owner: str, made_for: str = "") -> Body:
    """Return a pod of a service, adopted from the service `made_for` if that is set."""
    owners = make.owners(owner, service)
    body = make.pod_body(metadata={"resourceVersion": version, "ownerReferences": owners})
    body["metadata"]["labels"]["avatar.musetalk.io/service"] = service
    if made_for:
        body["metadata"]["labels"]["avatar.musetalk.io/made-for"] = made_for
    return body


def test_an_adopted_pod_leaves_its_first_service_and_affects_both(
    make: Make,
) -> None:
    store = Store(())
    first, second = ServiceKey("acme", "first"), ServiceKey("acme", "second")
    store.observe(Kind.PODS, moved(make, "7", "first", "s1"))
    impact = store.observe(Kind.PODS, moved(make, "8", "second", "s2", made_for="first"))
    assert impact == ChangeImpact(("s2", "s1"), pod="uid-p0")
    assert (store.pods_of(first), store.owned_by("s1")) == ((), ())
    assert [pod.name for pod in store.pods_of(second)] == ["p0"]
    (pod,) = store.owned_by("s2")
    assert (pod.service, pod.origin) == ("second", first)
    assert store.names_elsewhere(first) == {
        "p0"
    }  # a name that the first service must not use again
    late = store.observe(Kind.PODS, moved(make, "7", "first", "s1"))
    assert late == ChangeImpact()
    assert store.pods_of(first) == ()
    store.observe(Kind.PODS, moved(make, "9", "third", "s3", made_for="first"))
    assert store.names_elsewhere(first) == {"p0"}
    assert store.observe_deletion(Kind.PODS, "uid-p0") == ChangeImpact(
        ("s3",), freed_gpus=True, pod="uid-p0"
    )
    assert store.names_elsewhere(first) == frozenset()
    assert store.owned_by("s2") == store.owned_by("s3") == ()


def sharer(make: Make, name: str, version: int, **autoscaling: Any) -> Body:
    body = make.service_body(autoscaling={"maxReplicas": 3, "sharedReserve": True, **autoscaling})
    body["metadata"].update(name=name, uid=f"uid-{name}", resourceVersion=str(version))
    return body


def test_services_that_share_a_reserve_are_affected_by_each_others_specs_only(
    make: Make,
) -> None:
    store = Store(())
    assert store.observe(Kind.SERVICES, service(make, 1)).services == ("s1",)
    assert store.observe(Kind.SERVICES, sharer(make, "a", 2)).services == ("uid-a",)
    impact = store.observe(Kind.SERVICES, sharer(make, "b", 3, reserve=1))
    assert impact.services == ("uid-b", "uid-a")
    group = store.reserve_groups.group("uid-a", "acme", 0.0)
    assert group is not None
    assert (group.owner.key.name, group.pods) == ("b", 1)
    updated = {**sharer(make, "b", 4, reserve=1), "status": {"sessions": 1}}
    assert store.observe(Kind.SERVICES, updated).services == ("uid-b",)
    assert store.observe(Kind.SERVICES, sharer(make, "b", 5, reserve=2)).services == (
        "uid-b",
        "uid-a",
    )
    assert store.observe_deletion(Kind.SERVICES, "uid-b").services == ("uid-a",)
    assert store.reserve_groups.claimants("uid-a", "acme") == ()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"spec": {"replicas": 1}}, id="stops sharing"),
        pytest.param({"spec": {"autoscaling": {"sharedReserve": True}}}, id="invalid"),
        pytest.param({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, id="deleted"),
    ],
)
def test_a_service_that_stops_sharing_keeps_no_reserve_for_others(make: Make, change: Body) -> None:
    store = Store(())
    store.observe(Kind.SERVICES, sharer(make, "a", 1))
    store.observe(Kind.SERVICES, sharer(make, "b", 2, reserve=1))
    body = sharer(make, "b", 3, reserve=1)
    for part, fields in change.items():
        body[part] = {**body[part], **fields} if part == "metadata" else fields
    assert store.observe(Kind.SERVICES, body).services == ("uid-b", "uid-a")
    group = store.reserve_groups.group("uid-a", "acme", 0.0)
    assert group is not None
    assert (group.owner.key.name, group.pods) == ("a", 0)


def test_a_deletion_is_visible_in_lists_that_were_read_before(make: Make) -> None:
    store = Store(())
    store.observe(Kind.NODES, make.node_body("n1"))
    store.observe(Kind.NODES, make.node_body("n2"))
    store.observe(Kind.PROFILES, make.profile_body("rtx-4090"))
    store.observe(Kind.PROFILES, make.profile_body("l4"))
    store.observe(Kind.PODS, make.pod_body("p0"))
    store.observe(Kind.PODS, make.pod_body("p1"))
    assert [node.name for node in store.nodes()] == ["n1", "n2"]
    assert [profile.name for profile in store.profiles()] == ["l4", "rtx-4090"]
    assert store.gpu_uses(NOW) == (PodUse("n1", 2, "rtx-4090"),)
    store.observe_deletion(Kind.NODES, "n1")
    store.observe_deletion(Kind.PROFILES, "l4")
    store.observe_deletion(Kind.PODS, "uid-p0")
    assert [node.name for node in store.nodes()] == ["n2"]
    assert [profile.name for profile in store.profiles()] == ["rtx-4090"]
    assert store.gpu_uses(NOW) == (PodUse("n1", 1, "rtx-4090"),)


def test_an_observation_is_visible_in_lists_that_were_read_before(make: Make) -> None:
    store = Store(())
    assert (store.nodes(), store.profiles(), store.gpu_uses(NOW)) == ((), (), ())
    store.observe(Kind.NODES, make.node_body("n1"))
    store.observe(Kind.PROFILES, make.profile_body())
    store.observe(Kind.PODS, make.pod_body("p0"))
    assert [node.name for node in store.nodes()] == ["n1"]
    assert [profile.name for profile in store.profiles()] == ["rtx-4090"]
    assert store.gpu_uses(NOW) == (PodUse("n1", 1, "rtx-4090"),)


def slice_body() -> Body:
    pool = {"name": "n1", "generation": 1, "resourceSliceCount": 1}
    spec = {"driver": "gpu.nvidia.com", "nodeName": "n1", "pool": pool, "devices": []}
    return {"metadata": {"name": "s", "uid": "s"}, "spec": spec}


def claim_body() -> Body:
    result = {"driver": "gpu.nvidia.com", "pool": "n1", "device": "gpu-0"}
    status = {"allocation": {"devices": {"results": [result]}}}
    return {"metadata": {"name": "c", "uid": "c"}, "status": status}


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_a_late_event_does_not_restore_a_deleted_object(make: Make, kind: Kind) -> None:
    store = Store(())
    body = {
        Kind.SERVICES: service(make, 1),
        Kind.PROFILES: make.profile_body(),
        Kind.NODES: make.node_body(),
        Kind.PODS: make.pod_body(),
        Kind.AVATARS: make.avatar_body(),
        Kind.JOBS: make.job_body(),
        Kind.TENANTS: make.tenant_body(),
        Kind.NAMESPACES: make.namespace_body("acme", team="a"),
        Kind.SLICES: slice_body(),
        Kind.CLAIMS: claim_body(),
        Kind.DEVICE_CLASSES: {"metadata": {"name": "gpu.nvidia.com", "uid": "c"}},
    }[kind]
    uid = body["metadata"]["uid"]
    store.observe(kind, body)
    assert store.observe_deletion(kind, uid) != ChangeImpact()
    assert store.uids(kind) == frozenset()
    assert store.observe(kind, body) == ChangeImpact()
    assert store.uids(kind) == frozenset()


def test_a_service_that_was_created_again_is_found_after_the_deletion_of_the_first(
    make: Make,
) -> None:
    store = Store(())
    key = ServiceKey("acme", "concierge")
    assert store.service_uid(key) is None
    store.observe(Kind.SERVICES, service(make, 1))
    assert store.service_uid(key) == "s1"
    store.observe(Kind.SERVICES, service(make, 2, uid="s2"))
    store.observe_deletion(Kind.SERVICES, "s1")  # its event arrives after that of the second
    assert store.service_uid(key) == "s2"
    store.observe_deletion(Kind.SERVICES, "s2")
    assert store.service_uid(key) is None


def test_a_gateway_is_reported_as_such_until_its_deletion(make: Make) -> None:
    store = Store((), "system")
    body = make.pod_body("gw", gpus=0, metadata={"namespace": "system"})
    body["metadata"]["labels"] = {
        "app.kubernetes.io/component": "gateway",
        "app.kubernetes.io/name": "avatar-operator",
    }
    assert store.observe(Kind.PODS, body) == ChangeImpact(gateway="uid-gw")
    assert store.observe(Kind.PODS, body) == ChangeImpact()
    assert store.uids(Kind.PODS) == {"uid-gw"}
    assert store.observe_deletion(Kind.PODS, "uid-gw") == ChangeImpact(gateway="uid-gw")
    assert store.uids(Kind.PODS) == frozenset()


def test_the_kept_body_of_a_service_has_only_what_plans_need(make: Make) -> None:
    store = Store(())
    annotations = {"avatar.musetalk.io/paused": "true", "kubectl.kubernetes.io/x": "long"}
    body = service(make, 1, annotations=annotations, managedFields=[{"manager": "kubectl"}])
    store.observe(Kind.SERVICES, {**body, "status": {"sessions": 1}})
    known = store.services.get("s1")
    assert known is not None
    assert known.body["metadata"] == {
        "name": "concierge",
        "namespace": "acme",
        "uid": "s1",
        "generation": 3,
        "annotations": {"avatar.musetalk.io/paused": "true"},
    }
    assert known.status == {"sessions": 1}


def test_a_reserved_gpu_counts_until_its_pod_is_observed(make: Make) -> None:
    store = Store(())
    store.reserve_gpus(ServiceKey("acme", "concierge"), "p0", PodUse("", 1, "rtx-4090"))
    store.reserve_gpus(ServiceKey("acme", "other"), "p1", PodUse("", 1, "rtx-4090"))
    assert store.gpu_uses(NOW) == (PodUse("", 2, "rtx-4090"),)
    store.observe(Kind.PODS, make.pod_body("p0"))
    assert sum(use.gpus for use in store.gpu_uses(NOW)) == 2  # the pod, and the reservation of p1
    impact = store.release_gpus(ServiceKey("acme", "concierge"), ["p0"])
    assert impact == ChangeImpact()  # it had ended already
    assert sum(use.gpus for use in store.gpu_uses(NOW)) == 2


def test_a_pod_that_was_not_created_frees_its_reserved_gpu() -> None:
    store = Store(())
    key = ServiceKey("acme", "concierge")
    store.reserve_gpus(key, "p0", PodUse("", 1, "rtx-4090"))
    assert store.release_gpus(key, ["p0", "p1"]) == ChangeImpact(freed_gpus=True)
    assert store.gpu_uses(NOW) == ()
    assert store.release_gpus(key, ["p0"]) == ChangeImpact()


def test_a_pod_of_that_name_in_another_namespace_ends_no_reservation(make: Make) -> None:
    store = Store(())
    store.reserve_gpus(ServiceKey("globex", "concierge"), "p0", PodUse("", 1, "rtx-4090"))
    store.observe(Kind.PODS, make.pod_body("p0"))
    assert sum(use.gpus for use in store.gpu_uses(NOW)) == 2


CREATED_AT = 1767225600.0  # of the pods of `make.pod_body`


def test_a_pod_that_no_node_has_accepted_in_time_uses_no_gpu(make: Make) -> None:
    store = Store(())
    assert store.next_freed_s(CREATED_AT) is None
    store.observe(Kind.PODS, make.pod_body(spec={"nodeName": ""}))
    assert store.next_freed_s(CREATED_AT + 1) == ACCEPTED_S - 1
    before = CREATED_AT + ACCEPTED_S - 0.1
    assert store.gpu_uses(before) == (PodUse("", 1, "rtx-4090"),)
    assert store.gpu_uses(CREATED_AT + ACCEPTED_S) == ()
    assert store.next_freed_s(CREATED_AT + ACCEPTED_S) is None
    labels = {**make.pod_body()["metadata"]["labels"], "more": "x"}
    changed = {"resourceVersion": "8", "labels": labels}
    store.observe(Kind.PODS, make.pod_body(spec={"nodeName": ""}, metadata=changed))
    assert store.gpu_uses(CREATED_AT + ACCEPTED_S) == ()
    store.observe(Kind.PODS, make.pod_body(metadata={"resourceVersion": "9"}))
    assert store.gpu_uses(CREATED_AT + 999) == (PodUse("n1", 1, "rtx-4090"),)


def test_a_rejected_pod_frees_its_gpu_and_takes_it_when_bound(make: Make) -> None:
    store = Store(())
    store.observe(Kind.PODS, make.pod_body(spec={"nodeName": ""}))
    rejected = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    body = make.pod_body(
        spec={"nodeName": ""}, status={"conditions": [rejected]}, metadata={"resourceVersion": "8"}
    )
    assert store.observe(Kind.PODS, body).freed_gpus
    assert store.gpu_uses(CREATED_AT) == ()
    assert store.next_freed_s(CREATED_AT) is None
    store.observe(Kind.PODS, make.pod_body(metadata={"resourceVersion": "9"}))
    assert store.gpu_uses(CREATED_AT) == (PodUse("n1", 1, "rtx-4090"),)


def test_a_deleted_pod_without_a_node_does_not_free_its_gpu_twice(make: Make) -> None:
    store = Store(())
    store.observe(Kind.PODS, make.pod_body(spec={"nodeName": ""}))
    assert store.observe_deletion(Kind.PODS, "uid-p0").freed_gpus
    assert store.next_freed_s(CREATED_AT) is None
    assert store.gpu_uses(CREATED_AT + 999) == ()


pod_changes = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from(["new", "rejected", "bound", "deleted"])),
    max_size=12,
)


@given(pod_changes, st.sampled_from([0.0, ACCEPTED_S - 0.1, ACCEPTED_S, 3600.0]))
def test_only_pods_that_a_node_has_or_may_accept_use_gpus(
    make: Make, changes: list[tuple[int, str]], age_s: float
) -> None:
    store, last = Store(()), dict[int, str]()
    rejected = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    for version, (number, change) in enumerate(changes, 10):
        if last.get(number) in ("bound", "deleted"):
            continue
        last[number] = change
        if change == "deleted":
            store.observe_deletion(Kind.PODS, f"uid-p{number}")
            continue
        body = make.pod_body(
            f"p{number}",
            spec={} if change == "bound" else {"nodeName": ""},
            status={"conditions": [rejected] if change == "rejected" else []},
        )
        body["metadata"]["resourceVersion"] = str(version)
        store.observe(Kind.PODS, body)
    uses = store.gpu_uses(CREATED_AT + age_s)
    held = list(last.values())
    assert sum(use.gpus for use in uses if use.node) == held.count("bound")
    waiting = held.count("new") if age_s < ACCEPTED_S else 0
    assert sum(use.gpus for use in uses if not use.node) == waiting


def test_an_image_check_affects_its_service_and_is_no_runtime_pod(make: Make) -> None:
    owners = make.pod_body()["metadata"]["ownerReferences"]
    metadata: Body = {"name": "c", "namespace": "acme", "uid": "u", "resourceVersion": "1"}
    spec = {"containers": [{"name": "image-check"}]}
    body = {"metadata": {**metadata, "ownerReferences": owners}, "spec": spec}
    store = Store(())
    assert store.observe(Kind.PODS, body) == ChangeImpact(("s1",))
    assert store.observe(Kind.PODS, body) == ChangeImpact()
    assert [check.name for check in store.image_checks("s1")] == ["c"]
    assert store.image_checks("s2") == ()
    assert store.owned_by("s1") == ()
    assert store.uids(Kind.PODS) == {"u"}
    assert store.observe_deletion(Kind.PODS, "u") == ChangeImpact(("s1",))
    assert store.image_checks("s1") == ()
