"""Requests for sessions of many tenants through three gateways and one Redis.

Each gateway is a process that ranks the pods of its registry, acquires and releases leases, and
asks the pods, with the code of the gateway; HTTP and the queue are left out. The pods are slots in
shared memory: a pod writes the name of a session into a free slot, refuses when it has none, and
its state reaches the gateways ten times a second. Gateways are killed, and Redis is killed with its
data, evenly over the run.

What is checked does not come from the gateways' own counts. Every process writes into shared memory
what it was granted, after the grant and before the release, so that more than a limit there is a
violation. A slot that has another session than its own at the end of a session was given twice.
"""

from __future__ import annotations

import argparse
import asyncio
import fcntl
import itertools
import multiprocessing
import random
import resource
import sys
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core.leases import TTL_MS
from avatar_gateway.core.model import Pod, State
from avatar_gateway.core.routing import Shortage
from avatar_gateway.core.tenants import Tenant, TenantLimits
from avatar_gateway.pod_registry import PodRegistry
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.redis import RedisState
from localcluster.bench import record
from localcluster.bench.redis_folder import connect, restartable_redis

if TYPE_CHECKING:
    from collections.abc import Iterator

    from avatar_gateway.pod_registry import Placement
    from avatar_gateway.shared.leases import HeldLease
    from localcluster.bench.redis_folder import RedisServer

GATEWAYS: Final = 3
TENANTS: Final = 15
SERVICES: Final = 3
LIMITS: Final = TenantLimits(sessions=5, sessions_per_service=3)
CALLERS: Final = 40
"""Callers of each gateway at a time; 120 want the 75 sessions of all tenants."""
_HOLD_S: Final = 0.02
_CELLS: Final = TENANTS * SERVICES
PODS: Final = 6
"""Of each service; together they have fewer slots than the tenants may use."""
SLOTS: Final = 4
_STATE_S: Final = 0.1
_AFTER_RESTART_S: Final = 15.0
"""After a loss of the server; what exceeds a limit then is counted apart."""
_REQUESTS, _GRANTED, _REFUSED, _VIOLATIONS, _AFTER_LOSS, _FULL, _DOUBLE, _COLUMNS = range(8)


@dataclass(frozen=True, slots=True)
class Shared:
    """The memory that the processes have in common: one row for each gateway."""

    rows: int
    held: Any
    """Sessions by gateway, tenant and service."""
    counts: Any
    """What each gateway has counted, in the columns from `_REQUESTS` to `_DOUBLE`."""
    cpu_s: Any
    alone: Any
    """How often each gateway could not reach the server within a second."""
    slots: Any
    """The number of the session in each slot of each pod, 0 if it is free."""
    lock: IO[bytes]
    """A file whose lock protects the slots; the system releases it when its owner is killed."""
    disturbed: Any
    """Whether the server was lost a short time ago."""

    def count(self, row: int, column: int) -> None:
        """Add one to a column of a gateway."""
        self.counts[row * _COLUMNS + column] += 1

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the slots, without an `await` in between."""
        fcntl.lockf(self.lock, fcntl.LOCK_EX)
        try:
            yield
        finally:
            fcntl.lockf(self.lock, fcntl.LOCK_UN)

    def total(self, column: int) -> int:
        """Return the sum of a column."""
        return sum(self.counts[column::_COLUMNS])


def main() -> int:
    """Run the benchmark; return 1 after a violation."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.quota", description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--limit-s", type=float, default=1800.0, help="stop after this time")
    parser.add_argument("--kills", type=int, default=3, help="of gateways")
    parser.add_argument("--losses", type=int, default=2, help="of Redis with its data")
    options = parser.parse_args()
    with restartable_redis() as server, tempfile.TemporaryFile() as lock:
        results = measure(server, lock, options)
        print(results, flush=True)
        results |= asyncio.run(left_behind(server.url))
    for name, value in results.items():
        print(f"{name}: {value}", flush=True)
    if options.out is not None:
        record.write(options.out, 0, "none", results)
    wrong = ("violations", "violations_after_a_loss", "slots_given_twice", "leases_left")
    return 1 if any(results[name] for name in wrong) else 0


def measure(server: RedisServer, lock: IO[bytes], options: argparse.Namespace) -> dict[str, Any]:
    """Run the gateways, kill some of them and the server, and return what they did."""
    context = multiprocessing.get_context("fork")
    rows = GATEWAYS + options.kills
    shared = Shared(
        rows,
        context.Array("l", rows * _CELLS, lock=False),
        context.Array("l", rows * _COLUMNS, lock=False),
        context.Array("d", rows, lock=False),
        context.Array("l", rows, lock=False),
        context.Array("q", SERVICES * PODS * SLOTS, lock=False),
        lock,
        context.Value("b", 0, lock=False),
    )
    stop = context.Event()
    started = time.monotonic()

    def start(row: int) -> Any:
        process = context.Process(target=_run, args=(server.url, row, shared, stop))
        process.start()
        return process

    running = {row: start(row) for row in range(GATEWAYS)}
    kills = _evenly(options.requests, options.kills)
    losses = _evenly(options.requests, options.losses, offset=0.5)
    lost_at, done = -_AFTER_RESTART_S, 0
    while done < options.requests and time.monotonic() - started < options.limit_s:
        time.sleep(0.1)
        done = shared.total(_REQUESTS)
        shared.disturbed.value = time.monotonic() - lost_at < _AFTER_RESTART_S
        if kills and done >= kills[0]:
            kills.pop(0)
            dead = min(running)
            running.pop(dead).kill()
            time.sleep(0.1)
            _forget(shared, dead)
            row = rows - len(kills) - 1
            running[row] = start(row)
        if losses and done >= losses[0]:
            losses.pop(0)
            lost_at, shared.disturbed.value = time.monotonic(), 1
            server.kill()
            server.start()
    stop.set()
    for process in running.values():
        process.join()
    seconds = time.monotonic() - started
    total = shared.total(_REQUESTS)
    return {
        "gateways": GATEWAYS,
        "killed_gateways": options.kills - len(kills),
        "losses_of_redis_with_its_data": options.losses - len(losses),
        "tenants": TENANTS,
        "limits": {"sessions": LIMITS.sessions, "sessionsPerService": LIMITS.sessions_per_service},
        "pods": SERVICES * PODS,
        "slots": SERVICES * PODS * SLOTS,
        "callers": GATEWAYS * CALLERS,
        "requests": total,
        "granted": shared.total(_GRANTED),
        "refused_by_quota": shared.total(_REFUSED),
        "without_a_free_slot": shared.total(_FULL),
        "violations": shared.total(_VIOLATIONS),
        "violations_after_a_loss": shared.total(_AFTER_LOSS),
        "slots_given_twice": shared.total(_DOUBLE),
        "gateways_alone": sum(shared.alone),
        "seconds": round(seconds, 1),
        "requests_per_second": round(total / seconds),
        "gateway_cpu_us_per_request": round(1e6 * sum(shared.cpu_s) / total, 1),
    }


def _evenly(requests: int, times: int, offset: float = 1.0) -> list[int]:
    """Return at how many requests something happens, evenly over the run."""
    return [round(requests * (number + offset) / (times + 1)) for number in range(times)]


def _forget(shared: Shared, row: int) -> None:
    """End the sessions of a dead gateway: its pods notice that their connections have ended."""
    for cell in range(row * _CELLS, (row + 1) * _CELLS):
        shared.held[cell] = 0
    with shared.locked():
        for at, session in enumerate(shared.slots):
            if session >> 48 == row + 1:
                shared.slots[at] = 0


def _run(url: str, row: int, shared: Shared, stop: Any) -> None:
    asyncio.run(_gateway(url, row, shared, stop))


async def _gateway(url: str, row: int, shared: Shared, stop: Any) -> None:
    """Be one gateway until `stop` is set."""
    now = asyncio.get_running_loop().time
    state = RedisState(connect(url))
    leases = Leases(state, f"g{row}", now)
    gateway = _Gateway(row, shared, leases)
    running = asyncio.create_task(leases.run())
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            group.create_task(gateway.call(stop, random.Random(f"{row} {number}")))
        was_alone = False
        while not stop.is_set():
            gateway.hear(now())
            await asyncio.sleep(_STATE_S)
            shared.cpu_s[row] = _cpu_s()
            shared.alone[row] += leases.is_alone and not was_alone
            was_alone = leases.is_alone
    await leases.report()
    running.cancel()
    await state.close()


class _Gateway:
    """The registry and the leases of one gateway, and its callers."""

    def __init__(self, row: int, shared: Shared, leases: Leases) -> None:
        self._row, self._shared, self._leases = row, shared, leases
        self._now = asyncio.get_running_loop().time
        self._tenants = [Tenant(f"t{at}", LIMITS) for at in range(TENANTS)]
        self._registry = PodRegistry()
        self._pods = [
            Pod("ns", f"p{at}", f"p{at}", f"ns/s{at // PODS}", "10.0.0.1", 1, 2, terminating=False)
            for at in range(SERVICES * PODS)
        ]
        for pod in self._pods:
            self._registry.set_pod(pod)
        self._sessions = itertools.count((row + 1) << 48 | 1)

    def hear(self, now: float) -> None:
        """Take the states of all pods."""
        found = list(self._shared.slots)
        for at, pod in enumerate(self._pods):
            free = found[at * SLOTS : (at + 1) * SLOTS].count(0)
            state = State(SLOTS, SLOTS - free, free, draining=False, ready=True, sequence=1, at=now)
            self._registry.update_state(pod, state)

    async def call(self, stop: Any, chance: random.Random) -> None:
        """Ask for sessions, one after the other, and hold what is granted for a moment."""
        while not stop.is_set():
            at, service = chance.randrange(TENANTS), chance.randrange(SERVICES)
            try:
                lease = await self._leases.acquire(self._tenants[at], f"ns/s{service}")
            except errors.Rejection:
                self._shared.count(self._row, _REQUESTS)
                self._shared.count(self._row, _REFUSED)
                await asyncio.sleep(0)
                continue
            self._shared.count(self._row, _REQUESTS)
            try:
                lease = await self._session(lease, at, service, chance)
            finally:
                lease.release()

    async def _session(
        self, lease: HeldLease, at: int, service: int, chance: random.Random
    ) -> HeldLease:
        """Have a session if a pod accepts it, and return the lease that it has at its end."""
        cell = self._row * _CELLS + at * SERVICES + service
        self._shared.held[cell] += 1
        if _exceeds(self._shared, at, service):
            column = _AFTER_LOSS if self._shared.disturbed.value else _VIOLATIONS
            self._shared.count(self._row, column)
        session = next(self._sessions)
        placed = self._place(f"ns/s{service}", session)
        if placed is None:
            self._shared.held[cell] -= 1
            self._shared.count(self._row, _FULL)
            await asyncio.sleep(0)
            return lease
        self._shared.count(self._row, _GRANTED)
        lease.bind(f"sess_{session:024x}")
        await asyncio.sleep(chance.uniform(0, _HOLD_S))
        slot, placement = placed
        with self._shared.locked():
            is_own = self._shared.slots[slot] == session
            self._shared.slots[slot] = 0
        if not is_own:
            self._shared.count(self._row, _DOUBLE)
        self._registry.release(placement, self._now())
        self._shared.held[cell] -= 1
        if chance.random() < 0.02:  # its caller is away, and comes back
            lease.suspend()
            await asyncio.sleep(chance.uniform(0, _HOLD_S))
            tenant = self._tenants[at]
            return await self._leases.take_over(tenant, f"ns/s{service}", lease.lease.id)
        return lease

    def _place(self, service: str, session: int) -> tuple[int, Placement] | None:
        """Return the slot of a session on the first pod that accepts it."""
        ranked = self._registry.pods_of(service).order(self._now())
        for key in () if isinstance(ranked, Shortage) else ranked:
            placement = self._registry.add_placement(key)
            slot = self._accept(int(key.rpartition("/p")[2]), session)
            if slot is not None:
                placement.accepted_at = self._now()
                return slot, placement
            self._registry.release(placement)
            self._registry.refuse(key, self._now())
        return None

    def _accept(self, pod: int, session: int) -> int | None:
        """Be a pod: put a session into a free slot, or refuse it."""
        slots = self._shared.slots
        with self._shared.locked():
            for slot in range(pod * SLOTS, (pod + 1) * SLOTS):
                if not slots[slot]:
                    slots[slot] = session
                    return slot
        return None


def _exceeds(shared: Shared, tenant: int, service: int) -> bool:
    """Return whether more sessions are held than a limit allows."""
    rows = range(shared.rows)
    first = tenant * SERVICES
    of_service = sum(shared.held[row * _CELLS + first + service] for row in rows)
    of_tenant = sum(
        shared.held[row * _CELLS + first + each] for row in rows for each in range(SERVICES)
    )
    most, most_of_service = LIMITS.sessions or 0, LIMITS.sessions_per_service or 0
    return bool(of_tenant > most or of_service > most_of_service)


async def left_behind(url: str) -> dict[str, Any]:
    """Return what the server has after all gateways have ended and dead leases have expired."""
    state = RedisState(connect(url))
    deadline = time.monotonic() + TTL_MS / 1000 + 5
    left = -1
    while left and time.monotonic() < deadline:
        try:
            overview = await state.overview("observer")
            left = sum(usage.sessions for usage in overview.tenants.values())
        except errors.SharedStateUnavailable:  # a busy machine
            left = -1
        await asyncio.sleep(0.5)
    await state.close()
    return {"leases_left": left}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    sys.exit(main())
