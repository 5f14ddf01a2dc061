"""What came of the mutants: by area, and each survivor with its change."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


@dataclass(frozen=True, slots=True)
class Result:
    """What the tests made of one mutant."""

    number: int
    place: str
    """The file and the line."""
    operator: str
    area: str
    outcome: str
    """`killed`, `timeout`, `survived`, or `uncovered`: there is no unit test to run."""
    tests: int
    """How many tests were there to notice it."""
    seconds: float
    killer: str
    diff: str


def summary(results: Iterable[Result]) -> dict[str, dict[str, Any]]:
    """Count the outcomes by area; the score counts a timeout as noticed."""
    counted: dict[str, Counter[str]] = defaultdict(Counter)
    for result in results:
        for area in (result.area, "all"):
            counted[area][result.outcome] += 1
    table = {}
    for area in sorted(counted, key=lambda area: (area == "all", area)):
        outcomes = counted[area]
        noticed = outcomes["killed"] + outcomes["timeout"]
        table[area] = {
            "mutants": outcomes.total(),
            **{name: outcomes[name] for name in ("killed", "timeout", "survived", "uncovered")},
            "score": round(noticed / outcomes.total(), 3),
        }
    return table


def document(results: Sequence[Result], **facts: Any) -> dict[str, Any]:
    """Return the content of report.json."""
    return {
        **facts,
        "mutants": len(results),
        "areas": summary(results),
        "results": [asdict(result) for result in results],
    }


def text(results: Sequence[Result]) -> str:
    """Return the survivors with their changes and then the table."""
    parts = [
        f"{result.outcome}: {result.place} ({result.tests} tests)\n{result.diff}\n"
        for result in results
        if result.outcome in {"survived", "uncovered"}
    ]
    for area, counts in summary(results).items():
        cells = "  ".join(f"{name} {value:<4}" for name, value in counts.items())
        parts.append(f"{area:20} {cells}")
    return "\n".join(parts)
