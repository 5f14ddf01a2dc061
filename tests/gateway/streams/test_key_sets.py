"""Key sets of issuers on a real socket."""

from __future__ import annotations

import asyncio
import json
import ssl
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from unittest.mock import Mock

import aiohttp
import pytest
from aiohttp import web
from tests.gateway import tenants as make
from tests.gateway.conftest import serving

from avatar_gateway.core.tenant_objects import Issuer
from avatar_gateway.streams import key_sets
from avatar_gateway.streams.key_sets import KeySets
from avatar_gateway.tenant_registry import TenantRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    Until = Callable[..., Awaitable[None]]


@dataclass
class FakeIssuer:
    """An issuer that a test controls."""

    body: str = field(default_factory=make.key_set)
    status: int = 200
    document: dict[str, Any] = field(default_factory=dict)
    may_answer: asyncio.Event = field(default_factory=asyncio.Event)
    requests: list[str] = field(default_factory=list)
    url: str = ""

    async def handle(self, request: web.Request) -> web.Response:
        """Answer with the key set or the description."""
        self.requests.append(request.path)
        await self.may_answer.wait()
        headers = {"Location": f"{self.url}/keys"}
        if request.path.endswith("openid-configuration"):
            own = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
            return web.json_response(own | self.document, status=self.status, headers=headers)
        return web.Response(text=self.body, status=self.status, headers=headers)

    @property
    def issuer(self) -> Issuer:
        """Return the issuer with the address of its keys."""
        return Issuer(self.url, frozenset({"avatar"}), f"{self.url}/keys")

    @property
    def discovered(self) -> Issuer:
        """Return the issuer without it."""
        return Issuer(self.url, frozenset({"avatar"}))


@dataclass
class World:
    """An issuer, and the key sets of a gateway."""

    fake: FakeIssuer
    registry: TenantRegistry
    sets: KeySets

    async def find(self, kid: str = make.RSA_KID, issuer: Issuer | None = None) -> object:
        """Return the key for a token."""
        return await self.sets.find(issuer or self.fake.issuer, kid, "RS256")


@pytest.fixture
async def world() -> AsyncIterator[World]:
    fake, registry = FakeIssuer(), TenantRegistry("keys")
    fake.may_answer.set()
    application = web.Application()
    application.router.add_get("/{path:.*}", fake.handle)
    async with AsyncExitStack() as stack:
        port = await stack.enter_async_context(serving(application))
        fake.url = f"http://127.0.0.1:{port}"
        sets = KeySets(registry)
        stack.push_async_callback(sets.close)
        yield World(fake, registry, sets)


async def test_a_key_set_is_fetched_once_for_many_tokens(world: World) -> None:
    world.fake.may_answer.clear()
    finding = [asyncio.create_task(world.find()) for _ in range(20)]
    await asyncio.sleep(0)
    world.fake.may_answer.set()
    assert None not in await asyncio.gather(*finding)
    assert await world.find() is not None
    assert world.fake.requests == ["/keys"]


async def test_the_address_is_discovered(world: World) -> None:
    assert await world.find(issuer=world.fake.discovered) is not None
    assert world.fake.requests == ["/.well-known/openid-configuration", "/keys"]


async def test_unknown_keys_cause_one_fetch_in_30_s(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await world.find() is not None
    for number in range(50):
        assert await world.find(f"unknown-{number}") is None
    assert world.fake.requests == ["/keys"], "the set was fetched less than 30 s ago"
    monkeypatch.setattr(key_sets, "UNKNOWN_KEY_S", 0.0)
    world.fake.body = json.dumps({"keys": [make.rsa_jwk(1, kid="next")]})
    assert await world.find("next") is not None
    assert await world.find() is None, "a key that was removed is not accepted"


async def test_the_keys_stay_while_the_issuer_is_away(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(key_sets, "UNKNOWN_KEY_S", 0.0)
    assert await world.find() is not None
    for status, body in ((500, ""), (200, "<html>"), (302, make.key_set())):
        world.fake.status, world.fake.body = status, body
        assert await world.find("unknown") is None
        assert await world.find() is not None
    assert world.registry.issuer_problems[world.fake.url] == (
        "the key set was answered with status 302; the keys that were fetched last are used"
    )


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        pytest.param({"status": 404}, "status 404", id="status"),
        pytest.param({"body": "x" * (key_sets.MAX_BYTES + 1)}, "more than 262144 bytes", id="long"),
        pytest.param({"body": "[]"}, "is not a JSON object", id="not-an-object"),
        pytest.param({"body": '{"keys": []}'}, "no key that can be used", id="no-keys"),
        pytest.param({"document": {"issuer": "https://x"}}, "another issuer", id="other-issuer"),
        pytest.param({"document": {"jwks_uri": "http://example.com"}}, "no https", id="http"),
        pytest.param({"document": {"jwks_uri": 7}}, "no https", id="no-address"),
        pytest.param({"url": "http://127.0.0.1:1"}, "does not answer", id="away"),
        pytest.param({"url": "http://127.0.0.1:1"}, "not accept a connection", id="refused"),
    ],
)
async def test_the_reason_is_reported(world: World, changes: Any, problem: str) -> None:
    for name, value in changes.items():
        setattr(world.fake, name, value)
    assert await world.find(issuer=world.fake.discovered) is None
    assert problem in world.registry.issuer_problems[world.fake.url]
    before = len(world.fake.requests)
    assert await world.find(issuer=world.fake.discovered) is None
    assert len(world.fake.requests) == before, "it is asked again after 5 s at the earliest"


async def test_the_sets_of_all_tenants_are_fetched_before_the_first_token(
    world: World, until: Until
) -> None:
    spec: dict[str, Any] = {"jwt": [{"issuer": world.fake.url, "audiences": ["avatar"]}]}
    world.registry.set_tenant(make.tenant_of("acme", **spec))
    running = asyncio.create_task(world.sets.run())
    await until(lambda: "/keys" in world.fake.requests)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await world.find(issuer=world.fake.discovered) is not None
    assert len(world.fake.requests) == 2


@pytest.mark.parametrize(
    ("error", "said"),
    [
        pytest.param(TimeoutError(), "does not answer within 5 s", id="slow"),
        pytest.param(OSError(113, "No route"), "does not accept a connection", id="no-route"),
        pytest.param(
            aiohttp.ServerDisconnectedError(), "does not send a complete HTTP answer", id="closed"
        ),
        pytest.param(
            aiohttp.ClientConnectorDNSError(Mock(), OSError()), "host name is not found", id="dns"
        ),
        pytest.param(aiohttp.InvalidURL("x"), "not a valid URL", id="address"),
        pytest.param(
            aiohttp.ClientConnectorCertificateError(Mock(), ssl.CertificateError()),
            "TLS certificate is not accepted",
            id="certificate",
        ),
    ],
)
async def test_a_problem_is_a_sentence(
    world: World, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(aiohttp.ClientSession, "get", fail)
    assert await world.find() is None
    problem = world.registry.issuer_problems[world.fake.url]
    assert said in problem
    assert "Error" not in problem
