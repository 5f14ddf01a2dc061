"""Sessions that clients open at pods themselves: counted, bounded, and ended when access ends."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pytest
from tests.gateway.tenants import Tenants, key_of, secret_of

from avatar_gateway import errors
from avatar_gateway.core.model import Pod
from avatar_gateway.core.tenants import PLATFORM_KEY, Credential, CredentialKind
from avatar_gateway.core.usage import PLATFORM, Account, PlacedConnection
from avatar_gateway.serving import direct_sessions
from avatar_gateway.serving.audit import AuditLog
from avatar_gateway.serving.direct_sessions import DirectSessions
from avatar_gateway.serving.pod_answers import Answer
from avatar_gateway.serving.revocation import RevocationWatch
from avatar_gateway.serving.sessions import Sessions
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.tenant_registry import TenantRegistry

if TYPE_CHECKING:
    from collections.abc import Callable

SERVICE = "acme/concierge"
KEY_ID, _ = key_of(1)
SECRET_ID, _ = key_of(7)


@dataclass
class Pods:
    """What answers the requests of a gateway to pods."""

    status: int = 200
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    async def post(self, pod: Pod, path: str, body: bytes, *_: object) -> Answer:
        self.asked.append((f"{pod.key}{path}", json.loads(body)))
        if self.status == 0:
            raise errors.PodError(pod.key, "it does not answer")
        return Answer(self.status, b"{}")


@dataclass
class Setup:
    """Direct sessions with a clock and pods that a test sets."""

    now: float = 1000.0
    pods: Pods = field(default_factory=Pods)

    def __post_init__(self) -> None:
        self.leases = Leases(MemoryState(lambda: self.now), "g", lambda: self.now)
        requests: Any = self.pods
        self.direct = DirectSessions(self.leases, requests, lambda: self.now, lambda: self.now)

    def watch(self, tenants: Tenants) -> RevocationWatch:
        return RevocationWatch(
            Sessions(), tenants.registry, AuditLog(), self.direct, clock=lambda: self.now
        )

    async def counted(self, tenant: str = "acme") -> int:
        await self.leases.report()
        found = self.leases.overview.tenants.get(tenant)
        return 0 if found is None else found.sessions

    @property
    def ids(self) -> list[str]:
        return [each.id for each in self.direct]


def pod(name: str = "p1") -> Pod:
    return Pod("acme", name, f"uid-{name}", SERVICE, "10.0.0.1", 8088, 9090, terminating=False)


def placed(number: int = 1, tenant: str = "acme", **changes: Any) -> PlacedConnection:
    """Return what a gateway has offered for `p1`, 1000 s after the epoch."""
    found = PlacedConnection(
        record=f"conn_{number:024x}",
        pod_uid="uid-p1",
        account=Account(tenant, SERVICE, "-"),
        is_new=True,
        at_ms=1_000_000,
        capacity=2,
        is_direct=True,
        source=Credential(CredentialKind.API_KEY, KEY_ID),
    )
    return replace(found, **changes)


async def test_a_session_counts_while_its_pod_reports_it() -> None:
    setup = Setup()
    assert setup.direct.begin(pod(), "sess_1", placed())
    assert setup.direct.begin(pod(), "sess_1", placed())  # a new stream tells it again
    assert await setup.counted() == 1
    setup.direct.end(pod("p2"), "sess_1")  # another pod has nothing to say of it
    assert (setup.ids, await setup.counted()) == (["sess_1"], 1)
    setup.direct.end(pod(), "sess_1")
    assert (setup.ids, await setup.counted()) == ([], 0)
    setup.direct.end(pod(), "sess_1")


async def test_sessions_of_the_platform_have_no_lease_and_end_too() -> None:
    setup = Setup()
    assert setup.direct.begin(pod(), "sess_1", placed(tenant=PLATFORM, source=PLATFORM_KEY))
    assert await setup.counted(PLATFORM) == 0
    setup.direct.end(pod(), "sess_1")
    assert setup.ids == []


@pytest.mark.parametrize(
    "changes",
    [
        {"pod_uid": "uid-p2"},
        {"is_direct": False},
        {"at_ms": 1_000_000 - 86_400_000 - 61_000},
        {"at_ms": 1_000_000 - 62_000, "longest_ms": 1000},
    ],
    ids=["of another pod", "of a gateway", "older than a day", "longer than its limit"],
)
async def test_what_a_pod_cannot_have_does_not_count(changes: dict[str, Any]) -> None:
    setup = Setup()
    assert not setup.direct.begin(pod(), "sess_1", placed(**changes))
    assert (setup.ids, await setup.counted()) == ([], 0)


async def test_a_pod_counts_no_more_sessions_than_it_has_room_for() -> None:
    setup = Setup()
    found = [setup.direct.begin(pod(), f"sess_{n}", placed(n)) for n in range(5)]
    assert found == [True, True, False, False, False]
    assert not setup.direct.begin(pod(), "sess_9", placed(0))  # an account is one session
    assert await setup.counted() == 2


async def test_sessions_of_a_silent_pod_are_forgotten_and_their_leases_expire() -> None:
    setup = Setup()
    setup.direct.begin(pod(), "sess_1", placed())
    for _ in range(4):
        setup.now += direct_sessions.SILENT_S / 2
        setup.direct.on_line(pod())
        setup.direct.forget_lost()
        assert await setup.counted() == 1
    setup.now += direct_sessions.SILENT_S + 1
    setup.direct.forget_lost()
    assert setup.ids == []
    setup.now += 36
    assert await setup.counted() == 0


async def test_a_pod_cannot_keep_a_session_for_longer_than_its_limit() -> None:
    setup = Setup()
    setup.direct.begin(pod(), "sess_1", placed(longest_ms=120_000))
    setup.now += 120 + direct_sessions.LATE_S + 1
    setup.direct.on_line(pod())
    setup.direct.forget_lost()
    assert setup.ids == []


def _tenants(on_revocation: str = "EndSessions") -> Tenants:
    found = Tenants(TenantRegistry("keys"))
    found.change_acme(apiKeys={"onRevocation": on_revocation})
    return found


def _remove_key(tenants: Tenants) -> None:
    tenants.registry.set_secret("acme-keys", secret_of(9))


def _remove_tenant(tenants: Tenants) -> None:
    tenants.registry.remove_tenant("acme")


def _forbid(tenants: Tenants) -> None:
    tenants.change_acme(access={"namespaces": ["other"]})


def _revoke_secret(tenants: Tenants) -> None:
    tenants.registry.set_secret("acme-keys", secret_of(1, revoked=(SECRET_ID,)))


@pytest.mark.parametrize(
    ("change", "close_code", "reason"),
    [
        (_remove_key, 4401, "credential_revoked: the credential was revoked"),
        (_remove_tenant, 4401, "credential_revoked: the credential was revoked"),
        (_forbid, 4403, "access_revoked: the tenant may not use this service"),
    ],
    ids=["key", "tenant", "access"],
)
async def test_a_pod_is_asked_to_end_what_may_not_go_on(
    change: Callable[[Tenants], None], close_code: int, reason: str
) -> None:
    setup, tenants = Setup(), _tenants()
    watch = setup.watch(tenants)
    setup.direct.begin(pod(), "sess_1", placed())
    watch.check()
    await setup.direct.close()
    assert setup.pods.asked == []
    change(tenants)
    setup.pods.status = 0
    for step_s in (0.0, 1.0, direct_sessions.ASK_AGAIN_S):
        setup.now += step_s
        watch.check()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
    path = "acme/p1/control/v1/sessions/sess_1/end"
    request = (path, {"close_code": close_code, "reason": reason})
    assert setup.pods.asked == [request, request]  # again after a while, until the pod has done it
    await setup.direct.close()


async def test_a_revoked_client_secret_ends_the_session_that_it_opened() -> None:
    setup, tenants = Setup(), _tenants()
    watch = setup.watch(tenants)
    setup.direct.begin(pod(), "sess_1", placed(1, secret_id=SECRET_ID))
    setup.direct.begin(pod(), "sess_2", placed(2))
    _revoke_secret(tenants)
    watch.check()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [path for path, _ in setup.pods.asked] == ["acme/p1/control/v1/sessions/sess_1/end"]
    await setup.direct.close()


async def test_live_sessions_go_on_where_the_tenant_says_so() -> None:
    setup, tenants = Setup(), _tenants("KeepSessions")
    watch = setup.watch(tenants)
    setup.direct.begin(pod(), "sess_1", placed())
    _remove_key(tenants)
    watch.check()
    await asyncio.sleep(0)
    assert setup.pods.asked == []
