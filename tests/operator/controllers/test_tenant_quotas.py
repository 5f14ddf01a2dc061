"""The shares of a tenant's services follow what they state and the pods that exist."""

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.controllers import tenant_quotas
from avatar_operator.controllers.tenant_quotas import TenantQuotas
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.core.planning.quota_wishes import Wish
from avatar_operator.core.resources.pod import PodUse
from avatar_operator.core.resources.service import ServiceKey

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.operator.conftest import Make

    from avatar_operator.core.resources.state import PodState


class Setup:
    """Two services of one tenant, and the triggers that their quotas cause."""

    def __init__(self, make: Make, **limits: Any) -> None:
        self.make = make
        self.store = Store([])
        self.states: dict[str, PodState] = {}
        self.triggered: list[str] = []
        self.changes = 0
        fake: Any = self
        self.quotas = TenantQuotas(self.store, fake, self.known_states, self.on_change)
        self.store.observe(Kind.PROFILES, make.profile_body(costPerHour="0.50"))
        self.store.observe(Kind.TENANTS, make.tenant_body(limits=limits))
        for uid in ("s1", "s2"):
            body = make.service_body()
            body["metadata"] |= {"uid": uid, "name": f"service-{uid}", "resourceVersion": "5"}
            self.store.observe(Kind.SERVICES, body)

    def known_states(self, uids: Iterable[str]) -> dict[str, PodState]:
        return {uid: self.states[uid] for uid in uids if uid in self.states}

    def on_change(self) -> None:
        self.changes += 1

    def trigger(self, uid: str, _: float) -> None:
        self.triggered.append(uid)

    def add_pod(self, name: str, owner: str, sessions: int = 0) -> None:
        body = self.make.pod_body(name)
        (reference,) = body["metadata"]["ownerReferences"]
        reference |= {"uid": owner, "name": f"service-{owner}"}
        body["metadata"]["labels"]["avatar.musetalk.io/service"] = f"service-{owner}"
        self.store.observe(Kind.PODS, body)
        self.states[body["metadata"]["uid"]] = self.make.state(sessions)

    def state(self, uid: str, wanted: int, *, limited: bool = False) -> None:
        terms = self.quotas.terms(uid)
        self.triggered.clear()
        self.quotas.record(uid, terms, Wish(wanted, next_cost=Decimal("0.5")), limited=limited)

    def bounds(self, uid: str) -> tuple[int, int]:
        terms = self.quotas.terms(uid)
        assert terms is not None
        assert terms.share is not None
        return terms.share.pods, terms.share.new


@pytest.fixture
def setup(make: Make) -> Setup:
    return Setup(make, gpus=4)


def test_a_wish_changes_the_share_of_the_other_service(setup: Setup) -> None:
    setup.state("s1", 4)
    assert setup.bounds("s1") == (3, 4)  # the other one was not planned yet and may get one
    setup.state("s2", 4)
    assert "s1" in setup.triggered
    assert setup.bounds("s1") == setup.bounds("s2") == (2, 4)


def test_what_is_left_counts_the_pods_of_all_services(setup: Setup) -> None:
    for number in range(3):
        setup.add_pod(f"p{number}", "s1")
    assert setup.bounds("s2")[1] == 1
    planned = PodUse("", 1, "rtx-4090")
    setup.store.reserve_gpus(ServiceKey("acme", "service-s1"), "p3", planned)
    assert setup.bounds("s2")[1] == 0
    setup.add_pod("p3", "s1")  # the pod itself ends its reservation
    assert setup.bounds("s2")[1] == 0
    assert setup.quotas.use("acme")[:2] == (4, Decimal("2.00"))


def test_pods_with_sessions_stay_and_idle_ones_are_given_back(setup: Setup) -> None:
    for number in range(4):
        setup.add_pod(f"p{number}", "s1", sessions=int(number < 3))
    setup.state("s1", 4)
    setup.state("s2", 4, limited=True)
    assert setup.bounds("s1") == (3, 0)
    assert setup.bounds("s2") == (1, 0)
    assert setup.quotas.use("acme").limited == (ServiceKey("acme", "service-s2"),)
    setup.store.observe_deletion(Kind.PODS, "uid-p3")
    setup.state("s1", 4, limited=True)
    assert "s2" in setup.triggered  # a GPU of the quota is free for it


def test_a_service_that_goes_gives_its_share_to_the_others(setup: Setup) -> None:
    setup.state("s1", 4, limited=True)
    setup.state("s2", 4, limited=True)
    setup.triggered.clear()
    setup.store.observe_deletion(Kind.SERVICES, "s2")
    setup.quotas.record_none("s2")
    assert setup.triggered == ["s1"]
    assert setup.bounds("s1") == (4, 4)


def test_pods_of_a_deleted_service_count_until_they_are_gone(setup: Setup) -> None:
    """They may have sessions, and hold their GPUs for as long."""
    setup.add_pod("p0", "s2", sessions=1)
    setup.add_pod("p1", "s2", sessions=1)
    setup.state("s1", 4, limited=True)
    setup.store.observe_deletion(Kind.SERVICES, "s2")
    setup.quotas.record_none("s2")
    assert setup.bounds("s1") == (2, 2)
    assert setup.quotas.use("acme")[:2] == (2, Decimal("1.00"))
    setup.triggered.clear()
    setup.quotas.record_none("s2")
    assert setup.triggered == []
    for name, expected in (("p0", (3, 3)), ("p1", (4, 4))):
        setup.store.observe_deletion(Kind.PODS, f"uid-{name}")
        setup.quotas.record_none("s2")
        assert setup.triggered == ["s1"]
        assert setup.bounds("s1") == expected
        setup.state("s1", 4, limited=True)
    assert setup.quotas.use("acme").gpus == 0


def test_pods_of_a_namespace_of_two_tenants_count_for_none_of_them(
    setup: Setup, make: Make
) -> None:
    setup.add_pod("p0", "s2")
    other = make.tenant_body("globex", limits={"gpus": 4})
    other["metadata"] |= {"uid": "another"}
    setup.store.observe(Kind.TENANTS, other)
    setup.store.observe_deletion(Kind.SERVICES, "s2")
    setup.quotas.record_none("s2")
    assert [setup.quotas.use(name).gpus for name in ("acme", "globex")] == [0, 0]


def test_the_same_wish_triggers_nothing(setup: Setup) -> None:
    setup.state("s1", 1)
    setup.state("s2", 1)
    changes = setup.changes
    setup.state("s1", 1)
    assert (setup.triggered, setup.changes) == ([], changes)


def test_sessions_elsewhere_leave_fewer_for_a_service(make: Make) -> None:
    def most(setup: Setup, uid: str) -> int | None:
        terms = setup.quotas.terms(uid)
        assert terms is not None
        return terms.most_sessions

    setup = Setup(make, sessions=5)
    setup.add_pod("p0", "s1", sessions=2)
    assert (most(setup, "s1"), most(setup, "s2")) == (5, 3)
    setup.add_pod("p1", "s1", sessions=4)  # by callers of the chart's API keys
    assert most(setup, "s2") == 0
    assert most(Setup(make, sessions=5, sessionsPerService=2), "s1") == 2
    assert most(Setup(make, gpus=4), "s1") is None


def test_a_service_of_no_tenant_has_no_terms(make: Make) -> None:
    setup = Setup(make)
    assert setup.quotas.terms("unknown") is None
    terms = setup.quotas.terms("s1")
    assert terms is not None
    assert terms.share is None


async def test_a_changed_tenant_triggers_its_services_once(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_quotas, "COLLECT_S", 0.0)

    async def settle() -> None:
        setup.triggered.clear()
        setup.quotas.on_tenants()
        setup.quotas.on_tenants()
        done = asyncio.Event()
        asyncio.get_running_loop().call_later(0.0, done.set)  # after the call of the quotas
        await done.wait()

    await settle()
    assert sorted(setup.triggered) == ["s1", "s2"]
    await settle()
    assert setup.triggered == []
    setup.store.observe(Kind.TENANTS, setup.make.tenant_body(version="9", weight=7))
    await settle()
    assert sorted(setup.triggered) == ["s1", "s2"]
