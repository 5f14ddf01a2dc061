"""`avatar-gateway keys` against an API server that stores Secrets."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from aiohttp import web
from tests.gateway.conftest import serving, write_kubeconfig

from avatar_gateway.__main__ import main
from avatar_gateway.tenant_registry import TenantRegistry

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable
    from pathlib import Path

    Run = Callable[..., Awaitable[tuple[int, str, str]]]

PLACE = ("--namespace", "keys", "--secret", "acme-keys")


@dataclass
class FakeSecrets:
    """Stores Secrets with optimistic concurrency, and the types of the patches."""

    kubeconfig: Path
    secrets: dict[str, dict[str, Any]] = field(default_factory=dict)
    patches: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    conflicts: int = 0

    async def handle(self, request: web.Request) -> web.Response:
        """Answer a request for Secrets."""
        name = request.path.removeprefix("/api/v1/namespaces/keys/secrets").strip("/")
        if request.method == "GET" and not name:
            return web.json_response({"items": list(self.secrets.values())})
        known = self.secrets.get(name)
        if request.method == "GET":
            if known is None:
                return web.json_response({"message": f'secrets "{name}" not found'}, status=404)
            return web.json_response(known)
        body, kind = json.loads(await request.text()), request.content_type
        self.patches.append((kind, dict(request.query)))
        version = body["metadata"].get("resourceVersion")
        stored = (known or {}).get("metadata", {}).get("resourceVersion")
        if self.conflicts and version is not None:
            self.conflicts -= 1
            return web.json_response({"message": "the object has been modified"}, status=409)
        assert version in (None, stored)
        data = dict((known or {}).get("data", {}))
        for key, text in body.get("stringData", {}).items():
            data[key] = base64.b64encode(text.encode()).decode()
        for key in body.get("data", {}):
            data.pop(key, None)
        metadata = {"name": name, "namespace": "keys", "resourceVersion": str(len(self.patches))}
        self.secrets[name] = {"metadata": metadata, "data": data}
        return web.json_response(self.secrets[name])

    def registry(self) -> TenantRegistry:
        """Return what a gateway knows by these Secrets."""
        registry = TenantRegistry("keys")
        spec = {"access": {}, "apiKeys": {"secretRefs": [{"name": "acme-keys"}]}}
        registry.set_tenant({"metadata": {"name": "acme"}, "spec": spec})
        registry.replace_secrets(list(self.secrets.values()))
        return registry


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[FakeSecrets]:
    async with _serving_secrets(tmp_path) as fake:
        yield fake


@asynccontextmanager
async def _serving_secrets(folder: Path) -> AsyncIterator[FakeSecrets]:
    fake, application = FakeSecrets(folder / "kubeconfig"), web.Application()
    application.router.add_route("*", "/{path:.*}", fake.handle)
    async with serving(application) as port:
        write_kubeconfig(fake.kubeconfig, port)
        yield fake


@pytest.fixture
def keys(api: FakeSecrets, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs a command, and returns its exit status and what it wrote."""

    async def run(*arguments: str) -> tuple[int, str, str]:
        given = ["keys", *arguments, "--kubeconfig", str(api.kubeconfig)]
        status = await asyncio.to_thread(main, given)
        return status, *capsys.readouterr()

    return run


async def test_the_life_of_a_key(api: FakeSecrets, keys: Run) -> None:
    status, out, _ = await keys("new", *PLACE, "--comment", "kiosk", "-o", "yaml")
    assert status == 0
    made = yaml.safe_load(out)
    found = api.registry().find_key(made["key"], 0)
    assert found is not None
    assert found[1].key_id == made["id"]
    assert made["key"] not in str(api.secrets)

    status, second, _ = await keys("new", *PLACE)
    assert status == 0
    second_key = second.splitlines()[-1]
    assert api.registry().find_key(second_key, 0) is not None
    assert [kind for kind, _ in api.patches] == ["application/apply-patch+yaml"] * 2
    managers = [query["fieldManager"] for _, query in api.patches]
    assert len(set(managers)) == 2, "otherwise the second apply removes the first entry"

    status, out, _ = await keys("list", "--namespace", "keys")
    assert status == 0
    assert made["id"] in out
    assert "kiosk" in out
    assert found[1].hash.hex() not in out
    assert found[1].salt.hex() not in out

    api.conflicts = 2
    status, out, _ = await keys("revoke", made["id"], *PLACE, "--after", "24h")
    assert status == 0
    assert api.registry().find_key(made["key"], 0) is not None
    assert api.registry().find_key(made["key"], 2e10) is None
    status, _, _ = await keys("revoke", made["id"], *PLACE)
    assert status == 0
    assert api.registry().find_key(made["key"], 0) is None
    assert api.registry().find_key(second_key, 0) is not None

    status, _, err = await keys("revoke", made["id"], *PLACE)
    assert (status, err) == (
        1,
        f"avatar-gateway: Secret keys/acme-keys has no key {made['id']}\n",
    )


async def test_a_client_secret_is_revoked_by_its_id(api: FakeSecrets, keys: Run) -> None:
    status, out, _ = await keys("revoke", "abcdefgh23", *PLACE, "--client-secret")
    assert (status, out) == (0, "client secret abcdefgh23 is revoked\n")
    assert "abcdefgh23" in vars(api.registry())["_revoked"]
    status, out, _ = await keys("list", *PLACE, "-o", "json")
    assert [row["state"] for row in json.loads(out)] == ["client secret revoked"]


async def test_a_refusal_of_the_api_server_is_shown(keys: Run) -> None:
    status, out, err = await keys("list", "--namespace", "keys", "--secret", "missing")
    assert (status, out) == (1, "")
    assert err == 'avatar-gateway: the API server answered 404: secrets "missing" not found\n'


def test_a_dry_run_needs_no_cluster_and_keeps_the_key_out_of_the_manifest(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["keys", "new", *PLACE, "--dry-run", "-o", "yaml", "--expires-after", "90d"]
    assert main(arguments) == 0
    out, err = capsys.readouterr()
    body = yaml.safe_load(out)
    ((key_id, entry),) = body["stringData"].items()
    assert body["metadata"] == {"name": "acme-keys", "namespace": "keys"}
    assert json.loads(entry)["notAfter"] is not None
    key = err.strip()
    assert key.startswith(f"avk_{key_id}_")
    assert key.rpartition("_")[2] not in out
    assert f"--field-manager=avatar-gateway-keys-{key_id}" in out


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (("new", *PLACE, "--expires-after", "soon"), None, "'soon' is not a duration"),
        (("new", *PLACE, "--not-before", "today"), None, "'today' is not a time in RFC 3339"),
        (("new", "--namespace", "keys"), None, "--secret"),
        (("list",), None, "--namespace"),
        (("new", *PLACE, "--dry-run", "--comment", "x" * 201), 1, "at most 200"),
        (("new", *PLACE[:3], "Bad Name", "--dry-run"), 1, "--secret is 'Bad Name', must have"),
        (("list", "--namespace", "keys/x"), 1, "--namespace is 'keys/x', must have"),
        (("list", *PLACE, "--kubeconfig", "/nowhere"), 1, "kubeconfig /nowhere cannot be used"),
        (
            (
                "new",
                *PLACE,
                "--dry-run",
                "--expires-after",
                "1h",
                "--not-before",
                "2999-01-01T00:00Z",
            ),
            1,
            "ends the key before --not-before",
        ),
    ],
    ids=[
        *("duration", "time", "secret", "namespace", "comment"),
        *("name of the secret", "name of the namespace", "kubeconfig", "order"),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: tuple[str, ...], status: int | None, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found: object = None
    with suppress(SystemExit):
        found = main(["keys", *arguments])
    err = capsys.readouterr().err
    assert (found, message in err) == (status, True), err


async def test_a_wrong_id_of_a_client_secret_is_named(keys: Run) -> None:
    status, _, err = await keys("revoke", "UPPER", *PLACE, "--client-secret")
    assert (status, "8 to 32 lowercase letters" in err) == (1, True)
