"""The pods by service, owner and origin, and the services that a change affects."""

from __future__ import annotations

from typing import TYPE_CHECKING

from avatar_operator.core.cache.pod_index import PodIndex
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from tests.operator.conftest import Make

KEY, OTHER = ServiceKey("acme", "concierge"), ServiceKey("acme", "other")


def test_a_pod_is_found_by_its_service_and_its_owner(make: Make) -> None:
    index, pod = PodIndex(), make.pod()
    assert index.put(pod.uid, 1, pod) == ("s1",)
    assert index.get(pod.uid) is pod
    assert (index.version(pod.uid), index.uids()) == (1, (pod.uid,))
    assert list(index.values()) == [pod]
    assert index.of_service(KEY) == index.owned_by("s1") == (pod,)
    assert index.of_service(OTHER) == index.owned_by("s2") == index.adopted_from(KEY) == ()


def test_a_repetition_affects_nothing_and_a_change_the_owner_once(make: Make) -> None:
    index, pod = PodIndex(), make.pod()
    index.put(pod.uid, 1, pod)
    assert index.put(pod.uid, 2, make.pod()) == ()
    assert index.put(pod.uid, 3, make.pod(ready=False)) == ("s1",)
    assert index.put(pod.uid, 2, pod) == ()
    assert index.owned_by("s1") == (make.pod(ready=False),)


def test_an_adoption_affects_both_services(make: Make) -> None:
    index, pod = PodIndex(), make.pod()
    index.put(pod.uid, 1, pod)
    adopted = make.pod(owner_uid="s2", service="other", made_for="concierge")
    assert index.put(pod.uid, 2, adopted) == ("s2", "s1")
    assert index.of_service(OTHER) == index.owned_by("s2") == (adopted,)
    assert index.of_service(KEY) == index.owned_by("s1") == ()
    assert adopted.origin == KEY
    assert index.adopted_from(KEY) == (adopted,)
    assert index.drop(pod.uid) is adopted
    assert index.adopted_from(KEY) == index.of_service(OTHER) == index.owned_by("s2") == ()
    assert index.drop(pod.uid) is None


def test_a_pod_of_a_service_remains_when_another_one_leaves(make: Make) -> None:
    index, first, second = PodIndex(), make.pod("p1"), make.pod("p2")
    for pod in (first, second):
        index.put(pod.uid, 1, pod)
    assert index.release(first.uid) == ("s1",)
    assert index.release(first.uid) == ()
    assert index.of_service(KEY) == index.owned_by("s1") == (second,)
    assert index.put(first.uid, 2, first) == ("s1",)  # released is not deleted
    index.drop(first.uid)
    assert index.put(first.uid, 3, first) == ()
