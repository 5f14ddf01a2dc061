"""Tests of the state streams: attempts, pauses and silence, on a fake network and clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from avatar_contracts import state
from avatar_operator.streams import client
from avatar_operator.streams.client import StateStreams
from avatar_operator.streams.endpoint import Endpoint

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

READY = Endpoint("p0", "10.0.0.1:9090", "secret", ready=True)
STARTING = Endpoint("p0", "10.0.0.1:9090", "secret")
HEAD = b"HTTP/1.1 200 OK\r\n\r\n"


class FakeTransport(asyncio.Transport):
    """The connection of one stream; the test sends what the pod would send."""

    def __init__(self, protocol: asyncio.Protocol) -> None:
        super().__init__()
        self.protocol = protocol
        self.written = b""
        self.aborted = False
        self.paused = False
        self.ended = False

    def pause_reading(self) -> None:
        self.paused = True

    def resume_reading(self) -> None:
        self.paused = False

    def write(self, data: Any) -> None:
        self.written += data

    def abort(self) -> None:
        self.aborted = True

    def send(self, *lines: bytes) -> None:
        self.protocol.data_received(b"".join(line + b"\n" for line in lines))


class Network:
    """Stands for the network and the clock of the event loop."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        loop = asyncio.get_running_loop()
        self._now = loop.time()
        self.attempts: list[tuple[str, int]] = []
        self.transports: list[FakeTransport] = []
        self.fault: Exception | None = None
        self.hold: asyncio.Event | None = None
        monkeypatch.setattr(loop, "time", lambda: self._now)
        monkeypatch.setattr(loop, "create_connection", self._connect)

    async def _connect(
        self, factory: Callable[[], asyncio.Protocol], host: str, port: int
    ) -> tuple[FakeTransport, asyncio.Protocol]:
        self.attempts.append((host, port))
        if self.hold is not None:
            await self.hold.wait()
        if self.fault is not None:
            raise self.fault
        transport = FakeTransport(factory())
        self.transports.append(transport)
        transport.protocol.connection_made(transport)
        return transport, transport.protocol

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    async def pass_s(self, seconds: float) -> None:
        self._now += seconds
        await self.settle()

    async def until_attempt_within(self, longest_s: float) -> None:
        """Check that the next attempt comes after half of a time to the whole of it."""
        before = len(self.attempts)
        await self.pass_s(0.4 * longest_s)
        assert len(self.attempts) == before
        await self.pass_s(0.65 * longest_s)
        assert len(self.attempts) == before + 1


class Setup:
    """The streams under test, with what they report."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.documents: list[Mapping[str, object]] = []
        self.repeats = 0
        self.streams = StateStreams(
            lambda _, document: self.documents.append(document), lambda _: self._repeat()
        )

    def _repeat(self) -> None:
        self.repeats += 1

    async def follow(self, endpoint: Endpoint = READY, uid: str = "u") -> bool:
        added = self.streams.follow(uid, endpoint)
        await self.network.settle()
        return added

    async def connect(self, endpoint: Endpoint = READY) -> FakeTransport:
        await self.follow(endpoint)
        return self.latest()

    def latest(self) -> FakeTransport:
        """Return the last connection, and send the head of its response."""
        transport = self.network.transports[-1]
        transport.protocol.data_received(HEAD)
        return transport


@pytest_asyncio.fixture
async def setup(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Setup]:
    setup = Setup(Network(monkeypatch))
    yield setup
    await setup.streams.close()


async def test_the_stream_is_requested_with_the_token(setup: Setup) -> None:
    transport = await setup.connect()
    assert setup.network.attempts == [("10.0.0.1", 9090)]
    assert transport.written == (
        b"GET /control/v1/state?watch=1 HTTP/1.1\r\nHost: 10.0.0.1:9090\r\n"
        b"Authorization: Bearer secret\r\nAccept: */*\r\n\r\n"
    )


async def test_an_ipv6_address_has_no_brackets_when_it_is_connected(setup: Setup) -> None:
    await setup.follow(Endpoint("p0", "[fd00::1]:9090", "secret"))
    assert setup.network.attempts == [("fd00::1", 9090)]


async def test_a_pod_that_refuses_connections_is_tried_in_growing_pauses(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    setup.network.fault = ConnectionRefusedError("no")
    await setup.follow()
    assert len(setup.network.attempts) == 1
    for pause_s in (0.1, 0.3, 0.9, 2.7, 8.1, 24.3, 30.0, 30.0):
        await setup.network.until_attempt_within(pause_s)
    assert caplog.text.count("state stream lost") == 1  # not at each attempt
    assert "state stream lost pod=p0 fault=ConnectionRefusedError: no" in caplog.text


async def test_a_pod_that_is_not_ready_is_tried_later(setup: Setup) -> None:
    setup.network.fault = ConnectionRefusedError("no")
    await setup.follow(STARTING)
    await setup.network.until_attempt_within(1.0)
    await setup.network.until_attempt_within(3.0)


async def test_a_pod_that_becomes_ready_is_tried_immediately_and_soon_again(
    setup: Setup,
) -> None:
    setup.network.fault = ConnectionRefusedError("no")
    await setup.follow(STARTING)
    await setup.network.until_attempt_within(1.0)
    assert await setup.follow(READY) is False
    assert len(setup.network.attempts) == 3
    await setup.network.until_attempt_within(0.1)
    await setup.follow(READY)  # it was ready before
    assert len(setup.network.attempts) == 4


async def test_a_connected_pod_that_becomes_ready_keeps_its_stream(setup: Setup) -> None:
    await setup.connect(STARTING)
    assert await setup.follow(READY) is False
    assert len(setup.network.attempts) == 1
    assert setup.streams.endpoint("u") == READY
    assert setup.streams.endpoint("unknown") is None


async def test_a_connection_attempt_without_an_answer_ends(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    setup.network.hold = asyncio.Event()
    await setup.follow()
    await setup.network.pass_s(0.9 * client.SILENCE_S)
    assert len(setup.network.attempts) == 1
    assert "state stream lost" not in caplog.text
    await setup.network.pass_s(0.2 * client.SILENCE_S)
    assert "state stream lost pod=p0 fault=TimeoutError" in caplog.text
    await setup.network.until_attempt_within(0.1)


async def test_an_unexpected_error_is_logged(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    setup.network.fault = ZeroDivisionError("bug")
    await setup.follow()
    assert "state streams stopped" in caplog.text
    assert "ZeroDivisionError" in caplog.text


async def test_streams_that_are_closed_are_not_logged_as_failed(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await setup.connect()
    session = setup.streams.session()
    assert setup.streams.session() is session
    await setup.streams.close()
    assert transport.aborted
    assert session.closed
    assert caplog.text == ""


async def test_the_more_pods_are_lost_the_longer_each_one_waits(setup: Setup) -> None:
    setup.network.fault = ConnectionRefusedError("no")
    count = 4 * client.RETRIES_PER_SECOND
    for number in range(count):
        setup.streams.follow(f"u{number}", READY)
    for _ in range(count // client.MAX_OPENING + 1):
        await setup.network.settle()
    assert len(setup.network.attempts) == count
    await setup.network.pass_s(0.2)  # the first pause of the first pods, at most 0.33 s lost
    assert len(setup.network.attempts) < 1.2 * count
    for number in range(count):
        setup.streams.unfollow(f"u{number}")
    setup.network.attempts.clear()
    await setup.follow()
    await setup.network.until_attempt_within(0.1)  # pods that are gone do not count


async def test_pods_that_have_sent_a_line_are_not_lost_any_more(setup: Setup) -> None:
    count = 4 * client.RETRIES_PER_SECOND
    for number in range(count):
        setup.streams.follow(f"u{number}", READY)
    for outage in (True, False):
        for _ in range(count // client.MAX_OPENING + 1):
            await setup.network.settle()
        for transport in setup.network.transports[-count:]:
            transport.protocol.data_received(HEAD)
            transport.send(b'{"a": 1}')
            if outage:
                transport.protocol.connection_lost(None)
        if outage:
            await setup.network.pass_s(5.0)
    assert len(setup.network.attempts) == 2 * count
    setup.network.transports[-1].protocol.connection_lost(None)
    await setup.network.until_attempt_within(0.1)


async def test_a_line_ends_the_outage_of_a_pod(setup: Setup) -> None:
    setup.network.fault = ConnectionRefusedError("no")
    await setup.follow()
    await setup.network.until_attempt_within(0.1)
    setup.network.fault = None
    await setup.network.until_attempt_within(0.3)
    transport = setup.latest()
    transport.send(b'{"a": 1}')
    transport.protocol.connection_lost(None)
    await setup.network.until_attempt_within(0.1)


async def test_a_connection_that_sends_nothing_does_not_end_the_outage(setup: Setup) -> None:
    setup.network.fault = ConnectionRefusedError("no")
    await setup.follow()
    setup.network.fault = None
    await setup.network.until_attempt_within(0.1)
    setup.latest().protocol.connection_lost(None)
    await setup.network.until_attempt_within(0.3)


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (None, "the stream ended"),
        (ConnectionResetError("by peer"), "ConnectionResetError: by peer"),
    ],
)
async def test_a_connection_that_is_lost_is_logged_and_opened_again(
    setup: Setup, caplog: pytest.LogCaptureFixture, error: Exception | None, fault: str
) -> None:
    caplog.set_level("INFO")
    transport = await setup.connect()
    transport.protocol.connection_lost(error)
    assert f"state stream lost pod=p0 fault={fault}" in caplog.text
    await setup.network.until_attempt_within(0.1)


async def test_a_silent_stream_is_broken_after_its_time(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    transport = await setup.connect()
    for _ in range(3):
        await setup.network.pass_s(0.9 * client.SILENCE_S)
        transport.send(b'{"a": 1}')
    await setup.network.pass_s(0.9 * client.SILENCE_S)
    assert not transport.aborted
    await setup.network.pass_s(0.2 * client.SILENCE_S + client.SWEEP_S)
    assert transport.aborted
    assert "state stream lost pod=p0 fault=no data for 3 s" in caplog.text
    await setup.network.until_attempt_within(0.1)


async def test_a_stream_that_is_open_from_the_start_but_silent_is_broken(setup: Setup) -> None:
    await setup.follow()
    (transport,) = setup.network.transports
    await setup.network.pass_s(client.SILENCE_S - 0.1)
    assert not transport.aborted
    await setup.network.pass_s(client.SWEEP_S + 0.2)
    assert transport.aborted


def _line(sequence: int, size: int = 1024) -> bytes:
    return b'{"sequence": %d, "a": "%s"}' % (sequence, b"x" * size)


async def test_a_pod_that_sends_as_fast_as_it_can_is_read_slowly(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    transport = await setup.connect()
    sequence = 0
    for _ in range(30):  # seconds
        for _ in range(10):
            while not transport.paused:
                sequence += 1
                transport.send(_line(sequence))
            await setup.network.pass_s(0.1)
    burst_s = 2  # of the rate limit
    assert sequence <= (30 + burst_s) * state.POD_RATE.frames_per_s + 1
    assert not transport.aborted  # it is not silent
    assert len(setup.network.transports) == 1
    assert caplog.text.count("is too fast and is read slowly pod=p0 lines_per_s=20") == 1


async def test_a_flood_is_not_read_faster_after_a_new_connection(setup: Setup) -> None:
    transport = await setup.connect()
    transport.send(*(_line(sequence) for sequence in range(1000)))
    assert transport.paused
    transport.protocol.connection_lost(None)
    await setup.network.until_attempt_within(0.1)
    again = setup.latest()
    again.send(_line(1000))
    assert again.paused


async def test_a_pod_that_ends_each_connection_after_a_line_is_connected_slowly(
    setup: Setup,
) -> None:
    await setup.follow()
    for _ in range(200):  # times 0.1 s
        for transport in setup.network.transports:
            if not transport.paused and not transport.ended:
                transport.protocol.data_received(HEAD)
                transport.send(b'{"a": 1}')
                transport.ended = True
                transport.protocol.connection_lost(None)
        await setup.network.pass_s(0.1)
    assert len(setup.network.transports) <= 20 + 3  # one a second and the burst
    assert len(setup.documents) >= 10


async def test_a_long_line_counts_by_its_bytes(setup: Setup) -> None:
    transport = await setup.connect()
    transport.send(_line(1, 2 * 2**16))  # 2 s, and the connection 1 s
    assert transport.paused
    await setup.network.pass_s(1.1)  # and the burst 2 s
    assert not transport.paused


async def test_a_pod_at_the_rate_of_its_contract_never_waits(setup: Setup) -> None:
    transport = await setup.connect()
    for sequence in range(600):
        transport.send(_line(sequence))
        assert not transport.paused
        await setup.network.pass_s(state.LINE_SPACING_S)
    transport.send(*(_line(sequence) for sequence in range(20)))  # after a stall of 2 s
    assert not transport.paused


async def test_a_line_that_differs_only_in_its_sequence_is_a_repetition(setup: Setup) -> None:
    transport = await setup.connect()
    transport.send(b'{"sequence": 1, "a": 1}', b'{"sequence": 2, "a": 1}')
    assert (len(setup.documents), setup.repeats) == (1, 1)
    transport.send(b'{"sequence": 3, "a": 2}')
    assert setup.documents == [{"sequence": 1, "a": 1}, {"sequence": 3, "a": 2}]
    assert setup.repeats == 1


async def test_the_first_line_of_a_connection_is_never_a_repetition(setup: Setup) -> None:
    (await setup.connect()).send(b'{"a": 1}')
    setup.network.transports[0].protocol.connection_lost(None)
    await setup.network.until_attempt_within(0.1)
    setup.latest().send(b'{"a": 1}')
    assert (len(setup.documents), setup.repeats) == (2, 0)


async def test_a_line_that_is_forgotten_is_read_again(setup: Setup) -> None:
    transport = await setup.connect()
    transport.send(b'{"a": 1}')
    setup.streams.forget_last_line("u")
    setup.streams.forget_last_line("unknown")
    transport.send(b'{"a": 1}')
    assert (len(setup.documents), setup.repeats) == (2, 0)


async def test_lines_after_a_faulty_one_are_not_read(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    transport = await setup.connect()
    transport.send(b"x" * 61)
    assert transport.aborted
    transport.send(b'{"a": 1}')
    transport.protocol.connection_lost(None)  # as after every abort
    assert setup.documents == []
    assert f"fault=not a state: {b'x' * 60!r}" in caplog.text
    assert caplog.text.count("state stream lost") == 1
    await setup.network.until_attempt_within(0.1)


async def test_a_pod_that_is_not_followed_any_more_is_not_tried_again(setup: Setup) -> None:
    transport = await setup.connect()
    setup.streams.unfollow("u")
    setup.streams.unfollow("unknown")
    assert transport.aborted
    transport.protocol.connection_lost(None)
    await setup.network.pass_s(60.0)
    assert len(setup.network.attempts) == 1


async def test_a_pod_that_is_unfollowed_during_an_attempt_is_not_connected(setup: Setup) -> None:
    setup.network.hold = asyncio.Event()
    await setup.follow()
    setup.streams.unfollow("u")
    setup.network.hold.set()
    await setup.network.settle()
    (transport,) = setup.network.transports
    assert transport.aborted
    assert transport.written == b""


async def test_the_failed_attempt_of_a_pod_that_is_not_followed_any_more_is_no_outage(
    setup: Setup, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    setup.network.hold = asyncio.Event()
    setup.network.fault = ConnectionRefusedError("no")
    await setup.follow()
    setup.streams.unfollow("u")
    setup.network.hold.set()
    await setup.network.settle()
    assert caplog.text == ""


async def test_a_silent_stream_is_broken_while_all_attempts_wait(setup: Setup) -> None:
    transport = await setup.connect()
    await setup.network.pass_s(2.0)
    setup.network.hold = asyncio.Event()
    for number in range(client.MAX_OPENING + 1):
        setup.streams.follow(f"u{number}", READY)
    await setup.network.settle()
    await setup.network.pass_s(client.SILENCE_S - 2.0 + client.SWEEP_S + 0.1)
    assert transport.aborted


async def test_another_address_or_token_replaces_the_connection(setup: Setup) -> None:
    assert await setup.follow() is True
    for number, endpoint in enumerate(
        (
            Endpoint("p0", "10.0.0.2:9090", "secret", ready=True),
            Endpoint("p0", "10.0.0.2:9090", "other", ready=True),
        ),
        start=1,
    ):
        assert await setup.follow(endpoint) is True
        assert [each.aborted for each in setup.network.transports] == [True] * number + [False]


async def test_the_number_of_concurrent_attempts_is_limited(setup: Setup) -> None:
    setup.network.hold = asyncio.Event()
    count = client.MAX_OPENING + 3
    for number in range(count):
        setup.streams.follow(f"u{number}", READY)
    await setup.network.settle()
    await setup.network.settle()
    assert len(setup.network.attempts) == client.MAX_OPENING
    setup.network.hold.set()
    await setup.network.settle()
    assert len(setup.network.attempts) == count
