"""A pytest plugin that records how long each test took and whether it passed."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

_durations: dict[str, float] = {}
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Add up set-up, call and tear-down."""
    _durations[report.nodeid] = _durations.get(report.nodeid, 0.0) + report.duration
    if report.outcome != "passed":
        _failed.add(report.nodeid)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Write the record; the workers of xdist write none."""
    if not hasattr(session.config, "workerinput"):
        durations = {test: s for test, s in _durations.items() if test not in _failed}
        record = {"durations": durations, "failed": sorted(_failed)}
        Path(os.environ["MUTANTS_RECORD"]).write_text(json.dumps(record))
