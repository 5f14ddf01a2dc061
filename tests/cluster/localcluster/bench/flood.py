"""What a tenant sees while another one floods the gateways, in short turns of one run.

The steady tenant has callers all the time. In every second window the other tenant, which has its
quota of sessions, sends hundreds of callers, who wait for more and leave. The samples of the first
second of each window are left out, in which the flood comes or goes. The confidence interval of the
ratio comes from drawing whole windows again (bootstrap): the samples of a window are not
independent of each other, since what else the machine does falls on all of them.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from avatar_contracts.percentiles import percentile
from localcluster.bench import record
from localcluster.fakes.placement_callers import Result

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from localcluster.fakes.placement_callers import Load

WINDOW_S: Final = 4.0
SETTLE_S: Final = 1.5
"""At the beginning of each window; the callers of the flood stay for less than that."""
_FLOOD_HOLD_S: Final = 1.0
_DRAWS: Final = 2000


async def measure(
    run_callers: Callable[[Load], Coroutine[Any, Any, Result]],
    steady: Load,
    flood: Load,
    pairs: int,
) -> dict[str, Any]:
    """Run `pairs` pairs of windows, without and with the flood, and compare them."""
    steady = replace(steady, duration_s=2 * pairs * WINDOW_S)
    running = asyncio.create_task(run_callers(steady), name="steady")
    start, floods = time.monotonic(), list[Result]()
    load = replace(flood, duration_s=WINDOW_S - SETTLE_S / 2, hold_s=_FLOOD_HOLD_S)
    for number in range(pairs):
        await _until(start + (2 * number + 1) * WINDOW_S)
        floods.append(await run_callers(load))
    result = await running
    alone, flooded = _windows(result, start, pairs)
    return {
        "pairs_of_windows": pairs,
        "window_s": WINDOW_S,
        "callers_of_the_flood": sum(each.opened + each.refused for each in floods),
        "refused_of_the_flood": sum(each.refused for each in floods),
        "refused_of_the_other": result.refused + result.failed,
        "seconds_to_open": {
            "alone": record.figures([x for each in alone for x in each]),
            "with_flood": record.figures([x for each in flooded for x in each]),
        },
        **{
            f"{name}_ratio": _ratio(alone, flooded, percent)
            for name, percent in (("median", 50), ("p95", 95), ("p99", 99))
        },
    }


async def _until(at: float) -> None:
    await asyncio.sleep(max(0.0, at - time.monotonic()))


def _windows(
    result: Result, start: float, pairs: int
) -> tuple[Sequence[Sequence[float]], Sequence[Sequence[float]]]:
    """Return the delays of each window without and with the flood."""
    found: list[list[float]] = [[] for _ in range(2 * pairs)]
    for at, delay in zip(result.started, result.delays, strict=True):
        number, within = divmod(at - start, WINDOW_S)
        if within >= SETTLE_S and 0 <= number < len(found):
            found[int(number)].append(delay)
    return found[0::2], found[1::2]


def _ratio(
    alone: Sequence[Sequence[float]], flooded: Sequence[Sequence[float]], percent: float
) -> dict[str, float]:
    """Return the ratio of a percentile with and without the flood, and its 95 % interval."""
    chance, pairs = random.Random(0), len(alone)

    def ratio(drawn: Sequence[int]) -> float:
        with_flood = percentile(sorted(x for at in drawn for x in flooded[at]), percent)
        without = percentile(sorted(x for at in drawn for x in alone[at]), percent)
        return (with_flood or 0.0) / (without or float("inf"))

    draws = sorted(ratio(chance.choices(range(pairs), k=pairs)) for _ in range(_DRAWS))
    return {
        "ratio": round(ratio(range(pairs)), 3),
        "low": round(percentile(draws, 2.5) or 0.0, 3),
        "high": round(percentile(draws, 97.5) or 0.0, 3),
    }
