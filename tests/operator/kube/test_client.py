from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from avatar_operator.core.manifests.objects import control_secret, held_by_pod
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.errors import Conflict, NotFound, Refused, TemporaryError
from avatar_operator.kube import connection
from avatar_operator.kube.client import Cluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.operator.conftest import Make

    from avatar_operator.fence import Fence

SECRETS = "/api/v1/namespaces/system/secrets"


class ApiServer:
    """Answers as it was told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[tuple[str, str], list[tuple[int, Any, dict[str, str]]]] = {}
        self.asked: list[tuple[str, str, Any]] = []
        self.last_headers: dict[str, str] = {}

    def on(self, method: str, path: str, status: int, body: Any, **headers: str) -> None:
        self.answers.setdefault((method, path), []).append((status, body, headers))

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else None
        self.asked.append((request.method, request.path_qs, body))
        self.last_headers = dict(request.headers)
        status, answer, headers = self.answers[request.method, request.path].pop(0)
        data = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(status=status, text=data, headers=headers)

    @property
    def writes(self) -> list[str]:
        return [method for method, _, _ in self.asked if method != "GET"]


@pytest_asyncio.fixture
async def server(fence: Fence) -> AsyncIterator[tuple[ApiServer, Cluster]]:
    api = ApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(
        host=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key={"BearerToken": "Bearer t"}
    )
    async with Cluster(configuration, fence, "p0") as cluster:
        yield api, cluster
    await runner.cleanup()


async def test_a_listing_is_read_page_by_page(server: tuple[ApiServer, Cluster]) -> None:
    api, cluster = server
    api.on("GET", "/api/v1/pods", 200, {"items": [{"a": 1}], "metadata": {"continue": "next"}})
    api.on("GET", "/api/v1/pods", 200, {"items": [{"a": 2}], "metadata": {}})
    pages = [page.items async for page in cluster.list("/api/v1/pods")]
    assert pages == [[{"a": 1}], [{"a": 2}]]
    assert [path for _, path, _ in api.asked] == [
        "/api/v1/pods?limit=500",
        "/api/v1/pods?limit=500&continue=next",
    ]
    assert api.last_headers["Authorization"] == "Bearer t"
    assert api.last_headers["User-Agent"] == "avatar-operator/p0"


@pytest.mark.parametrize("answer", ["", "<html>", "[]", '{"kind": "Status"}', '{"items": null}'])
async def test_an_answer_that_is_no_listing_is_a_temporary_error(
    server: tuple[ApiServer, Cluster], answer: str
) -> None:
    api, client = server
    api.on("GET", "/api/v1/pods", 200, answer)
    with pytest.raises(TemporaryError, match=r"/api/v1/pods.*the answer is no"):
        _ = [page async for page in client.list("/api/v1/pods")]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (404, NotFound),
        (409, Conflict),
        (403, Refused),
        (422, Refused),
        (429, TemporaryError),
        (503, TemporaryError),
    ],
)
async def test_errors_of_the_server_become_ours(
    server: tuple[ApiServer, Cluster], status: int, error: type[Exception]
) -> None:
    api, cluster = server
    api.on("POST", "/api/v1/namespaces/acme/pods", status, {"message": "because"})
    with pytest.raises(error, match=f"{status} because"):
        await cluster.create_pod({"metadata": {"namespace": "acme"}})


async def test_the_delay_that_the_server_asks_for_is_kept(
    server: tuple[ApiServer, Cluster],
) -> None:
    api, cluster = server
    headers = {"Retry-After": "7"}
    api.on("POST", "/api/v1/namespaces/acme/events", 429, "overloaded", **headers)
    with pytest.raises(TemporaryError) as caught:
        await cluster.create_event({"metadata": {"namespace": "acme"}})
    assert caught.value.delay_s == 7.0


async def test_a_server_that_is_gone_is_a_temporary_error(fence: Fence) -> None:
    async with Cluster(Configuration(host="http://127.0.0.1:1"), fence, "p0") as cluster:
        with pytest.raises(TemporaryError):
            await cluster.master_key("system", "control")


async def test_a_pod_is_deleted_with_its_preconditions(server: tuple[ApiServer, Cluster]) -> None:
    api, cluster = server
    path = "/api/v1/namespaces/acme/pods/p"
    for _ in range(2):
        api.on("DELETE", path, 200, {"kind": "Pod"})
    await cluster.delete_pod("acme", "p", "u", None)
    await cluster.delete_pod("acme", "p", "u", "7")
    assert [body["preconditions"] for _, _, body in api.asked] == [
        {"uid": "u"},
        {"uid": "u", "resourceVersion": "7"},
    ]


async def test_a_secret_that_is_as_it_should_be_is_not_written(
    server: tuple[ApiServer, Cluster], make: Make
) -> None:
    api, cluster = server
    secret = control_secret(make.service(), "token")
    path = "/api/v1/namespaces/acme/secrets/concierge-control"
    api.on("GET", path, 404, {})
    api.on("PATCH", path, 201, secret)
    assert await cluster.apply_secret(secret) is True
    assert api.last_headers["Content-Type"] == "application/apply-patch+yaml"
    assert api.asked[-1][1].endswith("?fieldManager=avatar-operator&timeout=5000ms")
    api.on("GET", path, 200, secret)
    assert await cluster.apply_secret(secret) is False
    api.on("GET", path, 200, {**secret, "data": {"token": "b3RoZXI="}})
    api.on("PATCH", path, 200, secret)
    assert await cluster.apply_secret(secret) is True
    held = held_by_pod("p0", "u0")["ownerReferences"]
    metadata = secret["metadata"]
    assert isinstance(metadata, dict)
    owners = [*metadata["ownerReferences"], *held]  # type: ignore[misc]
    api.on("GET", path, 200, {**secret, "metadata": {**metadata, "ownerReferences": owners}})
    assert await cluster.apply_secret(secret) is False
    assert api.writes == ["PATCH", "PATCH"]


async def test_a_pod_is_changed_in_exactly_the_version_that_was_seen(
    server: tuple[ApiServer, Cluster],
) -> None:
    api, cluster = server
    path = "/api/v1/namespaces/acme/pods/p"
    api.on("PATCH", path, 200, {"kind": "Pod"})
    api.on("PATCH", path, 409, {"message": "the object has been modified"})
    await cluster.mark_pod("acme", "p", "u", {"labels": {"a": "b"}})
    with pytest.raises(Conflict):
        await cluster.mark_pod("acme", "p", "u", {"labels": {"a": "c"}}, "7")
    assert [body["metadata"] for _, _, body in api.asked] == [
        {"labels": {"a": "b"}, "uid": "u"},
        {"labels": {"a": "c"}, "uid": "u", "resourceVersion": "7"},
    ]


async def test_a_secret_is_held_by_one_owner_more(server: tuple[ApiServer, Cluster]) -> None:
    api, cluster = server
    api.on("PATCH", "/api/v1/namespaces/acme/secrets/a-control", 200, {})
    owner = held_by_pod("p0", "u0")
    await cluster.hold_secret("acme", "a-control", owner)
    assert api.asked[-1][2] == {"metadata": owner}
    # A merge patch would put the pod in the place of the service.
    assert api.last_headers["Content-Type"] == "application/strategic-merge-patch+json"


def secret_of(master: str) -> dict[str, Any]:
    return {"data": {"master": base64.b64encode(master.encode()).decode()}}


async def test_the_master_key_is_made_once(server: tuple[ApiServer, Cluster]) -> None:
    api, cluster = server
    api.on("GET", f"{SECRETS}/control", 404, {})
    api.on("POST", SECRETS, 201, secret_of("made"))
    assert await cluster.master_key("system", "control") == "made"
    assert len(api.asked[-1][2]["stringData"]["master"]) >= 43  # 32 bytes as base64
    api.on("GET", f"{SECRETS}/control", 200, secret_of("made"))
    assert await cluster.master_key("system", "control") == "made"
    assert api.writes == ["POST"]


async def test_the_master_key_of_a_quicker_replica_is_taken(
    server: tuple[ApiServer, Cluster],
) -> None:
    api, cluster = server
    api.on("GET", f"{SECRETS}/control", 404, {})
    api.on("POST", SECRETS, 409, {})
    api.on("GET", f"{SECRETS}/control", 200, secret_of("theirs"))
    assert await cluster.master_key("system", "control") == "theirs"


async def test_a_control_secret_without_its_key_is_refused(
    server: tuple[ApiServer, Cluster],
) -> None:
    api, cluster = server
    api.on("GET", f"{SECRETS}/control", 200, {"data": {}})
    with pytest.raises(Refused, match="has no key master"):
        await cluster.master_key("system", "control")


async def test_a_status_is_applied_to_exactly_this_service(
    server: tuple[ApiServer, Cluster],
) -> None:
    api, cluster = server
    path = "/apis/avatar.musetalk.io/v1alpha1/namespaces/acme/avatarservices/concierge/status"
    api.on("PATCH", path, 200, {"kind": "AvatarService"})
    await cluster.apply_status(ServiceKey("acme", "concierge"), "u", {"sessions": 1})
    body = api.asked[0][2]
    assert (body["metadata"]["uid"], body["status"]) == ("u", {"sessions": 1})


async def test_the_credentials_are_those_of_the_connection(
    server: tuple[ApiServer, Cluster],
) -> None:
    _, cluster = server
    found = await cluster.credentials()
    assert (found.authorization, found.verifies) == ("Bearer t", True)


async def test_a_watch_yields_events_however_they_are_cut(
    server: tuple[ApiServer, Cluster],
) -> None:
    api, cluster = server
    pod = {"metadata": {"uid": "u", "annotations": {"long": "x" * 300_000}}}
    events = [{"type": "ADDED", "object": pod}, {"type": "BOOKMARK", "object": {"a": 1}}]
    text = "".join(json.dumps(event) + "\n" for event in events)
    api.on("GET", "/api/v1/pods", 200, text + '{"type": "torn')
    told = [event async for event in cluster.watch("/api/v1/pods", "7", 5.0)]
    assert told == [("ADDED", pod), ("BOOKMARK", {"a": 1})]
    query = "allowWatchBookmarks=true&resourceVersion=7&watch=1"
    (path,) = [path for _, path, _ in api.asked]
    assert sorted(path.partition("?")[2].split("&")) == query.split("&")


async def test_a_version_that_is_too_old_for_a_watch_is_not_found(
    server: tuple[ApiServer, Cluster],
) -> None:
    api, cluster = server
    api.on("GET", "/api/v1/pods", 410, {"message": "too old resource version"})
    with pytest.raises(NotFound, match="410 too old"):
        async for _ in cluster.watch("/api/v1/pods", "7", 5.0):
            pass


async def test_an_event_without_end_is_given_up(
    server: tuple[ApiServer, Cluster], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, cluster = server
    monkeypatch.setattr(connection, "LONGEST_EVENT", 100)
    api.on("GET", "/api/v1/pods", 200, "x" * 200)
    with pytest.raises(TemporaryError, match="over 100 bytes"):
        async for _ in cluster.watch("/api/v1/pods", "7", 5.0):
            pass
