"""Messages of a session in its document: those that wait, and those that a client may lack."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from avatar_runtime.protocol import document_fields
from avatar_runtime.protocol.document_fields import Count, Data, Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from avatar_runtime.protocol.strict_fields import StrictFields

_MAX_MESSAGES: Final = 65_536


@dataclass(frozen=True, slots=True)
class Messages:
    """A list of numbered messages, each a text or bytes."""

    most: int
    """Size of all of them, in characters or bytes."""

    def export(self, messages: Iterable[tuple[int, str | bytes]]) -> list[dict[str, object]]:
        """Return the messages as JSON has them."""
        return [
            {"seq": seq, "text": message}
            if isinstance(message, str)
            else {"seq": seq, "data": Data().export(message, 0.0)}
            for seq, message in messages
        ]

    def read(
        self, fields: StrictFields, name: str, last_seq: int
    ) -> Iterator[tuple[int, str | bytes]]:
        """Yield the messages, whose numbers rise up to `last_seq`.

        Raises:
            ProtocolError: a field is missing or wrong.
        """
        left, before = self.most, 0
        for found in fields.objects(name, _MAX_MESSAGES):
            seq = Count(before + 1, last_seq).read(found, "seq", 0.0)
            message = (
                bytes(Data(left).read(found, "data", 0.0))
                if "data" in found
                else Text(left).read(found, "text", 0.0)
            )
            document_fields.check(len(message) <= left, fields, name, f"at most {self.most} bytes")
            left, before = left - len(message), seq
            yield seq, message
