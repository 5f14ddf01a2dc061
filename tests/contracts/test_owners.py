from __future__ import annotations

from typing import Any

import pytest

from avatar_contracts.owners import Owner, owner_of

SERVICE = {
    "apiVersion": "avatar.musetalk.io/v1alpha1",
    "kind": "AvatarService",
    "name": "concierge",
    "uid": "s1",
    "controller": True,
}


def body(*owners: dict[str, Any]) -> dict[str, object]:
    return {"metadata": {"ownerReferences": list(owners)}}


def test_the_controller_is_the_owner_also_behind_others() -> None:
    other = {**SERVICE, "kind": "AvatarThing", "name": "other"}
    assert owner_of(body(other, SERVICE)) == Owner("concierge", "s1")


@pytest.mark.parametrize(
    "change",
    [
        {"controller": False},
        {"controller": None},
        {"kind": "Deployment"},
        {"apiVersion": "apps/v1"},
        {"apiVersion": "avatar.musetalk.io.example/v1"},
    ],
    ids=str,
)
def test_what_is_no_controlling_service_is_no_owner(change: dict[str, Any]) -> None:
    assert owner_of(body({**SERVICE, **change})) is None
    assert owner_of({}) is None


@pytest.mark.parametrize(
    "body",
    [
        {"metadata": None},
        {"metadata": []},
        {"metadata": {"ownerReferences": None}},
        {"metadata": {"ownerReferences": {"controller": True}}},
        {"metadata": {"ownerReferences": [None, 7, "AvatarService", {}]}},
        {"metadata": {"ownerReferences": [{**SERVICE, "controller": "true"}]}},
    ],
    ids=str,
)
def test_malformed_object_has_no_owner(body: dict[str, object]) -> None:
    assert owner_of(body) is None
