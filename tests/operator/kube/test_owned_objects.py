"""Objects of others are never written, and each write has a condition that the server checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.owners import Owner
from avatar_operator.core.keys import KeyRing
from avatar_operator.core.manifests.objects import control_secret, held_by_pod
from avatar_operator.core.manifests.ownership import Choice
from avatar_operator.errors import Conflict, FieldConflict, NameTaken, NotFound, TemporaryError
from avatar_operator.kube.owned_objects import ObjectKind, OwnedObjects, read_by_list

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.operator.conftest import Body, Make

POLICY, PDB = ObjectKind.NETWORK_POLICY, ObjectKind.PDB
PATH = "/apis/networking.k8s.io/v1/namespaces/acme/networkpolicies"
SERVICE = Owner("concierge", "s1")
NAMES = ("concierge-control", "concierge-control-s1")


class Server:
    """Stores objects by path, and records the writes."""

    def __init__(self) -> None:
        self.stored: dict[str, Body] = {}
        self.writes: list[tuple[str, str, Any, str]] = []
        self.queries: list[Mapping[str, str]] = []
        self.errors: list[Exception] = []

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Body:
        if method == "GET":
            return self._read(path, query)
        self.writes.append((method, path, body, content_type))
        self.queries.append(query or {})
        if self.errors:
            raise self.errors.pop(0)
        return body or {}

    def _read(self, path: str, query: Mapping[str, str] | None) -> Body:
        if query is not None:
            found = self.stored.get(f"{path}/{query['fieldSelector'].partition('=')[2]}")
            return {"items": [] if found is None else [found]}
        if path not in self.stored:
            raise NotFound(f"GET {path}", 404, "not found")
        return self.stored[path]


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture
def objects(server: Server) -> OwnedObjects:
    return OwnedObjects(server.send)


def _secret(make: Make, **metadata: Any) -> Body:
    body = control_secret(make.service(), KeyRing("master"), NAMES[0])
    known = body["metadata"]
    assert isinstance(known, dict)
    return {**body, "metadata": {**known, "uid": "u", "resourceVersion": "7", **metadata}}


FOREIGN: dict[str, Body] = {
    "no owner": {"ownerReferences": []},
    "another service": {"ownerReferences": [{"uid": "s2", "kind": "AvatarService"}]},
    "managed by Helm": {"labels": {"app.kubernetes.io/managed-by": "Helm"}},
}


@pytest.mark.parametrize("foreign", FOREIGN.values(), ids=FOREIGN)
@pytest.mark.parametrize("kind", ObjectKind)
async def test_an_object_of_others_leaves_the_second_name(
    server: Server, objects: OwnedObjects, make: Make, kind: ObjectKind, foreign: Body
) -> None:
    server.stored[kind.path("acme", NAMES[0])] = _secret(make, **foreign)
    choice = await objects.find(kind, "acme", NAMES, SERVICE)
    assert choice == Choice(NAMES[1], None, (NAMES[0],))
    server.stored[kind.path("acme", NAMES[1])] = _secret(make, **foreign)
    with pytest.raises(NameTaken, match=r"acme/concierge-control and concierge-control-s1"):
        await objects.find(kind, "acme", NAMES, SERVICE)
    assert server.writes == []


async def test_the_own_object_is_used_even_if_the_first_name_has_become_free(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    own = _secret(make)
    server.stored[f"{PATH}/{NAMES[1]}"] = own
    assert await objects.find(POLICY, "acme", NAMES, SERVICE) == Choice(NAMES[1], own)


async def test_an_object_of_an_earlier_operator_is_adopted(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    """Its controller reference proves it; a label that was removed is restored."""
    own = _secret(make, labels={})
    server.stored[f"{PATH}/{NAMES[0]}"] = own
    choice = await objects.find(POLICY, "acme", NAMES, SERVICE)
    assert choice == Choice(NAMES[0], own)
    assert await objects.write(POLICY, _rendered(make), own) is not None


def _rendered(make: Make) -> Body:
    return control_secret(make.service(), KeyRing("master"), NAMES[0])


async def test_a_new_object_is_created_and_never_applied(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    server.errors = [Conflict("POST", 409, "already exists")]
    with pytest.raises(Conflict):
        await objects.write(POLICY, _rendered(make), None)
    await objects.write(POLICY, _rendered(make), None)
    assert [write[:2] for write in server.writes] == [("POST", PATH)] * 2


async def test_a_correct_object_is_not_written(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    own = _secret(make)
    metadata = own["metadata"]
    assert isinstance(metadata, dict)
    metadata["ownerReferences"].append(held_by_pod("p0", "u0"))  # an adopted pod
    metadata["labels"]["team"] = "a"
    assert await objects.write(POLICY, _rendered(make), own) is None
    assert server.writes == []


async def test_a_change_names_the_object_and_the_version_that_were_seen(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    stored = {**_secret(make), "data": {"token": "b3RoZXI="}}
    await objects.write(POLICY, _rendered(make), stored)
    ((method, path, body, content_type),) = server.writes
    assert (method, path) == ("PATCH", f"{PATH}/{NAMES[0]}")
    assert content_type == "application/apply-patch+yaml"
    assert (body["metadata"]["uid"], body["metadata"]["resourceVersion"]) == ("u", "7")
    assert server.queries == [{"fieldManager": "avatar-operator"}]


async def test_a_manual_edit_is_overwritten_in_the_version_that_was_seen(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    message = 'conflict with "kubectl-edit" using policy/v1 at 2026-01-01T00:00:00Z: .spec'
    server.errors = [Conflict("PATCH", 409, message)]
    await objects.write(PDB, _rendered(make), {**_secret(make), "data": {}})
    assert [query.get("force") for query in server.queries] == [None, "true"]
    assert {write[2]["metadata"]["resourceVersion"] for write in server.writes} == {"7"}


@pytest.mark.parametrize(
    ("message", "error"),
    [
        pytest.param('conflict with "flux": .spec', FieldConflict, id="applied"),
        pytest.param(
            'conflicts with "kubectl" using policy/v1: .a, conflicts with "flux": .b',
            FieldConflict,
            id="applied and edited",
        ),
        pytest.param("the namespace is terminating", Conflict, id="other conflict"),
    ],
)
async def test_what_another_manager_applies_is_not_overwritten(
    server: Server, objects: OwnedObjects, make: Make, message: str, error: type[Exception]
) -> None:
    server.errors = [Conflict("PATCH", 409, message)]
    with pytest.raises(error) as caught:
        await objects.write(PDB, _rendered(make), {**_secret(make), "data": {}})
    assert type(caught.value) is error
    assert len(server.writes) == 1


def test_each_kind_has_its_path() -> None:
    assert PDB.path("acme") == "/apis/policy/v1/namespaces/acme/poddisruptionbudgets"
    assert PDB.path("acme", "a") == "/apis/policy/v1/namespaces/acme/poddisruptionbudgets/a"
    assert POLICY.path("acme", "a") == f"{PATH}/a"
    assert (PDB.kind, POLICY.kind) == ("PodDisruptionBudget", "NetworkPolicy")


async def test_a_response_that_is_no_list_is_a_temporary_error() -> None:
    async def send(method: str, path: str, *, query: Any = None, **_: Any) -> Any:
        assert (method, path) == ("GET", "/pods")
        assert query == {"fieldSelector": "metadata.name=a"}
        return {"items": {}}

    with pytest.raises(TemporaryError, match="the response is not a list") as error:
        await read_by_list(send, "/pods", "a")
    assert (error.value.request, error.value.status) == ("GET /pods", 200)


async def test_a_manual_edit_is_forced_with_the_same_object(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    message = 'conflicts with "kubectl-edit" using policy/v1 at 2026-01-01T00:00:00Z: .spec'
    server.errors = [Conflict("PATCH", 409, message)]
    await objects.write(PDB, _rendered(make), {**_secret(make), "data": {}})
    first, second = server.writes
    assert first == second
    assert first[1] == PDB.path("acme", NAMES[0])
    assert server.queries == [
        {"fieldManager": "avatar-operator"},
        {"fieldManager": "avatar-operator", "force": "true"},
    ]


async def test_a_field_conflict_has_the_words_of_the_server(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    server.errors = [Conflict("PATCH", 409, 'conflict with "flux": .spec')]
    with pytest.raises(FieldConflict) as caught:
        await objects.write(PDB, _rendered(make), {**_secret(make), "data": {}})
    error = caught.value
    assert (error.request, error.status) == (f"PATCH {PDB.path('acme', NAMES[0])}", 409)
    assert error.message == 'conflict with "flux": .spec'


async def test_the_search_ends_at_the_own_object(
    server: Server, objects: OwnedObjects, make: Make
) -> None:
    own = _secret(make)
    for name in NAMES:
        server.stored[f"{PATH}/{name}"] = own
    assert await objects.find(POLICY, "acme", NAMES, SERVICE) == Choice(NAMES[0], own)
