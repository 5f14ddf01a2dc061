"""Totals of usage equal what really happened, whichever gateways die and whatever is repeated."""

from __future__ import annotations

import asyncio
import json
import random
import re
import tempfile
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests import redis_server as redis_servers

from avatar_gateway import errors
from avatar_gateway.core import usage
from avatar_gateway.core.model import Pod
from avatar_gateway.core.tenants import Principal, Tenant, TenantLimits
from avatar_gateway.core.usage import NONE, Account, Record, sums
from avatar_gateway.metrics import MAX_USAGE_SERIES, Metrics
from avatar_gateway.shared import metering, usage_log
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.memory import MemoryState
from avatar_gateway.shared.metering import Meter
from avatar_gateway.shared.redis import RedisState
from avatar_gateway.shared.state import CLAIM_AGE_MS
from avatar_gateway.shared.usage_accounts import UsageAccounts
from avatar_gateway.shared.usage_log import UsageLog
from localcluster.usage_records import let_a_minute_pass

if TYPE_CHECKING:
    from tests.redis_server import RedisServer

    from avatar_gateway.shared.state import SharedState

HOUR = int(time.time() // 3600)
AROUND_NOW = (HOUR - 1, HOUR + 3)
ACCOUNTS = [Account(f"t{at % 5}", f"ns/s{at % 3}", ("a", "b")[at % 2]) for at in range(30)]


@dataclass
class Clock:
    """A virtual clock; the epoch of the totals is that of the server."""

    now: float = 1000.0


@dataclass
class Load:
    """Sessions over several gateways, with records of its own."""

    state: SharedState
    log: Path
    chance: random.Random
    clock: Clock
    gateways: list[Meter] = field(default_factory=list)
    open: dict[int, list[tuple[metering.Segment, float]]] = field(default_factory=dict)
    seconds: dict[Account, float] = field(default_factory=dict)
    sessions: dict[Account, int] = field(default_factory=dict)
    killed: int = 0

    def gateway(self) -> Meter:
        return Meter(self.state, UsageLog(str(self.log)), "g", lambda _: 4, self._now, self._now)

    def _now(self) -> float:
        return self.clock.now

    def start(self, at: int) -> None:
        account = self.chance.choice(ACCOUNTS)
        self.sessions[account] = self.sessions.get(account, 0) + 1
        segment = self.gateways[at].start(
            *(account.tenant, account.service, "acme/p1", account.gpu_class, None),
            is_new=True,
            count_bytes=lambda: (10, 20),
        )
        self.open[at].append((segment, self.clock.now))

    def end(self, at: int) -> None:
        if self.open[at]:
            segment, began = self.open[at].pop(self.chance.randrange(len(self.open[at])))
            self._count(segment, began)
            segment.finish()

    def kill(self, at: int) -> None:
        """Replace a gateway; it reports nothing more."""
        for segment, began in self.open[at]:
            self._count(segment, began)
            self.killed += 1
        self.open[at] = []
        self.gateways[at] = self.gateway()

    def _count(self, segment: metering.Segment, began: float) -> None:
        account = segment.account
        self.seconds[account] = self.seconds.get(account, 0.0) + self.clock.now - began


@dataclass
class PodLoad(Load):
    """The same with a pod, which says how long each connection was there."""

    ended: list[dict[str, object]] = field(default_factory=list)
    accounts: dict[str, str] = field(default_factory=dict)

    def gateway(self) -> Meter:
        texts = UsageAccounts(lambda: ["a-gateway-key"])
        log = UsageLog(str(self.log))
        return Meter(self.state, log, "g", lambda _: 4, self._now, self._now, accounts=texts)

    def start(self, at: int) -> None:
        account = self.chance.choice(ACCOUNTS)
        self.sessions[account] = self.sessions.get(account, 0) + 1
        placed = replace(pod(), gpu_class=account.gpu_class)
        meter = self.gateways[at]
        record, text = meter.place(account.tenant, account.service, placed, is_new=True)
        segment = meter.start(
            *(account.tenant, account.service, placed.key, account.gpu_class, None),
            is_new=True,
            count_bytes=lambda: (10, 20),
            record=record,
        )
        self.accounts[segment.id] = text
        self.open[at].append((segment, self.clock.now))

    def _count(self, segment: metering.Segment, began: float) -> None:
        super()._count(segment, began)
        connected_ms = round((self.clock.now - began) * 1000)
        self.ended.append({"account": self.accounts[segment.id], "connected_ms": connected_ms})

    def tell(self) -> None:
        """Let all gateways read what has ended on the pod; some of it again and again."""
        for at in range(max(0, len(self.ended) - 200), len(self.ended), 100):
            line = {"sessions": [], "connections": self.ended[at : at + 100]}
            for meter in self.gateways:
                meter.on_line(pod(), line, 0.0)


async def restart_with_older_data(redis_server: RedisServer, state: SharedState) -> None:
    """Kill the server, and start it with the data that it had written to its disk."""
    await redis_server.kill()
    with pytest.raises(errors.SharedStateUnavailable):
        await state.overview("g")
    await redis_server.start()
    while state.name != "ok":  # noqa: ASYNC110
        await asyncio.sleep(0.02)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_nothing_is_lost_of_killed_gateways_whose_pods_live(
    seed: int, tmp_path: Path
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with redis_servers.running(Path(folder)) as redis_server:
            connection, clock = redis_server.connection(), Clock()
            load = PodLoad(RedisState(connection), tmp_path / "log", random.Random(seed), clock)
            load.gateways = [load.gateway() for _ in range(3)]
            load.open = {at: [] for at in range(3)}
            for step in range(120):
                at = load.chance.randrange(3)
                for _ in range(2):
                    load.start(at)
                load.end(load.chance.randrange(3))
                if load.chance.random() < 0.08:
                    load.kill(at)
                clock.now += 0.25
                if step % 4 == 3:
                    load.tell()
                    for meter in load.gateways:
                        await meter.report()
                if step == 50:  # what comes after it is lost
                    async with redis_server.client() as client:
                        await client.save()
                if step == 70:
                    await restart_with_older_data(redis_server, load.state)
            for at in range(3):
                while load.open[at]:
                    load.end(at)
            load.tell()
            for meter in load.gateways:
                await meter.report()
            await let_a_minute_pass(redis_server.url)
            for meter in load.gateways:
                await meter.close_abandoned()
            totals = sums(await load.state.usage(*AROUND_NOW))
            assert load.killed > 50
            assert {key: figures[0] for key, figures in totals.items()} == load.sessions
            for account, figures in totals.items():
                assert figures[1] / 1000 == pytest.approx(load.seconds[account], abs=0.1)
            lines = (tmp_path / "log").read_bytes().splitlines()
            logged, faults = usage_log.read(lines, 0, 10**12)
            assert not faults
            # Only the gateway that is dead knew the bytes that the server has lost.
            for account, figures in totals.items():
                assert logged[account][:3] == figures[:3]
            await connection.close()


async def test_a_pod_cannot_claim_more_than_its_living_gateway_has_measured(
    redis_server: RedisServer,
) -> None:
    connection, clock = redis_server.connection(), Clock()
    state, texts = RedisState(connection), UsageAccounts(lambda: ["a-gateway-key"])

    def meter() -> Meter:
        log = UsageLog("")
        return Meter(
            state, log, "g", lambda _: 1, lambda: clock.now, lambda: clock.now, accounts=texts
        )

    owner, other = meter(), meter()
    record, text = owner.place("acme", "acme/s", pod(), is_new=True)
    segment = owner.start(
        *("acme", "acme/s", "acme/p1", "", None),
        is_new=True,
        count_bytes=lambda: (0, 0),
        record=record,
    )

    async def claim(connected_ms: int, source: Pod) -> int:
        line = {"sessions": [], "connections": [{"account": text, "connected_ms": connected_ms}]}
        other.on_line(source, line, 0.0)
        await other.report()
        await other.close_abandoned()
        figures = sums(await state.usage(*AROUND_NOW)).values()
        return sum(each[1] for each in figures)

    clock.now += 2
    assert await claim(10**9, pod()) == 0
    await owner.report()
    assert await claim(10**9, pod()) == 2000
    clock.now += 1
    segment.finish()
    await owner.report()
    await let_a_minute_pass(redis_server.url)
    clock.now += 3600
    assert await claim(10**9, pod()) == 3000  # its gateway has closed it

    record, text = owner.place("acme", "acme/s", pod(), is_new=True)  # and is killed now
    clock.now += 5
    await claim(7_000, pod("p2"))
    await let_a_minute_pass(redis_server.url)
    assert await claim(0, pod("p2")) == 3000  # of a pod that never had it
    await claim(7_000, pod())
    await let_a_minute_pass(redis_server.url)
    assert await claim(0, pod()) == 8000  # no longer than the time since it was placed

    record, text = owner.place("acme", "acme/s", pod(), is_new=True)
    clock.now += CLAIM_AGE_MS / 1000
    await claim(10**9, pod())
    await let_a_minute_pass(redis_server.url)
    assert await claim(0, pod()) == 8000  # its record may be forgotten: it would count twice
    await connection.close()


def caller(longest_s: int | None) -> Principal:
    return Principal(Tenant("acme", TenantLimits(session_s=longest_s)))


@pytest.mark.parametrize("shares", [True, False], ids=["redis", "memory"])
async def test_a_direct_session_counts_once_however_many_gateways_hear_of_it(
    shares: bool, redis_server: RedisServer, tmp_path: Path
) -> None:
    connection, clock = redis_server.connection(), Clock(time.time())
    state: SharedState = RedisState(connection) if shares else MemoryState(lambda: clock.now)
    texts, log = UsageAccounts(lambda: ["a-gateway-key"]), tmp_path / "usage.log"
    meters = [
        Meter(
            state, UsageLog(str(log)), "g", lambda _: 4, lambda: clock.now, lambda: clock.now,
            accounts=texts,
        )
        for _ in range(2 if shares else 1)
    ]  # fmt: skip

    async def report(text: str, connected_ms: int, source: Pod) -> dict[Account, tuple[int, ...]]:
        line = {"sessions": [], "connections": [{"account": text, "connected_ms": connected_ms}]}
        for meter in meters:
            meter.on_line(source, line, 0.0)
            await meter.report()
        await let_a_minute_pass(redis_server.url)
        for meter in meters:
            await meter.close_abandoned()
        return dict(sums(await state.usage(*AROUND_NOW)))

    text = meters[0].offer(caller(60), "acme/s", pod(), metering.new_record())
    clock.now += 8
    assert await report(text, 5_000, pod("p2")) == {}  # of another pod
    used = usage.of(sessions=1, session_ms=5000, gpu_ms=1250)
    expected = {Account("acme", "acme/s", "-"): used}
    assert await report(text, 5_000, pod()) == expected
    clock.now += 100
    assert await report(text, 50_000, pod()) == expected
    (entry,) = map(json.loads, log.read_text().splitlines())
    assert (entry["tenant"], entry["direct"], entry["pod"]) == ("acme", True, "acme/p1")

    text = meters[-1].offer(caller(60), "acme/s", pod(), metering.new_record())
    clock.now += 1000
    (total,) = (await report(text, 10**9, pod())).values()
    assert total == usage.of(sessions=2, session_ms=65_000, gpu_ms=16_250)  # its limit
    text = meters[0].offer(caller(None), "acme/s", pod(), metering.new_record())
    clock.now += CLAIM_AGE_MS / 1000
    assert list((await report(text, 10**9, pod())).values()) == [total]
    await connection.close()


async def test_a_connection_that_never_began_counts_nothing(redis_server: RedisServer) -> None:
    connection, clock = redis_server.connection(), Clock()
    state, texts = RedisState(connection), UsageAccounts(lambda: ["a-gateway-key"])
    owner, other = (
        Meter(
            state, UsageLog(""), "g", lambda _: 1, lambda: clock.now, lambda: clock.now,
            accounts=texts,
        )
        for _ in range(2)
    )  # fmt: skip
    _, text = owner.place("acme", "acme/s", pod(), is_new=True)
    line = {"sessions": [], "connections": [{"account": text, "connected_ms": 9}]}
    other.on_line(pod(), line, 0.0)
    clock.now += metering.UNSTARTED_S + 1
    await other.report()
    await owner.report()
    await let_a_minute_pass(redis_server.url)
    await other.close_abandoned()
    assert sums(await state.usage(*AROUND_NOW)) == {}
    await connection.close()


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
async def test_totals_equal_the_records_of_the_load_with_kills_in_between(
    seed: int, redis_server: RedisServer, tmp_path: Path
) -> None:
    connection, clock = redis_server.connection(), Clock()
    load = Load(RedisState(connection), tmp_path / "log", random.Random(seed), clock)
    load.gateways = [load.gateway() for _ in range(3)]
    load.open = {at: [] for at in range(3)}
    for step in range(300):
        at = load.chance.randrange(3)
        for _ in range(2):
            load.start(at)
        load.end(load.chance.randrange(3))
        if load.chance.random() < 0.05:
            load.kill(at)
        clock.now += 0.25
        if step % 4 == 3:
            for meter in load.gateways:
                await meter.report()
    for at in range(3):
        while load.open[at]:
            load.end(at)
    for meter in load.gateways:
        await meter.close()
        await meter.report()

    totals = sums(await load.state.usage(*AROUND_NOW))
    assert load.killed > 10
    # A killed gateway loses what it has not reported: less than a second of each connection.
    lost = sum(load.seconds.values()) - sum(figures[1] for figures in totals.values()) / 1000
    assert 0 <= lost < metering.REPORT_S * load.killed
    for account, figures in totals.items():
        assert figures[1] / 1000 <= load.seconds[account] + 1e-6
        assert figures[0] <= load.sessions[account]
        assert figures[2] == pytest.approx(figures[1] / 4, abs=load.sessions[account])

    await let_a_minute_pass(redis_server.url)
    for meter in load.gateways:
        await meter.close_abandoned()
    logged, faults = usage_log.read((tmp_path / "log").read_bytes().splitlines(), 0, 10**12)
    assert not faults
    assert logged == totals
    await connection.close()


async def test_both_states_count_repeated_and_late_reports_once(redis_server: RedisServer) -> None:
    connection, chance = redis_server.connection(), random.Random(1)
    states: list[SharedState] = [MemoryState(time.time), RedisState(connection)]
    figures: dict[str, tuple[int, ...]] = {}
    sent: list[Record] = []
    for _ in range(150):
        name = f"r{chance.randrange(20)}"
        account = ACCOUNTS[int(name[1:])]
        more = tuple(chance.randrange(1000) for _ in NONE)
        figures[name] = usage.added(figures.get(name, NONE), more)
        sent.append(Record(name, account, figures[name], chance.random() < 0.2))
        batch = [sent[-1], *chance.sample(sent, min(3, len(sent)))]
        if chance.random() < 0.8:  # the others are lost
            for state in states:
                await state.report_usage(sorted(batch, key=lambda each: each.figures))
    for state in states:
        await state.report_usage([Record(n, ACCOUNTS[int(n[1:])], f) for n, f in figures.items()])
    expected: dict[Account, tuple[int, ...]] = {}
    for name, total in figures.items():
        account = ACCOUNTS[int(name[1:])]
        expected[account] = usage.added(expected.get(account, NONE), total)
    for state in states:
        assert sums(await state.usage(*AROUND_NOW)) == expected
        months = (await state.overview("g")).tenants
        for tenant in {account.tenant for account in expected}:
            seconds = sum(each[1] for key, each in expected.items() if key.tenant == tenant)
            assert months[tenant].month_ms == seconds
    await connection.close()


async def test_the_minutes_of_a_month_refuse_new_sessions(redis_server: RedisServer) -> None:
    connection = redis_server.connection()
    tenant = Tenant("acme", TenantLimits(minutes_per_month=2))
    for state in (MemoryState(time.time), RedisState(connection)):
        leases = Leases(state, "g", lambda: 0.0)
        (await leases.acquire(tenant, "ns/s")).release()
        account = Account("acme", "ns/s", "a")
        await state.report_usage([Record("x", account, usage.of(session_ms=120_000))])
        with pytest.raises(errors.Rejection) as refused:
            await leases.acquire(tenant, "ns/s")
        assert (refused.value.param, refused.value.limit) == ("minutesPerMonth", 2)
        await leases.acquire(Tenant("globex", tenant.limits), "ns/s")
    await connection.close()


def pod(name: str = "p1") -> Pod:
    return Pod("acme", name, f"uid-{name}", "acme/s", "127.0.0.1", 1, 2, terminating=False)


async def test_the_figures_of_a_pod_count_for_the_tenant_of_the_session(tmp_path: Path) -> None:
    state, session = MemoryState(time.time), "sess_0123456789abcdef01234567"
    log = UsageLog(str(tmp_path / "log"))
    meter = Meter(state, log, "g", lambda _: 1, lambda: 0.0, lambda: 0.0)
    meter.start(
        *("acme", "acme/s", "acme/p1", "a", session), is_new=True, count_bytes=lambda: (0, 0)
    )
    line: dict[str, Any] = {"id": session, "frames": 25, "speech_ms": 900, "ended": False}
    stranger = {**line, "id": "sess_0123456789abcdef00000000", "frames": 10**9}
    for frames, ended in ((25, False), (50, True), (50, True)):
        own = {**line, "frames": frames, "ended": ended}
        meter.on_line(pod(), {"sessions": [own, stranger]}, 0.0)
        meter.on_line(pod("p2"), {"sessions": [{**own, "frames": 7}]}, 0.0)
        await meter.report()
    (figures,) = sums(await state.usage(*AROUND_NOW)).values()
    assert dict(zip(usage.FIGURES, figures, strict=True)) == {
        **dict.fromkeys(usage.FIGURES, 0),
        **{"sessions": 1, "frames": 50, "speech_ms": 900},
    }
    with pytest.raises(errors.StateError):
        meter.on_line(pod(), {"sessions": [{**line, "frames": -1}]}, 0.0)
    logged, _ = usage_log.read((tmp_path / "log").read_bytes().splitlines(), 0, 10**12)
    assert [each[usage.FIGURES.index("frames")] for each in logged.values()] == [50]


async def test_rejections_are_counted_for_a_bounded_number_of_accounts() -> None:
    state = MemoryState(time.time)
    metrics = Metrics(lambda: 0, lambda: 0)
    meter = Meter(state, UsageLog(""), "g", lambda _: 0, lambda: 0.0, lambda: 0.0, metrics.usage)
    for at in range(metering.MAX_REJECTED + 5):
        meter.reject(f"t{at}", "ns/s")
        await meter.report() if at % 100 == 0 else None
    await meter.report()
    await meter.report()
    totals = sums(await state.usage(*AROUND_NOW))
    assert totals[metering.OTHER] == usage.of(rejections=5)
    assert len(totals) == metering.MAX_REJECTED + 1
    shown = [
        line
        for line in metrics.render().decode().splitlines()
        if line.startswith("avatar_gateway_usage_rejections_total{")
    ]
    assert len(shown) == MAX_USAGE_SERIES + 1
    assert sum(float(line.rpartition(" ")[2]) for line in shown) == metering.MAX_REJECTED + 5
    rest = [line for line in shown if 'service="ns/s"' not in line]
    assert len(rest) == 1
    # A tenant can be named "other"; the rest has a name that no object can have.
    for name in (metering.OTHER.tenant, metering.OTHER.service):
        assert re.fullmatch(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?", name) is None
        assert f'="{name}"' in rest[0]


@pytest.mark.parametrize(
    "line",
    [b"", b"[" * 10_000, b"[]", b"{}", b'{"key": "k", "tenant": "t"}', b"x" * 70_000,
     b'{"key": "k", "tenant": "t", "service": "s", "session_ms": -1}',
     b'{"key": "k", "tenant": "t", "service": "s", "frames": "9"}'],
    ids=range(8),
)  # fmt: skip
def test_a_line_that_is_no_record_is_left_out_and_counted(line: bytes) -> None:
    good = usage_log.line(Record("k", ACCOUNTS[0], usage.of(session_ms=5))).encode()
    totals, faults = usage_log.read([good, line, good], 0, 10)
    assert totals == {ACCOUNTS[0]: usage.of(session_ms=5)}
    assert faults.total() == 1


async def test_a_log_that_cannot_be_written_does_not_stop_the_totals(tmp_path: Path) -> None:
    state = MemoryState(time.time)
    meter = Meter(state, UsageLog(str(tmp_path)), "g", lambda _: 1, lambda: 0.0, lambda: 0.0)
    segment = meter.start(
        *("acme", "ns/s", "ns/p", "", None), is_new=True, count_bytes=lambda: (1, 2)
    )
    segment.finish()
    segment.finish()
    await meter.report()
    assert len(await state.usage(*AROUND_NOW)) == 1
    assert json.loads(usage_log.line(Record("k", ACCOUNTS[0], NONE)))["key"] == "k"
