"""The audio that a client sends as binary messages: docs/wire-protocol.md, "Binary messages"."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from avatar_contracts import binary_messages
from avatar_contracts.binary_messages import BinaryMessageError, Kind
from avatar_runtime.errors import ProtocolError
from avatar_runtime.protocol import client_events
from avatar_runtime.protocol.document_fields import Count, Table

if TYPE_CHECKING:
    from avatar_contracts.binary_messages import Header
    from avatar_runtime.protocol.audio_formats import AudioFormat


class BinaryInput:
    """The numbers and positions of the binary messages of one client."""

    STATE: Final[Table] = {"_seq": Count(), "_samples": Count()}
    """What a session takes along to another pod."""

    def __init__(self) -> None:
        self._seq = 0
        self._samples = 0

    def read(self, message: bytes, audio: AudioFormat) -> client_events.AppendAudio:
        """Return the audio of a message.

        A number that was skipped is an error of the message after the gap; the next message
        continues from its number. A number or a position that goes back is an error and changes
        nothing.

        Raises:
            ProtocolError: the message is wrong or too large, and its audio is not taken.
        """
        if len(message) > client_events.MAX_MESSAGE_BYTES:
            raise client_events.too_large(len(message))
        try:
            header, payload = binary_messages.unpack(message)
            self._check_constants(header)
            self._check_position(header)
        except BinaryMessageError as error:
            raise _invalid(error) from None
        samples = len(payload) // audio.bytes_per_sample
        self._seq, self._samples = header.seq, header.offset_samples + samples
        client_events.check_audio_size(len(payload))
        return client_events.AppendAudio(payload)

    def _check_constants(self, header: Header) -> None:
        constants = (
            ("kind", header.kind, Kind.INPUT_AUDIO),
            ("flags", header.flags, 0),
            ("epoch", header.epoch, 0),
            ("response_ref", header.response_ref, 0),
            ("frame_index", header.frame_index, binary_messages.NO_FRAME),
        )
        for field, value, expected in constants:
            if value != expected:
                must = f"must be {int(expected)} in a message of a client"
                raise BinaryMessageError(field, int(value), int(expected), must)

    def _check_position(self, header: Header) -> None:
        if header.offset_samples < self._samples:
            must = f"must be at least {self._samples}, the end of the audio before"
            raise BinaryMessageError("offset_samples", header.offset_samples, self._samples, must)
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
        value=error.value,
        limit=error.limit,
    )
