"""Totals of usage beside the own records of a load, while gateways are killed.

Three processes measure and report connections with the code of the gateway; no bytes are proxied.
They write when each connection began and ended to a file of their own. Again and again the second
or the third one is killed and replaced; what it had open ends then. Each has accounts of its own.
The totals in Redis and the usage log must equal the records of the load: to milliseconds without
kills, and within the time between two reports for each connection that was killed.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis

from avatar_gateway.core.usage import FIGURES, Account, sums
from avatar_gateway.shared import usage_log
from avatar_gateway.shared.metering import REPORT_S, Meter
from avatar_gateway.shared.redis import ABANDONED_MS, RedisState
from avatar_gateway.shared.usage_log import UsageLog
from localcluster.bench import record
from localcluster.bench.redis_folder import connect, redis_server

if TYPE_CHECKING:
    from collections.abc import Mapping

GATEWAYS: Final = 3
CALLERS: Final = 100
"""Connections of each gateway at a time."""
ACCOUNTS: Final = [Account(f"t{at % 20}", f"ns/s{at % 3}", f"class-{at % 2}") for at in range(60)]
_HOLD_S: Final = (0.05, 3.0)
_KILL_EVERY_S: Final = (1.0, 4.0)
_SESSION_MS: Final = FIGURES.index("session_ms")


@dataclass(frozen=True, slots=True)
class Connection:
    """What the load knows of a connection; times are seconds since the epoch."""

    account: int
    began: float
    ended: float
    was_killed: bool


def main() -> int:
    """Run the benchmark; return 1 if the totals are wrong."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.usage", description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=10_000)
    options = parser.parse_args()
    with redis_server() as url, tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        load, kills = drive(url, Path(folder), options.sessions)
        seconds = time.monotonic() - started
        results = asyncio.run(compare(url, Path(folder), load))
    results = {"gateways": GATEWAYS, "kills": kills, "seconds": round(seconds, 1), **results}
    for name, value in results.items():
        print(f"{name}: {value}", flush=True)
    if options.out is not None:
        record.write(options.out, 0, "none", results)
    return 0 if results["equal"] else 1


def drive(url: str, folder: Path, sessions: int) -> tuple[list[Connection], int]:
    """Run the gateways until there were so many sessions; return the load's own records."""
    context = multiprocessing.get_context("fork")
    stop = context.Event()
    files: list[Path] = []
    ends: dict[Path, float] = {}

    def start(index: int) -> tuple[Any, Path]:
        file = folder / f"load-{len(files)}"
        files.append(file)
        process = context.Process(target=_run, args=(url, folder, file, index, stop))
        process.start()
        return process, file

    running = [start(index) for index in range(GATEWAYS)]
    chance, kills, kill_at = random.Random(0), 0, time.monotonic() + _KILL_EVERY_S[1]
    while _started(files) < sessions:
        time.sleep(0.1)
        if time.monotonic() >= kill_at:
            at = chance.randrange(1, GATEWAYS)
            process, file = running[at]
            process.kill()
            ends[file] = time.time()
            process.join()
            running[at] = start(at)
            kills, kill_at = kills + 1, time.monotonic() + chance.uniform(*_KILL_EVERY_S)
    stop.set()
    for process, _ in running:
        process.join()
    return [each for file in files for each in _records(file, ends.get(file))], kills


def _started(files: list[Path]) -> int:
    return sum(file.read_bytes().count(b"+") for file in files if file.exists())


def _records(file: Path, killed: float | None) -> list[Connection]:
    """Return the connections in a file; those without an end ended when the process was killed."""
    began: dict[str, tuple[int, float]] = {}
    result = []
    lines = file.read_text().split("\n") if file.exists() else []
    for line in lines[:-1]:  # a killed process may have left half a line
        sign, number, account, at = line.split()
        if sign == "+":
            began[number] = int(account), float(at)
        else:
            key, start = began.pop(number)
            result.append(Connection(key, start, float(at), was_killed=False))
    assert killed is not None or not began
    return result + [Connection(key, at, killed or 0.0, True) for key, at in began.values()]


def _run(url: str, folder: Path, file: Path, index: int, stop: Any) -> None:
    asyncio.run(_gateway(url, folder, file, index, stop))


async def _gateway(url: str, folder: Path, file: Path, index: int, stop: Any) -> None:
    """Be one gateway until `stop` is set; a second line of a connection says when it ended."""
    state = RedisState(connect(url))
    log = UsageLog(str(folder / "usage.log"))
    # One clock for both: the record of the load and the figures are about the same moments.
    meter = Meter(state, log, file.name, lambda _: 4, time.time, time.time)
    running = asyncio.create_task(meter.run())
    with file.open("ab", buffering=0) as own:

        async def call(number: int) -> None:
            chance, count = random.Random(f"{file.name} {number}"), 0
            await asyncio.sleep(chance.uniform(0, 1))
            while not stop.is_set():
                count += 1
                at = chance.randrange(len(ACCOUNTS)) // 3 * 3 + index
                account, name = ACCOUNTS[at], f"{number}-{count}"
                own.write(f"+ {name} {at} {time.time()}\n".encode())
                segment = meter.start(
                    *(account.tenant, account.service, "ns/pod", account.gpu_class, None),
                    is_new=True,
                    count_bytes=lambda: (100, 200),
                )
                await asyncio.sleep(chance.uniform(*_HOLD_S))
                segment.finish()
                own.write(f"- {name} {at} {time.time()}\n".encode())

        async with asyncio.TaskGroup() as group:
            for number in range(CALLERS):
                group.create_task(call(number))
    running.cancel()
    await meter.close()
    await state.close()


async def compare(url: str, folder: Path, load: list[Connection]) -> dict[str, Any]:
    """Return the totals of Redis, of the log and of the load, and whether they are equal."""
    state = RedisState(connect(url))
    await _let_a_minute_pass(url)
    log = UsageLog(str(folder / "usage.log"))
    meter = Meter(state, log, "observer", lambda _: 4, time.time, time.time)
    while before := await _open_records(url):
        await meter.close_abandoned()
        assert await _open_records(url) < before
    hour = int(time.time() // 3600)
    totals = sums(await state.usage(hour - 2, hour + 1))
    lines = (folder / "usage.log").read_bytes().splitlines()
    logged, faults = usage_log.read(lines, 0, time.time() + 1)
    await state.close()
    own: Counter[Account] = Counter()
    killed: Counter[Account] = Counter()
    for each in load:
        own[ACCOUNTS[each.account]] += round((each.ended - each.began) * 1000)
        killed[ACCOUNTS[each.account]] += each.was_killed
    counts: Counter[Account] = Counter(ACCOUNTS[each.account] for each in load)
    # Each figure is rounded to a millisecond, and the load writes its line a moment later.
    slack_ms = {account: 5 * counts[account] for account in own}
    missing = {key: own[key] - totals.get(key, (0, 0))[_SESSION_MS] for key in own}
    untouched = [key for key in own if not killed[key]]
    return {
        "sessions": len(load),
        "killed_connections": killed.total(),
        "lines_of_the_log": len(lines),
        "faulty_lines": faults.total(),
        "seconds_of_the_load": round(own.total() / 1000, 3),
        "seconds_of_the_totals": _seconds(totals),
        "seconds_of_the_log": _seconds(logged),
        "lost_seconds_of_each_killed_connection": round(
            sum(missing.values()) / 1000 / max(1, killed.total()), 3
        ),
        "accounts_without_a_kill": len(untouched),
        "their_greatest_difference_in_s": max((abs(missing[key]) for key in untouched), default=0)
        / 1000,
        "log_equals_totals": logged == totals,
        "equal": not faults
        and logged == totals
        and all(
            -slack_ms[key] <= missing[key] <= slack_ms[key] + 1500 * REPORT_S * killed[key]
            for key in own
        ),
    }


def _seconds(totals: Mapping[Account, tuple[int, ...]]) -> float:
    return round(sum(each[_SESSION_MS] for each in totals.values()) / 1000, 3)


async def _open_records(url: str) -> int:
    async with Redis.from_url(url) as client:
        return int(await client.zcard("avatar:open-records"))


async def _let_a_minute_pass(url: str) -> None:
    """Make the open records of dead gateways as old as if nobody had reported for a minute."""
    async with Redis.from_url(url, decode_responses=True) as client:
        for name in await client.zrange("avatar:open-records", 0, -1):
            await client.zincrby("avatar:open-records", -ABANDONED_MS - 1, str(name))


if __name__ == "__main__":
    sys.exit(main())
