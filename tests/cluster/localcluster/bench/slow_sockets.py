"""Clients that read slowly, or not at all, beside clients that do: what each of them gets.

A phase measures sessions that are well connected, beside others of one kind: none, as many on a
fast network, on one of 1 Mbit/s each (a token bucket), or that stop reading for good. The kinds
alternate within one run, so that what the machine does besides falls on all of them; the median of
the rounds leaves out a burst of other work. Whether slow clients harm others is the difference to
as many fast ones.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

from avatar_client import errors, session, sound
from avatar_client.options import Options
from localcluster import paths, runtime_process
from localcluster.bench import record
from localcluster.fakes import slow_link

if TYPE_CHECKING:
    from collections.abc import Sequence

    from localcluster.runtime_process import Runtime

SPEECH: Final = paths.REPOSITORY / "examples" / "speech.wav"
SLOW_BYTES_PER_S: Final = 1_000_000 / 8
KINDS: Final = ("alone", "fast", "slow")
LATE_MS: Final = 80.0
RESOLUTION: Final = (128, 128)
"""Small, so that a small machine serves all sessions: 2 Mbit/s each with the sound."""
DEVICE: Final = {
    "gpuClass": "fast",
    "memoryMiB": 80_000,
    "curve": {
        "model": "v15/sd-vae/fp16",
        "baseMiB": 3100,
        "perFrameMiB": 306,
        "frameBatchMs": [[1, 4.0], [4, 6.0], [8, 9.0], [16, 14.0], [32, 24.0]],
        "source": "estimate",
    },
}
"""A device that carries all sessions, so that what is late is late because of the clients."""
STALL_S: Final = 30.0
"""A socket that takes nothing for so long is closed: docs/wire-protocol.md, "Flow control"."""
STOPPED_S: Final = STALL_S + 4.0
"""How long a client stops reading. The socket fills in the first second or two, and the close frame
waits 10 s for a client that reads again."""
EFFECT: Final = 0.01
"""The share of frames by which slow clients may harm others."""
SPREAD_S: Final = 7.4
"""In which the others begin, one after another: twenty at once would be a peak of their own."""
START_S: Final = 60.0
STOP_S: Final = 60.0


@dataclass
class Other:
    """One of the clients beside those that are measured."""

    responses: int = 0
    frames: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    sound_is_whole: bool = True
    violations: list[str] = field(default_factory=list)
    closed: int | None = None
    """The close code, if the server has ended the session."""


def main() -> int:
    """Measure, write the record, and fail if slow clients harm others."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.slow_sockets", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=2, help="that are measured")
    parser.add_argument("--others", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=12.0, help="of each phase")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    results = asyncio.run(measure(options))
    print(json.dumps(results["effect"], indent=2))
    about = {name: getattr(options, name) for name in ("sessions", "others", "seconds", "rounds")}
    record.write(
        options.out, 0, "none", {**about, "resolution": RESOLUTION, "simulated": DEVICE, **results}
    )
    return 1 if missed(results) else 0


async def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Return the figures of all phases."""
    log = options.out.with_suffix(".log")
    rows: list[dict[str, Any]] = []
    profile = {"AVATAR_GPU_PROFILE": json.dumps(DEVICE)}
    with runtime_process.serving(log, 32, profile, device="simulated:fast") as runtime:
        for number in range(options.rounds):
            for kind in KINDS:
                rows.append({"round": number, **await phase(runtime, kind, options)})
                print(json.dumps(rows[-1]), flush=True)
        stopped = await phase(runtime, "stopped", options)
        print(json.dumps(stopped), flush=True)
    return {"phases": rows, "stopped": stopped, "effect": effect([*rows, stopped])}


async def phase(runtime: Runtime, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure well-connected sessions beside others of one kind."""
    others = [Other() for _ in range(0 if kind == "alone" else options.others)]
    rss = runtime.rss_mib()
    async with AsyncExitStack() as stack:
        parts = urlsplit(runtime.url)
        assert parts.hostname is not None
        assert parts.port is not None
        rate = SLOW_BYTES_PER_S if kind == "slow" else None
        links = [
            await stack.enter_async_context(slow_link.open_link(parts.hostname, parts.port, rate))
            for _ in (others if kind in ("slow", "stopped") else ())
        ]
        addresses = [link.address for link in links] or [runtime.url] * len(others)
        leave = asyncio.Event()
        stopping = links if kind == "stopped" else [None] * len(others)
        tasks = [
            asyncio.create_task(
                converse(address, other, leave, number * SPREAD_S / len(others), link)
            )
            for number, (address, other, link) in enumerate(
                zip(addresses, others, stopping, strict=True)
            )
        ]
        await until_all_speak(others)
        cpu_s = runtime.cpu_s()
        seconds = max(options.seconds, STOPPED_S) if kind == "stopped" else options.seconds
        size = "x".join(map(str, RESOLUTION))
        arguments = ("--resolution", size, "--burst", "--late-ms", str(LATE_MS), "--pause-s", "0.5")
        load = ("--sessions", str(options.sessions), "--duration-s", str(seconds))
        report = await asyncio.to_thread(runtime_process.load, runtime, [*load, *arguments])
        most = runtime.rss_mib()
        cpu_s = runtime.cpu_s() - cpu_s
        leave.set()
        await asyncio.wait_for(asyncio.gather(*tasks), STOP_S)
    return {
        "kind": kind,
        **measured(report["sessions"]),
        "others": described(others),
        "runtime_cpu_s": round(cpu_s, 2),
        "rss_mib_before": round(rss, 1),
        "rss_mib": round(most, 1),
    }


async def converse(
    address: str,
    other: Other,
    leave: asyncio.Event,
    delay_s: float,
    stops: slow_link.SlowLink | None = None,
) -> None:
    """Let one client speak again and again, until it may leave or the server closes its connection.

    With `stops`, the link of the client passes nothing for `STOPPED_S` from the first frame on, so
    that most of a response is left to fill the socket. The client does not resume: a connection
    that the server closes must be seen.
    """
    words = sound.read(SPEECH)
    await asyncio.sleep(delay_s)
    target, options = session.Target(address, "", ""), Options(resolution=RESOLUTION)
    try:
        async with session.connect(target, options, keep_media=False, resumes=False) as live:
            while not leave.is_set():
                speaking = asyncio.create_task(live.speak(words, realtime=False, timeout_s=120.0))
                while not speaking.done():
                    await asyncio.sleep(0.1)
                    other.frames = sum(len(r.frames) for r in live.trace.responses.values())
                    if stops is not None and other.frames:
                        await stopped(stops)
                        stops = None
                response = await speaking
                other.responses += 1
                other.dropped.update(response.drop_reasons)
                other.sound_is_whole &= response.audio_samples == words.samples
            other.violations = [*live.trace.violations, *map(str, live.trace.errors)]
    except errors.SessionEnded as ended:
        other.closed = ended.code


async def stopped(link: slow_link.SlowLink) -> None:
    """Let a link pass nothing for `STOPPED_S`."""
    link.flows.clear()
    await asyncio.sleep(STOPPED_S)
    link.flows.set()


async def until_all_speak(others: Sequence[Other]) -> None:
    """Wait until each client has got a frame."""
    async with asyncio.timeout(START_S):
        while not all(other.frames for other in others):  # noqa: ASYNC110 - a claim about many
            await asyncio.sleep(0.05)


def measured(sessions: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the figures of the sessions that are measured."""
    due = sum(each["frames_due"] for each in sessions)
    late = sum(each["frames_late"] for each in sessions)
    dropped = sum(each["frames_dropped"] for each in sessions)
    first = [value / 1000 for each in sessions for value in each["first_frame_ms"]]
    return {
        "frames_due": due,
        "late": round(late / due, 5),
        "dropped": round(dropped / due, 5),
        "missing": sum(each["frames_missing"] for each in sessions),
        "violations": sum(len(each["violations"]) for each in sessions),
        "not_done": [each["code"] or each["ended"] for each in sessions if each["ended"] != "done"],
        "first_frame_s": record.figures(first),
    }


def described(others: Sequence[Other]) -> dict[str, Any]:
    """Return what the clients beside the measured ones got."""
    dropped = sum((other.dropped for other in others), Counter[str]())
    return {
        "clients": len(others),
        "responses": sum(other.responses for other in others),
        "frames": sum(other.frames for other in others),
        "dropped": dict(dropped),
        "with_drops": sum(bool(other.dropped) for other in others),
        "sound_is_whole": all(other.sound_is_whole for other in others),
        "violations": [line for other in others for line in other.violations][:10],
        "closed": dict(Counter(str(o.closed) for o in others if o.closed is not None)),
    }


def effect(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the median of the rounds of each kind."""
    found = {}
    for kind in dict.fromkeys(row["kind"] for row in rows):
        mine = [row for row in rows if row["kind"] == kind]
        found[kind] = {
            name: statistics.median(row[name] for row in mine) for name in ("late", "dropped")
        }
        for name in ("median", "p95"):
            values = [row["first_frame_s"][name] for row in mine]
            found[kind][f"first_frame_{name}_s"] = statistics.median(values)
    return found


def missed(results: dict[str, Any]) -> list[str]:
    """Return what is not as it must be, in words."""
    found = []
    by_kind = results["effect"]
    for name in ("late", "dropped"):
        for kind in ("slow", "stopped"):
            if by_kind[kind][name] > by_kind["fast"][name] + EFFECT:
                found.append(f"{kind} clients: {by_kind[kind][name]} of the frames {name}")
    for row in [*results["phases"], results["stopped"]]:
        if row["violations"] or row["missing"] or row["not_done"]:
            found.append(f"sessions beside {row['kind']} clients are not right")
        others = row["others"]
        if others["violations"] or not others["sound_is_whole"]:
            found.append(f"a {row['kind']} client has not got what it must")
        if row["kind"] == "slow":
            if (
                set(others["dropped"]) != {"slow_client"}
                or others["with_drops"] < others["clients"]
            ):
                found.append(f"a slow client was not told of drops: {others['dropped']}")
    if results["stopped"]["others"]["closed"] != {"4413": results["stopped"]["others"]["clients"]}:
        found.append(f"clients that stopped: {results['stopped']['others']['closed']}")
    for line in found:
        print(f"MISSED: {line}", flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
