"""What still reaches 8 callers after they have interrupted the avatar, at random times.

Media of the old epoch, and the frame with the closed mouth; both are measured at the callers, from
the event that they send, or from the `speech_started` that answers their voice.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from localcluster import barging_callers, interrupting_callers, runtime_process
from localcluster.bench import record

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

Caller = TypeVar("Caller")
SEED: Final = 15
STALE_S: Final = 0.040
CLOSED_S: Final = 0.080
LAG_PERIOD_S: Final = 0.005


def main() -> int:
    """Measure, write the record, and fail if a limit is missed."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.interruptions", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--sessions", type=int, default=8)
    parser.add_argument("--turns", type=int, default=40, help="of each session")
    parser.add_argument("--device", default="simulated:h100-80gb")
    options = parser.parse_args()
    rows = []
    with runtime_process.serving(
        options.out.with_suffix(".log"), 8, device=options.device
    ) as runtime:
        asyncio.run(call(runtime.url, options.sessions, 2, is_paced=False))
        for is_paced in (True, False):
            speaking = call(runtime.url, options.sessions, options.turns, is_paced=is_paced)
            callers, lag_s = asyncio.run(measure_lag(speaking))
            pace = "microphone" if is_paced else "burst"
            rows.append({"pace": pace, **row(callers), "lag_of_the_callers_s": lag_s})
            print(json.dumps(rows[-1], indent=2), flush=True)
        barging = barge(runtime.url, options.sessions, max(1, options.turns // 4))
        voices, lag_s = asyncio.run(measure_lag(barging))
        pace = "microphone, interrupts by voice"
        rows.append({"pace": pace, **voice_row(voices), "lag_of_the_callers_s": lag_s})
        print(json.dumps(rows[-1], indent=2), flush=True)
    results = {"sessions": options.sessions, "device_under_test": options.device, "rows": rows}
    record.write(options.out, SEED, "two turns of each session", results)
    return 1 if any(missed(row) for row in rows) else 0


async def call(
    url: str, sessions: int, turns: int, *, is_paced: bool
) -> Sequence[interrupting_callers.Caller]:
    """Let some callers interrupt their avatars at the same time."""
    return await asyncio.gather(
        *(
            interrupting_callers.interrupt(url, turns, SEED + number, is_paced=is_paced)
            for number in range(sessions)
        )
    )


def row(callers: Sequence[interrupting_callers.Caller]) -> dict[str, Any]:
    """Return the figures of all callers, in seconds."""
    all_of = [one for caller in callers for one in caller.interruptions]
    stale = [one.last_stale_s for one in all_of if one.last_stale_s is not None]
    closed = [one.closed_s for one in all_of if one.closed_s is not None]
    return {
        "interruptions": len(all_of),
        "last_stale_media_s": record.figures(stale),
        "acknowledged_s": record.figures([one.acknowledged_s for one in all_of]),
        "mouth_closed_s": record.figures(closed),
        "stale_after_the_answer": sum(caller.stale_after_answer for caller in callers),
        "responses": sum(len(caller.created) for caller in callers),
        "ended_once": all(caller.created == caller.done for caller in callers),
        "statuses": sorted(set().union(*(caller.statuses for caller in callers))),
        "errors": sorted(error for caller in callers for error in caller.errors),
    }


async def measure_lag(
    work: Coroutine[Any, Any, Sequence[Caller]],
) -> tuple[Sequence[Caller], dict[str, float]]:
    """Return the result of some work, and how late the event loop of the callers was meanwhile.

    The figures of the callers contain this time, which is not the server's.
    """
    task, lags = asyncio.ensure_future(work), list[float]()
    while not task.done():
        begun_at = time.monotonic()
        await asyncio.sleep(LAG_PERIOD_S)
        lags.append(time.monotonic() - begun_at - LAG_PERIOD_S)
    return await task, record.figures(lags)


async def barge(url: str, sessions: int, turns: int) -> Sequence[barging_callers.Caller]:
    """Let some callers speak into the answers of their avatars at the same time."""
    return await asyncio.gather(
        *(barging_callers.barge_in(url, turns, SEED + number) for number in range(sessions))
    )


def voice_row(callers: Sequence[barging_callers.Caller]) -> dict[str, Any]:
    """Return the figures of all callers who interrupted by voice, in seconds."""
    reasons = [reason for caller in callers for reason in caller.reasons]
    return {
        "interruptions": sum(len(caller.acknowledged_s) for caller in callers),
        "last_stale_media_s": record.figures([s for c in callers for s in c.stale_after_s]),
        "acknowledged_s": record.figures([s for c in callers for s in c.acknowledged_s]),
        "mouth_closed_s": record.figures([s for c in callers for s in c.closed_s]),
        "stale_after_the_answer": sum(caller.stale_after_answer for caller in callers),
        "responses": len(reasons),
        "ended_once": all(caller.created == caller.done for caller in callers),
        "statuses": sorted(set(reasons)),
        "errors": sorted(error for caller in callers for error in caller.errors),
    }


def missed(row: dict[str, Any]) -> bool:
    """Return whether a row misses a limit."""
    return bool(
        row["stale_after_the_answer"]
        or row["errors"]
        or not row["ended_once"]
        or row["last_stale_media_s"].get("max", 0.0) > STALE_S
        or row["mouth_closed_s"].get("max", 0.0) > CLOSED_S
    )


if __name__ == "__main__":
    raise SystemExit(main())
