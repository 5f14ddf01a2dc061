"""Tests of the claims: one installation writes, and another one stands back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.controllers import claims as claims_controller
from avatar_operator.controllers.claims import ClaimGate, Claims
from avatar_operator.core import claims
from avatar_operator.core.cache.entries import Kind
from avatar_operator.core.cache.store import Store
from avatar_operator.metrics import Metrics

if TYPE_CHECKING:
    from tests.operator.conftest import Body, Make
    from tests.operator.controllers.conftest import Operator

GROUP = "/apis/avatar.musetalk.io/v1alpha1"
STATUS = f"{GROUP}/namespaces/acme/avatarservices/concierge/status"
EVENTS = "/api/v1/namespaces/acme/events"
LEASE = "/apis/coordination.k8s.io/v1/namespaces/elsewhere/leases/other"
OTHER = "elsewhere/other"

pytestmark = pytest.mark.parametrize("stopped_operator", ["300"], indirect=True)


def _apply(operator: Operator, status: Body, **spec: object) -> None:
    body = operator.make.service_body(**spec)
    body["status"] = status
    operator.api.services = [operator.api.stamp(body)]
    operator.observe(Kind.SERVICES, body)


def _claim(operator: Operator) -> object:
    return operator.api.services[0]["status"].get("operator")


async def test_a_new_service_is_claimed_before_anything_else_is_written(
    quiet_operator: Operator,
) -> None:
    operator, api = quiet_operator, quiet_operator.api
    _apply(operator, {}, replicas=1)
    await api.until(lambda: api.pods and api.condition("Progressing") == ("True", "ScalingUp"))
    assert api.writes[0] == ("PATCH", STATUS)
    assert _claim(operator) == "system/avatar-operator"


async def test_a_claim_that_fails_lets_nothing_through(quiet_operator: Operator) -> None:
    operator, api = quiet_operator, quiet_operator.api
    api.faults["PATCH", STATUS] = (409, "the object has been modified")
    _apply(operator, {}, replicas=1)
    await api.until(lambda: api.writes.count(("PATCH", STATUS)) >= 2)
    assert set(api.writes) == {("PATCH", STATUS)}
    del api.faults["PATCH", STATUS]
    await api.until(lambda: api.pods)


async def test_a_service_of_another_installation_gets_one_event_and_nothing_else(
    quiet_operator: Operator,
) -> None:
    operator, api = quiet_operator, quiet_operator.api
    api.leases[LEASE] = {"spec": {"holderIdentity": "p", "renewTime": "t"}}
    _apply(operator, {"operator": OTHER}, replicas=1)
    await api.until(lambda: api.events)
    assert api.writes == [("POST", EVENTS)]
    (event,) = api.events
    assert (event["reason"], event["type"]) == ("ManagedElsewhere", "Warning")
    assert OTHER in event["message"]
    assert operator.metric("services_managed_elsewhere") == 1


async def test_a_lease_that_cannot_be_read_proves_nothing(
    quiet_operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GONE_S", 0.0)
    operator, api = quiet_operator, quiet_operator.api
    api.faults["GET", LEASE] = (403, "forbidden")
    _apply(operator, {"operator": OTHER}, replicas=1)
    await api.until(lambda: api.events)
    assert api.writes == [("POST", EVENTS)]


async def test_the_services_of_an_installation_that_has_ended_are_claimed(
    quiet_operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(claims, "GONE_S", 0.0)
    operator, api = quiet_operator, quiet_operator.api
    _apply(operator, {"operator": OTHER, "sessions": 3}, replicas=1)
    await api.until(lambda: api.pods)
    assert api.writes[0] == ("PATCH", STATUS)
    assert _claim(operator) == "system/avatar-operator"
    assert operator.metric("services_managed_elsewhere") == 0


async def test_an_operator_that_loses_its_claim_stops(quiet_operator: Operator) -> None:
    operator, api = quiet_operator, quiet_operator.api
    api.leases[LEASE] = {"spec": {"holderIdentity": "p", "renewTime": "t"}}
    operator.apply(replicas=1)
    await api.until(lambda: api.pods and api.status)
    _apply(operator, {"operator": OTHER}, replicas=0)
    await api.until(lambda: "ManagedElsewhere" in [each["reason"] for each in api.events])
    assert len(api.pods) == 1


class _Lease:
    """A fake of the API, of the services and of the executor behind a gate."""

    def __init__(self) -> None:
        self.lease: Body = {"spec": {"holderIdentity": "p", "renewTime": "0"}}
        self.calls: list[str] = []

    async def read_lease(self, *_: object) -> Body:
        self.calls.append("read")
        return self.lease

    async def reconcile(self, uid: str) -> float | None:
        self.calls.append(f"reconcile {uid}")
        return None

    def stand_back(self, uid: str) -> None:
        self.calls.append(f"stand back {uid}")

    async def emit_events(self, *_: object) -> None:
        self.calls.append("event")

    async def claim(self, uid: str, *_: object) -> None:
        self.calls.append(f"claim {uid}")


async def test_standing_back_is_said_once_and_reads_one_lease_for_all_services(
    make: Make, monkeypatch: pytest.MonkeyPatch, stopped_operator: Operator
) -> None:
    now = 1000.0
    monkeypatch.setattr(claims_controller, "clock", lambda: now)
    fake, store, metrics = _Lease(), Store(()), Metrics()
    parts: Any = fake
    gate = ClaimGate(Claims(parts, "system/own"), store, parts, parts, metrics)
    for uid in ("a", "b"):
        body = make.service_body()
        body["metadata"].update(name=uid, uid=uid, resourceVersion="7")
        body["status"] = {"operator": OTHER}
        store.observe(Kind.SERVICES, body)
    for _ in range(3):
        assert await gate.reconcile("a") == claims_controller.LONGEST_S
        await gate.reconcile("b")
    assert [call for call in fake.calls if "stand back" not in call] == ["read", "event", "event"]
    # The shares of GPUs of a new term wait until every service was looked at.
    assert fake.calls.count("stand back a") == fake.calls.count("stand back b") == 3
    del fake.calls[:]
    for number in range(200):  # the other installation renews its Lease every 5 s
        now += 5.0
        fake.lease = {"spec": {"holderIdentity": "p", "renewTime": str(number)}}
        await gate.reconcile("a")
    assert set(fake.calls) == {"read", "stand back a"}
    now += claims.EXPIRED_S
    await gate.reconcile("a")
    assert fake.calls[-2:] == ["claim a", "reconcile a"]
    assert b"managed_elsewhere 1.0" in metrics.render()
    gate.forget("b")
    assert b"managed_elsewhere 0.0" in metrics.render()
