"""A gateway and fake pods on real sockets; a test controls what each fake pod does."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
import tempfile
import time
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest
import yaml
from aiohttp import WSMsgType, web
from tests import redis_server as redis_servers

from avatar_contracts.tokens import gateway_key
from avatar_gateway import event_loop, settings
from avatar_gateway.core.connections import Limits
from avatar_gateway.core.memory_budget import MemoryBudget
from avatar_gateway.core.model import Pod, State
from avatar_gateway.metrics import Metrics
from avatar_gateway.pod_registry import PodRegistry
from avatar_gateway.serving.admin import Admin
from avatar_gateway.serving.app import Gateway
from avatar_gateway.serving.audit import AuditLog
from avatar_gateway.serving.auth import Authenticator
from avatar_gateway.serving.direct_sessions import DirectSessions
from avatar_gateway.serving.placement import Placer
from avatar_gateway.serving.pod_answers import PodRequests
from avatar_gateway.serving.revocation import RevocationWatch
from avatar_gateway.serving.server import ADMIN_LIMITS, Listener
from avatar_gateway.serving.sessions import Sessions
from avatar_gateway.serving.token_verifier import TokenVerifier
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.streams.key_sets import KeySets
from avatar_gateway.tenant_registry import TenantRegistry

if TYPE_CHECKING:
    import ssl
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from avatar_gateway.core.connections import IPNetwork
    from avatar_gateway.serving.silent_pods import SilentPods
    from avatar_gateway.shared.metering import Meter

KEY = "a-key-of-some-length"
ANY_PORT = settings.Address("127.0.0.1", 0)
MASTER = "a-master-secret-of-the-operator"
LIMITS = Limits(2000, 2000)


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Run the tests on the event loop that the gateway runs on."""
    return {"gateway": event_loop.factory()}


def write_kubeconfig(path: Path, port: int) -> None:
    """Write the kubeconfig file of an API server on this machine."""
    document = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(yaml.safe_dump(document))


@asynccontextmanager
async def serving(application: web.Application, host: str = "127.0.0.1") -> AsyncIterator[int]:
    """Serve an application on a free port."""
    runner = web.AppRunner(application, shutdown_timeout=0.01)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, 0).start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


@dataclass
class FakePod:
    """A fake runtime pod: it accepts sessions until it is full, and echoes messages."""

    name: str
    capacity: int = 5
    rejection: tuple[int, dict[str, Any]] | None = None
    raw_state: bytes | None = None
    """If set, the state stream sends this instead of the state."""
    redirect: str | None = None
    """If set, the state stream answers with a redirect to this address."""
    may_answer: asyncio.Event | None = None
    """If set, the pod answers a session request only after this event."""
    session_header: Callable[[web.Request], str] | None = None
    """Returns the session that the pod names for a request; None for a pod that names none."""
    autoping: bool = True
    """Whether the pod's library handles pings and pongs itself."""
    port: int = 0
    admin_port: int = 0
    avatar_answer: bytes = b"{}"
    avatar_status: int = 200
    avatar_headers: dict[str, str] = field(default_factory=dict)
    avatar_type: str | None = None
    """The media type of the answer; None chooses that of the path."""
    tokens: list[str | None] = field(default_factory=list)
    accepted: str | None = None
    """The only Authorization header that the state stream accepts; None accepts every one."""
    requests: list[web.Request] = field(default_factory=list)
    sockets: set[web.WebSocketResponse] = field(default_factory=set)
    closed_with: list[int | None] = field(default_factory=list)
    on_message: Callable[[web.WebSocketResponse, Any], Awaitable[None]] | None = None
    exported: tuple[int, dict[str, Any]] = (404, {"error": {"code": "session_not_found"}})
    """The answer to each request for the document of a session."""
    imported: tuple[int, dict[str, Any]] = (200, {"session": {"id": "sess_new"}, "ttl_ms": 30_000})
    """The answer to each document."""
    may_export: asyncio.Event | None = None
    """If set, the pod gives out a session only after this event."""
    resume_s: int = 0
    """How long the pod says that it holds a session; 0 leaves the header out."""
    records: asyncio.Queue[bytes | None] = field(default_factory=asyncio.Queue)
    """What the pod sends in its stream of snapshots; None ends it."""
    followers: list[str] = field(default_factory=list)
    """The gateways that have read the snapshots."""
    queries: list[str] = field(default_factory=list)
    """The query of each request about a session."""
    moves: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    """The path and the body of each request about a session."""

    @property
    def transport(self) -> asyncio.Transport:
        """The transport of the last session, with which a test breaks the protocol."""
        transport = self.requests[-1].transport
        assert transport is not None
        return transport

    async def move(self, request: web.Request) -> web.Response:
        """Give out a session, or take one."""
        self.tokens.append(request.headers.get("Authorization"))
        if self.accepted not in (None, self.tokens[-1]):
            return web.json_response({"error": {"code": "unauthenticated"}}, status=401)
        self.moves.append((request.path, await request.json()))
        self.queries.append(request.query_string)
        if self.may_export is not None:
            await self.may_export.wait()
        is_export = request.path.endswith("/export")
        status, answer = self.exported if is_export else self.imported
        return web.json_response(answer, status=status)

    async def avatars(self, request: web.Request) -> web.Response:
        """Answer what is asked about avatars."""
        self.requests.append(request)
        if self.may_answer is not None:
            await self.may_answer.wait()
        kind = "image/jpeg" if request.path.endswith(".jpg") else "application/json"
        return web.Response(
            status=self.avatar_status,
            headers=self.avatar_headers,
            body=self.avatar_answer,
            content_type=self.avatar_type or kind,
        )

    async def realtime(self, request: web.Request) -> web.StreamResponse:
        """Serve one session."""
        self.requests.append(request)
        if self.may_answer is not None:
            await self.may_answer.wait()
        if self.rejection is not None or len(self.sockets) >= self.capacity:
            status, error = self.rejection or (503, {"code": "no_capacity"})
            return web.json_response({"error": error}, status=status, headers={"Retry-After": "9"})
        socket = web.WebSocketResponse(
            protocols=("realtime",), max_msg_size=2**25, autoping=self.autoping
        )
        self.sockets.add(socket)
        if self.resume_s:
            socket.headers["Avatar-Resume-Seconds"] = str(self.resume_s)
        if self.session_header is not None:
            socket.headers["Avatar-Session"] = self.session_header(request)
            socket.headers["Avatar-Resume-Seconds"] = "30"
        try:
            await socket.prepare(request)
            await self._converse(socket)
        finally:
            self.sockets.discard(socket)
            self.closed_with.append(socket.close_code)
        return socket

    async def _converse(self, socket: web.WebSocketResponse) -> None:
        async for message in socket:
            if message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                return
            if self.on_message is not None:
                await self.on_message(socket, message.data)
            else:
                await socket.send_frame(_bytes(message.data), message.type)

    async def snapshots(self, request: web.Request) -> web.StreamResponse:
        """Stream what the test puts into `records`."""
        self.followers.append(request.query["gateway"])
        response = web.StreamResponse()
        await response.prepare(request)
        while (record := await self.records.get()) is not None:
            await response.write(record)
        return response

    def snapshot(self, session: str, document: bytes, number: int = -1, **changes: Any) -> None:
        """Send a snapshot of the session that the connection of a request carries."""
        connection = self.requests[number].headers["Avatar-Connection"]
        line = {"connection": connection, "session": session, "bytes": len(document)}
        text = json.dumps({**line, "resume_s": self.resume_s, **changes})
        self.records.put_nowait(text.encode() + b"\n" + document)

    def lose(self) -> None:
        """End all connections of sessions without a close frame."""
        for request in self.requests:
            if request.transport is not None:
                request.transport.abort()

    async def state(self, request: web.Request) -> web.StreamResponse:
        """Stream the state: one line immediately, then one line every 50 ms."""
        self.tokens.append(request.headers.get("Authorization"))
        if self.accepted not in (None, self.tokens[-1]):
            return web.Response(status=401)
        if self.redirect is not None:
            raise web.HTTPFound(self.redirect)
        response = web.StreamResponse()
        await response.prepare(request)
        for sequence in range(10_000):
            line = self.raw_state or json.dumps(self.line(sequence)).encode() + b"\n"
            try:
                await response.write(line)
            except ConnectionError:
                break
            await asyncio.sleep(0.05)
        return response

    def line(self, sequence: int) -> dict[str, Any]:
        """Return one line of the state stream."""
        return {
            "pod": self.name,
            "service": "acme/concierge",
            "capacity": self.capacity,
            "sessions": len(self.sockets),
            "free": self.capacity - len(self.sockets),
            "draining": False,
            "ready": True,
            "sequence": sequence,
        }

    def as_pod(self) -> Pod:
        """Return the pod as the Kubernetes API describes it."""
        uid = f"uid-{self.name}"
        ports = (self.port, self.admin_port)
        return Pod("acme", self.name, uid, "acme/concierge", "127.0.0.1", *ports, terminating=False)

    def as_state(self, **changes: Any) -> State:
        """Return the current state of the pod."""
        now = asyncio.get_running_loop().time()
        taken = len(self.sockets)
        values = {"capacity": self.capacity, "sessions": taken, "free": self.capacity - taken}
        flags = {"draining": False, "ready": True, "sequence": 1, "at": now}
        return State(**{**values, **flags, **changes})

    @asynccontextmanager
    async def running(self) -> AsyncIterator[FakePod]:
        """Serve both ports."""
        sessions, admin = web.Application(), web.Application()
        paths = ("/v1/realtime", "/voice-live/realtime")
        sessions.add_routes([web.get(path, self.realtime) for path in paths])
        sessions.add_routes([web.get("/v1/avatars{rest:.*}", self.avatars)])
        admin.add_routes([web.get("/control/v1/state", self.state)])
        admin.add_routes([web.post("/control/v1/sessions{rest:.*}", self.move)])
        admin.add_routes([web.get("/control/v1/snapshots", self.snapshots)])
        async with serving(sessions) as self.port, serving(admin) as self.admin_port:
            yield self


@dataclass
class FakeAPI:
    """A fake API server: it lists in pages of one object, and streams the events of a test."""

    items: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"pods": [], "avatarservices": []}
    )
    queries: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    events: dict[str, asyncio.Queue[dict[str, Any] | None]] = field(
        default_factory=lambda: {"pods": asyncio.Queue(), "avatarservices": asyncio.Queue()}
    )
    absent: int = 404
    """The status for a kind without items."""
    fail_lists: int = 0
    raw_lists: list[str] = field(default_factory=list)
    """Bodies that the next lists return with status 200 instead of the items."""
    kubeconfig: Path = Path()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer a list or a watch; the event None ends the watch."""
        kind = request.path.rsplit("/", 1)[1]
        if kind not in self.items:
            return web.json_response({"message": "there is no such kind"}, status=self.absent)
        self.queries.append((request.path, dict(request.query)))
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            while (event := await self.events[kind].get()) is not None:
                data = json.dumps(event).encode() + b"\n"
                # Two writes: a line may be split anywhere in the stream.
                await response.write(data[:10])
                await response.write(data[10:])
            return response
        if self.raw_lists:
            return web.Response(text=self.raw_lists.pop(0))
        if self.fail_lists:
            self.fail_lists -= 1
            return web.json_response({"message": "etcd is busy"}, status=500)
        at = int(request.query.get("continue", "0"))
        more = str(at + 1) if at + 1 < len(self.items[kind]) else ""
        return web.json_response(
            {
                "items": self.items[kind][at : at + 1],
                "metadata": {"resourceVersion": "100", "continue": more},
            }
        )

    def lists(self, kind: str) -> int:
        """Return the number of lists."""
        return sum(
            path.endswith(kind) and "watch" not in query and "continue" not in query
            for path, query in self.queries
        )

    @staticmethod
    def pod(
        name: str, version: int = 1, ports: Sequence[Any] = (), **status: Any
    ) -> dict[str, Any]:
        """Return a pod as the API returns it."""
        return {
            "metadata": {
                "name": name,
                "namespace": "acme",
                "uid": f"uid-{name}",
                "resourceVersion": str(version),
                "labels": {"avatar.musetalk.io/service": "concierge"},
                "ownerReferences": [
                    {
                        "apiVersion": "avatar.musetalk.io/v1alpha1",
                        "kind": "AvatarService",
                        "name": "concierge",
                        "uid": "uid-concierge",
                        "controller": True,
                    }
                ],
            },
            "spec": {"containers": [{"ports": list(ports)}]},
            "status": status,
        }


@dataclass
class Setup:
    """A gateway with the objects that a test inspects."""

    registry: PodRegistry
    sessions: Sessions
    metrics: Metrics
    stack: AsyncExitStack
    keys: list[str]
    """The gateway keys; a test may change them."""
    tenants: TenantRegistry
    key_sets: KeySets
    leases: Leases
    silent_pods: SilentPods
    synced: bool = True
    port: int = 0
    admin_port: int = 0

    @property
    def url(self) -> str:
        """Return the address of the session socket."""
        return f"ws://127.0.0.1:{self.port}/v1/realtime"

    async def pod(self, name: str, capacity: int = 5) -> FakePod:
        """Start a pod, and store the pod and its state in the registry."""
        pod = await self.stack.enter_async_context(FakePod(name, capacity).running())
        self.registry.add_service("acme/concierge")
        self.report_state(pod)
        return pod

    def report_state(self, pod: FakePod, **changes: Any) -> None:
        """Store the current state of a pod in the registry."""
        self.registry.set_pod(pod.as_pod())
        self.registry.update_state(pod.as_pod(), pod.as_state(**changes))


@dataclass
class GatewayProcess:
    """A gateway process."""

    child: asyncio.subprocess.Process
    ports: list[int]

    async def status(self, path: str) -> int:
        """Return the status of a response of the sessions port."""
        url = f"http://127.0.0.1:{self.ports[0]}{path}"
        async with aiohttp.ClientSession() as http, http.get(url) as response:
            return response.status


@asynccontextmanager
async def running_gateway(
    kubeconfig: str, descriptors: int = 0, **environment: str
) -> AsyncIterator[GatewayProcess]:
    limit = ["/bin/sh", "-c", f'ulimit -n {descriptors}; exec "$0" "$@"'] if descriptors else []
    child = await asyncio.create_subprocess_exec(
        *limit,
        sys.executable,
        "-m",
        "avatar_gateway",
        "serve",
        "--listen=127.0.0.1:0",
        "--admin=127.0.0.1:0",
        env={
            "PATH": os.environ["PATH"],
            "KUBECONFIG": kubeconfig,
            "AVATAR_API_KEY": KEY,
            "AVATAR_GATEWAY_KEY": gateway_key(MASTER),
            **environment,
        },
        stderr=asyncio.subprocess.PIPE,
    )
    assert child.stderr is not None
    try:
        async with asyncio.timeout(20):
            ports: list[int] = []
            while len(ports) < 2:
                line = (await child.stderr.readline()).decode()
                assert line, "the gateway ended before it listened"
                ports += [int(port) for port in re.findall(r"listening .*port=(\d+)", line)]
        yield GatewayProcess(child, ports)
    finally:
        if child.returncode is None:
            child.kill()
        await child.communicate()


@asynccontextmanager
async def serving_gateway(
    tls_context: ssl.SSLContext | None = None,
    limits: Limits = LIMITS,
    trusted_proxies: Sequence[IPNetwork] = (),
    leases: Leases | None = None,
    meter: Meter | None = None,
    direct_url: str = "",
) -> AsyncIterator[Setup]:
    """Run a gateway without pods."""
    registry, sessions = PodRegistry(), Sessions()
    metrics = Metrics(lambda: sessions.live, lambda: sessions.waiting)
    environment = {
        "AVATAR_API_KEY": KEY,
        "AVATAR_GATEWAY_KEY": gateway_key(MASTER),
        "AVATAR_POD": "gateway-1",
    }
    chosen = settings.from_env(environment, listen=None, admin=None)
    keys = list(chosen.keys.gateway.read())
    budget = MemoryBudget(chosen.limits.buffer_bytes)
    placer = Placer(registry, lambda: keys, budget)
    async with AsyncExitStack() as stack:
        leases = leases or Leases(MemoryState(time.monotonic), "alone", time.monotonic)
        tenants = TenantRegistry("keys")
        key_sets, audit_log = KeySets(tenants), AuditLog()
        setup = Setup(
            registry, sessions, metrics, stack, keys, tenants, key_sets, leases, placer.silent_pods
        )
        stack.push_async_callback(key_sets.close)
        app = Gateway(
            Authenticator(
                lambda: (KEY,),
                setup.tenants,
                TokenVerifier(setup.tenants, setup.key_sets),
                lambda: keys,
            ),
            setup.tenants,
            placer,
            sessions,
            metrics,
            lambda: setup.synced,
            chosen.limits,
            budget,
            audit_log,
            leases,
            meter,
            direct_url=direct_url,
        )
        admin = Admin(
            chosen,
            registry,
            setup.tenants,
            sessions,
            metrics,
            lambda: app.is_ready,
            leases,
            app.tenant_waiting,
        )
        stack.push_async_callback(placer.close)
        setup.port = await stack.enter_async_context(
            Listener(limits, trusted_proxies, tls_context=tls_context).listening(
                app.application(), ANY_PORT
            )
        )
        setup.admin_port = await stack.enter_async_context(
            Listener(ADMIN_LIMITS).listening(admin.application(), ANY_PORT)
        )
        http = await stack.enter_async_context(aiohttp.ClientSession())
        requests = PodRequests(http, lambda: keys)
        direct = DirectSessions(leases, requests, time.monotonic, time.time)
        revocations = RevocationWatch(sessions, tenants, audit_log, direct)
        watching = asyncio.create_task(revocations.run())
        try:
            yield setup
        finally:
            watching.cancel()


@pytest.fixture
async def redis_server() -> AsyncIterator[redis_servers.RedisServer]:
    """Return a redis-server of its own; the path of a Unix socket must be short."""
    with tempfile.TemporaryDirectory() as folder:
        async with redis_servers.running(Path(folder)) as server:
            yield server


@pytest.fixture
async def gateway() -> AsyncIterator[Setup]:
    """Return a gateway without pods."""
    async with serving_gateway() as setup:
        yield setup


@pytest.fixture
def make_gateway() -> Callable[..., AbstractAsyncContextManager[Setup]]:
    """Return a context in which a gateway serves with a certificate or limits."""
    return serving_gateway


@pytest.fixture
async def fake(tmp_path: Path) -> AsyncIterator[FakeAPI]:
    """Return a fake API server with its kubeconfig file."""
    api = FakeAPI(kubeconfig=tmp_path / "kubeconfig")
    application = web.Application()
    application.router.add_get("/{path:.*}", api.handle)
    async with serving(application) as port:
        write_kubeconfig(api.kubeconfig, port)
        yield api


@pytest.fixture
def start_gateway(fake: FakeAPI) -> Callable[..., Any]:
    """Return a function that runs `avatar-gateway serve` against the fake API server."""
    return lambda **options: running_gateway(str(fake.kubeconfig), **options)


@pytest.fixture
async def fake_pod() -> AsyncIterator[FakePod]:
    """Return a pod that is not in the registry."""
    async with FakePod("p1").running() as pod:
        yield pod


@pytest.fixture
def until() -> Callable[..., Awaitable[None]]:
    """Return a function that waits for a condition with a deadline."""

    async def wait(condition: Callable[[], object], seen: Callable[[], object] = str) -> None:
        try:
            async with asyncio.timeout(5):
                while not condition():  # noqa: ASYNC110  a server changes the condition
                    await asyncio.sleep(0.01)
        except TimeoutError:
            pytest.fail(f"condition not met, last seen: {seen()}")

    return wait


def _bytes(data: str | bytes) -> bytes:
    return data.encode() if isinstance(data, str) else data
