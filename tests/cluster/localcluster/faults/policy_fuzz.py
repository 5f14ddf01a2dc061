"""Generates valid and invalid autoscaling specs for the API server and for the operator."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from random import Random

_CRON: Final = (
    ("0", "5", "05", "*/15", "0-59/7", "50-10", "60", "*/0", "", "a"),
    ("8", "22-4", "*", "23", "24", "-1", "8,9,10-12"),
    ("*", "1", "1,15", "31", "32", "0", "1-31/2"),
    ("*", "1", "jan", "JAN-mar", "12", "13", "jam"),
    ("*", "mon-fri", "0", "7", "8", "fri-mon", "Sun", "mon-"),
)
_ODD: Final = 0.12  # share of unusual values


def autoscaling(chance: Random) -> dict[str, Any]:
    """Return a spec that is valid in about half of all cases.

    Dates that no month has are left out, because only the operator rejects them.
    """
    spec: dict[str, Any] = {"maxReplicas": _number(chance, 1, 12)}
    for name, low, high in (("minReplicas", 0, 4), ("reserve", 0, 3)):
        if chance.random() < 0.5:
            spec[name] = _number(chance, low, high)
    if chance.random() < 0.2:
        spec["scaleToZeroAfterSeconds"] = _number(chance, 1, 60)
        spec["minReplicas"] = chance.choice([0, 0, 1])
    if chance.random() < 0.4:
        spec["maxCostPerHour"] = chance.choice(
            ["12.50", "1", "0.001", "007", "0", "0.0", "-1", "1.", ".5", "1e3", "", "1" * 17, 5]
            if chance.random() < 2 * _ODD
            else ["12.50", "3"]
        )
    if chance.random() < 0.4:
        rate = {"upPods": _number(chance, 1, 5), "downPods": _number(chance, 1, 5)}
        names = chance.sample(sorted(rate), chance.choice([1, 1, 2]))
        spec["rate"] = {name: rate[name] for name in names} if chance.random() > _ODD else {}
        if chance.random() < 0.5:
            spec["rate"]["periodSeconds"] = _number(chance, 1, 3600)
    if chance.random() < 0.6:
        spec["schedules"] = [_schedule(chance, index) for index in range(chance.randint(0, 3))]
    if chance.random() < 0.3:
        spec["sharedReserve"] = _often(chance, chance.random() < 0.7, ["true", 1, [True]])
    return spec


def _schedule(chance: Random, index: int) -> dict[str, Any]:
    schedule: dict[str, Any] = {
        "name": _often(chance, f"s{index}", ["s0", "Office", "", "a-", "x" * 64]),
        "start": _cron(chance),
        "end": _cron(chance),
    }
    zones = ["UTC", "Europe/Berlin", "America/Argentina/Ushuaia", "Etc/GMT+5"]
    wrong = [
        "Europe/Atlantis",
        "europe",
        "../etc/passwd",
        "/UTC",
        "Europe/Berlin ",
        "E" * 65,
        "",
        "Local",
        "+02:00",
    ]
    if chance.random() < 0.5:
        schedule["timeZone"] = _often(chance, chance.choice(zones), wrong)
    if chance.random() < 0.9:
        schedule["minReplicas"] = _number(chance, 0, 6)
    if chance.random() < 0.2:
        schedule["reserve"] = _number(chance, 0, 2)
    if chance.random() < 0.3:
        free = {"min": _number(chance, 0, 5), "percent": _number(chance, 0, 100)}
        schedule["freeSessions"] = dict(chance.sample(sorted(free.items()), chance.randint(1, 2)))
    return schedule


def _cron(chance: Random) -> str:
    fields = [_often(chance, chance.choice(field[:4]), [*field[4:]]) for field in _CRON]
    if fields[2] == "31":  # not every month has it
        fields[3] = "*"
    odd = [" ".join(fields[:4]), "@daily", "  ".join(fields)]
    return str(_often(chance, " ".join(fields), odd))


def _number(chance: Random, low: int, high: int) -> Any:
    return _often(chance, chance.randint(low, high), [low - 1, "2", 2.5])


def _often(chance: Random, right: Any, odd: list[Any]) -> Any:
    return chance.choice(odd) if chance.random() < _ODD / 4 else right
