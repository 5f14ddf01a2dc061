"""The audio that a client sends as binary messages: docs/wire-protocol.md, "Binary messages"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_contracts import binary_messages
from avatar_contracts.binary_messages import BinaryMessageError, Kind
from avatar_runtime.errors import ProtocolError, shown
from avatar_runtime.protocol import client_events
from avatar_runtime.protocol.document_fields import Count, Table

if TYPE_CHECKING:
    from avatar_contracts.binary_messages import Header

_KINDS: Final = (Kind.INPUT_AUDIO,)


class BinaryInput:
    """The numbers of the binary messages of one client."""

    STATE: Final[Table] = {"_seq": Count()}
    """What a session takes along to another pod."""

    def __init__(self) -> None:
        self._seq = 0

    def read(self, message: bytes, sent_samples: int) -> bytes:
        """Return the audio of a message.

        A number that was skipped is an error of the message after the gap; the next message
        continues from its number. A number that goes back is an error and changes nothing. So is
        a position other than the end of the audio before, since it says that audio was lost.

        Args:
            message: the header and the payload.
            sent_samples: the samples that the client has sent before, in either form.

        Raises:
            ProtocolError: the message is wrong or too large, and its audio is not taken.
        """
        if len(message) > client_events.MAX_MESSAGE_BYTES:
            raise client_events.too_large(len(message))
        try:
            header, payload = binary_messages.unpack(message, _KINDS, binary_messages.NO_FLAGS)
            self._check_constants(header)
            self._check_position(header, sent_samples)
        except BinaryMessageError as error:
            raise _invalid(error) from None
        self._seq = header.seq
        return payload

    def _check_constants(self, header: Header) -> None:
        constants = (
            ("epoch", header.epoch, 0),
            ("response_ref", header.response_ref, 0),
            ("frame_index", header.frame_index, binary_messages.NO_FRAME),
        )
        for field, value, expected in constants:
            if value != expected:
                must = f"must be {expected} in a message of a client"
                raise BinaryMessageError(field, value, expected, must)

    def _check_position(self, header: Header, sent_samples: int) -> None:
        if header.offset_samples != sent_samples:
            must = f"must be {sent_samples}, the samples that were sent before"
            raise BinaryMessageError("offset_samples", header.offset_samples, sent_samples, must)
        expected = self._seq + 1
        if header.seq != expected:
            self._seq = max(self._seq, header.seq)
            must = f"must be {expected}, one more than in the message before"
            raise BinaryMessageError("seq", header.seq, expected, must)


def _invalid(error: BinaryMessageError) -> ProtocolError:
    return ProtocolError(
        "invalid_binary_frame",
        str(error),
        param=error.field,
        value=shown(error.value),
        limit=error.limit,
    )
