from __future__ import annotations

import datetime
import json
import logging
import math
import re
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_contracts import logs
from avatar_contracts.labels import LogFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

CREATED = datetime.datetime(2026, 1, 31, 12, 0, 0, 123456, datetime.UTC).timestamp()


def record(message: str = "ready", *args: object, **extra: object) -> logging.LogRecord:
    made = logging.getLogger("avatar").makeRecord(
        "avatar", logging.INFO, "", 1, message, args, None, extra=extra
    )
    made.created = CREATED
    return made


def line(made: logging.LogRecord) -> dict[str, Any]:
    text = logs.JsonFormatter().format(made)
    assert "\n" not in text
    found: dict[str, Any] = json.loads(text, parse_constant=pytest.fail)
    return found


def test_line_is_one_json_object() -> None:
    assert line(record("pod=%s\nx", "p0")) == {
        "time": "2026-01-31T12:00:00.123Z",
        "level": "info",
        "logger": "avatar",
        "message": "pod=p0\nx",
    }


def test_extra_keys_are_part_of_the_line() -> None:
    found = line(record(pod="p0", sessions=3, share=math.inf, path=CREATED.__class__, nested=[1]))
    assert (found["pod"], found["sessions"], found["nested"]) == ("p0", 3, [1])
    assert (found["share"], found["path"]) == ("inf", "<class 'float'>")


def test_extra_keys_do_not_replace_those_of_the_line() -> None:
    found = line(record(time="never", level="none", logger="other"))
    assert (found["level"], found["logger"]) == ("info", "avatar")
    assert found["time"].startswith("2026-01-31T")


def test_exception_and_stack_are_part_of_the_line() -> None:
    made = record("broke")
    try:
        raise ValueError("seen")
    except ValueError:
        made.exc_info = sys.exc_info()
    made.stack_info = "Stack:\n  here"
    found = line(made)
    assert "ValueError: seen" in found["exception"]
    assert found["stack"] == "Stack:\n  here"


def test_text_has_the_same_time() -> None:
    text = logs.TextFormatter().format(record("pod=%s", "p0", other=1))
    assert text == "2026-01-31T12:00:00.123Z INFO avatar pod=p0"


@given(st.floats(0, 7.2e9))
def test_times_are_rfc_3339_in_utc(seconds: float) -> None:
    text = logs.timestamp(seconds)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", text)
    assert abs(datetime.datetime.fromisoformat(text).timestamp() - seconds) <= 0.001


@pytest.fixture
def restored() -> Iterator[None]:
    """Restore the root logger and the level of the logger `noisy`."""
    root, noisy = logging.getLogger(), logging.getLogger("noisy")
    handlers, level = root.handlers[:], root.level
    root.handlers = []
    yield
    root.handlers = handlers
    root.setLevel(level)
    noisy.setLevel(logging.NOTSET)


@pytest.mark.usefixtures("restored")
@pytest.mark.parametrize("log_format", LogFormat)
def test_configure_sets_format_and_levels(
    log_format: LogFormat, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure(log_format, {"noisy": logging.ERROR})
    logging.getLogger("noisy").warning("omitted")
    logging.getLogger("avatar").debug("omitted")
    logging.getLogger("avatar").info("written")
    (written,) = capsys.readouterr().err.splitlines()
    if log_format is LogFormat.JSON:
        assert json.loads(written)["message"] == "written"
    else:
        assert written.endswith("Z INFO avatar written")


@pytest.mark.usefixtures("restored")
def test_a_library_cannot_fill_the_log(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure(LogFormat.TEXT, {})
    for _ in range(100):
        logging.getLogger("asyncio").error("socket.accept() out of system resource")
        logging.getLogger("avatar").info("session started")
    lines = capsys.readouterr().err.splitlines()
    assert sum("out of system resource" in line for line in lines) == 10
    assert sum("session started" in line for line in lines) == 100


def test_the_records_that_were_suppressed_are_counted() -> None:
    now = [0.0]
    limit = logs.RepeatLimit(["noisy"], lambda: now[0])

    def passes(line: int, name: str = "noisy.part") -> str | None:
        record = logging.LogRecord(name, logging.ERROR, "f.py", line, "of %s", ("one",), None)
        return record.getMessage() if limit.filter(record) else None

    assert [passes(1) for _ in range(12)] == ["of one"] * 10 + [None, None]
    assert passes(2) == "of one"
    assert passes(1, "noisyother") == "of one"
    now[0] = 9.9
    assert passes(1) is None
    now[0] = 10.0
    assert passes(1) == "of one (3 similar records were suppressed)"
    assert passes(1) == "of one"
