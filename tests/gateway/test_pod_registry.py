from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from avatar_gateway.core.model import Pod, State
from avatar_gateway.pod_registry import SETTLE_S, PodRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

POD = Pod("acme", "p1", "u1", "acme/concierge", "10.0.0.1", 8080, 9090, terminating=False)


def _state(at: float = 0.0) -> State:
    return State(5, 0, 5, False, True, 1, at)


def _placed(registry: PodRegistry) -> int:
    (candidate,) = registry.candidates("acme/concierge")
    return candidate.placed


def test_only_pods_of_the_service_are_candidates() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    registry.set_pod(replace(POD, name="p2", service="acme/other"))
    (candidate,) = registry.candidates("acme/concierge")
    assert (candidate.key, candidate.usable, candidate.state) == ("acme/p1", True, None)


def test_a_pod_that_is_terminating_or_has_no_ip_address_is_not_usable() -> None:
    registry = PodRegistry()
    for change in ({"terminating": True}, {"ip": ""}):
        registry.set_pod(replace(POD, **change))
        assert not registry.candidates("acme/concierge")[0].usable


def test_a_placement_counts_until_the_state_of_the_pod_includes_it() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    placement = registry.add_placement("acme/p1")
    registry.update_state(POD, _state(at=100))
    assert _placed(registry) == 1
    placement.accepted_at = 100.0
    registry.update_state(POD, _state(at=100 + SETTLE_S / 2))
    assert _placed(registry) == 1
    registry.update_state(POD, _state(at=100 + SETTLE_S * 2))
    assert _placed(registry) == 0


def test_a_released_placement_does_not_count() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    placement = registry.add_placement("acme/p1")
    registry.release(placement)
    registry.release(placement)
    assert _placed(registry) == 0


def test_a_new_pod_with_a_known_name_starts_without_a_state() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    registry.update_state(POD, _state())
    registry.set_pod(replace(POD, uid="u2"))
    assert registry.candidates("acme/concierge")[0].state is None
    # The last state of the old pod is ignored.
    registry.update_state(POD, _state())
    assert registry.candidates("acme/concierge")[0].state is None


def test_a_list_replaces_the_objects_of_its_namespace() -> None:
    registry = PodRegistry()
    other = replace(POD, namespace="other", service="other/concierge")
    registry.replace_pods([POD, other], None)
    registry.replace_services(["acme/concierge", "other/concierge"], None)
    registry.replace_pods([], "acme")
    registry.replace_services(["acme/new"], "acme")
    assert set(registry.pods) == {"other/p1"}
    assert registry.services == {"acme/new", "other/concierge"}
    registry.replace_pods([POD], None)
    registry.remove_service("acme/new")
    assert set(registry.pods) == {"acme/p1"}
    assert registry.services == {"other/concierge"}


def test_only_a_change_of_pods_wakes_the_state_streams() -> None:
    registry = PodRegistry()
    steps: list[tuple[Callable[[], None], bool]] = [
        (lambda: registry.set_pod(POD), True),
        (lambda: registry.set_pod(POD), False),
        (lambda: registry.update_state(POD, _state()), False),
        (lambda: registry.set_pod(replace(POD, terminating=True)), True),
        (lambda: registry.remove_pod("acme/p1"), True),
        (lambda: registry.remove_pod("acme/p1"), False),
    ]
    for act, wakes in steps:
        registry.pods_changed.clear()
        act()
        assert registry.pods_changed.is_set() is wakes
