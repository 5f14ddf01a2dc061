"""The notice and the cleanup of an uninstall, on a fake API whose pods wait for their sessions."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from avatar_contracts.list_watch import Page
from avatar_operator.errors import NotFound, NotRemoved, Refused
from avatar_operator.kube import crds, removal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

GROUP = "/apis/avatar.musetalk.io/v1alpha1"
SCOPE = removal.Scope("system/operator")


class FakeApi:
    """Stores objects by path; a deleted service goes at once, its pods after some looks."""

    def __init__(self, services: list[str], avatars: list[str], pods_for: int = 0) -> None:
        self.objects = {
            **{f"{GROUP}/namespaces/acme/avatarservices/{name}": name for name in services},
            **{f"{GROUP}/namespaces/acme/avatars/{name}": name for name in avatars},
        }
        self.pods_for = pods_for
        self.paths: list[str] = []
        self.deleted: list[str] = []
        self.fault: Exception | None = None
        self.missing_crd = ""

    async def list(self, path: str, selector: str = "") -> AsyncIterator[Page]:
        self.paths.append(path)
        if self.fault is not None:
            raise self.fault
        kind = path.rpartition("/")[2]
        if kind == "pods":
            assert selector == removal.SELECTOR
            served = any("avatarservices" in key for key in self.objects)
            self.pods_for -= not served
            pods = [{"metadata": {"name": "p"}}] if served or self.pods_for >= 0 else []
            yield Page(pods, "1", "")
            return
        if kind == "avatars" and self.missing_crd:
            raise NotFound(path, 404, "")
        found = [name for key, name in self.objects.items() if f"/{kind}/" in key]
        bodies = [{"metadata": {"name": n, "namespace": "acme", "uid": f"uid-{n}"}} for n in found]
        yield Page(bodies, "1", "")

    async def delete_object(self, path: str, uid: str) -> None:
        assert uid == f"uid-{self.objects.pop(path)}"
        self.deleted.append(path.rpartition("/")[2])

    async def delete_crd(self, name: str) -> None:
        if name == self.missing_crd:
            raise NotFound(name, 404, "")
        self.deleted.append(name)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "POLL_S", 0.0)


def run(steps: AsyncIterator[str]) -> list[str]:
    async def collect() -> list[str]:
        return [sentence async for sentence in steps]

    return asyncio.run(collect())


def test_the_notice_deletes_nothing() -> None:
    api: Any = FakeApi(["a", "b"], ["anna"], pods_for=1)
    lines = run(removal.report(api, SCOPE))
    assert lines[0] == "2 AvatarServices, 1 Avatars and 1 runtime pods stay in the cluster"
    assert api.deleted == []


def test_a_notice_that_cannot_look_stops_no_uninstall() -> None:
    api: Any = FakeApi([], [])
    api.fault = Refused("GET /x", 403, "no")
    assert run(removal.report(api, SCOPE)) == [
        "cannot list what stays in the cluster: GET /x: 403 no"
    ]


def test_kinds_that_do_not_exist_have_no_objects() -> None:
    api: Any = FakeApi(["a"], [])
    api.missing_crd = "avatars"
    assert "1 AvatarServices, 0 Avatars" in run(removal.report(api, SCOPE))[0]


def test_only_the_served_namespaces_are_looked_at() -> None:
    api: Any = FakeApi([], [])
    run(removal.report(api, removal.Scope("system/operator", ("acme", "globex"))))
    assert f"{GROUP}/namespaces/globex/avatars" in api.paths
    assert "/api/v1/namespaces/acme/pods" in api.paths
    assert all("/namespaces/" in path for path in api.paths)


def test_services_go_first_and_avatars_after_the_last_session() -> None:
    api: Any = FakeApi(["a", "b"], ["anna"], pods_for=3)
    lines = run(removal.clean_up(api, SCOPE, 60.0))
    assert api.deleted == ["a", "b", "anna"]
    assert api.pods_for < 0
    assert lines[-1] == "all AvatarServices and Avatars and their pods are gone"


def test_live_sessions_at_the_deadline_fail_the_uninstall_and_go_on() -> None:
    api: Any = FakeApi(["a"], ["anna"], pods_for=10**9)
    with pytest.raises(NotRemoved) as failed:
        run(removal.clean_up(api, SCOPE, 0.0))
    assert (failed.value.objects, failed.value.pods) == ((), 1)
    assert "sessions that are live go on" in str(failed.value)
    assert api.deleted == ["a"]  # the Avatars of pods that serve are kept


def test_crds_that_are_gone_are_no_fault() -> None:
    api: Any = FakeApi([], [])
    names = [crds.name_of(body) for body in crds.bundled()]
    api.missing_crd = names[1]
    run(removal.remove_crds(api))
    assert api.deleted == [names[0], *names[2:]]
