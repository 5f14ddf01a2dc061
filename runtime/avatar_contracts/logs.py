"""The log format of the operator, the gateway and the runtime: one line for each record."""

from __future__ import annotations

import datetime
import json
import logging
import sys
from time import monotonic
from typing import TYPE_CHECKING, Final

from avatar_contracts.labels import LogFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"
_RECORD_ATTRIBUTES: Final = frozenset(
    vars(logging.LogRecord("", 0, "", 0, "", (), None)).keys() | {"asctime", "message", "taskName"}
)
"""What every record has; any other attribute comes from `extra`."""

LIMITED_LIBRARIES: Final = ("aiohttp", "asyncio", "uvicorn", "websockets")
"""Libraries that log what callers do, and each connection without a file descriptor."""
_RECORDS: Final = 10
_PERIOD_S: Final = 10.0


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
        more = vars(record).keys() - _RECORD_ATTRIBUTES
        if not more:
            return json.dumps(own)
        extra = {
            key: _as_json(value)
            for key, value in vars(record).items()
            if key in more and key not in own
        }
        return json.dumps(own | extra)


class RepeatLimit(logging.Filter):
    """Limits the records of some loggers: 10 in 10 s for each line of code that logs.

    They are caused from outside, as often as somebody wants. The next record that passes says how
    many did not.
    """

    def __init__(self, loggers: Sequence[str], clock: Callable[[], float] = monotonic) -> None:
        super().__init__()
        self._loggers = tuple(loggers)
        self._clock = clock
        self._limited: dict[str, bool] = {}
        """Whether a logger is limited, by its name; the program has a fixed number of loggers."""
        self._passed: dict[tuple[str, int], tuple[float, int]] = {}
        """By line of code: when the period began, and how many records it had."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether a record is written."""
        is_limited = self._limited.get(record.name)
        if is_limited is None:
            is_limited = self._limited[record.name] = self._is_limited(record.name)
        if not is_limited:
            return True
        now, line = self._clock(), (record.pathname, record.lineno)
        began, records = self._passed.get(line, (now, 0))
        if now - began >= _PERIOD_S:
            if records > _RECORDS:
                note = f" ({records - _RECORDS} similar records were suppressed)"
                record.msg, record.args = record.getMessage() + note, ()
            began, records = now, 0
        self._passed[line] = began, records + 1
        return records < _RECORDS

    def _is_limited(self, name: str) -> bool:
        return any(name == limited or name.startswith(f"{limited}.") for limited in self._loggers)


def configure(
    log_format: LogFormat, levels: Mapping[str, int], limited: Sequence[str] = LIMITED_LIBRARIES
) -> None:
    """Send records of level INFO and above to stderr.

    Args:
        log_format: JSON or text.
        levels: other levels by logger.
        limited: the loggers whose repeated records are limited.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(RepeatLimit(limited))
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
