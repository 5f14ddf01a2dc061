"""The log format of the operator, the gateway and the runtime: one line for each record."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from typing import TYPE_CHECKING, Final

from avatar_contracts.labels import LogFormat

if TYPE_CHECKING:
    from collections.abc import Mapping

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_RECORD_ATTRIBUTES: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)).keys() | {"asctime", "message", "taskName"}
)
"""What every record has; any other attribute comes from `extra`."""


class TextFormatter(logging.Formatter):
    """Writes a record for people: time, level, logger and message; it omits `extra`."""

    def __init__(self) -> None:
        super().__init__(_TEXT)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        """Return the time of a record in RFC 3339, in UTC with milliseconds."""
        return timestamp(record.created)


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object on one line.

    The keys are `time` (RFC 3339, UTC, milliseconds), `level`, `logger`, `message`, `exception`
    and `stack` where the record has them, and each key of `extra`.
    """

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        own: dict[str, object] = {
            "time": timestamp(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            own["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            own["stack"] = record.stack_info
        extra = {
            key: _as_json(value)
            for key, value in vars(record).items()
            if key not in _RECORD_ATTRIBUTES and key not in own
        }
        return json.dumps(own | extra)


def configure(log_format: LogFormat, levels: Mapping[str, int]) -> None:
    """Send records of level INFO and above to stderr; `levels` sets other limits by logger."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format is LogFormat.JSON else TextFormatter())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for logger, level in levels.items():
        logging.getLogger(logger).setLevel(level)


def timestamp(seconds: float) -> str:
    """Return a Unix time as `2026-01-31T12:00:00.123Z`."""
    moment = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _as_json(value: object) -> object:
    """Return a value that JSON can hold: the value itself, or else its text."""
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError):
        return str(value)
    return value
