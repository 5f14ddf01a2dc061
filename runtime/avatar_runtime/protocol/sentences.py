"""Splits text that arrives in parts into sentences, so that the first one can be spoken early."""

from __future__ import annotations

from typing import Final

MAX_CHARACTERS: Final = 300
"""A longer sentence is split, at the end of a clause if it has one."""

_STOP: Final = "."
_ENDS: Final = "!?\u2026\u061f\u06d4\u0589\u104b\u17d4\u0964\u0965"
"""Marks that end a sentence before white space: Latin, Arabic, Urdu, Armenian, Burmese, Khmer and
Devanagari. A full stop has rules of its own."""
_WIDE_ENDS: Final = "\u3002\uff01\uff1f\uff61"
"""Marks that end a sentence without white space: Chinese and Japanese."""
_CLOSING: Final = "\"')]}\u00bb\u201d\u2019\u300d\u300f\uff09\u3011"
_CLAUSE_ENDS: Final = ",;:\u2013\u2014\u060c\u061b\u3001\uff0c\uff1b\uff1a"

_ABBREVIATIONS: Final = frozenset(
    # English
    "mr mrs ms dr prof sr jr st vs etc inc ltd co corp no nos fig vol approx dept est "
    "jan feb mar apr jun jul aug sept oct nov dec mon tue wed thu fri gen col lt sgt capt rev hon "
    # German
    "bzw ca evtl ggf inkl nr str tel usw vgl zzgl hr fr hrsg bd abb mio mrd "
    # French, Spanish, Italian, Portuguese, Dutch
    "mme mlle mm av env cf sra srta dra ud uds pág núm sig dott ing sig.ra art exmo exma dhr mevr "
    "bijv".split()
)


class SentenceSplitter:
    """Collects text and returns the sentences that are complete.

    The pieces in order are the whole text: each one includes the white space after it. They do not
    depend on how the text is cut into parts, except that a forced split waits for
    `MAX_CHARACTERS`.
    """

    def __init__(self) -> None:
        self._rest = ""
        self._searched = 0  # no sentence ends before this position

    def push(self, text: str) -> list[str]:
        """Add text, and return the sentences that are complete."""
        self._rest += text
        return self._take(is_last=False)

    def finish(self) -> list[str]:
        """Return what is left; the splitter is empty afterwards."""
        pieces = self._take(is_last=True)
        if self._rest:
            pieces.append(self._rest)
        self._rest, self._searched = "", 0
        return pieces

    def _take(self, *, is_last: bool) -> list[str]:
        pieces: list[str] = []
        while True:
            end = self._next_end(is_last=is_last)
            if end is None:
                if len(self._rest) <= MAX_CHARACTERS:
                    return pieces
                end = _forced_end(self._rest)
            pieces.append(self._rest[:end])
            self._rest, self._searched = self._rest[end:], 0

    def _next_end(self, *, is_last: bool) -> int | None:
        """Return where the next sentence starts, or `None` if more text must decide it."""
        text = self._rest
        for at in range(self._searched, min(len(text), MAX_CHARACTERS)):
            mark = text[at]
            if mark not in _STOP + _ENDS + _WIDE_ENDS + "\n":
                continue
            if not text[:at].strip():
                continue
            end = at + 1
            while end < len(text) and text[end] in _STOP + _ENDS + _WIDE_ENDS + _CLOSING:
                end += 1
            start = end
            while start < len(text) and text[start].isspace():
                start += 1
            if start == len(text) and not is_last:
                self._searched = at
                return None
            if start == len(text):
                return None  # the last sentence is what is left
            if _ends_sentence(text, at, end, start):
                return start
        self._searched = max(self._searched, min(len(text), MAX_CHARACTERS))
        return None


def is_speakable(text: str) -> bool:
    """Return whether text has anything to pronounce: a letter or a digit."""
    return any(character.isalnum() for character in text)


def _ends_sentence(text: str, at: int, end: int, start: int) -> bool:
    """Return whether a sentence ends at the mark `at`; the next word is at `start`."""
    mark = text[at]
    if mark == "\n":
        return True
    if mark in _WIDE_ENDS:
        return True
    if start == end:
        return False  # 3.14, example.org, a?b
    if mark != _STOP or end > at + 1:
        # "Really?" she asked: the sentence goes on.
        return not text[start].islower()
    return not text[start].islower() and not _is_abbreviated(text[:at])


def _is_abbreviated(before: str) -> bool:
    """Return whether the full stop after this text belongs to its last word."""
    word = before.rsplit(None, 1)[-1].lstrip("\"'([{\u00ab\u201e\u201c\u2018")
    if "." in word and all(len(part) <= 2 for part in word.split(".")):
        return True  # e.g., z.B., U.S.
    if len(word) == 1 and word.isalpha() and word not in "I":
        return True  # an initial
    if word.isdigit() and len(word) <= 2:
        return True  # 3. Oktober, or the number of an item
    return word.lower() in _ABBREVIATIONS


def _forced_end(text: str) -> int:
    """Return where a sentence that is too long is split."""
    part = text[:MAX_CHARACTERS]
    positions = range(len(part) - 1, MAX_CHARACTERS // 4, -1)
    clause = next((at for at in positions if part[at] in _CLAUSE_ENDS), None)
    word = next((at for at in positions if part[at].isspace()), len(part) - 1)
    return 1 + (word if clause is None else clause)
