"""What an uninstall counts as its own, and what it says about it."""

from __future__ import annotations

from typing import Any

import pytest

from avatar_operator.core import removal

OWN = "system/operator"


def service(name: str, **status: Any) -> removal.Remaining:
    metadata = {"name": name, "namespace": "acme", "uid": f"uid-{name}"}
    return removal.read("AvatarService", {"metadata": metadata, "status": status})


def pod(owner: str) -> dict[str, Any]:
    return {"metadata": {"name": "p", "ownerReferences": [{"uid": f"uid-{owner}"}]}}


def test_objects_of_other_installations_are_left_alone() -> None:
    found = [
        service("theirs", operator="other/operator"),
        service("own", operator=OWN),
        service("new"),
    ]
    assert [each.name for each in removal.select(found, OWN)] == ["new", "own"]


def test_pods_count_until_they_are_gone_also_without_their_service() -> None:
    found = [service("theirs", operator="other/operator"), service("own", operator=OWN)]
    pods = [pod("theirs"), pod("own"), pod("deleted"), {"metadata": {"name": "ownerless"}}]
    assert removal.count_pods(pods, found, OWN) == 3


@pytest.mark.parametrize("sessions", ["many", -1, None, 2**40], ids=str)
def test_wrong_counts_in_a_status_read_as_zero(sessions: Any) -> None:
    assert service("a", sessions=sessions).sessions == 0


def test_a_body_without_metadata_is_no_fault() -> None:
    found = removal.read("Avatar", {"metadata": [], "status": 3})
    assert (found.name, found.installation, found.is_deleted) == ("", "", False)


def test_the_notice_names_each_object_with_its_sessions_and_the_way_to_remove_them() -> None:
    own = removal.select([service("a", operator=OWN, sessions=3, replicas=2)], OWN)
    avatar = removal.read("Avatar", {"metadata": {"name": "anna", "namespace": "acme"}})
    text = "\n".join(removal.notice([*own, avatar], 2))
    assert "1 AvatarServices, 1 Avatars and 2 runtime pods stay" in text
    assert "  AvatarService acme/a: 2 pods, 3 sessions\n" in text
    assert "  Avatar acme/anna\n" in text
    assert "the pods keep their GPUs" in text
    assert "cleanup.enabled=true" in text


def test_an_empty_cluster_has_a_short_notice() -> None:
    assert list(removal.notice([], 0)) == ["no AvatarServices and no Avatars are left"]
    assert "keep their GPUs" not in "\n".join(removal.notice([service("a")], 0))


def test_a_report_is_bounded() -> None:
    own = [service(f"s{number}") for number in range(removal.SHOWN + 7)]
    shown = list(removal.lines(own))
    assert len(shown) == removal.SHOWN + 1
    assert shown[-1] == "  and 7 more"
    assert len(list(removal.lines(own[: removal.SHOWN]))) == removal.SHOWN
