"""The usage log: one line of JSON for each record that is closed, with a key that no other has.

A line may be written twice, by two gateways or after a failure. Whoever reads the log counts each
key once, with the highest figures.
"""

from __future__ import annotations

import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from avatar_gateway.core.usage import FIGURES, NONE, UNKNOWN_CLASS, Account, added

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from avatar_gateway.core.usage import Record

_log = logging.getLogger(__name__)

STDOUT: Final = "-"
MAX_LINE_BYTES: Final = 64 * 1024
"""Longer lines are not read."""


class UsageLog:
    """Appends to a file, or to the standard output."""

    def __init__(self, path: str) -> None:
        """`path` is a file, `-` for the standard output, or empty for no log."""
        self._path = path

    def write(self, records: Iterable[Record]) -> None:
        """Write one line for each record. A failure is logged; the totals do not depend on it."""
        text = "".join(line(record) + "\n" for record in records)
        if not text or not self._path:
            return
        try:
            if self._path == STDOUT:
                sys.stdout.write(text)
                sys.stdout.flush()
            else:
                with Path(self._path).open("a", encoding="utf-8") as file:
                    file.write(text)
        except OSError as error:
            _log.error("usage log not written lines=%d error=%r", text.count("\n"), error)


def line(record: Record) -> str:
    """Return the line of a record."""
    account = record.account
    figures = dict(zip(FIGURES, record.figures, strict=True))
    details: Mapping[str, Any] = json.loads(record.details) if record.details else {}
    return json.dumps(
        {
            "key": record.id,
            "tenant": account.tenant,
            "service": account.service,
            "gpu_class": account.gpu_class,
            **figures,
            **details,
        },
        separators=(",", ":"),
    )


def read(
    lines: Iterable[bytes], since_s: float, until_s: float
) -> tuple[Mapping[Account, tuple[int, ...]], Counter[str]]:
    """Return the totals of each account in a log, and the faults of lines that are left out.

    A key counts once, with its highest figures. Records count in the time when they ended.
    """
    found: dict[str, tuple[Account, tuple[int, ...]]] = {}
    faults: Counter[str] = Counter()
    for each in lines:
        parsed = _parse(each)
        if isinstance(parsed, str):
            faults[parsed] += 1
            continue
        key, account, figures, ended_s = parsed
        if since_s <= ended_s < until_s:
            _, known = found.get(key, (account, NONE))
            found[key] = account, tuple(map(max, known, figures))
    totals: dict[Account, tuple[int, ...]] = {}
    for account, figures in found.values():
        totals[account] = added(totals.get(account, NONE), figures)
    return totals, faults


def _parse(text: bytes) -> tuple[str, Account, Sequence[int], float] | str:
    """Return what a line says, or why it cannot be read."""
    if len(text) > MAX_LINE_BYTES:
        return f"longer than {MAX_LINE_BYTES} bytes"
    try:
        document = json.loads(text)
    except (ValueError, RecursionError):
        return "not JSON"
    if not isinstance(document, dict):
        return "not an object"
    names = [str(document.get(name, "")) for name in ("key", "tenant", "service")]
    if not all(names):
        return "key, tenant or service is missing"
    figures = [document.get(name, 0) for name in FIGURES]
    if not all(isinstance(each, int) and 0 <= each < 2**63 for each in figures):
        return "a figure is not a whole number, 0 or more"
    ended_s = document.get("ended_s", 0)
    if not isinstance(ended_s, (int, float)) or isinstance(ended_s, bool):
        return "ended_s is not a number"
    key, tenant, service = names
    account = Account(tenant, service, str(document.get("gpu_class", UNKNOWN_CLASS)))
    return key, account, figures, ended_s
