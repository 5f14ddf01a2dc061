"""Control Secrets are written without being read, and Secrets of others are never changed."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.owners import Owner
from avatar_operator.core.keys import KeyRing
from avatar_operator.core.manifests.objects import control_secret, held_by_pod
from avatar_operator.errors import Conflict, NameTaken, NotFound, Refused
from avatar_operator.kube.unread_secrets import UnreadSecrets, Written

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.operator.conftest import Body, Make

PATH = "/api/v1/namespaces/acme/secrets"
OWNER = Owner("concierge", "s1")
FIRST, SECOND = NAMES = ("concierge-control", "concierge-control-s1")


class Server:
    """Stores Secrets by path, and applies JSON patches as the API server does."""

    def __init__(self) -> None:
        self.stored: dict[str, Any] = {}
        self.writes: list[tuple[str, str]] = []
        self.reads = 0
        self.errors: list[Exception] = []

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Any:
        self.reads += method == "GET"
        if self.errors:
            raise self.errors.pop(0)
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.stored:
                raise Conflict("POST", 409, "already exists")
            self.stored[path] = copy.deepcopy(body)
        else:
            assert (method, content_type) == ("PATCH", "application/json-patch+json")
            if path not in self.stored:
                raise NotFound("PATCH", 404, "not found")
            patched = _patched(self.stored[path], body)
            if "dryRun" in (query or {}):
                return patched
            self.stored[path] = patched
        self.writes.append((method, path))
        return self.stored[path]


def _patched(stored: Any, operations: list[Any]) -> Any:
    """Apply the operations `test` and `add` of RFC 6902."""
    document = copy.deepcopy(stored)
    for each in operations:
        *parents, last = [p.replace("~1", "/") for p in each["path"].split("/")[1:]]
        target = document
        try:
            for part in parents:
                target = target[int(part) if isinstance(target, list) else part]
            value = (
                target[int(last) if isinstance(target, list) else last]
                if (each["op"] == "test")
                else None
            )
        except (KeyError, IndexError):
            raise Refused("PATCH", 422, "the server rejected our request") from None
        if each["op"] == "test":
            if value != each["value"]:
                raise Refused("PATCH", 422, "the server rejected our request")
        elif last == "-":
            target.append(each["value"])
        else:
            target[last] = each["value"]
    return document


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def secrets(server: Server) -> UnreadSecrets:
    return UnreadSecrets(server.send)


def rendered(make: Make, key: str = "first-key") -> Any:
    return control_secret(make.service(), KeyRing(key), FIRST)


FOREIGN: dict[str, Body] = {
    "no owner": {"ownerReferences": []},
    "no metadata": {"ownerReferences": None, "labels": None},
    "another service": {"ownerReferences": [{"uid": "s2", "kind": "AvatarService"}]},
    "managed by Helm": {"labels": {"app.kubernetes.io/managed-by": "Helm"}},
}


def foreign(make: Make, metadata: Body) -> Any:
    body = rendered(make)
    kept = {k: v for k, v in {**body["metadata"], **metadata}.items() if v is not None}
    return {**body, "metadata": kept, "data": {"theirs": "eA=="}}


async def test_a_new_secret_is_created_once_and_then_only_compared(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    body = rendered(make)
    assert await secrets.write(body, NAMES, OWNER) == Written(FIRST, (), changed=True)
    assert server.stored[f"{PATH}/{FIRST}"]["data"] == body["data"]
    assert await secrets.write(body, NAMES, OWNER) == Written(FIRST, (), changed=False)
    assert server.writes == [("POST", f"{PATH}/{FIRST}")]
    assert server.reads == 0


async def test_a_secret_that_differs_is_replaced(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    await secrets.write(rendered(make), NAMES, OWNER)
    after = rendered(make, "second-key")
    assert await secrets.write(after, NAMES, OWNER) == Written(FIRST, (), changed=True)
    assert server.stored[f"{PATH}/{FIRST}"]["data"] == after["data"]
    assert server.reads == 0


@pytest.mark.parametrize("metadata", FOREIGN.values(), ids=FOREIGN)
async def test_a_secret_of_others_is_never_changed(
    server: Server, secrets: UnreadSecrets, make: Make, metadata: Body
) -> None:
    stranger = foreign(make, metadata)
    server.stored[f"{PATH}/{FIRST}"] = copy.deepcopy(stranger)
    assert await secrets.write(rendered(make), NAMES, OWNER) == Written(SECOND, (FIRST,), True)
    assert server.stored[f"{PATH}/{FIRST}"] == stranger
    server.stored[f"{PATH}/{SECOND}"] = copy.deepcopy(stranger)
    with pytest.raises(NameTaken, match="concierge-control and concierge-control-s1"):
        await secrets.write(rendered(make), NAMES, OWNER)
    with pytest.raises(Refused):
        await secrets.add_owner("acme", FIRST, "s1", held_by_pod("p0", "u0"))
    assert {server.stored[f"{PATH}/{name}"]["data"]["theirs"] for name in NAMES} == {"eA=="}


async def test_the_own_secret_is_used_even_if_the_first_name_has_become_free(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    own = rendered(make)
    server.stored[f"{PATH}/{SECOND}"] = own
    assert (await secrets.write(own, NAMES, OWNER)).name == SECOND
    assert server.writes == []


async def test_a_secret_of_an_earlier_service_of_this_name_is_left_alone_and_not_reported(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    owner = {"uid": "s0", "kind": "AvatarService", "name": "concierge"}
    server.stored[f"{PATH}/{FIRST}"] = foreign(make, {"ownerReferences": [owner]})
    assert await secrets.write(rendered(make), NAMES, OWNER) == Written(SECOND, (), changed=True)
    assert server.stored[f"{PATH}/{FIRST}"]["data"] == {"theirs": "eA=="}


async def test_a_refusal_by_the_admission_policy_is_a_name_that_is_taken(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    message = "denied request: pods acme/x, because it is not an object of the operator"
    server.errors = [Refused("PATCH", 403, message)] * 3
    written = await secrets.write(rendered(make), NAMES, OWNER)
    assert (written.name, written.taken) == (SECOND, (FIRST,))


async def test_a_missing_right_is_not_a_name_that_is_taken(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    server.errors = [Refused("PATCH", 403, "cannot patch resource secrets")]
    with pytest.raises(Refused, match="cannot patch"):
        await secrets.write(rendered(make), NAMES, OWNER)


async def test_a_name_that_is_taken_meanwhile_is_a_conflict(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    missing = NotFound("PATCH", 404, "not found")
    server.errors = [missing, missing, Conflict("POST", 409, "already exists")]
    with pytest.raises(Conflict):
        await secrets.write(rendered(make), NAMES, OWNER)


async def test_an_owner_is_added_behind_the_service(
    server: Server, secrets: UnreadSecrets, make: Make
) -> None:
    own = rendered(make)
    await secrets.write(own, NAMES, OWNER)
    owner = held_by_pod("p0", "u0")
    await secrets.add_owner("acme", FIRST, "s1", owner)
    owners = server.stored[f"{PATH}/{FIRST}"]["metadata"]["ownerReferences"]
    assert [each["uid"] for each in owners] == ["s1", "u0"]
    assert await secrets.write(own, NAMES, OWNER) == Written(FIRST, (), changed=False)
    with pytest.raises(NotFound):
        await secrets.add_owner("acme", "missing", "s1", owner)


async def test_each_request_tests_the_label_and_the_owner_first(make: Make) -> None:
    sent: list[tuple[str, str, Any, Any, str]] = []

    async def send(
        method: str, path: str, *, body: Any = None, query: Any = None, content_type: str = "json"
    ) -> Any:
        sent.append((method, path, body, query, content_type))
        if len(sent) == 1:
            raise Refused("PATCH", 422, "the server rejected our request")

    body = rendered(make)
    assert (await UnreadSecrets(send).write(body, NAMES, OWNER)).changed
    label = "/metadata/labels/app.kubernetes.io~1managed-by"
    ours = [
        {"op": "test", "path": label, "value": "avatar-operator"},
        {"op": "test", "path": "/metadata/ownerReferences/0/uid", "value": "s1"},
    ]
    patch = "application/json-patch+json"
    manager = {"fieldManager": "avatar-operator"}
    compared = {"op": "test", "path": "/data", "value": body["data"]}
    replaced = {"op": "add", "path": "/data", "value": body["data"]}
    path = f"{PATH}/{FIRST}"
    assert sent == [
        ("PATCH", path, [*ours, compared], {**manager, "dryRun": "All"}, patch),
        ("PATCH", path, [*ours, replaced], manager, patch),
    ]


async def test_a_secret_left_behind_is_found_without_a_change(make: Make) -> None:
    sent: list[tuple[Any, Any]] = []

    async def send(
        method: str, path: str, *, body: Any = None, query: Any = None, content_type: str = ""
    ) -> Any:
        sent.append((body, query))
        if method == "PATCH" and path.endswith(SECOND):
            raise NotFound("PATCH", 404, "not found")
        if len(sent) in (1, 2):
            raise Refused("PATCH", 422, "the server rejected our request")

    written = await UnreadSecrets(send).write(rendered(make), NAMES, OWNER)
    assert written == Written(SECOND, (), changed=True)
    tests, query = sent[2]
    assert [(each["op"], each["path"], each["value"]) for each in tests] == [
        ("test", "/metadata/labels/app.kubernetes.io~1managed-by", "avatar-operator"),
        ("test", "/metadata/ownerReferences/0/kind", "AvatarService"),
        ("test", "/metadata/ownerReferences/0/name", "concierge"),
    ]
    assert query == {"fieldManager": "avatar-operator", "dryRun": "All"}
    created, query = sent[-1]
    assert created["metadata"] == {**rendered(make)["metadata"], "name": SECOND}
    assert query == {"fieldManager": "avatar-operator"}


@pytest.mark.parametrize("kept", [FIRST, SECOND])
async def test_the_first_free_name_is_used(
    server: Server, secrets: UnreadSecrets, make: Make, kept: str
) -> None:
    third = "concierge-control-third"
    own = rendered(make)
    server.stored[f"{PATH}/{kept}"] = foreign(make, {"ownerReferences": []})
    written = await secrets.write(own, (FIRST, SECOND, third), OWNER)
    assert written == Written(SECOND if kept == FIRST else FIRST, (kept,), changed=True)
