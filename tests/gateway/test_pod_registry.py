from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from avatar_gateway.core.model import Pod, State
from avatar_gateway.core.routing import STALE_S, Shortage
from avatar_gateway.pod_registry import SETTLE_S, Placement, PodRegistry

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


def test_a_slot_is_reserved_until_a_state_can_count_the_session() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    pods = registry.pods_of("acme/concierge")
    registry.update_state(POD, State(1, 0, 1, False, True, 1, 100.0))
    placement = registry.add_placement("acme/p1")
    assert pods.order(100.0) is Shortage.NO_CAPACITY
    registry.release(placement)
    assert pods.order(100.0) == ["acme/p1"]
    placement = registry.add_placement("acme/p1")
    placement.accepted_at = 100.1
    registry.update_state(POD, State(1, 0, 1, False, True, 2, 100.05))
    assert pods.order(100.1) is Shortage.NO_CAPACITY
    # From now on, the state may count it: one of the two is free.
    registry.update_state(POD, State(2, 1, 1, False, True, 3, 100.2))
    assert pods.order(100.2) == ["acme/p1"]


def test_a_slot_is_free_as_soon_as_its_session_has_ended_here() -> None:
    """The next state says so a moment later, and a caller in between must not be refused."""
    registry = PodRegistry()
    registry.set_pod(POD)
    pods = registry.pods_of("acme/concierge")
    placements = [registry.add_placement("acme/p1") for _ in range(2)]
    for placement in placements:
        placement.accepted_at = 100.0
    registry.update_state(POD, State(2, 2, 0, False, True, 1, 101.0))
    assert pods.order(101.0) is Shortage.NO_CAPACITY
    registry.release(placements.pop(), 101.1)
    assert pods.order(101.1) == ["acme/p1"]
    registry.add_placement("acme/p1")  # the slot is taken again
    assert pods.order(101.1) is Shortage.NO_CAPACITY
    registry.release(placements.pop(), 101.2)
    assert pods.order(101.2) == ["acme/p1"]
    # A state that can count both ends decides again.
    registry.update_state(POD, State(2, 2, 0, False, True, 2, 101.5))
    assert pods.order(101.5) is Shortage.NO_CAPACITY


def test_a_session_that_no_state_has_counted_frees_one_slot_only() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    pods = registry.pods_of("acme/concierge")
    registry.update_state(POD, State(1, 0, 1, False, True, 1, 100.0))
    placement = registry.add_placement("acme/p1")
    placement.accepted_at = 100.1
    registry.release(placement, 100.2)
    registry.add_placement("acme/p1")
    assert pods.order(100.2) is Shortage.NO_CAPACITY


def test_a_state_of_an_unknown_pod_is_not_stored() -> None:
    registry = PodRegistry()
    registry.update_state(POD, _state())
    registry.set_pod(POD)
    assert registry.candidates("acme/concierge")[0].state is None


def test_a_pod_that_another_service_takes_over_is_ranked_there() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    registry.update_state(POD, _state(100.0))
    registry.set_pod(replace(POD, service="acme/other"))
    assert registry.candidates("acme/concierge") == []
    assert registry.pods_of("acme/other").order(100.0) == ["acme/p1"]
    registry.remove_pod("acme/p1")
    assert registry.pods_of("acme/other").order(100.0) is Shortage.NOT_READY


@given(st.lists(st.tuples(st.sampled_from(["place", "accept", "end", "state"]), st.integers(0, 7))))
def test_no_pod_is_sent_more_sessions_than_it_has_slots(steps: list[tuple[str, int]]) -> None:
    """Each pod counts what it accepted at once, and its states arrive whenever they do."""
    registry, now = PodRegistry(), 100.0
    pods = [replace(POD, name=f"p{number}", uid=f"u{number}") for number in range(3)]
    live: dict[str, list[Placement]] = {pod.key: [] for pod in pods}
    connecting: list[Placement] = []
    for pod in pods:
        registry.set_pod(pod)
    for what, which in [*(("state", number) for number in range(3)), *steps]:
        now += SETTLE_S + 0.01
        pod = pods[which % 3]
        if what == "state":
            taken = len(live[pod.key])
            registry.update_state(pod, State(2, taken, 2 - taken, False, True, 1, now))
        elif what == "accept" and connecting:
            placement = connecting.pop(0)
            placement.accepted_at = now
            live[placement.pod].append(placement)
        elif what == "end" and live[pod.key]:
            registry.release(live[pod.key].pop(), now)
        elif what == "place":
            found = registry.pods_of("acme/concierge").order(now)
            if not isinstance(found, Shortage):
                connecting.append(registry.add_placement(found[0]))
        for each in pods:
            sent = sum(placement.pod == each.key for placement in connecting)
            assert len(live[each.key]) + sent <= 2


def test_a_pod_that_refused_a_session_gets_no_caller_before_its_next_state() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    registry.update_state(POD, _state(at=100))
    registry.refuse(POD.key, 100.05)
    assert registry.pods_of(POD.service).order(100.06) is Shortage.NO_CAPACITY
    registry.update_state(POD, _state(at=100.04))  # it was on its way
    assert registry.pods_of(POD.service).order(100.06) is Shortage.NO_CAPACITY
    registry.update_state(POD, _state(at=100.1))
    assert registry.pods_of(POD.service).order(100.11) == [POD.key]


def test_a_state_of_the_millisecond_of_a_refusal_ends_it() -> None:
    """The clock of uvloop counts whole milliseconds."""
    registry = PodRegistry()
    registry.set_pod(POD)
    registry.update_state(POD, _state(at=100))
    registry.refuse(POD.key, 100.05)
    registry.update_state(POD, _state(at=100.05))
    assert registry.pods_of(POD.service).order(100.05) == [POD.key]


def test_a_slot_that_becomes_free_here_ends_the_refusal() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    registry.update_state(POD, _state(at=100))
    placement = registry.add_placement(POD.key)
    placement.accepted_at = 100.01
    registry.refuse(POD.key, 100.05)
    registry.release(placement, 100.06)
    assert registry.pods_of(POD.service).order(100.07) == [POD.key]


def test_equal_states_keep_a_pod_fresh() -> None:
    registry = PodRegistry()
    registry.set_pod(POD)
    registry.update_state(POD, _state(at=100))
    registry.update_state(POD, _state(at=100 + STALE_S))
    assert registry.pods_of(POD.service).order(100 + 2 * STALE_S) == [POD.key]
    assert registry.pods_of(POD.service).order(101 + 2 * STALE_S) is Shortage.NOT_READY
