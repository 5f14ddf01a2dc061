"""The shares of GPUs are computed only while a service lacks some, and reach those concerned."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from tests.operator.controllers.test_triggers import RecordingQueue

from avatar_operator.controllers import gpu_shares
from avatar_operator.controllers.gpu_shares import GPUShares
from avatar_operator.controllers.triggers import Triggers
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.planning.sharing import shares
from avatar_operator.core.planning.sharing.gpu_cells import Demand
from avatar_operator.core.resources.placement import Placement
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.errors import TemporaryError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Mapping

    from tests.operator.conftest import Make

    from avatar_operator.core.resources.state import PodState

pytestmark = pytest.mark.asyncio


class Queue(RecordingQueue):
    """Also reports when something is queued."""

    def __init__(self) -> None:
        super().__init__()
        self.filled = asyncio.Event()

    def add_after(self, uid: str, delay_s: float) -> None:
        super().add_after(uid, delay_s)
        self.filled.set()


class Setup:
    """Two GPUs, both held by the service `big`; the service `small` has none."""

    def __init__(self, make: Make) -> None:
        self.make = make
        self.store = Store(())
        self.queue = Queue()
        self.computed = asyncio.Event()
        self.reads = 0
        self.readable = True
        worker: Any = self.queue
        triggers = Triggers(self.store, worker, 300.0, lambda: True)
        self.store.observe(Kind.PROFILES, make.profile_body())
        self.store.observe(Kind.NODES, make.node_body(gpus=2))
        for name in ("big", "small"):
            body = make.service_body(replicas=2)
            body["metadata"].update(name=name, uid=name)
            self.store.observe(Kind.SERVICES, body)
        for index in range(2):
            pod = make.pod_body(f"big-{index}")
            pod["metadata"]["labels"]["avatar.musetalk.io/service"] = "big"
            pod["metadata"]["ownerReferences"] = make.owners("big", "big")
            self.store.observe(Kind.PODS, pod)
        self.shares = GPUShares(self.store, triggers, self.states, self.priorities)

    def states(self, uids: Iterable[str]) -> Mapping[str, PodState]:
        self.computed.set()
        return {uid: self.make.state(0) for uid in uids}

    async def priorities(self) -> Mapping[str, int]:
        self.reads += 1
        if not self.readable:
            raise TemporaryError("GET priorityclasses", 403, "forbidden")
        return {"first": 1000}

    def demand(self, name: str, wanted: int, has: int, priority: str | None = None) -> None:
        self.shares.record(
            name,
            Demand(
                ServiceKey("acme", name), wanted, has, 1, 1, priority, "", ("rtx-4090",),
                Placement(),
            ),
        )  # fmt: skip

    def allowed(self, name: str) -> int:
        share = self.shares.of(name)
        assert share is not None
        return share.allowed["rtx-4090"]

    async def until_shared(self) -> None:
        async with asyncio.timeout(5):
            while self.shares.of("big") is None:
                self.queue.filled.clear()
                await self.queue.filled.wait()


@pytest_asyncio.fixture
async def setup(make: Make, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    monkeypatch.setattr(gpu_shares, "COLLECT_S", 0)
    monkeypatch.setattr(gpu_shares, "EVERY_S", 0)
    monkeypatch.setattr(gpu_shares, "DUTY", 0)
    made = Setup(make)
    task = asyncio.create_task(made.shares.run())
    yield made
    assert not task.done()
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def turns() -> None:
    """Let every task that is ready run."""
    for _ in range(50):
        await asyncio.sleep(0)


async def test_a_lacking_service_and_the_one_that_gives_back_are_reconciled(setup: Setup) -> None:
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0)
    await setup.until_shared()
    big, small = setup.shares.of("big"), setup.shares.of("small")
    assert big is not None
    assert list(big.keep.values()) == [1]
    assert small is not None
    assert small.allowed["rtx-4090"] == 1
    assert set(setup.queue.added) == {"big", "small"}


async def test_pods_of_another_namespace_that_name_a_service_do_not_count(setup: Setup) -> None:
    for index in range(2):
        forged = setup.make.pod_body(f"forged-{index}", gpus=0)
        forged["metadata"]["namespace"] = "globex"
        forged["metadata"]["ownerReferences"] = setup.make.owners("big", "big")
        setup.store.observe(Kind.PODS, forged)
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0)
    await setup.until_shared()
    big = setup.shares.of("big")
    assert big is not None
    assert big.held_by("acme") == ({"big": 2}, 0)
    assert list(big.keep.values()) == [1]


async def test_nothing_is_computed_while_no_service_lacks_gpus(setup: Setup) -> None:
    setup.demand("big", 2, 2)
    setup.demand("small", 0, 0)
    await turns()
    assert not setup.computed.is_set()
    assert setup.shares.of("big") is None


async def test_shares_end_as_soon_as_no_service_lacks_gpus(setup: Setup) -> None:
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0)
    await setup.until_shared()
    setup.demand("small", 0, 0)
    assert setup.shares.of("big") is None


async def test_a_new_leader_waits_until_every_service_was_planned(setup: Setup) -> None:
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0)
    await setup.until_shared()
    setup.shares.begin_term()
    setup.computed.clear()
    setup.demand("small", 2, 0)
    await turns()
    assert setup.shares.of("big") is None
    assert not setup.computed.is_set()
    setup.demand("big", 2, 2)
    await setup.until_shared()


async def test_an_invalid_service_does_not_hold_up_the_others(setup: Setup) -> None:
    body = setup.make.service_body(replicas=-1)
    body["metadata"].update(name="wrong", uid="wrong")
    setup.store.observe(Kind.SERVICES, body)
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0)
    await turns()
    assert setup.shares.of("big") is None
    setup.shares.record_none("wrong")
    await setup.until_shared()


async def test_a_service_whose_pods_cannot_be_created_keeps_no_gpu_from_others(
    setup: Setup,
) -> None:
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0)
    await setup.until_shared()
    setup.shares.record_failure("small")
    assert setup.shares.of("big") is None


async def test_a_gpu_that_a_service_does_not_take_goes_to_others(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup.store.observe(Kind.NODES, setup.make.node_body("n2", gpus=1))
    setup.demand("big", 3, 2)
    setup.demand("small", 1, 0)
    await setup.until_shared()
    assert setup.allowed("big") == 2  # the free GPU is kept for the small one
    monkeypatch.setattr(gpu_shares, "OFFER_S", 0)
    setup.demand("small", 1, 0)
    async with asyncio.timeout(5):
        while setup.allowed("big") != 3:
            setup.queue.filled.clear()
            await setup.queue.filled.wait()


async def test_priorities_are_read_only_if_a_service_names_a_class(setup: Setup) -> None:
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0)
    await setup.until_shared()
    assert setup.reads == 0
    setup.demand("small", 2, 0, priority="first")
    await turns()
    assert setup.reads == 1


async def test_a_priority_class_that_is_created_later_is_found(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gpu_shares, "UNKNOWN_PRIORITY_S", 0)
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0, priority="later")
    await setup.until_shared()
    reads = setup.reads
    setup.demand("small", 2, 0, priority="later")
    await turns()
    assert setup.reads == reads + 1
    setup.demand("small", 2, 0, priority="first")
    await turns()
    assert setup.reads == reads + 1


async def test_unreadable_priorities_do_not_stop_the_sharing(setup: Setup) -> None:
    setup.readable = False
    setup.demand("big", 2, 2)
    setup.demand("small", 2, 0, priority="first")
    await setup.until_shared()
    assert setup.reads == 1


async def test_a_bug_in_the_computation_does_not_stop_the_operator(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise KeyError("a bug")

    with monkeypatch.context() as broken:
        broken.setattr(shares, "collect", fail)
        setup.demand("big", 2, 2)
        setup.demand("small", 2, 0)
        await turns()
        assert setup.shares.of("big") is None
    setup.demand("small", 1, 0)
    await setup.until_shared()
