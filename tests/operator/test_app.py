"""Tests of the operator's process: its ports, its token, its signals and its end."""

from __future__ import annotations

import asyncio
import logging
import signal
from typing import TYPE_CHECKING, Any

import httpx
import pytest
import pytest_asyncio

from avatar_contracts import tokens
from avatar_contracts.tokens import control_token
from avatar_operator import app, health, settings
from avatar_operator.app import metrics_token
from avatar_operator.core.keys import KeyRing
from avatar_operator.kube import crds

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from avatar_operator.settings import Address

HEALTH, METRICS = 8080, 9090
ENVIRONMENT = {"AVATAR_NAMESPACE": "system", "AVATAR_RUNTIME_IMAGE": "runtime:1"}
KEYS = KeyRing("a-master-key-of-the-operator")


class Part:
    """Stands for the manager, the leader elector and kopf's informer, and records their calls."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.arguments: dict[str, tuple[Any, ...]] = {}
        self.keys: KeyRing | None = KEYS
        self.alive = True
        self.ready = True
        self.contact_s = 0.0
        self.faults: dict[str, Exception] = {}
        self.running: set[str] = set()

    def made(self, name: str) -> Callable[..., Any]:
        """Return a constructor whose object runs as a part of this name."""

        def make(*arguments: Any) -> Any:
            self.arguments[name] = arguments
            return _Runner(self, name)

        return make


class _Runner:
    def __init__(self, part: Part, name: str) -> None:
        self._part = part
        self._name = name

    async def run(self) -> None:
        self._part.running.add(self._name)
        try:
            if self._name in self._part.faults:
                raise self._part.faults[self._name]
            await asyncio.Event().wait()
        finally:
            self._part.calls.append(f"end of {self._name}")

    async def resign(self) -> None:
        self._part.calls.append("resign")

    def lead(self, epoch: int | None) -> None:
        raise AssertionError

    @property
    def keys(self) -> KeyRing | None:
        return self._part.keys

    @property
    def waits_for(self) -> str:
        return "" if self._part.ready else "waiting for the part"

    def is_alive(self) -> bool:
        return self._part.alive

    def is_ready(self) -> bool:
        return self._part.ready

    def seconds_since_contact(self) -> float:
        return self._part.contact_s


class FakeClient:
    """Stands for the client of the API server."""

    def __init__(self) -> None:
        self.identity = ""
        self.closed = False

    async def open(self, _: object, identity: str) -> FakeClient:
        self.identity = identity
        return self

    async def __aenter__(self) -> FakeClient:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.closed = True

    async def credentials(self) -> None:
        raise AssertionError


class Setup:
    """The process under test: fakes for its parts, and the real ports."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.part = Part()
        self.client = FakeClient()
        self.crds: Callable[[], Awaitable[None]] | None = None
        self.ports: dict[int, int] = {}
        self.served = asyncio.Event()
        self._running: asyncio.Task[int] | None = None
        monkeypatch.setattr(app, "KubernetesClient", self.client)
        for name in ("Manager", "LeaderElector", "KopfInformer"):
            monkeypatch.setattr(app, name, self.part.made(name))
        monkeypatch.setattr(crds, "wait_until_current", self._wait_until_current)
        monkeypatch.setattr(health, "serving", self._serving(health.serving))
        monkeypatch.setattr("avatar_contracts.logs.configure", lambda *_: None)

    async def _wait_until_current(self, _: object) -> None:
        if self.crds is not None:
            await self.crds()

    def _serving(self, real: Any) -> Any:
        """Serve on any free port, and record it under the port that was asked for."""

        def serving(application: Any, address: Address) -> Any:
            setup, free = self, settings.Address("127.0.0.1", 0)

            class Serving:
                async def __aenter__(self) -> None:
                    self._context = real(application, free)
                    setup.ports[address.port] = await self._context.__aenter__()
                    setup.served.set()

                async def __aexit__(self, *error: Any) -> None:
                    del setup.ports[address.port]
                    await self._context.__aexit__(*error)

            return Serving()

        return serving

    def start(self, **environment: str) -> asyncio.Task[int]:
        required = {"AVATAR_NAMESPACE": "system", "AVATAR_RUNTIME_IMAGE": "runtime:1"}
        read = settings.from_env({"AVATAR_POD": "operator-0", **required, **environment})
        self._running = asyncio.create_task(app.run(read))
        return self._running

    async def started(self, **environment: str) -> asyncio.Task[int]:
        """Start, and return when all parts run."""
        running = self.start(**environment)
        async with asyncio.timeout(10):
            while len(self.part.running) < 3:  # noqa: ASYNC110 - a part has no event for it
                await asyncio.sleep(0)
        return running

    async def stop(self) -> None:
        if self._running is not None and not self._running.done():
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().remove_signal_handler(number)

    async def get(self, port: int, path: str, token: str = "") -> int:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with httpx.AsyncClient(trust_env=False, verify=False) as client:
            url = f"http://127.0.0.1:{self.ports[port]}{path}"
            return (await client.get(url, headers=headers)).status_code


@pytest_asyncio.fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    setup = Setup(monkeypatch)
    yield setup
    await setup.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_signal_releases_the_lease_before_the_parts_end(
    setup: Setup, number: signal.Signals
) -> None:
    running = await setup.started()
    signal.raise_signal(number)
    async with asyncio.timeout(10):
        assert await running == 0
    assert setup.part.calls[0] == "resign"
    assert sorted(setup.part.calls[1:]) == [
        f"end of {name}" for name in ("KopfInformer", "LeaderElector", "Manager")
    ]
    assert setup.client.closed
    assert setup.ports == {}


@pytest.mark.parametrize("name", ["Manager", "LeaderElector", "KopfInformer"])
async def test_a_part_that_fails_ends_the_process_with_an_error(
    setup: Setup, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    setup.part.faults[name] = ZeroDivisionError("bug")
    running = setup.start()
    async with asyncio.timeout(10):
        assert await running == 1
    assert "resign" in setup.part.calls
    assert caplog.text.count("operator failed") == 1
    assert "ZeroDivisionError: bug" in caplog.text


async def test_a_process_that_waits_for_the_crds_is_alive_but_not_ready(setup: Setup) -> None:
    current = asyncio.Event()

    async def wait() -> None:
        await current.wait()

    setup.crds = wait
    setup.start()
    async with asyncio.timeout(10):
        await setup.served.wait()
    assert await setup.get(HEALTH, "/healthz") == 200
    assert await setup.get(HEALTH, "/readyz") == 503
    assert METRICS not in setup.ports
    assert setup.part.running == set()
    current.set()
    async with asyncio.timeout(10):
        while METRICS not in setup.ports:  # noqa: ASYNC110 - it follows within some callbacks
            await asyncio.sleep(0)
    assert await setup.get(HEALTH, "/readyz") == 200


async def test_the_probes_report_the_manager_and_the_contact_with_the_lease(
    setup: Setup,
) -> None:
    await setup.started()
    assert await setup.get(HEALTH, "/healthz") == 200
    assert await setup.get(HEALTH, "/readyz") == 200
    setup.part.ready = False
    assert await setup.get(HEALTH, "/readyz") == 503
    setup.part.contact_s = app.NO_CONTACT_S - 0.1
    assert await setup.get(HEALTH, "/healthz") == 200
    setup.part.contact_s = app.NO_CONTACT_S
    assert await setup.get(HEALTH, "/healthz") == 503
    setup.part.contact_s = 0.0
    setup.part.alive = False
    assert await setup.get(HEALTH, "/healthz") == 503


async def test_metrics_require_the_token_of_the_operator(setup: Setup) -> None:
    await setup.started()
    token = tokens.control_token(KEYS.current, "system/avatar-operator")
    assert await setup.get(METRICS, "/metrics") == 401
    assert await setup.get(METRICS, "/metrics", "other") == 401
    assert await setup.get(METRICS, "/metrics", token) == 200


async def test_metrics_can_be_open(setup: Setup) -> None:
    await setup.started(AVATAR_METRICS_OPEN="true")
    assert await setup.get(METRICS, "/metrics") == 200


async def test_each_process_is_another_candidate_for_the_lease(setup: Setup) -> None:
    identities = []
    for _ in range(2):
        await setup.started(AVATAR_LEASE="lease", AVATAR_LEASE_RETRY_S="0.25")
        _, _, lease, candidate, _, on_change = setup.part.arguments["LeaderElector"]
        assert (lease.namespace, lease.name) == ("system", "lease")
        assert candidate.timing.retry_s == 0.25
        assert on_change.__name__ == "lead"
        assert candidate.identity == setup.client.identity
        identities.append(candidate.identity)
        await setup.stop()
        setup.part.running.clear()
    first, second = identities
    assert first != second
    assert first.startswith("operator-0_")


async def test_kopf_watches_the_namespaces_of_the_settings(setup: Setup) -> None:
    await setup.started(AVATAR_WATCH_NAMESPACES="acme,globex")
    _, credentials, namespaces = setup.part.arguments["KopfInformer"]
    assert credentials == setup.client.credentials
    assert tuple(namespaces) == ("acme", "globex")


async def test_the_log_is_configured_before_anything_else(
    setup: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured: list[tuple[Any, ...]] = []
    monkeypatch.setattr("avatar_contracts.logs.configure", lambda *each: configured.append(each))
    await setup.started(AVATAR_LOG_FORMAT="text")
    ((log_format, levels),) = configured
    assert log_format.value == "text"
    assert levels["kopf.objects"] == logging.WARNING
    assert levels["kopf._core.reactor.running"] == logging.ERROR


def test_metrics_require_a_token_that_follows_from_the_master_key() -> None:
    read = settings.from_env(ENVIRONMENT)
    expected = control_token(KEYS.current, "system/avatar-operator")
    assert metrics_token(read, KEYS) == expected


def test_before_the_key_is_known_no_token_is_valid() -> None:
    read = settings.from_env(ENVIRONMENT)
    first, second = (metrics_token(read, None) for _ in range(2))
    assert first != second
    assert first != control_token("", "system/avatar-operator")
    assert len(first or "") == 64


def test_open_metrics_require_no_token() -> None:
    read = settings.from_env({**ENVIRONMENT, "AVATAR_METRICS_OPEN": "true"})
    assert metrics_token(read, None) is None
