"""Requests for sessions of many tenants through three gateways and one Redis.

Each gateway is a process that acquires and releases leases with the code of the gateway; no session
is opened. One of them is killed in the middle. Every process counts in shared memory what it was
granted, after the grant and before the release, so that more than a limit there is a violation.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import resource
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway import errors
from avatar_gateway.core.leases import TTL_MS
from avatar_gateway.core.tenants import Tenant, TenantLimits
from avatar_gateway.shared.leases import Leases
from avatar_gateway.shared.redis import RedisState
from localcluster.bench import record
from localcluster.bench.redis_folder import connect, redis_server

if TYPE_CHECKING:
    from collections.abc import Sequence

GATEWAYS: Final = 3
TENANTS: Final = 15
SERVICES: Final = 3
LIMITS: Final = TenantLimits(sessions=5, sessions_per_service=3)
CALLERS: Final = 40
"""Callers of each gateway at a time; 120 want the 75 sessions of all tenants."""
_HOLD_S: Final = 0.02
_CELLS: Final = TENANTS * SERVICES


@dataclass(frozen=True, slots=True)
class Shared:
    """The memory that the processes have in common: one row for each gateway."""

    held: Any
    """Sessions by gateway, tenant and service."""
    counts: Any
    """Requests, grants, refusals and violations by gateway."""
    cpu_s: Any
    alone: Any
    """How often each gateway could not reach the server within a second."""


def main() -> int:
    """Run the benchmark; return 1 after a violation."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.quota", description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--limit-s", type=float, default=1800.0, help="stop after this time")
    options = parser.parse_args()
    with redis_server() as url:
        results = measure(url, options.requests, options.limit_s)
        print(results, flush=True)
        results |= asyncio.run(left_behind(url))
    for name, value in results.items():
        print(f"{name}: {value}", flush=True)
    if options.out is not None:
        record.write(options.out, 0, "none", results)
    return 1 if results["violations"] or results["leases_left"] else 0


def measure(url: str, requests: int, limit_s: float) -> dict[str, Any]:
    """Run the gateways, kill one of them in the middle, and return what they did."""
    context = multiprocessing.get_context("fork")
    shared = Shared(
        context.Array("l", (GATEWAYS + 1) * _CELLS, lock=False),
        context.Array("l", (GATEWAYS + 1) * 4, lock=False),
        context.Array("d", GATEWAYS + 1, lock=False),
        context.Array("l", GATEWAYS + 1, lock=False),
    )
    stop = context.Event()
    started = time.monotonic()

    def start(row: int) -> Any:
        process = context.Process(target=_run, args=(url, row, shared, stop))
        process.start()
        return process

    processes = [start(row) for row in range(GATEWAYS)]
    killed = False
    while sum(shared.counts[0::4]) < requests and time.monotonic() - started < limit_s:
        time.sleep(0.2)
        if not killed and sum(shared.counts[0::4]) >= requests / 2:
            killed = True
            processes[-1].kill()
            processes[-1].join()
            last = (GATEWAYS - 1) * _CELLS
            for cell in range(last, last + _CELLS):
                shared.held[cell] = 0
            processes.append(start(GATEWAYS))
    stop.set()
    for process in processes:
        process.join()
    seconds = time.monotonic() - started
    total, granted, refused, violations = (sum(shared.counts[at::4]) for at in range(4))
    return {
        "gateways": GATEWAYS,
        "killed_gateways": int(killed),
        "tenants": TENANTS,
        "limits": {"sessions": 5, "sessionsPerService": 3},
        "callers": GATEWAYS * CALLERS,
        "requests": total,
        "granted": granted,
        "refused": refused,
        "violations": violations,
        "losses_of_the_server": sum(shared.alone),
        "seconds": round(seconds, 1),
        "requests_per_second": round(total / seconds),
        "gateway_cpu_us_per_request": round(
            1e6 * sum(shared.cpu_s[row] for row in range(GATEWAYS + 1)) / total, 1
        ),
    }


def _run(url: str, row: int, shared: Shared, stop: Any) -> None:
    asyncio.run(_gateway(url, row, shared, stop))


async def _gateway(url: str, row: int, shared: Shared, stop: Any) -> None:
    """Be one gateway until `stop` is set."""
    now = asyncio.get_running_loop().time
    state = RedisState(connect(url))
    leases = Leases(state, f"g{row}", now)
    tenants = [Tenant(f"t{at}", LIMITS) for at in range(TENANTS)]
    running = asyncio.create_task(leases.run())
    async with asyncio.TaskGroup() as group:
        for number in range(CALLERS):
            chance = random.Random(f"{row} {number}")
            group.create_task(_caller(leases, tenants, row, shared, stop, chance))
        was_alone = False
        while not stop.is_set():
            await asyncio.sleep(0.1)
            shared.cpu_s[row] = _cpu_s()
            shared.alone[row] += leases.is_alone and not was_alone
            was_alone = leases.is_alone
    await leases.report()
    running.cancel()
    await state.close()


async def _caller(
    leases: Leases,
    tenants: Sequence[Tenant],
    row: int,
    shared: Shared,
    stop: Any,
    chance: random.Random,
) -> None:
    """Ask for sessions, one after the other, and hold what is granted for a moment."""
    while not stop.is_set():
        at, service = chance.randrange(TENANTS), chance.randrange(SERVICES)
        try:
            lease = await leases.acquire(tenants[at], f"ns/s{service}")
        except errors.Rejection:
            shared.counts[4 * row] += 1
            shared.counts[4 * row + 2] += 1
            await asyncio.sleep(0)
            continue
        cell = at * SERVICES + service
        shared.held[row * _CELLS + cell] += 1
        shared.counts[4 * row] += 1
        shared.counts[4 * row + 1] += 1
        lease.bind(f"sess_{chance.getrandbits(96):024x}")
        if _exceeds(shared, at, service):
            shared.counts[4 * row + 3] += 1
        await asyncio.sleep(chance.uniform(0, _HOLD_S))
        shared.held[row * _CELLS + cell] -= 1
        if chance.random() < 0.02:  # its caller is away, and comes back
            lease.suspend()
            await asyncio.sleep(chance.uniform(0, _HOLD_S))
            lease = await leases.take_over(tenants[at], f"ns/s{service}", lease.lease.id)
        lease.release()


def _exceeds(shared: Shared, tenant: int, service: int) -> bool:
    """Return whether more sessions are held than a limit allows."""
    rows = range(GATEWAYS + 1)
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
