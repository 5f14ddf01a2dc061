from __future__ import annotations

import pytest

from localcluster.node.container import MESSAGE_BYTES, MESSAGE_LINES, log_tail


@pytest.mark.parametrize(
    ("log", "words"),
    [
        pytest.param(b"", "", id="nothing was written"),
        pytest.param(b"one\ntwo\n", "one\ntwo\n", id="a short log"),
        pytest.param(b"x\n" * 100, "x\n" * MESSAGE_LINES, id="many lines"),
        pytest.param(b"y" * 5000, "y" * MESSAGE_BYTES, id="one long line"),
        pytest.param(b"\xff!", "\ufffd!", id="no text"),
    ],
)
def test_the_log_tail_is_the_end_of_the_log(log: bytes, words: str) -> None:
    assert log_tail(log) == words
