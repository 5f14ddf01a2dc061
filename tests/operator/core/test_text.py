from __future__ import annotations

import pytest

from avatar_operator.core import text


@pytest.mark.parametrize(
    ("number", "said"), [(0, "0 sessions"), (1, "1 session"), (2, "2 sessions")]
)
def test_one_thing_is_told_as_one(number: int, said: str) -> None:
    assert text.count(number, "session") == said


def test_words_are_joined_as_in_a_sentence() -> None:
    assert text.join(["a"]) == "a"
    assert text.join(["a", "b"]) == "a and b"
    assert text.join(["a", "b", "c"]) == "a, b and c"
