"""Writes one line for each event: JSON for machines, text for people."""

from __future__ import annotations

import json
import logging
import sys
from typing import Final

from avatar_operator.settings import LogFormat

_TEXT: Final = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonFormatter(logging.Formatter):
    """Writes a record as one JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line = {
            "time": self.formatTime(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)


def configure(log_format: LogFormat) -> None:
    """Send everything from INFO on to stderr, and keep kopf to what is wrong."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        JsonFormatter() if log_format is LogFormat.JSON else logging.Formatter(_TEXT)
    )
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    # kopf tells of every event that it hands over: one line for each change of each pod.
    logging.getLogger("kopf.objects").setLevel(logging.WARNING)
    # It says that signals are ignored, but they are not: they are ours to hear.
    logging.getLogger("kopf._core.reactor.running").setLevel(logging.ERROR)
