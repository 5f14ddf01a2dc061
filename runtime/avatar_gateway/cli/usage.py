"""`avatar-gateway usage`: what tenants have used, from the shared state or from usage logs."""

from __future__ import annotations

import argparse
import asyncio
import csv
import io
import json
import random
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import yaml

from avatar_contracts.backoff import Backoff
from avatar_contracts.environment import Environment
from avatar_contracts.labels import THE_REST
from avatar_gateway import errors, settings
from avatar_gateway.core.usage import ALL, FIGURES, HOUR_MS, NONE, Account, added, sums
from avatar_gateway.shared import usage_log
from avatar_gateway.shared.connection import Address, Connection
from avatar_gateway.shared.redis import RedisState

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

COLUMNS: Final = (
    "tenant",
    "service",
    "gpu_class",
    "sessions",
    "session_seconds",
    "gpu_seconds",
    "speech_seconds",
    "frames",
    "bytes_in",
    "bytes_out",
    "rejections",
    "cost",
)
_RIGHT: Final = frozenset(COLUMNS[3:])


@dataclass(frozen=True, slots=True)
class Period:
    """From `since` to before `until`, seconds since the epoch."""

    since: float
    until: float

    @property
    def hours(self) -> tuple[int, int]:
        """Return the hours since the epoch that the period touches."""
        hour_s = HOUR_MS // 1000
        return int(self.since // hour_s), int(-(-self.until // hour_s))


class UsageError(Exception):
    """The command cannot do what was asked."""


def add_parser(commands: Any) -> None:
    """Add the command to a parser's subparsers."""
    parser = commands.add_parser(
        "usage",
        help="show what tenants have used",
        description="Show what tenants have used, from the shared state that "
        "AVATAR_GATEWAY_SHARED_STATE_URL names, or from usage logs. A tenant '-' stands for the "
        f"API keys of the platform, {THE_REST!r} for those beyond a limit, and {ALL!r} "
        "for the sum of all.",
    )
    parser.add_argument(
        "--since", required=True, type=_time, metavar="DATE", help="2026-11-01 or 2026-11-01T12:00Z"
    )
    parser.add_argument("--until", type=_time, metavar="DATE", help="end, not included (now)")
    parser.add_argument("--tenant", help="only this tenant")
    parser.add_argument("-o", "--output", choices=("table", "csv", "json"), default="table")
    parser.add_argument(
        "--log", nargs="+", metavar="FILE", help="usage logs to read instead; '-' is the input"
    )
    parser.add_argument(
        "--profiles",
        metavar="FILE",
        help="YAML of `kubectl get gpuprofiles -o yaml`, for the costs; '-' is the input",
    )


def run(options: argparse.Namespace, env: Mapping[str, str], now: float) -> int:
    """Print the usage and return the exit status."""
    period = Period(options.since, options.until if options.until is not None else now)
    try:
        prices = {} if options.profiles is None else parse_prices(_read(options.profiles))
        if options.log:
            totals, faults = usage_log.read(_lines(options.log), period.since, period.until)
            for fault, count in sorted(faults.items()):
                sys.stderr.write(f"avatar-gateway: {count} lines left out: {fault}\n")
        else:
            totals = asyncio.run(_from_shared_state(env, period))
    except (OSError, ValueError, UsageError, errors.AvatarGatewayError) as error:
        sys.stderr.write(f"avatar-gateway: {error}\n")
        return 2
    found = {key: each for key, each in totals.items() if options.tenant in (None, key.tenant)}
    sys.stdout.write(render(rows(found, prices), options.output))
    return 0


def rows(
    totals: Mapping[Account, Sequence[int]], prices: Mapping[str, Decimal]
) -> list[dict[str, Any]]:
    """Return a row for each account, and a last one with the sums of all.

    The cost is that of the GPU time; None if no price of the class is known.
    """
    result, all_figures = [], NONE
    costs: list[Decimal] = []
    for account in sorted(totals, key=lambda each: (each.tenant, each.service, each.gpu_class)):
        figures = totals[account]
        row = {"tenant": account.tenant, "service": account.service} | _row(account, figures)
        price = prices.get(account.gpu_class)
        if price is not None:
            costs.append(price * figures[FIGURES.index("gpu_ms")] / HOUR_MS)
            row["cost"] = f"{costs[-1]:.4f}"
        result.append(row)
        all_figures = added(all_figures, figures)
    total = {"tenant": ALL, "service": ""} | _row(Account("", "", ""), all_figures)
    total["cost"] = f"{sum(costs, Decimal(0)):.4f}" if costs else None
    return [*result, total]


def render(found: Sequence[Mapping[str, Any]], output: str) -> str:
    """Return the rows as a table, CSV or JSON. CSV and JSON have no row of sums."""
    if output == "json":
        return json.dumps(found[:-1], indent=1) + "\n"
    if output == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows({key: _guarded(value) for key, value in row.items()} for row in found[:-1])
        return text.getvalue()
    shown = [{name: _shown(row[name]) for name in COLUMNS} for row in found]
    heads = {name: name.upper().replace("_", " ") for name in COLUMNS}
    widths = {name: max(len(row[name]) for row in [heads, *shown]) for name in COLUMNS}
    return "".join(
        "  ".join(
            row[name].rjust(widths[name]) if name in _RIGHT else row[name].ljust(widths[name])
            for name in COLUMNS
        ).rstrip()
        + "\n"
        for row in [heads, *shown]
    )


def parse_prices(text: str) -> Mapping[str, Decimal]:
    """Return the cost of an hour of each GPU class, from GPUProfiles in YAML.

    Raises:
        UsageError: the text has no GPUProfiles, or a cost is no number.
    """
    try:
        documents = [each for each in yaml.safe_load_all(text) if each is not None]
    except yaml.YAMLError as error:
        raise UsageError("the profiles are not YAML") from error
    if not all(isinstance(each, dict) for each in documents):
        raise UsageError("the profiles must be objects of the kind GPUProfile")
    items = [item for each in documents for item in each.get("items", [each])]
    prices = {}
    for item in items:
        if not isinstance(item, dict) or item.get("kind") != "GPUProfile":
            raise UsageError("the profiles must be objects of the kind GPUProfile")
        cost = item.get("spec", {}).get("costPerHour")
        if cost is None:
            continue
        try:
            prices[str(item["metadata"]["name"])] = Decimal(str(cost))
        except InvalidOperation:
            raise UsageError(f"costPerHour is {str(cost)[:32]!r}, must be a number") from None
    return prices


async def _from_shared_state(
    env: Mapping[str, str], period: Period
) -> Mapping[Account, tuple[int, ...]]:
    read = Environment(env)
    chosen = settings.shared_state(read)
    read.check(errors.SettingsError)
    if not chosen.url:
        raise UsageError(
            "AVATAR_GATEWAY_SHARED_STATE_URL is not set; set it, or read usage logs with --log"
        )
    backoff = Backoff(1.0, 1.0, random.random)
    state = RedisState(Connection(Address(chosen.url, chosen.read_password, chosen.ca), backoff))
    try:
        return sums(await state.usage(*period.hours))
    finally:
        await state.close()


def _row(account: Account, figures: Sequence[int]) -> dict[str, Any]:
    each = dict(zip(FIGURES, figures, strict=True))
    return {
        "gpu_class": account.gpu_class,
        "sessions": each["sessions"],
        "session_seconds": round(each["session_ms"] / 1000, 3),
        "gpu_seconds": round(each["gpu_ms"] / 1000, 3),
        "speech_seconds": round(each["speech_ms"] / 1000, 3),
        "frames": each["frames"],
        "bytes_in": each["bytes_in"],
        "bytes_out": each["bytes_out"],
        "rejections": each["rejections"],
        "cost": None,
    }


def _shown(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.0f}" if isinstance(value, float) else str(value)


def _guarded(value: object) -> object:
    """Return a value that a spreadsheet does not take for a formula."""
    is_formula = isinstance(value, str) and value[:1] in ("=", "+", "@")
    return f"'{value}" if is_formula else value


def _time(text: str) -> float:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text[:32]!r} is no date as 2026-11-01") from None
    return (found if found.tzinfo is not None else found.replace(tzinfo=UTC)).timestamp()


def _read(path: str) -> str:
    return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")


def _lines(paths: Iterable[str]) -> Iterator[bytes]:
    for path in paths:
        if path == "-":
            yield from sys.stdin.buffer
            continue
        with Path(path).open("rb") as file:
            yield from file
