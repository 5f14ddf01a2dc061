"""How far the avatar is behind callers with microphones: a slow pod, a stopped pod, a long talk.

The device is simulated, so that its speed does not depend on the machine. The long talk runs with
`--minutes 20`.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from localcluster import live_speaker, runtime_process
from localcluster.bench import record

if TYPE_CHECKING:
    from collections.abc import Sequence

_PERIOD_S: Final = 5.0
BEHIND_S: Final = 1.0
"""How far a caller may be behind, except after a stop."""
BACK_S: Final = 0.25
"""How far a caller may be behind `BACK_AFTER_S` after the end of a stop."""
BACK_AFTER_S: Final = 10.0
DRIFT_S: Final = 0.05
"""How much the median of the last ten seconds of a long talk may exceed that of the first ten."""
LONG_S: Final = 600.0


@dataclass(frozen=True, slots=True)
class Case:
    """One measurement."""

    name: str
    device: str
    sessions: int
    seconds: float
    stop_after_s: float = 0.0
    stop_for_s: float = 0.0


CASES: Final = (
    Case("two-sessions-l4", "simulated:l4", 2, 60.0),
    Case("stopped-15s-h100", "simulated:h100-80gb", 1, 50.0, stop_after_s=10.0, stop_for_s=15.0),
)


def main() -> int:
    """Measure every case and write the record."""
    parser = argparse.ArgumentParser(prog="localcluster.bench.live", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--case", choices=[case.name for case in CASES], action="append")
    parser.add_argument("--seconds", type=float, help="of each case instead of its own length")
    parser.add_argument("--minutes", type=float, help="also one session that talks this long")
    parser.add_argument("--batch-size", type=int, default=4)
    options = parser.parse_args()
    cases = [case for case in CASES if case.name in (options.case or [c.name for c in CASES])]
    if options.minutes:
        cases.append(Case("long-talk-h100", "simulated:h100-80gb", 1, 60 * options.minutes))
    rows: list[dict[str, Any]] = []
    for case in cases:
        seconds = options.seconds or case.seconds
        callers = asyncio.run(measure(case, seconds, options.batch_size, options.out))
        rows.extend(row(case, caller) for caller in callers)
        print(json.dumps(rows[-len(callers) :], indent=2), flush=True)
    record.write(options.out, 0, "none", {"batch_size": options.batch_size, "rows": rows})
    return 1 if any(row["missed"] for row in rows) else 0


async def measure(
    case: Case, seconds: float, batch_size: int, out: Path
) -> Sequence[live_speaker.Caller]:
    """Run one case with a runtime of its own."""
    with runtime_process.serving(
        out.with_suffix(f".{case.name}.log"), batch_size, device=case.device
    ) as runtime:
        async with asyncio.TaskGroup() as group:
            calls = [
                group.create_task(live_speaker.speak(runtime.url, seconds))
                for _ in range(case.sessions)
            ]
            if case.stop_for_s:
                await live_speaker.stop_process(runtime.pid, case.stop_after_s, case.stop_for_s)
        print(json.dumps({"deadline_miss_ratio": runtime.state()["deadline_miss_ratio"]}))
        return [call.result() for call in calls]


def row(case: Case, caller: live_speaker.Caller) -> dict[str, Any]:
    """Return the figures of one caller, in milliseconds and frames."""
    last_s = caller.frames[-1].at_s if caller.frames else 0.0
    periods = {}
    begin = 0.0
    while begin < last_s:
        behind = caller.behind_s(begin, begin + _PERIOD_S)
        if behind:
            periods[f"{begin:.0f}"] = [_ms(statistics.median(behind)), _ms(max(behind))]
        begin += _PERIOD_S
    return {
        "case": case.name,
        "behind_ms_median_and_max_by_5_s": periods,
        "last_frame_behind_ms": _ms(caller.frames[-1].behind_s) if caller.frames else None,
        "sound_behind_ms_max": _ms(max(sound.behind_s for sound in caller.sound)),
        "frames": len(caller.frames),
        "dropped": caller.dropped,
        "warnings": caller.warnings,
        "errors": caller.errors,
        "audio_is_intact": caller.audio_is_intact,
        "missed": missed(case, caller),
    }


def missed(case: Case, caller: live_speaker.Caller) -> Sequence[str]:
    """Return which limits a caller misses, in words."""
    found = []
    stop_ends = case.stop_after_s + case.stop_for_s
    before = caller.behind_s(0.0, case.stop_after_s if case.stop_for_s else float("inf"))
    if not before or max(before) > BEHIND_S:
        found.append(f"more than {BEHIND_S} s behind, or no frame")
    if case.stop_for_s:
        back = caller.behind_s(stop_ends + BACK_AFTER_S)
        if not back or max(back) > BACK_S:
            found.append(f"not back within {BACK_S} s after {BACK_AFTER_S} s")
    last_s = caller.frames[-1].at_s if caller.frames else 0.0
    if last_s > LONG_S:
        first, last = caller.behind_s(0.0, 10.0), caller.behind_s(last_s - 10.0)
        if statistics.median(last) > statistics.median(first) + DRIFT_S:
            found.append(f"over {DRIFT_S} s later at the end than at the beginning")
    if not caller.audio_is_intact or caller.errors:
        found.append("sound that differs from what was sent, or an error")
    return found


def _ms(seconds: float) -> int:
    return round(1000 * seconds)


if __name__ == "__main__":
    raise SystemExit(main())
