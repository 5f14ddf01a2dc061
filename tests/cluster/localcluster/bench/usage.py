"""Totals of usage beside the own records of a load, while gateways, pods and Redis are killed.

Gateways measure and report connections with the code of the gateway, pods with that of the runtime:
each gateway has a TCP connection to a pod for each connection of a caller, and reads the usage
streams of all pods. No bytes are proxied. All are processes. They write when each connection began
and ended to a file of their own. Again and again a gateway or a pod is killed with SIGKILL and
replaced, and once the redis-server, which has an append-only file that it writes once a second.
What a killed gateway had open ends when its process is gone. The first gateway is never killed, and
it has accounts of its own. The totals in Redis must equal the records of the load: the number of
connections exactly, and their time except for what a pod needs to notice that one is gone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import random
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

from redis.asyncio import Redis

from avatar_gateway.core.model import Pod
from avatar_gateway.core.usage import FIGURES, Account, sums
from avatar_gateway.shared import usage_log
from avatar_gateway.shared.metering import Meter
from avatar_gateway.shared.redis import RedisState
from avatar_gateway.shared.usage_accounts import UsageAccounts
from avatar_gateway.shared.usage_log import UsageLog
from avatar_runtime.serving import usage as pod_usage
from avatar_runtime.serving.changes import ChangeNotifier
from localcluster.bench import record
from localcluster.bench.redis_folder import RedisServer, connect, restartable_redis
from localcluster.usage_records import let_a_minute_pass

if TYPE_CHECKING:
    from collections.abc import Mapping
    from multiprocessing.context import ForkProcess

GATEWAYS: Final = 3
PODS: Final = 3
CALLERS: Final = 12
"""Connections of each gateway at a time."""
ACCOUNTS: Final = [Account(f"t{at % 20}", f"ns/s{at % 3}", f"class-{at % 2}") for at in range(60)]
_KEY: Final = "the-gateway-key-of-the-benchmark"
_HOLD_S: Final = (0.05, 1.0)
_KILL_EVERY_S: Final = (4.0, 12.0)
_SETTLE_S: Final = 6.0
"""How long the gateways go on after the load: longer than the lines of pods are apart."""
_SESSION_MS: Final = FIGURES.index("session_ms")
_ALLOWED_S: Final = 1.0
_SLACK_S: Final = 0.005
"""How far the records of a connection may be apart: the load has one clock with the gateway."""
_NOTICE_S: Final = 0.5
"""The same for one that was killed: its pod notices late if the machine is busy."""


@dataclass(frozen=True, slots=True)
class Connection:
    """What the load knows of a connection; times are seconds since the epoch."""

    account: int
    began: float
    ended: float
    was_killed: bool


@dataclass(slots=True)
class Kills:
    """How often something was killed."""

    gateways: int = 0
    pods: int = 0
    redis: int = 0


def main() -> int:
    """Run the benchmark; return 1 if the totals are wrong."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.usage", description=__doc__)
    parser.add_argument("--out", type=Path, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=10_000)
    options = parser.parse_args()
    with restartable_redis("--appendonly", "yes") as redis, tempfile.TemporaryDirectory() as folder:
        started = time.monotonic()
        load, kills = Drive(redis, Path(folder)).run(options.sessions)
        seconds = time.monotonic() - started
        unopened = _unopened(sorted(Path(folder).glob("load-*")))
        results = asyncio.run(compare(redis.url, Path(folder), load, unopened))
    results = {
        "gateways": GATEWAYS,
        "pods": PODS,
        "kills_of_gateways": kills.gateways,
        "kills_of_pods": kills.pods,
        "kills_of_redis": kills.redis,
        "seconds": round(seconds, 1),
        **results,
    }
    for name, value in results.items():
        print(f"{name}: {value}", flush=True)
    if options.out is not None:
        record.write(options.out, 0, "none", results)
    return 0 if results["equal"] else 1


@dataclass
class Drive:
    """Runs the processes, and kills some."""

    redis: RedisServer
    folder: Path
    files: list[Path] = field(default_factory=list)
    ends: dict[Path, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        context = multiprocessing.get_context("fork")
        self._process = context.Process
        self._stop, self._leave = context.Event(), context.Event()

    def run(self, sessions: int) -> tuple[list[Connection], Kills]:
        """Run until there were so many sessions; return the load's own records."""
        pods = [self._start_pod(index) for index in range(PODS)]
        running = [self._start(index) for index in range(GATEWAYS)]
        chance, kills = random.Random(0), Kills()
        kill_at = time.monotonic() + _KILL_EVERY_S[1]
        while (started := _started(self.files)) < sessions:
            time.sleep(0.05)
            if started > sessions // 2 and not kills.redis:
                self.redis.kill()
                self.redis.start()
                kills.redis += 1
            if time.monotonic() < kill_at:
                continue
            kill_at = time.monotonic() + chance.uniform(*_KILL_EVERY_S)
            if chance.random() < 0.25:
                at = chance.randrange(PODS)
                _kill(pods[at])
                pods[at] = self._start_pod(at)
                kills.pods += 1
            else:
                at = chance.randrange(1, GATEWAYS)
                process, file = running[at]
                _kill(process)
                self.ends[file] = time.time()
                running[at] = self._start(at)
                kills.gateways += 1
        self._stop.set()
        time.sleep(_SETTLE_S)
        self._leave.set()
        for process, _ in running:
            process.join()
        for pod in pods:
            _kill(pod)
        found = [each for file in self.files for each in _records(file, self.ends.get(file))]
        return found, kills

    def _start(self, index: int) -> tuple[ForkProcess, Path]:
        file = self.folder / f"load-{len(self.files)}"
        self.files.append(file)
        events = (self._stop, self._leave)
        arguments = (self.redis.url, self.folder, file, index, *events)
        process = self._process(target=_run_gateway, args=arguments)
        process.start()
        return process, file

    def _start_pod(self, index: int) -> ForkProcess:
        process = self._process(target=_run_pod, args=(self.folder, index))
        process.start()
        return process


def _kill(process: ForkProcess) -> None:
    process.kill()
    process.join()


def _started(files: list[Path]) -> int:
    return sum(file.read_bytes().count(b"+") for file in files if file.exists())


def _records(file: Path, killed: float | None) -> list[Connection]:
    """Return the connections in a file; those without an end ended when the process was gone."""
    began: dict[str, tuple[int, float]] = {}
    result = []
    lines = file.read_text().split("\n") if file.exists() else []
    for line in lines[:-1]:  # a killed process may have left half a line
        sign, number, account, at = line.split()
        if sign == "?":
            continue
        if sign == "+":
            began[number] = int(account), float(at)
        else:
            key, start = began.pop(number)
            result.append(Connection(key, start, float(at), was_killed=False))
    assert killed is not None or not began
    return result + [Connection(key, at, killed or 0.0, True) for key, at in began.values()]


def _unopened(files: list[Path]) -> set[str]:
    """Return the records of connections whose gateway was killed before they were open there."""
    found = set()
    for file in files:
        lines = [line.split() for line in file.read_text().split("\n")[:-1]]
        begun = {number for sign, number, *_ in lines if sign == "+"}
        found |= {each[3] for each in lines if each[0] == "?" and each[1] not in begun}
    return found


def _socket(folder: Path, pod: int) -> str:
    return str(folder / f"pod-{pod}")


def _run_pod(folder: Path, index: int) -> None:
    Path(_socket(folder, index)).unlink(missing_ok=True)
    asyncio.run(_pod(folder, index))


async def _pod(folder: Path, index: int) -> None:
    """Be one pod: measure connections from their first line on, and stream what has ended."""
    reports = pod_usage.UsageReports(time.time)
    runtime = SimpleNamespace(
        stopping=False, changes=ChangeNotifier(), usage=reports, clock=time.time
    )

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            account = (await reader.readline()).decode().strip()
            if account == "usage":
                async for line in pod_usage.lines(runtime, f"pod-{index}"):
                    writer.write(line)
                    await writer.drain()
            with reports.connected(account):
                writer.write(b"\n")
                await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(serve, _socket(folder, index)) as server:
        await server.serve_forever()


def _run_gateway(url: str, folder: Path, file: Path, index: int, stop: Any, leave: Any) -> None:
    asyncio.run(_gateway(url, folder, file, index, stop, leave))


def _as_pod(index: int) -> Pod:
    name = f"pod-{index}"
    return Pod("ns", name, f"uid-{name}", "ns/s", "", 0, 0, terminating=False)


async def _gateway(url: str, folder: Path, file: Path, index: int, stop: Any, leave: Any) -> None:
    """Be one gateway: no new connections after `stop`, and an end after `leave`."""
    state = RedisState(connect(url))
    log = UsageLog(str(folder / "usage.log"))
    # One clock for all: the records of the load and the figures are about the same moments.
    clock = time.time
    meter = Meter(
        state, log, file.name, lambda _: 4, clock, clock, accounts=UsageAccounts(lambda: [_KEY])
    )
    running = [asyncio.create_task(meter.run())]
    running += [asyncio.create_task(_follow(meter, folder, at)) for at in range(PODS)]
    with file.open("ab", buffering=0) as own:
        callers = [_call(meter, folder, own, index, number, stop) for number in range(CALLERS)]
        await asyncio.gather(*callers)
    while not leave.is_set():  # noqa: ASYNC110, another process sets it
        await asyncio.sleep(0.1)
    for task in running:
        task.cancel()
    await meter.close()
    await state.close()


async def _follow(meter: Meter, folder: Path, pod: int) -> None:
    """Read the usage stream of a pod, again and again."""
    while True:
        with suppress(OSError):
            reader, writer = await asyncio.open_unix_connection(_socket(folder, pod))
            writer.write(b"usage\n")
            while line := await reader.readline():
                meter.on_line(_as_pod(pod), json.loads(line), 0.0)
            writer.close()
        await asyncio.sleep(0.1)


async def _call(meter: Meter, folder: Path, own: Any, index: int, number: int, stop: Any) -> None:
    """Open connections one after another; each ends after a while, or with its pod."""
    chance, count = random.Random(f"{own.name} {number}"), 0
    await asyncio.sleep(chance.uniform(0, 1))
    while not stop.is_set():
        count += 1
        at = chance.randrange(len(ACCOUNTS)) // 3 * 3 + index
        account, name, pod = ACCOUNTS[at], f"{number}-{count}", chance.randrange(PODS)
        placed = Pod(
            "ns", f"pod-{pod}", f"uid-pod-{pod}", account.service, "", 0, 0,
            terminating=False, gpu_class=account.gpu_class,
        )  # fmt: skip
        record_id, text = meter.place(account.tenant, account.service, placed, is_new=True)
        own.write(f"? {name} {at} {record_id}\n".encode())
        try:
            reader, writer = await asyncio.open_unix_connection(_socket(folder, pod))
            writer.write(text.encode() + b"\n")
            if not await reader.readline():
                raise ConnectionResetError
        except OSError:
            meter.withdraw(record_id)
            await asyncio.sleep(0.1)
            continue
        began = time.time()
        segment = meter.start(
            *(account.tenant, account.service, placed.key, account.gpu_class, None),
            is_new=True,
            count_bytes=lambda: (100, 200),
            record=record_id,
        )
        own.write(f"+ {name} {at} {began}\n".encode())
        with suppress(TimeoutError, OSError):
            async with asyncio.timeout(chance.uniform(*_HOLD_S)):
                await reader.read()  # until the pod is gone
        ended = time.time()
        segment.finish()
        own.write(f"- {name} {at} {ended}\n".encode())
        writer.close()


async def compare(
    url: str, folder: Path, load: list[Connection], unopened_records: set[str]
) -> dict[str, Any]:
    """Return the totals of Redis, of the log and of the load, and whether they are equal."""
    state = RedisState(connect(url))
    await let_a_minute_pass(url)
    log = UsageLog(str(folder / "usage.log"))
    meter = Meter(state, log, "observer", lambda _: 4, time.time, time.time)
    await meter.close_abandoned()
    assert not await _open_records(url)
    hour = int(time.time() // 3600)
    totals = sums(await state.usage(hour - 2, hour + 1))
    lines = (folder / "usage.log").read_bytes().splitlines()
    logged, faults = usage_log.read(lines, 0, time.time() + 1)
    await state.close()
    unopened = await _figures(url, unopened_records)
    own: Counter[Account] = Counter()
    killed: Counter[Account] = Counter()
    counts: Counter[Account] = Counter()
    for each in load:
        account = ACCOUNTS[each.account]
        own[account] += round((each.ended - each.began) * 1000)
        killed[account] += each.was_killed
        counts[account] += 1
    for account, figures in unopened:
        own[account] += figures[_SESSION_MS]
        counts[account] += 1
    missing = {key: own[key] - totals.get(key, (0, 0))[_SESSION_MS] for key in own}
    difference_s = sum(missing.values()) / 1000
    of_log = {key: each[_SESSION_MS] for key, each in logged.items()}
    return {
        "sessions": len(load),
        "sessions_of_the_totals": sum(each[0] for each in totals.values()),
        "killed_connections": killed.total(),
        "killed_while_their_pod_had_them_and_the_load_not_yet": len(unopened),
        "their_seconds": sum(each[_SESSION_MS] for _, each in unopened) / 1000,
        "lines_of_the_log": len(lines),
        "faulty_lines": faults.total(),
        "seconds_of_the_load": round(own.total() / 1000, 3),
        "seconds_of_the_totals": _seconds(totals),
        "seconds_of_the_log": _seconds(logged),
        "difference_s": round(difference_s, 3),
        "greatest_difference_of_an_account_s": max(map(abs, missing.values())) / 1000,
        "lost_seconds_of_each_killed_connection": round(
            sum(missing[key] for key in own if killed[key]) / 1000 / max(1, killed.total()), 4
        ),
        "greatest_difference_of_an_account_without_kills_s": max(
            (abs(missing[key]) for key in own if not killed[key]), default=0
        )
        / 1000,
        "log_equals_totals": of_log == {key: each[_SESSION_MS] for key, each in totals.items()},
        "equal_to_the_second": abs(difference_s) <= _ALLOWED_S,
        "equal": not faults
        and {key: each[0] for key, each in totals.items()} == dict(counts)
        and all(
            abs(missing[key]) / 1000 <= _SLACK_S * counts[key] + _NOTICE_S * killed[key]
            for key in own
        ),
    }


def _seconds(totals: Mapping[Account, tuple[int, ...]]) -> float:
    return round(sum(each[_SESSION_MS] for each in totals.values()) / 1000, 3)


async def _figures(url: str, records: set[str]) -> list[tuple[Account, list[int]]]:
    """Return the figures of those records that count something."""
    found = []
    async with Redis.from_url(url, decode_responses=True) as client:
        for each in records:
            known: dict[str, str] = await client.hgetall(f"avatar:record:{each}")  # type: ignore[assignment]
            figures = [int(word) for word in known.get("figures", "").split()]
            if any(figures):
                found.append((Account(*known["account"].split(" ")), figures))
    return found


async def _open_records(url: str) -> int:
    async with Redis.from_url(url) as client:
        return int(await client.zcard("avatar:open-records"))


if __name__ == "__main__":
    sys.exit(main())
