"""Sentences are found as early as the text allows, whatever parts it comes in."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.protocol.sentences import MAX_CHARACTERS, SentenceSplitter, is_speakable


def split(text: str) -> list[str]:
    splitter = SentenceSplitter()
    return [piece.strip() for piece in (*splitter.push(text), *splitter.finish())]


@pytest.mark.parametrize(
    "sentences",
    [
        ["Hello.", "How are you?", "Fine!"],
        ["Dr. Smith met Mrs. Jones at 5 p.m. in Washington, D.C. on Monday.", "They spoke."],
        ["It costs 3.14 dollars.", "See example.org for more."],
        ["Use e.g. a hammer, i.e. a tool, etc. to do it.", "Done."],
        ['"Really?" she asked.', "He nodded."],
        ['He said "Stop!"', "Then he left."],
        ["Wait... what?", "Yes."],
        ["I like you and I.", "So do we."],
        ["Am 3. Oktober kam Hr. Maier, z. B. mit dem Zug.", "Schön!"],
        ["¿Cómo estás?", "¡Muy bien!", "El Sr. Pérez llegó."],
        ["M. Dupont habite av. Foch.", "Il est là\u2026", "Bien."],
        ["こんにちは。", "元気ですか\uff1f", "はい\uff01"],
        ["你好。", "你吃了吗\uff1f"],
        ["नमस्ते।", "आप कैसे हैं?"],
        ["مرحبا؟", "نعم."],
        ["First line", "Second line", "- item"],
        ["J. R. R. Tolkien wrote it.", "Good."],
        ["It was 1999.", "That was late."],
    ],
)
def test_sentences_of_several_languages(sentences: list[str]) -> None:
    wide = any(mark in sentences[0] for mark in "。")
    joined = ("\n" if sentences[0] == "First line" else "" if wide else " ").join(sentences)
    assert split(joined) == sentences


def test_a_sentence_is_complete_with_the_start_of_the_next_one() -> None:
    splitter = SentenceSplitter()
    assert splitter.push("Hello.") == []
    assert splitter.push(" ") == []
    assert splitter.push("H") == ["Hello. "]
    assert splitter.push("ow?") == []
    assert splitter.finish() == ["How?"]
    assert splitter.finish() == []


def test_a_sentence_that_never_ends_is_split_at_a_clause_or_a_word() -> None:
    clause = "word " * 40 + "word, "
    pieces = split(clause * 3)
    assert max(map(len, pieces)) <= MAX_CHARACTERS
    assert pieces[0].endswith(",")
    assert max(map(len, split("word " * 500))) <= MAX_CHARACTERS
    assert all(piece.endswith("word") for piece in split("word " * 500))
    assert split("x" * 700) == ["x" * 300, "x" * 300, "x" * 100]


@given(st.text(alphabet='ab .!?\n"。,3', max_size=700), st.lists(st.integers(1, 40), max_size=60))
def test_the_pieces_are_the_text_however_it_is_cut(text: str, sizes: list[int]) -> None:
    whole = SentenceSplitter()
    expected = [*whole.push(text), *whole.finish()]
    splitter, pieces, at = SentenceSplitter(), [], 0
    for size in sizes:
        pieces += splitter.push(text[at : at + size])
        at += size
    pieces += [*splitter.push(text[at:]), *splitter.finish()]
    assert "".join(pieces) == "".join(expected) == text
    if len(text) <= MAX_CHARACTERS:
        assert pieces == expected


@pytest.mark.parametrize(
    ("text", "speakable"),
    [("Hi", True), ("3", True), ("你", True), ("...", False), ("\U0001f600 !", False)],
)
def test_only_letters_and_digits_can_be_pronounced(text: str, speakable: bool) -> None:
    assert is_speakable(text) is speakable
