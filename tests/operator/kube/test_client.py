from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio
from aiohttp import web
from kubernetes.aio.client.configuration import Configuration

from avatar_contracts import list_watch
from avatar_operator.core.keys import opaque_secret
from avatar_operator.core.resources.service import ServiceKey
from avatar_operator.errors import (
    Conflict,
    NotFound,
    NotLeading,
    Refused,
    TemporaryError,
)
from avatar_operator.kube.client import KubernetesClient

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from avatar_operator.fence import Fence

SECRETS = "/api/v1/namespaces/system/secrets"


class ApiServer:
    """Returns prepared responses, and records the requests."""

    def __init__(self) -> None:
        self.responses: dict[tuple[str, str], list[tuple[int, Any, dict[str, str]]]] = {}
        self.requests: list[tuple[str, str, Any]] = []
        self.last_headers: dict[str, str] = {}

    def on(self, method: str, path: str, status: int, body: Any, **headers: str) -> None:
        self.responses.setdefault((method, path), []).append((status, body, headers))

    async def handle(self, request: web.Request) -> web.Response:
        text = await request.text()
        body = json.loads(text) if text else None
        self.requests.append((request.method, request.path_qs, body))
        self.last_headers = dict(request.headers)
        status, response, headers = self.responses[request.method, request.path].pop(0)
        data = response if isinstance(response, str) else json.dumps(response)
        return web.Response(status=status, text=data, headers=headers)

    @property
    def writes(self) -> list[str]:
        return [method for method, _, _ in self.requests if method != "GET"]


@pytest_asyncio.fixture
async def server(fence: Fence) -> AsyncIterator[tuple[ApiServer, KubernetesClient]]:
    api = ApiServer()
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", api.handle)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    configuration = Configuration(
        host=f"http://127.0.0.1:{runner.addresses[0][1]}", api_key={"BearerToken": "Bearer t"}
    )
    async with KubernetesClient(configuration, fence, "p0") as client:
        yield api, client
    await runner.cleanup()


async def test_a_list_is_read_page_by_page(server: tuple[ApiServer, KubernetesClient]) -> None:
    api, client = server
    first, second = {"metadata": {"name": "a"}}, {"metadata": {"name": "b"}}
    api.on("GET", "/api/v1/pods", 200, {"items": [first], "metadata": {"continue": "next"}})
    api.on("GET", "/api/v1/pods", 200, {"items": [second], "metadata": {}})
    pages = [page.items async for page in client.list("/api/v1/pods")]
    assert pages == [[first], [second]]
    assert [path for _, path, _ in api.requests] == [
        "/api/v1/pods?limit=500",
        "/api/v1/pods?limit=500&continue=next",
    ]
    assert api.last_headers["Authorization"] == "Bearer t"
    assert api.last_headers["User-Agent"] == "avatar-operator/p0"


@pytest.mark.parametrize(
    "response",
    [
        "",
        "<html>",
        "[]",
        '{"kind": "Status"}',
        '{"items": null}',
        "[" * 100_000,
    ],
    ids=["empty", "html", "array", "status", "null", "deep"],
)
async def test_a_response_that_is_not_a_list_is_a_temporary_error(
    server: tuple[ApiServer, KubernetesClient], response: str
) -> None:
    api, client = server
    api.on("GET", "/api/v1/pods", 200, response)
    with pytest.raises(TemporaryError, match=r"/api/v1/pods.*the response is not a"):
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
async def test_http_errors_are_mapped_to_error_classes(
    server: tuple[ApiServer, KubernetesClient], status: int, error: type[Exception]
) -> None:
    api, client = server
    api.on("POST", "/api/v1/namespaces/acme/pods", status, {"message": "because"})
    with pytest.raises(error, match=f"{status} because"):
        await client.create_pod({"metadata": {"namespace": "acme"}})


async def test_the_retry_after_header_becomes_the_delay(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    headers = {"Retry-After": "7"}
    api.on("POST", "/api/v1/namespaces/acme/events", 429, "overloaded", **headers)
    with pytest.raises(TemporaryError) as caught:
        await client.create_event({"metadata": {"namespace": "acme"}})
    assert caught.value.delay_s == 7.0


async def test_an_unreachable_server_is_a_temporary_error(fence: Fence) -> None:
    async with KubernetesClient(Configuration(host="http://127.0.0.1:1"), fence, "p0") as client:
        with pytest.raises(TemporaryError):
            await client.read_secret("system", "control")


async def test_a_pod_is_deleted_with_its_preconditions(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    path = "/api/v1/namespaces/acme/pods/p"
    api.on("DELETE", path, 200, {"kind": "Pod"})
    await client.delete_pod("acme", "p", "u", "7")
    assert [body["preconditions"] for _, _, body in api.requests] == [
        {"uid": "u", "resourceVersion": "7"},
    ]


async def test_a_pod_is_found_with_the_right_to_list_pods(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    pod = {"metadata": {"name": "p"}}
    for items in ([pod], [], None):
        api.on("GET", "/api/v1/namespaces/acme/pods", 200, {"items": items})
    assert await client.find_pod("acme", "p") == pod
    assert await client.find_pod("acme", "p") is None
    with pytest.raises(TemporaryError):
        await client.find_pod("acme", "p")
    assert api.requests[0][1].endswith("/pods?fieldSelector=metadata.name%3Dp")


async def test_a_pod_is_changed_only_in_the_version_that_was_observed(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    path = "/api/v1/namespaces/acme/pods/p"
    api.on("PATCH", path, 200, {"kind": "Pod"})
    api.on("PATCH", path, 409, {"message": "the object has been modified"})
    await client.patch_pod_metadata("acme", "p", "u", {"labels": {"a": "b"}})
    with pytest.raises(Conflict):
        await client.patch_pod_metadata("acme", "p", "u", {"labels": {"a": "c"}}, "7")
    assert [body["metadata"] for _, _, body in api.requests] == [
        {"labels": {"a": "b"}, "uid": "u"},
        {"labels": {"a": "c"}, "uid": "u", "resourceVersion": "7"},
    ]


async def test_a_secret_that_does_not_exist_reads_as_none(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    api.on("GET", f"{SECRETS}/control", 404, {})
    api.on("GET", f"{SECRETS}/control", 200, {"data": {"a": "b"}})
    assert await client.read_secret("system", "control") is None
    assert await client.read_secret("system", "control") == {"data": {"a": "b"}}


async def test_a_secret_of_the_operator_is_replaced_only_if_the_operator_made_it(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    body = opaque_secret("system", "keys", {"key": "k"})
    api.on("POST", SECRETS, 201, {})
    await client.write_own_secret(body)
    api.on("POST", SECRETS, 409, {})
    api.on("PATCH", f"{SECRETS}/keys", 200, {})
    await client.write_own_secret(body)
    assert api.last_headers["Content-Type"] == "application/json-patch+json"
    test, change = api.requests[-1][2]
    label = "/metadata/labels/app.kubernetes.io~1managed-by"
    assert test == {"op": "test", "path": label, "value": "avatar-operator"}
    assert (change["path"], change["value"]) == ("/data", body["data"])
    api.on("POST", SECRETS, 409, {})
    api.on("PATCH", f"{SECRETS}/keys", 422, {"message": "the server rejected our request"})
    with pytest.raises(Refused):
        await client.write_own_secret(body)


async def test_a_status_is_applied_to_exactly_this_service(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    path = "/apis/avatar.musetalk.io/v1alpha1/namespaces/acme/avatarservices/concierge/status"
    api.on("PATCH", path, 200, {"kind": "AvatarService"})
    await client.apply_status(ServiceKey("acme", "concierge"), "u", 7, {"sessions": 1})
    body = api.requests[0][2]
    assert (body["metadata"]["uid"], body["status"]) == ("u", {"sessions": 1})
    assert body["metadata"]["resourceVersion"] == "7"  # another operator may have claimed it


async def test_the_credentials_are_those_of_the_connection(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    _, client = server
    found = await client.credentials()
    assert (found.authorization, found.verifies) == ("Bearer t", True)


async def test_a_watch_yields_events_independent_of_their_segments(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    pod = {"metadata": {"uid": "u", "annotations": {"long": "x" * 300_000}}}
    events = [{"type": "ADDED", "object": pod}, {"type": "BOOKMARK", "object": {"a": 1}}]
    text = "".join(json.dumps(event) + "\n" for event in events)
    api.on("GET", "/api/v1/pods", 200, text + '{"type": "torn')
    received = [event async for event in client.watch("/api/v1/pods", "7", 5.0)]
    assert received == [("ADDED", pod), ("BOOKMARK", {"a": 1})]
    query = "allowWatchBookmarks=true&resourceVersion=7&watch=1"
    (path,) = [path for _, path, _ in api.requests]
    assert sorted(path.partition("?")[2].split("&")) == query.split("&")


async def test_an_event_that_is_nested_too_deeply_has_no_type_and_no_object(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    pod = {"type": "ADDED", "object": {"a": 1}}
    api.on("GET", "/api/v1/pods", 200, "[" * 100_000 + "\n" + json.dumps(pod) + "\n")
    received = [event async for event in client.watch("/api/v1/pods", "7", 5.0)]
    assert received == [("", {}), ("ADDED", {"a": 1})]


async def test_an_expired_version_of_a_watch_is_not_found(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    api.on("GET", "/api/v1/pods", 410, {"message": "too old resource version"})
    with pytest.raises(NotFound, match="410 too old"):
        async for _ in client.watch("/api/v1/pods", "7", 5.0):
            pass


async def test_an_event_over_the_size_limit_breaks_the_watch(
    server: tuple[ApiServer, KubernetesClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    api, client = server
    monkeypatch.setattr(list_watch, "LONGEST_EVENT", 100)
    api.on("GET", "/api/v1/pods", 200, "x" * 200)
    with pytest.raises(TemporaryError, match="longer than 100 bytes"):
        async for _ in client.watch("/api/v1/pods", "7", 5.0):
            pass


CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/system/leases"
PDB = "/apis/policy/v1/namespaces/acme/poddisruptionbudgets/a-live"
SERVICE = "/apis/avatar.musetalk.io/v1alpha1/namespaces/acme/avatarservices/concierge"


async def test_a_crd_is_found_by_its_name(server: tuple[ApiServer, KubernetesClient]) -> None:
    api, client = server
    api.on("GET", CRDS, 200, {"items": [{"a": 1}]})
    api.on("GET", CRDS, 200, {"items": []})
    assert await client.get_crd("x.y") == {"a": 1}
    assert await client.get_crd("x.y") is None
    assert {path for _, path, _ in api.requests} == {f"{CRDS}?fieldSelector=metadata.name%3Dx.y"}


async def test_a_crd_is_applied_with_force(server: tuple[ApiServer, KubernetesClient]) -> None:
    api, client = server
    api.on("PATCH", f"{CRDS}/x.y", 200, {})
    await client.apply_crd({"metadata": {"name": "x.y"}})
    assert "force=true" in api.requests[0][1]
    assert api.last_headers["Content-Type"] == "application/apply-patch+yaml"


@pytest.mark.parametrize(
    ("status", "metadata", "exists"),
    [
        pytest.param(200, {"uid": "u"}, True, id="exists"),
        pytest.param(200, {"uid": "other"}, False, id="another"),
        pytest.param(200, {"uid": "u", "deletionTimestamp": "now"}, False, id="deleting"),
        pytest.param(404, {}, False, id="missing"),
    ],
)
async def test_a_service_exists_only_with_its_uid_and_while_it_is_not_deleted(
    server: tuple[ApiServer, KubernetesClient],
    status: int,
    metadata: dict[str, str],
    exists: bool,
) -> None:
    api, client = server
    api.on("GET", SERVICE, status, {"metadata": metadata})
    assert await client.service_exists(ServiceKey("acme", "concierge"), "u") is exists


async def test_the_status_of_a_profile_is_applied_to_exactly_this_profile(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    path = "/apis/avatar.musetalk.io/v1alpha1/gpuprofiles/l4/status"
    api.on("PATCH", path, 200, {"kind": "GPUProfile"})
    assert await client.apply_profile_status("l4", "u", 7, {"a": 1}) == {"kind": "GPUProfile"}
    body = api.requests[0][2]
    metadata = {"name": "l4", "uid": "u", "resourceVersion": "7"}
    assert (body["metadata"], body["status"]) == (metadata, {"a": 1})


async def test_an_event_is_created_in_its_namespace(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    api.on("POST", "/api/v1/namespaces/acme/events", 201, {})
    await client.create_event({"metadata": {"namespace": "acme"}, "reason": "x"})
    assert api.requests[0][2]["reason"] == "x"


async def test_a_lease_is_created_without_and_patched_with_a_version(
    server: tuple[ApiServer, KubernetesClient], fence: Fence
) -> None:
    api, client = server
    fence.close()  # the Lease decides who leads, so its writes pass without the fence
    api.on("GET", f"{LEASES}/l", 200, {"a": 1})
    api.on("POST", LEASES, 201, {"a": 2})
    api.on("PATCH", f"{LEASES}/l", 200, {"a": 3})
    metadata = {"namespace": "system", "name": "l"}
    assert await client.read_lease("system", "l", 1.0) == {"a": 1}
    assert await client.write_lease({"metadata": metadata}, 1.0) == {"a": 2}
    versioned: dict[str, object] = {"metadata": {**metadata, "resourceVersion": "7"}}
    assert await client.write_lease(versioned, 1.0) == {"a": 3}
    assert api.last_headers["Content-Type"] == "application/merge-patch+json"
    assert [method for method, _, _ in api.requests] == ["GET", "POST", "PATCH"]


async def test_the_watch_of_a_lease_selects_it_by_name(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    api.on("GET", LEASES, 200, json.dumps({"type": "ADDED", "object": {"a": 1}}) + "\n")
    events = [event async for event in client.watch_lease("system", "l", 5.0)]
    assert events == [("ADDED", {"a": 1})]
    assert "fieldSelector=metadata.name%3Dl" in api.requests[0][1]


async def test_no_write_is_sent_without_the_leadership(
    server: tuple[ApiServer, KubernetesClient], fence: Fence
) -> None:
    api, client = server
    fence.close()
    with pytest.raises(NotLeading):
        await client.create_pod({"metadata": {"namespace": "acme"}})
    assert api.requests == []
    api.on("GET", SERVICE, 404, {})
    await client.service_exists(ServiceKey("acme", "concierge"), "u")  # a read is allowed


async def test_a_list_can_be_restricted_by_labels(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    page = {"items": [], "metadata": {"resourceVersion": "9"}}
    api.on("GET", "/api/v1/pods", 200, page)
    pages = [each async for each in client.list("/api/v1/pods", "a=b")]
    assert [each.version for each in pages] == ["9"]
    assert api.requests[0][1] == "/api/v1/pods?limit=500&labelSelector=a%3Db"


@pytest.mark.parametrize("status", [400, 405, 413, 415])
async def test_a_request_that_can_never_succeed_is_refused(
    server: tuple[ApiServer, KubernetesClient], status: int
) -> None:
    api, client = server
    api.on("POST", "/api/v1/namespaces/acme/pods", status, {})
    with pytest.raises(Refused, match=f"{status} no message"):
        await client.create_pod({"metadata": {"namespace": "acme"}})


async def test_a_delay_that_is_not_a_number_of_seconds_is_ignored(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    headers = {"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"}
    api.on("POST", "/api/v1/namespaces/acme/pods", 503, {}, **headers)
    with pytest.raises(TemporaryError) as caught:
        await client.create_pod({"metadata": {"namespace": "acme"}})
    assert caught.value.delay_s is None


async def test_a_long_message_of_the_server_is_truncated(
    server: tuple[ApiServer, KubernetesClient],
) -> None:
    api, client = server
    api.on("POST", "/api/v1/namespaces/acme/pods", 422, {"message": "x" * 501})
    with pytest.raises(Refused) as caught:
        await client.create_pod({"metadata": {"namespace": "acme"}})
    assert caught.value.message == "x" * 500
