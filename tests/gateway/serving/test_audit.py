"""The audit log: JSON lines of denied and administrative actions, limited against floods."""

from __future__ import annotations

import io
import json
import logging
from typing import TYPE_CHECKING, Any

import pytest

from avatar_gateway.core.tenants import Credential, CredentialKind, Principal, Tenant
from avatar_gateway.serving import audit

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HOLDER = Principal(Tenant("acme"), Credential(CredentialKind.API_KEY, "abcdefgh"))


@pytest.fixture
def lines() -> Iterator[Callable[[], list[Any]]]:
    """Return a function that returns the records that were written since its last call."""
    stream = io.StringIO()

    def take() -> list[Any]:
        written = stream.getvalue()
        stream.seek(0)
        stream.truncate()
        return [json.loads(line) for line in written.splitlines()]

    audit.configure(stream)
    yield take
    logger = logging.getLogger(audit.LOGGER)
    logger.handlers.clear()
    logger.propagate = True


def test_a_denial_says_who_what_and_why(lines: Any) -> None:
    log = audit.AuditLog(lambda: 0.0)
    log.record_denial("model_not_found", HOLDER, "10.0.0.9", "GET /v1/realtime", "globex/desk")
    (record,) = lines()
    assert {name: record[name] for name in record if name not in ("time", "message")} == {
        "action": "GET /v1/realtime",
        "address": "10.0.0.9",
        "credential": "key:abcdefgh",
        "level": "info",
        "logger": "avatar_gateway.audit",
        "reason": "model_not_found",
        "result": "denied",
        "suppressed": 0,
        "target": "globex/desk",
        "tenant": "acme",
    }
    log.record_denial("unauthenticated", None, "10.0.0.9", "GET /", "avk_abcdefgh_not-a-service")
    (record,) = lines()
    assert (record["tenant"], record["credential"], record["target"]) == ("", "", "")


def test_a_flood_of_one_tenant_hides_no_other(lines: Any) -> None:
    now = 0.0
    log = audit.AuditLog(lambda: now)
    for _ in range(1000):
        log.record_denial("unauthenticated", None, "", "GET /", "")
    assert len(lines()) == 20
    log.record_denial("unauthenticated", HOLDER, "", "GET /", "")
    assert len(lines()) == 1
    now = 10.0
    log.record_denial("unauthenticated", None, "", "GET /", "")
    (record,) = lines()
    assert record["suppressed"] == 980


def test_an_action_is_recorded(lines: Any) -> None:
    audit.AuditLog().done("create client secret", HOLDER, target="acme/desk", detail="id")
    (record,) = lines()
    assert (record["result"], record["action"]) == ("done", "create client secret")
    assert (record["tenant"], record["reason"]) == ("acme", "id")
