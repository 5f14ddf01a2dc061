from __future__ import annotations

import json
import logging

from avatar_operator import logs


def test_a_line_is_one_json_object() -> None:
    formatter = logs.JsonFormatter()
    record = logging.LogRecord("avatar", logging.INFO, "", 1, "pod=%s\nx", ("p0",), None)
    line = formatter.format(record)
    assert "\n" not in line
    found = json.loads(line)
    assert (found["message"], found["level"], found["logger"]) == ("pod=p0\nx", "info", "avatar")


def test_an_exception_is_part_of_its_line() -> None:
    try:
        raise ValueError("seen")
    except ValueError as error:
        info = (type(error), error, error.__traceback__)
    record = logging.LogRecord("avatar", logging.ERROR, "", 1, "broke", (), info)
    assert "ValueError: seen" in json.loads(logs.JsonFormatter().format(record))["exception"]
