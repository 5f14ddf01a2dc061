from __future__ import annotations

from dataclasses import replace

from avatar_gateway.core.model import Pod
from avatar_gateway.core.snapshots import Snapshot, SnapshotStore

POD = Pod("acme", "p1", "u1", "acme/concierge", "10.0.0.1", 1, 2, terminating=False)


def snapshot(size: int, service: str = "acme/concierge") -> Snapshot:
    pod = replace(POD, service=service)
    return Snapshot("sess_1", pod, 0.0, 30, b"x" * size)


def store_of(max_bytes: int) -> tuple[SnapshotStore, list[None]]:
    """Return a store, and a list with an entry for each snapshot that made room."""
    store, evicted = SnapshotStore(max_bytes), list[None]()
    store.on_evicted = lambda: evicted.append(None)
    return store, evicted


def test_the_newest_snapshot_of_a_connection_replaces_the_one_before() -> None:
    store, evicted = store_of(100)
    store.put("a", snapshot(60))
    store.put("a", snapshot(70))
    assert (store.nbytes, len(evicted)) == (70, 0)
    assert store.pop("a") == snapshot(70)
    assert store.pop("a") is None
    assert store.nbytes == 0


def test_the_oldest_snapshots_make_room_and_are_counted() -> None:
    store, evicted = store_of(100)
    for name in ("a", "b"):
        store.put(name, snapshot(50))
    store.put("a", snapshot(50))  # it has changed: the other one is older
    store.put("c", snapshot(40))
    assert store.pop("b") is None
    assert (store.nbytes, len(evicted)) == (90, 1)
    store.put("d", snapshot(101))  # does not fit at all
    assert (store.nbytes, len(evicted)) == (0, 4)
    assert store.pop("d") is None


def test_a_service_with_large_snapshots_makes_room_itself() -> None:
    store, _ = store_of(100)
    store.put("a", snapshot(30))
    for number in range(5):
        store.put(f"b{number}", snapshot(40, "acme/large"))
    assert store.pop("a") is not None
    assert [store.pop(f"b{number}") is not None for number in range(5)] == [0, 0, 0, 0, 1]


def test_a_document_is_not_shown_in_logs() -> None:
    assert "xxx" not in repr(snapshot(3))
