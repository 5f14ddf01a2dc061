from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from avatar_gateway.core.model import Pod, State
from avatar_gateway.directory import SETTLE_S, Directory

if TYPE_CHECKING:
    from collections.abc import Callable

POD = Pod("acme", "p1", "u1", "acme/concierge", "10.0.0.1", 8080, 9090, leaving=False)


def _state(at: float = 0.0) -> State:
    return State(5, 0, 5, False, True, 1, at)


def _placed(directory: Directory) -> int:
    (candidate,) = directory.candidates("acme/concierge")
    return candidate.placed


def test_only_pods_of_the_service_are_candidates() -> None:
    directory = Directory()
    directory.set_pod(POD)
    directory.set_pod(replace(POD, name="p2", service="acme/other"))
    (candidate,) = directory.candidates("acme/concierge")
    assert (candidate.key, candidate.usable, candidate.state) == ("acme/p1", True, None)


def test_a_pod_that_leaves_or_has_no_address_is_not_usable() -> None:
    directory = Directory()
    for change in ({"leaving": True}, {"ip": ""}):
        directory.set_pod(replace(POD, **change))
        assert not directory.candidates("acme/concierge")[0].usable


def test_a_placement_counts_until_the_pod_itself_must_count_it() -> None:
    directory = Directory()
    directory.set_pod(POD)
    placement = directory.place("acme/p1")
    directory.heard(POD, _state(at=100))
    assert _placed(directory) == 1
    placement.taken_at = 100.0
    directory.heard(POD, _state(at=100 + SETTLE_S / 2))
    assert _placed(directory) == 1
    directory.heard(POD, _state(at=100 + SETTLE_S * 2))
    assert _placed(directory) == 0


def test_a_withdrawn_placement_counts_no_more() -> None:
    directory = Directory()
    directory.set_pod(POD)
    placement = directory.place("acme/p1")
    directory.withdraw(placement)
    directory.withdraw(placement)
    assert _placed(directory) == 0


def test_a_new_pod_of_an_old_name_starts_without_a_state() -> None:
    directory = Directory()
    directory.set_pod(POD)
    directory.heard(POD, _state())
    directory.set_pod(replace(POD, uid="u2"))
    assert directory.candidates("acme/concierge")[0].state is None
    # A last line of the old pod does not count for the new one.
    directory.heard(POD, _state())
    assert directory.candidates("acme/concierge")[0].state is None


def test_a_list_replaces_what_is_in_its_namespace() -> None:
    directory = Directory()
    other = replace(POD, namespace="other", service="other/concierge")
    directory.replace_pods([POD, other], None)
    directory.replace_services(["acme/concierge", "other/concierge"], None)
    directory.replace_pods([], "acme")
    directory.replace_services(["acme/new"], "acme")
    assert set(directory.pods) == {"other/p1"}
    assert directory.services == {"acme/new", "other/concierge"}
    directory.replace_pods([POD], None)
    directory.remove_service("acme/new")
    assert set(directory.pods) == {"acme/p1"}
    assert directory.services == {"other/concierge"}


def test_only_a_change_of_pods_wakes_the_streams() -> None:
    directory = Directory()
    steps: list[tuple[Callable[[], None], bool]] = [
        (lambda: directory.set_pod(POD), True),
        (lambda: directory.set_pod(POD), False),
        (lambda: directory.heard(POD, _state()), False),
        (lambda: directory.set_pod(replace(POD, leaving=True)), True),
        (lambda: directory.remove_pod("acme/p1"), True),
        (lambda: directory.remove_pod("acme/p1"), False),
    ]
    for act, wakes in steps:
        directory.pods_changed.clear()
        act()
        assert directory.pods_changed.is_set() is wakes
