from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts.owners import Owner
from avatar_operator.core.keys import KeyRing
from avatar_operator.core.manifests import ownership
from avatar_operator.core.manifests.objects import control_secret, pdb, pdb_content
from avatar_operator.core.manifests.ownership import Choice, choose

if TYPE_CHECKING:
    from tests.operator.conftest import Make

UID = "0f1e2d3c-aaaa-bbbb-cccc-0123456789ab"
OWNER = {
    "apiVersion": "avatar.musetalk.io/v1beta1",
    "kind": "AvatarService",
    "name": "concierge",
    "uid": UID,
    "controller": True,
}
SERVICE = Owner("concierge", UID)
OWN: dict[str, Any] = {"metadata": {"ownerReferences": [{"uid": "pod"}, OWNER]}}
FOREIGN: dict[str, Any] = {"metadata": {"labels": {"app.kubernetes.io/managed-by": "x"}}}


def test_the_second_name_contains_the_uid_of_the_service() -> None:
    assert ownership.candidates("db-control", UID) == ("db-control", "db-control-0f1e2d3c")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"uid": "another"}, id="another service"),
        pytest.param({"controller": False}, id="not the controller"),
        pytest.param({"kind": "Deployment"}, id="another kind"),
        pytest.param({"apiVersion": "apps/v1"}, id="another group"),
    ],
)
def test_only_the_controller_reference_proves_that_an_object_is_ours(
    change: dict[str, object],
) -> None:
    assert ownership.belongs_to(OWN, UID)
    labels = {"app.kubernetes.io/managed-by": "avatar-operator"}
    references = [{**OWNER, **change}]
    assert not ownership.belongs_to(
        {"metadata": {"labels": labels, "ownerReferences": references}}, UID
    )


def test_an_object_that_another_tool_manages_is_not_ours() -> None:
    labels = {"app.kubernetes.io/managed-by": "Helm"}
    assert not ownership.belongs_to({"metadata": {**OWN["metadata"], "labels": labels}}, UID)


@given(st.lists(st.sampled_from([None, OWN, FOREIGN]), min_size=1, max_size=4))
def test_a_foreign_object_is_never_chosen(stored: list[dict[str, Any] | None]) -> None:
    found = [(f"name-{number}", body) for number, body in enumerate(stored)]
    choice = choose(found, SERVICE)
    if choice is None:
        assert all(body is FOREIGN for body in stored)
        return
    index = [name for name, _ in found].index(choice.name)
    assert choice.stored is stored[index]
    assert choice.stored is not FOREIGN
    # The own object wins over free names, so that a service has one object of a kind.
    assert (choice.stored is OWN) is (OWN in stored)
    assert all(stored[int(name.removeprefix("name-"))] is FOREIGN for name in choice.taken)


def test_an_object_of_an_earlier_service_of_this_name_is_left_alone_and_not_named() -> None:
    earlier: dict[str, Any] = {"metadata": {"ownerReferences": [{**OWNER, "uid": "earlier"}]}}
    assert choose([("a", earlier), ("b", None)], SERVICE) == Choice("b", None)
    other: dict[str, Any] = {
        "metadata": {"ownerReferences": [{**OWNER, "uid": "x", "name": "other"}]}
    }
    assert choose([("a", other), ("b", None)], SERVICE) == Choice("b", None, ("a",))


def test_taken_names_are_described() -> None:
    (sentence,) = ownership.describe_taken({"Secret": ("db-control",), "Pod": ()})
    assert sentence.startswith("Secret db-control does not belong to this AvatarService")
    assert choose([("a", FOREIGN), ("b", None)], SERVICE) == Choice("b", None, ("a",))


def test_only_missing_content_makes_a_difference(make: Make) -> None:
    rendered: Any = control_secret(make.service(), KeyRing("master"), "n")
    stored = {**rendered, "metadata": {**rendered["metadata"], "uid": "u"}, "extra": 1}
    assert not ownership.differs(stored, rendered)
    assert not ownership.differs({**stored, "data": {**rendered["data"], "more": "eA=="}}, rendered)
    assert ownership.differs({**stored, "data": {}}, rendered)
    assert ownership.differs({**stored, "data": None}, rendered)


@pytest.mark.parametrize("name", ["concierge-live", "concierge-live-s1"])
def test_a_pdb_of_either_name_protects_its_service(make: Make, name: str) -> None:
    body: Any = pdb(make.service(), name)
    assert pdb_content(body) == "s1"
    assert pdb_content({**body, "spec": {**body["spec"], "minAvailable": 1}}) is None
    assert pdb_content({**body, "metadata": {**body["metadata"], "name": "mine"}}) is None
    assert pdb_content({**body, "metadata": {"name": name}}) is None
