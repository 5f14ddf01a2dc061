"""Tests of the comparison and the upgrade of CRDs, on a fake API."""

from __future__ import annotations

import asyncio
import copy
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.errors import InvalidResource, Refused, TemporaryError
from avatar_operator.kube import crds

if TYPE_CHECKING:
    from tests.operator.conftest import Body


class FakeApi:
    """Stores CRDs; an applied one is established after a number of reads."""

    def __init__(self, *installed: Body) -> None:
        self.installed = {body["metadata"]["name"]: body for body in installed}
        self.applied: list[str] = []
        self.reads = 0
        self.established_after = 1
        self.errors: list[Exception] = []
        self.on_read: Any = None

    async def get_crd(self, name: str) -> Body | None:
        self.reads += 1
        if self.on_read is not None:
            self.on_read(self.reads)
        if self.errors:
            raise self.errors.pop(0)
        found = self.installed.get(name)
        if found is None:
            return None
        self.established_after -= name in self.applied
        if self.established_after > 0:
            return found
        established = {"type": "Established", "status": "True"}
        status = {**found.get("status", {}), "conditions": [established]}
        return {**found, "status": status}

    async def apply_crd(self, body: Body) -> None:
        name = body["metadata"]["name"]
        self.applied.append(name)
        self.installed[name] = copy.deepcopy(body)


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crds, "CHECK_S", 0.0)
    monkeypatch.setattr(crds, "ESTABLISHED_S", 0.0)


def bundled() -> list[Any]:
    return [copy.deepcopy(body) for body in crds.bundled()]


def properties(body: Any) -> Any:
    return body["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]


def without_status(body: Any) -> Any:
    older = copy.deepcopy(body)
    del properties(older)["status"]
    return older


KINDS = ("avatars", "avatarservices", "avatartenants", "gpuprofiles")
NAMES = [f"{kind}.avatar.musetalk.io" for kind in KINDS]


def test_the_crds_of_the_release_are_bundled() -> None:
    assert sorted(body["metadata"]["name"] for body in bundled()) == NAMES


async def test_missing_crds_are_installed() -> None:
    api: Any = FakeApi()
    assert sorted(await crds.upgrade(api)) == [f"{name} installed" for name in NAMES]
    assert sorted(api.applied) == NAMES


async def test_an_older_crd_is_upgraded_and_its_new_fields_are_named() -> None:
    avatar, service, tenant, profile = bundled()
    api: Any = FakeApi(avatar, without_status(service), tenant, profile)
    sentences = await crds.upgrade(api)
    assert sentences[1] == f"{service['metadata']['name']} applied, new: status"
    assert sentences[3] == f"{profile['metadata']['name']} applied"
    assert "status" in properties(api.installed[service["metadata"]["name"]])


async def test_a_newer_crd_stays_as_it_is() -> None:
    avatar, service, tenant, profile = bundled()
    newer = copy.deepcopy(service)
    properties(newer)["later"] = {"type": "object"}
    api: Any = FakeApi(avatar, newer, tenant, profile)
    sentences = await crds.upgrade(api)
    name = service["metadata"]["name"]
    assert sentences[1] == f"{name} is newer than this release and stays as it is"
    assert api.applied == [each["metadata"]["name"] for each in (avatar, tenant, profile)]


async def test_nothing_is_applied_while_objects_are_stored_in_a_removed_version() -> None:
    avatar, service, tenant, profile = bundled()
    profile["status"] = {"storedVersions": ["v1alpha0", "v1alpha1"]}
    api: Any = FakeApi(avatar, service, tenant, profile)
    with pytest.raises(InvalidResource, match="storedVersions is v1alpha0, must be among") as error:
        await crds.upgrade(api)
    assert error.value.name == profile["metadata"]["name"]
    assert api.applied == []


async def test_an_applied_crd_is_awaited_until_it_is_established() -> None:
    api: Any = FakeApi()
    api.established_after = 5
    await crds.upgrade(api)
    assert api.reads >= len(NAMES) + 5


async def test_a_crd_that_is_never_established_fails_the_upgrade() -> None:
    api: Any = FakeApi()
    api.established_after = 10_000
    with pytest.raises(TemporaryError, match="not established within"):
        await crds.upgrade(api)
    assert api.reads == len(NAMES) + crds.ESTABLISHED_CHECKS


async def test_current_crds_need_no_wait(caplog: pytest.LogCaptureFixture) -> None:
    api: Any = FakeApi(*bundled())
    await crds.wait_until_current(api)
    assert api.reads == len(NAMES)
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("missing", "reason"),
    [
        (True, "avatarservices.avatar.musetalk.io is not installed"),
        (False, "is older than this operator and lacks status"),
    ],
)
async def test_the_operator_waits_for_the_crds_and_logs_the_reason_once(
    missing: bool, reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    avatar, service, tenant, profile = bundled()
    api: Any = FakeApi(avatar, *([] if missing else [without_status(service)]), tenant, profile)

    def install(reads: int) -> None:
        if reads == 10:
            api.installed[service["metadata"]["name"]] = service

    api.on_read = install
    async with asyncio.timeout(10):
        await crds.wait_until_current(api)
    assert caplog.text.count("not ready:") == 1
    assert reason in caplog.text
    assert crds.COMMAND in caplog.text


async def test_an_unreachable_api_server_is_logged_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    api: Any = FakeApi(*bundled())
    api.errors = [Refused("GET /crds", 403, "forbidden")]
    await crds.wait_until_current(api)
    assert "GET /crds: 403 forbidden" in caplog.text
