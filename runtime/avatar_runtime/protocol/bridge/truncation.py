"""How much of each item of the upstream the client has got, and where items were truncated."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.errors import ProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from avatar_runtime.protocol.answer_audio import Part

_MAX_ITEMS: Final = 256


@dataclass(slots=True)
class _Spoken:
    sent_ms: int
    truncated_ms: int | None = None


class SpokenItems:
    """The items with audio whose answer has ended."""

    def __init__(self) -> None:
        self._items: OrderedDict[str, _Spoken] = OrderedDict()
        self._awaited: dict[str, int] = {}

    def add(self, durations: Mapping[Part, int]) -> None:
        """Add the items of an answer that has ended, with the audio that was sent."""
        for part, sent_ms in durations.items():
            self._items[part.item_id] = _Spoken(sent_ms)
            if len(self._items) > _MAX_ITEMS:
                self._items.popitem(last=False)

    def knows(self, item_id: str) -> bool:
        """Return whether an item is known."""
        return item_id in self._items

    def truncate(self, item_id: str, audio_end_ms: int) -> bool:
        """Record the end of an item, and return whether the upstream must be told.

        It has been told already if the item ends there or earlier.
        """
        item = self._items.setdefault(item_id, _Spoken(audio_end_ms))
        if item.truncated_ms is not None and item.truncated_ms <= audio_end_ms:
            return False
        item.truncated_ms = audio_end_ms
        self._awaited[item_id] = self._awaited.get(item_id, 0) + 1
        if len(self._awaited) > _MAX_ITEMS:
            del self._awaited[next(iter(self._awaited))]
        return True

    def check(self, item_id: str, audio_end_ms: int) -> None:
        """Check that a known item can end at `audio_end_ms`.

        Raises:
            ProtocolError: less audio was sent.
        """
        check_end(audio_end_ms, self._items[item_id].sent_ms)

    def is_awaited(self, item_id: str) -> bool:
        """Count the answer of the upstream to a truncation, and return whether one was expected."""
        count = self._awaited.pop(item_id, 0)
        if count > 1:
            self._awaited[item_id] = count - 1
        return count > 0

    def disconnect(self) -> None:
        """Expect no more answers: the connection is lost."""
        self._awaited.clear()


def check_end(audio_end_ms: int, sent_ms: int) -> None:
    """Check that audio of `sent_ms` can end at `audio_end_ms`.

    Raises:
        ProtocolError: it is shorter.
    """
    if audio_end_ms > sent_ms:
        raise ProtocolError(
            "audio_end_out_of_range",
            f"audio_end_ms is {audio_end_ms}; {sent_ms} ms were sent",
            param="audio_end_ms",
            value=audio_end_ms,
            limit=sent_ms,
        )
