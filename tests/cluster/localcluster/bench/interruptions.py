"""What still reaches 8 callers after they have interrupted the avatar, at random times.

Media of the old epoch, and the frame with the closed mouth. The callers measure from the event that
they send, or from the `speech_started` that answers their voice. The runtime notes when it reads
what interrupts (`timed_runtime`): the rest of a figure is the way there, and other work before it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import barging_callers, interrupting_callers, runtime_process, server_times
from localcluster.bench import record
from localcluster.fakes import answering_upstream, speech_endpoints
from localcluster.interrupting_callers import Ask

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Coroutine, Sequence

    from localcluster.server_times import ServerTimes

    Taken = Sequence[interrupting_callers.Caller] | Sequence[barging_callers.Caller]

SEED: Final = 15
STALE_S: Final = 0.040
CLOSED_S: Final = 0.080
LAG_PERIOD_S: Final = 0.005
VOICE: Final = "voice"
WAYS: Final = {
    "drive": (Ask.MICROPHONE.value, Ask.BURST.value, VOICE),
    "bridge": (Ask.REQUEST.value, VOICE),
    "speech": (Ask.REQUEST.value, VOICE),
}
"""How the avatar comes to speak before an event interrupts it, or that a voice interrupts it."""


@dataclass(frozen=True, slots=True)
class Way:
    """The callers who have interrupted in one way."""

    name: str
    callers: Taken
    lag_s: dict[str, float]


def main() -> int:
    """Measure, write the record, and fail if a limit is missed."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.interruptions", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=40, help="of each session")
    parser.add_argument("--device", default="simulated:h100-80gb")
    parser.add_argument("--mode", choices=list(WAYS), help="default: one after the other")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for mode in [options.mode] if options.mode else WAYS:
        rows += asyncio.run(measure(mode, options))
    results = {"sessions": options.sessions, "device_under_test": options.device, "rows": rows}
    record.write(options.out, SEED, "two turns of each session", results)
    return 1 if any(missed(row) for row in rows) else 0


async def measure(mode: str, options: argparse.Namespace) -> list[dict[str, Any]]:
    """Return the rows of one mode, whose endpoints run beside the callers."""
    times = options.out.with_name(f"{options.out.stem}-{mode}.jsonl")
    async with upstream_of(mode) as document:
        with runtime_process.serving(
            times.with_suffix(".log"),
            8,
            {"AVATAR_UPSTREAM": json.dumps(document)} if document else None,
            device=options.device,
            program=("localcluster.timed_runtime", str(times)),
        ) as runtime:
            await callers(runtime.url, WAYS[mode][0], options.sessions, 2)
            ways = []
            for name in WAYS[mode]:
                turns = max(1, options.turns // 4) if name == VOICE else options.turns
                taken = callers(runtime.url, name, options.sessions, turns)
                ways.append(Way(name, *await measure_lag(taken)))
    server = server_times.read(times)
    rows = [{"mode": mode, "way": way.name, **row(way, server)} for way in ways]
    rows.append({"mode": mode, "slow_callbacks_of_the_runtime": server.slow_callbacks()})
    print(json.dumps(rows, indent=2), flush=True)
    return rows


@asynccontextmanager
async def upstream_of(mode: str) -> AsyncIterator[dict[str, Any] | None]:
    """Serve the endpoints of a mode; yields `spec.upstream`."""
    match mode:
        case "bridge":
            async with answering_upstream.serving() as url:
                yield {"mode": "bridge", "url": url}
        case "speech":
            async with speech_endpoints.serving() as document:
                yield document
        case _:
            yield None


async def callers(url: str, way: str, sessions: int, turns: int) -> Taken:
    """Let some callers interrupt their avatars at the same time."""
    if way == VOICE:
        return await asyncio.gather(
            *(barging_callers.barge_in(url, turns, SEED + number) for number in range(sessions))
        )
    return await asyncio.gather(
        *(
            interrupting_callers.interrupt(url, turns, SEED + number, ask=Ask(way))
            for number in range(sessions)
        )
    )


async def measure_lag(work: Coroutine[Any, Any, Taken]) -> tuple[Taken, dict[str, float]]:
    """Return the result of some work, and how late the event loop of the callers was meanwhile.

    The figures of the callers contain this time, which is not the server's.
    """
    task, lags = asyncio.ensure_future(work), list[float]()
    while not task.done():
        begun_at = time.monotonic()
        await asyncio.sleep(LAG_PERIOD_S)
        lags.append(time.monotonic() - begun_at - LAG_PERIOD_S)
    return await task, record.figures(lags)


def row(way: Way, server: ServerTimes) -> dict[str, Any]:
    """Return the figures of one way to interrupt, in seconds."""
    figures = (
        event_row(way.callers, server) if way.name != VOICE else voice_row(way.callers, server)
    )
    return {
        **figures,
        "stale_after_the_answer": sum(caller.stale_after_answer for caller in way.callers),
        "responses": sum(len(caller.created) for caller in way.callers),
        "ended_once": all(caller.created == caller.done for caller in way.callers),
        "errors": sorted(error for caller in way.callers for error in caller.errors),
        "lag_of_the_callers_s": way.lag_s,
    }


def event_row(taken: Sequence[Any], server: ServerTimes) -> dict[str, Any]:
    """Return what only callers who interrupt by an event have measured."""
    all_of = [one for caller in taken for one in caller.interruptions]
    stale = [one for one in all_of if one.last_stale_s is not None]
    read = [server.read_at[one.session, one.epoch] for one in all_of]
    after_read = [
        one.sent_at + one.last_stale_s - server.read_at[one.session, one.epoch] for one in stale
    ]
    return {
        "interruptions": len(all_of),
        "read_after_s": record.figures(
            [at - one.sent_at for at, one in zip(read, all_of, strict=True)]
        ),
        "last_stale_media_s": record.figures([one.last_stale_s for one in stale]),
        "last_stale_media_after_read_s": record.figures([s for s in after_read if s > 0]),
        "stale_written_after_read": server.stale_of({one.session for one in all_of}),
        "acknowledged_s": record.figures([one.acknowledged_s for one in all_of]),
        "mouth_closed_s": record.figures(
            [one.closed_s for one in all_of if one.closed_s is not None]
        ),
        "mouth_closed_after_read_s": record.figures(
            [
                one.sent_at + one.closed_s - at
                for at, one in zip(read, all_of, strict=True)
                if one.closed_s is not None
            ]
        ),
        "ends": sorted(set().union(*(caller.statuses for caller in taken))),
    }


def voice_row(taken: Sequence[Any], server: ServerTimes) -> dict[str, Any]:
    """Return what only callers who interrupt by voice have measured, after `speech_started`."""
    changes = [change for caller in taken for change in caller.changes]
    after_read = [each.last_media_at - server.read_at[each.session, each.epoch] for each in changes]
    return {
        "interruptions": len(changes),
        "last_stale_media_s": record.figures([s for each in taken for s in each.stale_after_s]),
        "last_stale_media_after_read_s": record.figures([s for s in after_read if s > 0]),
        "stale_written_after_read": server.stale_of({each.session for each in changes}),
        "acknowledged_s": record.figures([s for each in taken for s in each.acknowledged_s]),
        "mouth_closed_s": record.figures([s for each in taken for s in each.closed_s]),
        "ends": sorted({reason for caller in taken for reason in caller.reasons}),
    }


def missed(row: dict[str, Any]) -> bool:
    """Return whether a row misses a limit."""
    if "interruptions" not in row:
        return False
    return bool(
        row["stale_after_the_answer"]
        or row["stale_written_after_read"]
        or row["errors"]
        or not row["ended_once"]
        or row["last_stale_media_s"].get("max", 0.0) > STALE_S
        or row["last_stale_media_after_read_s"].get("max", 0.0) > STALE_S
        or row["mouth_closed_s"].get("max", 0.0) > CLOSED_S
    )


if __name__ == "__main__":
    raise SystemExit(main())
