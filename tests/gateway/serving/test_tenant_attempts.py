"""What somebody may try to reach what belongs to a tenant: a table of attempts and their answers.

The tenant acme has the service acme/concierge, and globex has globex/desk, which also runs. All
attempts with a wrong credential have one answer. All attempts at what exists and belongs to another
tenant have the answer of what does not exist: the same status, headers, body and close code.
"""

from __future__ import annotations

import asyncio
import json
import logging
from contextlib import suppress
from dataclasses import dataclass, field
from time import time
from typing import TYPE_CHECKING, Any

import aiohttp
import jwt
import pytest
from tests.gateway import tenants as make
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from avatar_contracts import labels, tokens
from avatar_gateway.serving import revocation
from avatar_gateway.serving.revocation import FORBIDDEN_CLOSE, REVOKED_CLOSE
from avatar_gateway.tenant_registry import ServiceAccess

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Until = Callable[..., Awaitable[None]]

ACME, GLOBEX = make.key_of(1)[1], make.key_of(2)[1]
PLATFORM = "a-key-of-some-length"
OWN, FOREIGN, UNKNOWN = "acme/concierge", "globex/desk", "globex/dusk"
PAGE, OTHER_PAGE = "https://acme.example", "https://evil.example"


@dataclass
class World:
    """A gateway with two tenants, and a running service of each."""

    gateway: Any
    tenants: make.Tenants
    pods: list[Any] = field(default_factory=list)

    async def mint(self, key: str, model: str = OWN, **own: Any) -> str:
        """Return a client secret that a key minted."""
        status, body = await self.post(key, {"session": {"model": model}, "avatar": own})
        assert status == 200, body
        return str(body["value"])

    async def post(
        self, key: str, body: Any, path: str = "/v1/realtime/client_secrets"
    ) -> tuple[int, Any]:
        """Return the answer to a request, by default for a client secret."""
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.gateway.port}") as http,
            http.post(path, json=body, headers=headers) as response,
        ):
            return response.status, await response.json()

    async def get(self, key: str, path: str) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers and body of an answer."""
        headers = {"Authorization": f"Bearer {key}"}
        async with (
            aiohttp.ClientSession(f"http://127.0.0.1:{self.gateway.port}") as http,
            http.get(path, headers=headers) as response,
        ):
            return response.status, dict(response.headers), await response.read()

    def open(self, key: str, query: str = f"model={OWN}", **headers: str) -> connect:
        """Return a connection for a session."""
        given = {"Authorization": f"Bearer {key}"} if key else {}
        url = f"{self.gateway.url}?{query}"
        return connect(url, additional_headers=given | headers, compression=None)

    async def refused(self, *arguments: Any, **headers: str) -> tuple[int, Any, Any]:
        """Return status, headers and error of a refused session."""
        with pytest.raises(InvalidStatus) as caught:
            await self.open(*arguments, **headers)
        response = caught.value.response
        shown = {name: text for name, text in response.headers.raw_items() if name != "Date"}
        return response.status_code, shown, json.loads(response.body or b"")["error"]

    async def opens(self, *arguments: Any, **headers: str) -> None:
        """Check that a session opens."""
        async with self.open(*arguments, **headers) as caller:
            await caller.send("hello")
            assert await caller.recv() == "hello"


async def closed(caller: Any) -> tuple[int, str]:
    """Return the close code and the reason of a connection that the gateway ends."""
    async with asyncio.timeout(20):
        with suppress(ConnectionClosed):
            while True:
                await caller.recv()
    return caller.close_code, caller.close_reason


async def ended(caller: Any) -> tuple[str, int, str]:
    """Return the code of the last `error` event too, before a connection that the gateway ends."""
    error = ""
    async with asyncio.timeout(20):
        with suppress(ConnectionClosed):
            while True:
                event = json.loads(await caller.recv())
                assert event["type"] == "error"
                error = event["error"]["code"]
    return error, caller.close_code, caller.close_reason


@pytest.fixture
async def world(gateway: Any) -> World:
    world = World(gateway, make.Tenants(gateway.tenants))
    world.pods.append(await gateway.pod("p1"))
    gateway.registry.add_service(FOREIGN)
    gateway.registry.add_service("acme/second")
    return world


def _bad_signature() -> str:
    head, _, tail = make.token().rpartition(".")
    return f"{head}.{'A' if tail[0] != 'A' else 'B'}{tail[1:]}"


def _other_key(**headers: Any) -> str:
    claims = make.claims_of()
    return jwt.encode(claims, make.rsa_key(1), "RS256", headers={"kid": make.RSA_KID} | headers)


def _shared(key: bytes) -> str:
    return make.unsigned({"alg": "HS256", "kid": make.RSA_KID}, make.claims_of(), key)


WRONG: dict[str, Callable[[], str]] = {
    "no credential": lambda: "",
    "a wrong key": lambda: make.key_of(3)[1],
    "a key with a wrong secret part": lambda: f"avk_{make.key_of(1)[0]}_{'A' * 43}",
    "a key with a wrong id": lambda: ACME.replace(make.key_of(1)[0], make.key_of(2)[0]),
    "a key with another case": ACME.upper,
    "a key with something after it": lambda: f"{ACME}x",
    "a key id": lambda: make.key_of(1)[0],
    "a hash of a key": lambda: make.secret_of(1)["data"][make.key_of(1)[0]],
    "a forged client secret": lambda: "ek_WzIwMDAwMDAwMDAsImFjbWUvY29uY2llcmdlIiwibiJd.AAAA",
    "an expired token": lambda: make.token(exp=int(time()) - 5),
    "a token without exp": lambda: make.token(exp=None),
    "a token whose exp is a text": lambda: make.token(exp="9999999999"),
    "a token of the future": lambda: make.token(nbf=int(time()) + 600),
    "alg none": lambda: make.unsigned({"alg": "none"}, make.claims_of()),
    "alg NONE": lambda: make.unsigned({"alg": "nOnE", "kid": make.RSA_KID}, make.claims_of()),
    "HS256 with the public key": lambda: _shared(make.rsa_pem()),
    "HS256 with the key set": lambda: _shared(make.key_set().encode()),
    "HS256 with nothing": lambda: _shared(b""),
    "an algorithm that is not pinned": lambda: make.token(algorithm="RS512"),
    "a wrong audience": lambda: make.token(aud="other"),
    "no audience": lambda: make.token(aud=None),
    "a wrong issuer": lambda: make.token(iss="https://other.example"),
    "an issuer with a slash": lambda: make.token(iss=f"{make.ISSUER}/"),
    "no issuer": lambda: make.token(iss=None),
    "another tenant's claim": lambda: make.token(tenant="globex"),
    "no claim": lambda: make.token(tenant=None),
    "a list as claim": lambda: make.token(tenant=["acme"]),
    "a changed signature": _bad_signature,
    "an empty signature": lambda: make.token().rpartition(".")[0] + ".",
    "the key of somebody else": _other_key,
    "an unknown kid": lambda: make.token({"kid": "other"}),
    "a kid with a path": lambda: make.token({"kid": "../../dev/null"}),
    "the kid of a key of another type": lambda: make.token({"kid": make.EC_KID}),
    "no kid, signed by somebody else": lambda: jwt.encode(
        make.claims_of(), make.rsa_key(1), "RS256"
    ),
    "jku": lambda: _other_key(jku="http://127.0.0.1:1/keys"),
    "x5u": lambda: _other_key(x5u="http://127.0.0.1:1/chain"),
    "jwk": lambda: _other_key(jwk=make.rsa_jwk(1)),
    "a critical header": lambda: make.token({"crit": ["x"], "x": 1}),
    "a detached payload": lambda: make.token({"b64": False}),
    "a nested header": lambda: "e" * 10 + ".e30.AAAA",
}


@pytest.mark.parametrize("attempt", WRONG)
async def test_every_wrong_credential_has_one_answer(world: World, attempt: str) -> None:
    status, headers, error = await world.refused(WRONG[attempt]())
    assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
    assert error == {
        "type": "invalid_request_error",
        "code": "unauthenticated",
        "message": "a valid API key or client secret is required",
        "param": None,
        "event_id": None,
        "value": None,
        "limit": None,
    }
    assert world.pods[0].requests == []


RIGHT: dict[str, Callable[[], str]] = {
    "API key": lambda: ACME,
    "RS256": make.token,
    "RS256 with several audiences": lambda: make.token(aud=["x", "avatar"]),
    "ES256": lambda: jwt.encode(
        make.claims_of(), make.ec_key(), "ES256", headers={"kid": make.EC_KID}
    ),
    "a token without kid": lambda: make.token({"kid": None}),
    "platform key": lambda: PLATFORM,
}


@pytest.mark.parametrize("credential", RIGHT)
async def test_right_credentials_open_a_session_and_stay_out_of_the_pod(
    world: World, credential: str
) -> None:
    text = RIGHT[credential]()
    await world.opens(text)
    assert text not in str(world.pods[0].requests[0].headers)


@pytest.mark.parametrize("key", ["API key", "token", "client secret"])
@pytest.mark.parametrize(
    "query",
    [
        "model={}",
        "model={}&wait_ms=60000",
        "model={}&avatar=anna",
        "model={}&resume=sess_abcdef",
        "model={}&resume=sess_abcdef&wait_ms=60000",
    ],
)
async def test_a_foreign_service_is_refused_as_one_that_does_not_exist(
    world: World, key: str, query: str
) -> None:
    async def attempt(model: str) -> tuple[int, Any, Any]:
        key_text = {
            "API key": ACME,
            "token": make.token(),
            # Minted by acme for a service that it may not use.
            "client secret": await world.mint(ACME, model) if key == "client secret" else "",
        }[key]
        # With waiting callers, a queue would show that the service exists.
        try:
            status, headers, error = await world.refused(key_text, query.format(model))
        except pytest.fail.Exception:
            async with world.open(key_text, query.format(model)) as caller:
                return *await closed(caller), ""
        return status, headers, json.loads(json.dumps(error).replace(model, "MODEL"))

    foreign, unknown = await attempt(FOREIGN), await attempt(UNKNOWN)
    assert foreign == unknown
    assert foreign[0] in (404, 4411)


async def test_a_foreign_service_looks_unknown_to_a_browser(world: World) -> None:
    seen = []
    for model in (FOREIGN, UNKNOWN):
        async with world.open(ACME, f"model={model}&refuse=close") as caller:
            event = await caller.recv()
            seen.append((str(event).replace(model, "M"), *await closed(caller)))
    assert seen[0] == seen[1]
    assert seen[0][1] == 4404


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models/{}",
        "/v1/avatars?model={}",
        "/v1/avatars/anna/picture.jpg?model={}",
        "/v1/avatars/anna/idle/7.jpg?model={}",
        "/v1/avatars/bad%20name/picture.jpg?model={}",
    ],
)
async def test_other_answers_hide_foreign_services_too(world: World, path: str) -> None:
    answers = []
    for model in (FOREIGN, UNKNOWN):
        status, headers, body = await world.get(ACME, path.format(model))
        headers.pop("Date")
        answers.append((status, headers, body.replace(model.encode(), b"M")))
    assert answers[0] == answers[1]
    assert answers[0][0] in (404, 400)
    assert world.pods[0].requests == []


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (ACME, ["acme/concierge", "acme/second"]),
        (GLOBEX, ["globex/desk"]),
        (PLATFORM, ["acme/concierge", "acme/second", "globex/desk"]),
    ],
)
async def test_a_list_has_only_what_its_reader_may_use(
    world: World, key: str, expected: list[str]
) -> None:
    _, _, body = await world.get(key, "/v1/models")
    assert [model["id"] for model in json.loads(body)["data"]] == expected


async def test_a_service_of_one_tenant_excludes_the_platform(world: World) -> None:
    world.gateway.tenants.set_service(OWN, ServiceAccess({}, frozenset({"acme"})))
    await world.opens(ACME)
    status, _, error = await world.refused(PLATFORM)
    assert (status, error["code"]) == (404, "model_not_found")
    _, _, body = await world.get(PLATFORM, "/v1/models")
    assert "acme/concierge" not in body.decode()


@pytest.mark.parametrize("kind", ["API key", "RS256"])
@pytest.mark.parametrize("place", ["model", "avatar", "name"])
async def test_a_credential_in_the_url_is_refused_and_not_repeated(
    world: World, place: str, kind: str
) -> None:
    text = RIGHT[kind]()
    query = f"model={OWN}&{text}=1" if place == "name" else f"{place}={text}"
    status, _, error = await world.refused(ACME, query)
    assert (status, error["code"]) == (400, "key_in_url")
    assert text not in str(error)


# Client secrets


async def test_a_client_secret_is_for_one_service(world: World) -> None:
    secret = await world.mint(ACME)
    await world.opens(secret)
    for model in ("acme/second", FOREIGN, UNKNOWN):
        status, _, error = await world.refused(secret, f"model={model}")
        assert (status, error["code"]) == (401, "unauthenticated")


async def test_a_client_secret_mints_no_other(world: World) -> None:
    status, body = await world.post(await world.mint(ACME), {"session": {"model": OWN}})
    assert (status, body["error"]["code"]) == (401, "unauthenticated")


async def test_a_client_secret_opens_as_many_sessions_as_it_says(world: World) -> None:
    secret = await world.mint(ACME, max_uses=2)
    await world.opens(secret)
    await world.opens(secret)
    status, _, error = await world.refused(secret)
    assert (status, error["code"]) == (401, "unauthenticated")
    assert world.gateway.sessions.live == 0


async def test_a_refused_session_is_no_use(world: World) -> None:
    secret = await world.mint(ACME, max_uses=1)
    world.pods[0].rejection = (503, {"code": "no_capacity"})
    assert (await world.refused(secret))[0] == 503
    world.pods[0].rejection = None
    world.gateway.report_state(
        world.pods[0]
    )  # a pod that refused gets nobody before its next state
    await world.opens(secret)


async def test_a_client_secret_dies_with_the_key_that_minted_it(world: World) -> None:
    world.gateway.tenants.set_secret("acme-keys", make.secret_of(1, 4))
    first, second = await world.mint(ACME), await world.mint(make.key_of(4)[1])
    by_token = await world.mint(make.token())
    world.gateway.tenants.set_secret("acme-keys", make.secret_of(4))
    assert (await world.refused(first))[0] == 401
    await world.opens(second)
    await world.opens(by_token)
    world.tenants.change_acme(jwt=[])
    assert (await world.refused(by_token))[0] == 401


async def test_a_client_secret_is_revoked_by_its_id(world: World) -> None:
    body = {"session": {"model": OWN}}
    _, made = await world.post(ACME, body)
    _, other = await world.post(PLATFORM, body)
    ids = (made["avatar"]["id"], other["avatar"]["id"])
    world.gateway.tenants.set_secret("any", make.secret_of(revoked=ids))
    assert (await world.refused(made["value"]))[0] == 401
    assert (await world.refused(other["value"]))[0] == 401
    await world.opens(await world.mint(ACME))


async def test_a_client_secret_lives_no_longer_than_its_token(world: World) -> None:
    expires_at = int(time()) + 100
    _, made = await world.post(make.token(exp=expires_at), {"session": {"model": OWN}})
    assert made["expires_at"] == expires_at


async def test_a_client_secret_is_valid_while_the_gateway_key_is_replaced(world: World) -> None:
    secret = await world.mint(ACME)
    world.gateway.keys[:] = ["another-gateway-key", *world.gateway.keys]
    await world.opens(secret)
    del world.gateway.keys[1:]
    assert (await world.refused(secret))[0] == 401


@pytest.mark.parametrize(
    "own",
    [
        {"max_uses": 0},
        {"max_uses": 1001},
        {"max_uses": True},
        {"max_uses": "1"},
        {"origin": "acme.example"},
        {"origin": "https://acme.example/path"},
        {"origin": 7},
        7,
    ],
)
async def test_a_wrong_request_for_a_client_secret_names_the_field(world: World, own: Any) -> None:
    status, body = await world.post(ACME, {"session": {"model": OWN}, "avatar": own})
    assert (status, body["error"]["code"]) == (400, "invalid_query")
    assert body["error"]["param"].startswith("avatar")


# Origins


async def test_pages_of_other_origins_are_refused(world: World) -> None:
    world.tenants.change_acme(origins=[PAGE])
    await world.opens(ACME)
    await world.opens(ACME, Origin=PAGE)
    for text in (ACME, make.token(), await world.mint(ACME)):
        status, _, error = await world.refused(text, Origin=OTHER_PAGE)
        assert (status, error["code"]) == (403, "origin_not_allowed")
    assert (await world.refused("wrong", Origin=OTHER_PAGE))[0] == 401


async def test_a_client_secret_can_have_an_origin_of_its_own(world: World) -> None:
    secret = await world.mint(ACME, origin=PAGE)
    await world.opens(secret, Origin=PAGE)
    for headers in ({}, {"Origin": OTHER_PAGE}, {"Origin": "null"}):
        status, _, error = await world.refused(secret, **headers)
        assert (status, error["code"]) == (403, "origin_not_allowed")


async def test_a_client_secret_that_is_used_up_takes_no_slot_of_a_pod(world: World) -> None:
    secret = await world.mint(ACME, max_uses=1)
    await world.opens(secret)
    assert (await world.refused(secret))[0] == 401  # found out only after a pod had accepted
    requests = len(world.pods[0].requests)
    for _ in range(5):
        assert (await world.refused(secret))[0] == 401
    assert len(world.pods[0].requests) == requests


# Revocation


@pytest.mark.parametrize("change", ["entry", "tenant", "reference", "expiry"])
async def test_a_revoked_key_opens_no_session(world: World, change: str) -> None:
    await world.opens(ACME)
    registry = world.gateway.tenants
    match change:
        case "entry":
            registry.set_secret("acme-keys", make.secret_of())
        case "tenant":
            registry.remove_tenant("acme")
        case "reference":
            world.tenants.change_acme(apiKeys={"secretRefs": []})
        case "expiry":
            registry.set_secret("acme-keys", make.secret_of(1, not_after=time() - 1))
    assert (await world.refused(ACME))[0] == 401


@pytest.mark.parametrize("ends", [True, False])
async def test_a_tenant_chooses_whether_live_sessions_end(world: World, ends: bool) -> None:
    world.tenants.change_acme(apiKeys={"onRevocation": "EndSessions" if ends else "KeepSessions"})
    by_secret = await world.mint(ACME)
    async with world.open(ACME) as first, world.open(by_secret) as second:
        async with world.open(make.token()) as other, world.open(PLATFORM) as platform:
            world.gateway.tenants.set_secret("acme-keys", make.secret_of())
            for caller in (first, second):
                if ends:
                    error, code, reason = await ended(caller)
                    assert (error, code) == ("credential_revoked", REVOKED_CLOSE)
                    assert reason.startswith("credential_revoked")
            rest = (other, platform) if ends else (first, second, other, platform)
            for caller in rest:
                await caller.send("still here")
                assert await caller.recv() == "still here"


async def test_a_service_that_is_closed_to_a_tenant_ends_its_sessions(world: World) -> None:
    world.tenants.change_acme(apiKeys={"onRevocation": "EndSessions"})
    async with world.open(ACME) as caller:
        world.gateway.tenants.set_service(OWN, ServiceAccess({}, frozenset({"globex"})))
        assert (await ended(caller))[:2] == ("access_revoked", FORBIDDEN_CLOSE)


async def test_a_caller_that_waits_is_refused_when_its_key_is_revoked(world: World) -> None:
    world.pods[0].capacity = 0
    world.gateway.report_state(world.pods[0])
    async with world.open(ACME, f"model={OWN}&wait_ms=60000") as caller:
        assert json.loads(await caller.recv())["type"] == "session.queued"
        world.gateway.tenants.set_secret("acme-keys", make.secret_of())
        world.pods[0].capacity = 5
        world.gateway.report_state(world.pods[0])
        assert (await closed(caller))[0] == 4401


async def test_a_caller_that_waits_gets_a_slot_when_the_limit_of_its_tenant_is_raised(
    world: World,
) -> None:
    world.tenants.change_acme(limits={"sessions": 0})
    async with world.open(ACME, f"model={OWN}&wait_ms=60000") as caller:
        assert json.loads(await caller.recv())["type"] == "session.queued"
        world.tenants.change_acme(limits={"sessions": 1})
        async with asyncio.timeout(20):
            await caller.send("hello")
            while await caller.recv() != "hello":
                pass


async def test_a_caller_that_waits_is_held_by_a_limit_that_was_lowered_since(
    world: World, until: Until
) -> None:
    world.tenants.change_acme(limits={"sessions": 5})
    world.pods[0].capacity = 0
    world.gateway.report_state(world.pods[0])
    async with world.open(ACME, f"model={OWN}&wait_ms=60000") as caller:
        assert json.loads(await caller.recv())["type"] == "session.queued"
        world.tenants.change_acme(limits={"sessions": 0})
        world.pods[0].capacity = 5
        world.gateway.report_state(world.pods[0])
        await until(lambda: world.gateway.leases.limited_by("acme") == "sessions")
        assert world.pods[0].requests == []


# Logs


async def test_no_credential_reaches_a_log(
    world: World, caplog: pytest.LogCaptureFixture, until: Until
) -> None:
    """Right and wrong credentials take every path; only their public names are logged."""
    caplog.set_level(logging.DEBUG)
    world.tenants.change_acme(apiKeys={"onRevocation": "EndSessions"}, origins=[PAGE])
    secret = await world.mint(ACME, max_uses=1)
    wrong = [text for build in WRONG.values() if (text := build()) and len(text) > 20]
    credentials = [ACME, GLOBEX, PLATFORM, secret, make.token(), *wrong[:12]]
    for text in credentials:
        for headers in ({}, {"Origin": OTHER_PAGE}):
            for query in (f"model={OWN}", f"model={FOREIGN}", f"model={text}", f"x={text}"):
                with suppress(InvalidStatus):
                    async with world.open(text, query, **headers):
                        pass
        await world.get(text, "/v1/models")
        await world.get(text, f"/v1/models/{text}")
        await world.get(text, f"/v1/avatars?model={FOREIGN}")
        await world.post(text, {"session": {"model": OWN}, "avatar": {"origin": text}})
    async with world.open(ACME):
        world.gateway.tenants.set_secret("acme-keys", make.secret_of())
        await until(lambda: not world.gateway.sessions.live)
    logged = "\n".join(
        str(vars(record)) for record in caplog.records if record.name != "websockets.client"
    )
    for text in credentials:
        assert text not in logged, text[:12]
    assert make.key_of(1)[0] in logged, "the public name of the key"
    assert "end session" in logged
    assert "unauthenticated" in logged


# Duration


async def test_the_pod_gets_the_limit_of_the_tenant_for_a_session(world: World) -> None:
    await world.opens(ACME)
    world.tenants.change_acme(limits={"sessionSeconds": 90})
    await world.opens(ACME, **{labels.MAX_DURATION_HEADER: "9999"})
    sent = [each.headers.get(labels.MAX_DURATION_HEADER) for each in world.pods[0].requests]
    assert sent == [None, "90"]


async def test_a_pod_that_ignores_the_limit_loses_its_session(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(revocation, "_GRACE_S", 0.0)
    world.tenants.change_acme(limits={"sessionSeconds": 1})
    async with world.open(ACME) as caller, world.open(PLATFORM) as other:
        assert await closed(caller) == (4410, "the session reached its maximum duration")
        await other.send("still here")
        assert await other.recv() == "still here"


# Sessions without a gateway


async def test_direct_mode_hides_foreign_services_and_counts_uses(
    make_gateway: Callable[..., Any],
) -> None:
    async with make_gateway(direct_url="wss://{pod}.example/v1/realtime") as gateway:
        world = World(gateway, make.Tenants(gateway.tenants))
        await gateway.pod("p1")
        gateway.registry.add_service(FOREIGN)

        async def ask(key: str, model: str) -> tuple[int, str]:
            status, body = await world.post(key, {"model": model}, "/v1/sessions")
            return status, json.dumps(body.get("error")).replace(model, "M")

        assert await ask(ACME, FOREIGN) == await ask(ACME, UNKNOWN)
        assert (await ask(ACME, FOREIGN))[0] == 404
        secret = await world.mint(ACME, max_uses=1)
        assert await ask(secret, "acme/second") == await ask(secret, UNKNOWN)
        assert (await ask(secret, OWN))[0] == 201
        assert (await ask(secret, OWN))[0] == 401


# What the operator reads


async def test_the_state_document_counts_what_a_tenant_has_here(world: World) -> None:
    world.tenants.change_acme(apiKeys={"secretRefs": [{"name": "acme-keys"}, {"name": "more"}]})
    world.pods[0].capacity = 1
    token = {"Authorization": f"Bearer {tokens.gateway_token(world.gateway.keys[0])}"}
    async with (
        world.open(ACME),
        aiohttp.ClientSession(f"http://127.0.0.1:{world.gateway.admin_port}") as http,
    ):
        world.gateway.report_state(world.pods[0])
        async with world.open(ACME, f"model={OWN}&wait_ms=60000") as waiting:
            await waiting.recv()
            async with http.get(labels.STATE_PATH, headers=token) as response:
                document = await response.json()
    assert document["tenants"]["acme"] == {
        "sessions": 1,
        "waiting": 1,
        "seconds_this_month": 0,
        "keys": {
            "valid": 1,
            "valid_until": 0,
            "problem": "Secret keys/more does not exist",
            "issuers_problem": "",
        },
        "limited_by": "",
    }
    keys = {"valid": 1, "valid_until": 0, "problem": "", "issuers_problem": ""}
    assert document["tenants"]["globex"]["keys"] == keys
