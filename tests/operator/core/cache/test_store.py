from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.core.cache.store import Kind, News, Observations
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make


def service(make: Make, version: int, **metadata: Any) -> Body:
    body = make.service_body(replicas=1)
    body["metadata"].update({"resourceVersion": str(version), **metadata})
    return body


def test_a_new_service_is_news_for_itself(make: Make) -> None:
    seen = Observations(())
    assert seen.observe(Kind.SERVICES, service(make, 1)) == News(("s1",), renewed="s1")
    assert seen.observe(Kind.SERVICES, service(make, 2)) == News()
    known = seen.services.get("s1")
    assert known is not None
    assert (known.key, known.generation, known.deleting) == (("acme", "concierge"), 3, False)
    assert known.body["spec"] == {"replicas": 1}


def test_a_written_status_is_news_but_no_new_spec(make: Make) -> None:
    seen = Observations(())
    seen.observe(Kind.SERVICES, service(make, 1))
    body = {**service(make, 2), "status": {"sessions": 1}}
    assert seen.observe(Kind.SERVICES, body) == News(("s1",))
    assert seen.observe(Kind.SERVICES, service(make, 3, generation=4)).renewed == "s1"


@pytest.mark.parametrize("kind", [Kind.SERVICES, Kind.PODS])
def test_an_echo_of_a_known_version_is_not_even_read(make: Make, kind: Kind) -> None:
    seen = Observations(())
    body = service(make, 7) if kind is Kind.SERVICES else make.pod_body()
    assert seen.observe(kind, body) != News()
    assert seen.observe(kind, {"metadata": body["metadata"], "spec": {"replicas": 9}}) == News()


def test_pods_are_found_by_their_owner(make: Make) -> None:
    seen = Observations(())
    seen.observe(Kind.PODS, make.pod_body("p0"))
    seen.observe(Kind.PODS, make.pod_body("p1", metadata={"ownerReferences": [{"uid": "s2"}]}))
    assert [pod.name for pod in seen.owned_by("s1")] == ["p0"]
    seen.forget(Kind.PODS, "uid-p0")
    assert seen.owned_by("s1") == ()


def test_services_of_other_namespaces_are_not_seen(make: Make) -> None:
    seen = Observations(["elsewhere"])
    assert seen.observe(Kind.SERVICES, service(make, 1)) == News()
    assert seen.known(Kind.SERVICES) == frozenset()


def test_a_deleted_service_is_told_by_its_key(make: Make) -> None:
    seen = Observations(())
    seen.observe(Kind.SERVICES, service(make, 1))
    assert seen.forget(Kind.SERVICES, "s1") == News(gone=ServiceKey("acme", "concierge"))
    assert seen.forget(Kind.SERVICES, "s1") == News()


def test_nodes_and_profiles_concern_everyone_once(make: Make) -> None:
    seen = Observations(())
    for kind, body, news in (
        (Kind.NODES, make.node_body(), News(everyone=True, node="n1")),
        (Kind.PROFILES, make.profile_body(), News(everyone=True)),
    ):
        uid = body["metadata"]["uid"]
        assert seen.observe(kind, body) == news
        assert seen.observe(kind, body) == News()
        assert seen.known(kind) == {uid}
        assert seen.forget(kind, uid) == news
        assert seen.forget(kind, uid) == News()
    assert seen.nodes() == ()


def test_a_status_that_changes_no_plan_concerns_nobody(make: Make) -> None:
    seen = Observations([])
    assert seen.profile_body("rtx-4090") is None
    body = make.profile_body()
    body["metadata"] |= {"generation": 3, "resourceVersion": "1"}
    seen.observe(Kind.PROFILES, body)
    conditions = [{"type": "NodesRecognised", "status": "True"}]
    told = {**body, "status": {"conditions": conditions}}
    told["metadata"] = {**body["metadata"], "resourceVersion": "2"}
    assert not seen.observe(Kind.PROFILES, told).everyone
    known = seen.profile_body("rtx-4090")
    assert known is not None
    assert (known.uid, known.generation) == ("rtx-4090", 3)
    assert known.status == {"conditions": conditions}
    seen.forget(Kind.PROFILES, "rtx-4090")
    assert seen.profile_body("rtx-4090") is None


def test_an_invalid_profile_is_not_used_and_says_so_once(make: Make) -> None:
    seen = Observations(())
    seen.observe(Kind.PROFILES, make.profile_body())
    assert [profile.name for profile in seen.profiles()] == ["rtx-4090"]
    broken = make.profile_body(curves=[{"model": "m"}])
    news = seen.observe(Kind.PROFILES, broken)
    assert news.everyone
    assert "frameBatchMs" in news.fault
    assert seen.profiles() == ()
    assert seen.observe(Kind.PROFILES, broken) == News()


def test_a_runtime_pod_concerns_its_service_and_its_end_those_that_wait_for_gpus(
    make: Make,
) -> None:
    seen = Observations(())
    body = make.pod_body()
    assert seen.observe(Kind.PODS, body) == News(("s1",), pod="uid-p0")
    assert seen.observe(Kind.PODS, body) == News()
    assert seen.uses() == (PodUse("n1", 1, "rtx-4090"),)
    assert [pod.name for pod in seen.pods_of(ServiceKey("acme", "concierge"))] == ["p0"]
    assert seen.pods_of(ServiceKey("other", "concierge")) == ()
    assert seen.known(Kind.PODS) == {"uid-p0"}
    assert seen.forget(Kind.PODS, "uid-p0") == News(("s1",), freed=True, pod="uid-p0")
    assert seen.pods_of(ServiceKey("acme", "concierge")) == ()


def foreign(make: Make, **changes: Any) -> Body:
    body = make.pod_body(**changes)
    body["metadata"]["labels"] = {}
    return body


def test_a_foreign_pod_matters_as_long_as_it_uses_gpus(make: Make) -> None:
    seen = Observations(())
    assert seen.observe(Kind.PODS, foreign(make, gpus=0)) == News()
    assert seen.known(Kind.PODS) == frozenset()
    assert seen.observe(Kind.PODS, foreign(make)) == News()
    assert seen.uses() == (PodUse("n1", 1, ""),)
    ended = foreign(make, status={"phase": "Succeeded"})
    assert seen.observe(Kind.PODS, ended) == News(freed=True)
    assert seen.uses() == ()
    assert seen.forget(Kind.PODS, "uid-p0") == News()


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_forgetting_the_unknown_is_no_news(kind: Kind) -> None:
    assert Observations(()).forget(kind, "x") == News()


def moved(make: Make, version: str, service: str, owner: str, made_for: str = "") -> Body:
    """Return a pod as one of a service, taken over from another one if it says so."""
    body = make.pod_body(metadata={"resourceVersion": version, "ownerReferences": [{"uid": owner}]})
    body["metadata"]["labels"]["avatar.musetalk.io/service"] = service
    if made_for:
        body["metadata"]["labels"]["avatar.musetalk.io/made-for"] = made_for
    return body


def test_a_pod_that_another_service_takes_over_leaves_the_first_and_concerns_both(
    make: Make,
) -> None:
    seen = Observations(())
    first, second = ServiceKey("acme", "first"), ServiceKey("acme", "second")
    seen.observe(Kind.PODS, moved(make, "7", "first", "s1"))
    news = seen.observe(Kind.PODS, moved(make, "8", "second", "s2", made_for="first"))
    assert news == News(("s2", "s1"), pod="uid-p0")
    assert (seen.pods_of(first), seen.owned_by("s1")) == ((), ())
    assert [pod.name for pod in seen.pods_of(second)] == ["p0"]
    (pod,) = seen.owned_by("s2")
    assert (pod.service, pod.origin) == ("second", first)
    assert seen.names_elsewhere(first) == {"p0"}  # a name that the first may not give again
    late = seen.observe(Kind.PODS, moved(make, "7", "first", "s1"))
    assert late == News()
    assert seen.pods_of(first) == ()
    seen.observe(Kind.PODS, moved(make, "9", "third", "s3", made_for="first"))
    assert seen.names_elsewhere(first) == {"p0"}
    assert seen.forget(Kind.PODS, "uid-p0") == News(("s3",), freed=True, pod="uid-p0")
    assert seen.names_elsewhere(first) == frozenset()
    assert seen.owned_by("s2") == seen.owned_by("s3") == ()


def sharer(make: Make, name: str, version: int, **autoscaling: Any) -> Body:
    body = make.service_body(autoscaling={"maxReplicas": 3, "sharedReserve": True, **autoscaling})
    body["metadata"].update(name=name, uid=f"uid-{name}", resourceVersion=str(version))
    return body


def test_services_that_share_a_reserve_hear_of_each_others_specs_and_of_nothing_else(
    make: Make,
) -> None:
    seen = Observations(())
    assert seen.observe(Kind.SERVICES, service(make, 1)).services == ("s1",)
    assert seen.observe(Kind.SERVICES, sharer(make, "a", 2)).services == ("uid-a",)
    news = seen.observe(Kind.SERVICES, sharer(make, "b", 3, reserve=1))
    assert news.services == ("uid-b", "uid-a")
    group = seen.reserve_groups.group("uid-a", "acme", 0.0)
    assert group is not None
    assert (group.owner.key.name, group.pods) == ("b", 1)
    told = {**sharer(make, "b", 4, reserve=1), "status": {"sessions": 1}}
    assert seen.observe(Kind.SERVICES, told).services == ("uid-b",)
    assert seen.observe(Kind.SERVICES, sharer(make, "b", 5, reserve=2)).services == (
        "uid-b",
        "uid-a",
    )
    assert seen.forget(Kind.SERVICES, "uid-b").services == ("uid-a",)
    assert seen.reserve_groups.claimants("uid-a", "acme") == ()


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"spec": {"replicas": 1}}, id="shares no more"),
        pytest.param({"spec": {"autoscaling": {"sharedReserve": True}}}, id="invalid"),
        pytest.param({"metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"}}, id="deleted"),
    ],
)
def test_a_service_that_shares_no_more_keeps_no_reserve_for_others(
    make: Make, change: Body
) -> None:
    seen = Observations(())
    seen.observe(Kind.SERVICES, sharer(make, "a", 1))
    seen.observe(Kind.SERVICES, sharer(make, "b", 2, reserve=1))
    body = sharer(make, "b", 3, reserve=1)
    for part, fields in change.items():
        body[part] = {**body[part], **fields} if part == "metadata" else fields
    assert seen.observe(Kind.SERVICES, body).services == ("uid-b", "uid-a")
    group = seen.reserve_groups.group("uid-a", "acme", 0.0)
    assert group is not None
    assert (group.owner.key.name, group.pods) == ("a", 0)
