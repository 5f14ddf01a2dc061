"""The master keys of a process: read, created, created again, and rotated."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from avatar_operator.controllers import key_controller
from avatar_operator.controllers.key_controller import KeyController
from avatar_operator.core.keys import KeyRing, opaque_secret
from avatar_operator.errors import Conflict, NotLeading, Refused, TemporaryError

if TYPE_CHECKING:
    from avatar_operator.core.resources.fields import Body

FIRST, SECOND = "first-key-of-the-operator", "second-key-of-the-operator"


def stored(*keys: str) -> Body:
    return opaque_secret("system", "control", KeyRing(*keys).master_keys())


class FakeApi:
    """The Secrets of the operator's namespace."""

    def __init__(self) -> None:
        self.secret: Body | None = None
        self.leads = True
        self.faults: list[Exception] = []
        self.appears: Body | None = None
        self.created: list[Body] = []
        self.written: list[Any] = []
        self.reads = 0
        self.changed = asyncio.Event()

    async def read_secret(self, namespace: str, name: str) -> Body | None:
        assert (namespace, name) == ("system", "control")
        self.reads += 1
        self.changed.set()
        if self.faults:
            raise self.faults.pop(0)
        return self.secret

    async def create_secret(self, body: Body) -> Body:
        if not self.leads:
            raise NotLeading
        if self.appears is not None:
            self.secret = self.appears
            raise Conflict("POST", 409, "exists")
        self.created.append(body)
        self.secret = body
        return body

    async def write_own_secret(self, body: Any) -> None:
        if not self.leads:
            raise NotLeading
        self.written.append(body)
        self.changed.set()

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(10):
            while not holds():
                self.changed.clear()
                await self.changed.wait()


class Setup:
    def __init__(self) -> None:
        self.api = FakeApi()
        self.changes: list[KeyRing] = []
        fake: Any = self.api
        self.keys = KeyController(
            fake, "system", "control", "gateway-key", self.changes.append, refresh_s=0.01
        )


@pytest.fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> Setup:
    monkeypatch.setattr(key_controller, "WAIT_S", 0.001)
    monkeypatch.setattr(key_controller, "RETRY_S", 0.001)
    return Setup()


async def test_the_leader_creates_a_key_that_nobody_can_guess(setup: Setup) -> None:
    assert "waiting for the master key in Secret system/control" in setup.keys.waits_for
    await setup.keys.read_first()
    (ring,) = setup.changes
    assert len(ring.current) >= 43  # 32 bytes as base64
    assert (setup.keys.ring, setup.keys.waits_for) == (ring, "")
    another = Setup()
    await another.keys.read_first()
    assert another.keys.ring != ring


async def test_a_key_that_another_replica_created_first_is_used(setup: Setup) -> None:
    setup.api.appears = stored(FIRST)
    await setup.keys.read_first()
    assert (setup.keys.ring, setup.api.created) == (KeyRing(FIRST), [])


async def test_a_standby_waits_and_says_so_once(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.api.leads = False
    waiting = asyncio.create_task(setup.keys.read_first())
    await setup.api.until(lambda: setup.api.reads >= 5)
    assert "the leader creates it" in setup.keys.waits_for
    said = [r for r in caplog.records if "waiting for the master key" in r.message]
    assert len(said) == 1
    setup.api.secret = stored(FIRST)
    await waiting
    assert setup.keys.ring == KeyRing(FIRST)


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Refused("GET secret", 403, "forbidden"), "403 forbidden"),
        (TemporaryError("GET secret", 503, "unavailable"), "503 unavailable"),
    ],
)
async def test_a_fault_is_said_and_the_secret_is_read_again(
    setup: Setup, fault: Exception, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    setup.api.secret = stored(FIRST)
    setup.api.faults = [fault]
    await setup.keys.read_first()
    assert said in caplog.text
    assert setup.keys.ring == KeyRing(FIRST)


async def test_a_deleted_secret_is_created_again_with_the_same_keys(setup: Setup) -> None:
    setup.api.secret = stored(FIRST, SECOND)
    await setup.keys.read_first()
    setup.api.secret = None
    await setup.keys.refresh()
    assert setup.api.secret is not None
    assert setup.api.secret["data"] == stored(FIRST, SECOND)["data"]
    assert setup.changes == [KeyRing(FIRST, SECOND)]


async def test_a_standby_that_knows_the_keys_keeps_them_and_creates_nothing(setup: Setup) -> None:
    setup.api.secret = stored(FIRST)
    await setup.keys.read_first()
    setup.api.secret, setup.api.leads = None, False
    with pytest.raises(NotLeading):
        await setup.keys.refresh()
    assert (setup.keys.ring, setup.api.created) == (KeyRing(FIRST), [])


async def test_a_rotation_is_noticed_and_gateways_get_both_keys(setup: Setup) -> None:
    setup.api.secret = stored(FIRST)
    await setup.keys.read_first()
    running = asyncio.create_task(setup.keys.run())
    await setup.api.until(lambda: setup.api.written)
    setup.api.secret = stored(SECOND, FIRST)
    await setup.api.until(lambda: len(setup.api.written) == 2)
    assert setup.changes == [KeyRing(FIRST), KeyRing(SECOND, FIRST)]
    first, second = setup.api.written
    assert first["metadata"]["name"] == "gateway-key"
    assert set(first["data"]) == {"key"}
    assert second["data"]["previous-key"] == first["data"]["key"]
    reads = setup.api.reads
    await setup.api.until(lambda: setup.api.reads >= reads + 3)
    assert len(setup.api.written) == 2  # nothing is written at rest
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_an_unusable_key_changes_nothing(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.api.secret = stored(FIRST)
    await setup.keys.read_first()
    running = asyncio.create_task(setup.keys.run())
    setup.api.secret = {"data": {}}
    reads = setup.api.reads
    await setup.api.until(lambda: setup.api.reads >= reads + 3)
    assert "has no key master" in caplog.text
    assert setup.keys.ring == KeyRing(FIRST)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_a_new_leader_writes_the_keys_of_the_gateways_at_once(setup: Setup) -> None:
    api: Any = setup.api
    changes: list[KeyRing] = []
    keys = KeyController(api, "system", "control", "gateway-key", changes.append, refresh_s=3600)
    api.secret, api.leads = stored(FIRST), False
    await keys.read_first()
    running = asyncio.create_task(keys.run())
    await api.until(lambda: api.reads >= 2)
    api.leads = True
    keys.begin_term()
    await api.until(lambda: api.written)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


async def test_the_reason_to_wait_is_logged_when_it_is_new_and_every_half_minute(
    setup: Setup, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: now)
    waiting = "waiting for the master key in Secret system/control: "
    assert setup.keys.waits_for == f"{waiting}the Secret was not read yet"
    for now, fault in ((0.0, "a"), (1.0, "a"), (2.0, "b"), (31.9, "b"), (32.0, "b")):  # noqa: B007
        setup.keys._note(fault)
    assert caplog.messages == [f"{waiting}{fault}" for fault in ("a", "b", "b")]


async def test_each_way_to_create_and_change_the_key_is_logged(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    await setup.keys.refresh()
    setup.api.secret = None
    await setup.keys.refresh()
    setup.api.secret = stored(SECOND)
    await setup.keys.refresh()
    generation = KeyRing(SECOND).generation
    assert caplog.messages == [
        "created the Secret of the master key with a new key secret=control",
        "created the Secret of the master key again, because it was deleted secret=control",
        f"the master key changed generation={generation}",
    ]
    assert len(setup.changes[0].current) == 64  # 48 bytes as base64


async def test_the_secret_of_the_gateways_is_written_once_for_each_ring(setup: Setup) -> None:
    await setup.keys._write_gateway_keys()
    assert setup.api.written == []
    await setup.keys.refresh()
    for _ in range(2):
        await setup.keys._write_gateway_keys()
    assert len(setup.api.written) == 1
    setup.keys.begin_term()
    await setup.keys._write_gateway_keys()
    assert len(setup.api.written) == 2


async def test_a_term_ends_one_wait_only(setup: Setup) -> None:
    setup.keys.begin_term()
    await setup.keys._wait(3600)
    assert not setup.keys._begun.is_set()
    await setup.keys._wait(0)


async def test_pauses_follow_what_happened(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    setup = Setup()
    pauses: list[float] = []

    async def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 4:
            raise asyncio.CancelledError
        if len(pauses) == 3:
            setup.api.leads = True

    monkeypatch.setattr(setup.keys, "_wait", pause)
    setup.api.secret, setup.api.leads = stored(FIRST), False
    setup.api.faults = [TemporaryError("GET secret", 503, "unavailable")]
    with pytest.raises(asyncio.CancelledError):
        await setup.keys.run()
    assert pauses == [2.0, 0.01, 0.01, 0.01]
    assert len(setup.api.written) == 1
    (message,) = caplog.messages
    assert message.startswith("cannot keep the master key fault=")


async def test_the_first_read_is_tried_again_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    setup = Setup()
    pauses: list[float] = []

    async def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 2:
            setup.api.secret = stored(FIRST)

    setup.api.leads = False
    setup.api.faults = [TemporaryError("GET secret", 503, "unavailable")]
    with monkeypatch.context() as patched:
        patched.setattr(asyncio, "sleep", sleep)
        await setup.keys.read_first()
    assert pauses == [2.0, 0.25]
