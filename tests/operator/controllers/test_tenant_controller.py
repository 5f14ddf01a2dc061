"""The status of tenants is written once for each change, and never for another operator."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.controllers import tenant_controller
from avatar_operator.core.cache.entries import Kind

if TYPE_CHECKING:
    from tests.operator.controllers.conftest import Operator

GROUP = "/apis/avatar.musetalk.io/v1alpha1"
STATUS = ("PATCH", f"{GROUP}/avatartenants/acme/status")


def apply(operator: Operator, **spec: Any) -> dict[str, Any]:
    body = operator.make.tenant_body(**spec)
    operator.api.tenants[:] = [operator.api.stamp(body)]
    operator.observe(Kind.TENANTS, body)
    return body


def condition(tenant: dict[str, Any], kind: str) -> str | None:
    conditions = tenant.get("status", {}).get("conditions", ())
    return next((each["reason"] for each in conditions if each["type"] == kind), None)


@pytest.mark.slow
async def test_a_tenant_gets_its_status_and_then_nothing_is_written(operator: Operator) -> None:
    api = operator.api
    await api.until(operator.manager.is_ready)
    operator.apply(replicas=0)
    tenant = apply(operator, jwt=[{"issuer": "https://a.example", "audiences": ["a"]}])
    await api.until(lambda: condition(tenant, "Ready") == "ServicesAvailable")
    assert tenant["status"]["operator"] == "system/avatar-operator"
    assert condition(tenant, "QuotaExceeded") == "WithinLimits"
    await api.until(lambda: api.condition("Ready") == ("True", "ScaledToZero"))
    writes, lists = api.writes.count(STATUS), api.lists
    await api.until(lambda: api.lists >= lists + 2)
    assert api.writes.count(STATUS) == writes


@pytest.mark.slow
async def test_a_service_that_goes_changes_the_status(operator: Operator) -> None:
    api = operator.api
    await api.until(operator.manager.is_ready)
    body = operator.apply(replicas=0)
    tenant = apply(operator, jwt=[{"issuer": "https://a.example", "audiences": ["a"]}])
    await api.until(lambda: condition(tenant, "Ready") == "ServicesAvailable")
    api.services.clear()
    operator.manager.observe_deletion(Kind.SERVICES, body["metadata"]["uid"])
    await api.until(lambda: condition(tenant, "Ready") == "NoService")
    await api.until(lambda: bool(api.cluster_events))
    event = api.cluster_events[-1]
    assert (event["type"], event["reason"]) == ("Warning", "NoService")
    assert event["metadata"]["namespace"] == "default"
    assert event["involvedObject"] == {
        "apiVersion": "avatar.musetalk.io/v1alpha1",
        "kind": "AvatarTenant",
        "name": "acme",
        "uid": tenant["metadata"]["uid"],
    }


@pytest.mark.slow
async def test_a_wrong_tenant_is_told_so(operator: Operator) -> None:
    await operator.api.until(operator.manager.is_ready)
    tenant = apply(operator, weight=0)
    await operator.api.until(lambda: condition(tenant, "Ready") == "InvalidSpec")


@pytest.mark.slow
async def test_figures_alone_are_written_later(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tenant_controller, "NUMBERS_S", 0.5)
    api = operator.api
    await api.until(operator.manager.is_ready)
    tenant = apply(operator)
    await api.until(lambda: condition(tenant, "Ready") == "NoService")
    first = asyncio.get_running_loop().time()
    tenant["status"] = {**tenant["status"], "sessions": 7}  # someone changed it
    operator.observe(Kind.TENANTS, api.stamp(tenant))
    await api.until(lambda: tenant["status"]["sessions"] == 0)
    assert asyncio.get_running_loop().time() - first >= 0.25


@pytest.mark.slow
async def test_the_status_of_another_operator_is_left_alone(operator: Operator) -> None:
    api = operator.api
    await api.until(operator.manager.is_ready)
    lease = "/apis/coordination.k8s.io/v1/namespaces/other/leases/avatar"
    api.leases[lease] = {
        "metadata": {"name": "avatar", "namespace": "other"},
        "spec": {"holderIdentity": "p9", "renewTime": "2026-01-01T00:00:00.000000Z"},
    }
    body = operator.make.tenant_body()
    body["status"] = {"operator": "other/avatar"}
    api.tenants[:] = [api.stamp(body)]
    operator.observe(Kind.TENANTS, body)
    await api.until(lambda: lease in api.requests)
    assert STATUS not in api.writes
