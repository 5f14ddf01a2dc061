"""Binary messages of both sides: those of a client at random, those of a session as events."""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Final

from avatar_client.binary_media import BinaryMediaReader
from avatar_contracts.binary_messages import BinaryMessageError, Header, Kind, unpack

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random

_SIZES: Final = (0, 1, 320, 961, 1920, 1920, 1920, 4800, 9600)
_MEDIA: Final = (2**31, 2**32 - 1)


class Microphone:
    """Draws the binary messages of one client, whose numbers and positions follow each other.

    What the session has taken of a wrong message, it says in the error of the next one.
    """

    def __init__(
        self,
        random: Random,
        sound: Callable[[int], bytes],
        wrongness: float,
        expected: dict[str, int],
    ) -> None:
        """`expected` has what the session last said that the next message must have."""
        self._random = random
        self._expected = expected
        self._sound = sound
        self._wrongness = wrongness
        self._seq = 0
        self._bytes = 0

    def skip(self, size: int) -> None:
        """Take notice of audio that is sent as an event, in bytes."""
        self._bytes += size

    def draw(self) -> bytes:
        """Return the next message, which may be wrong."""
        random = self._random
        audio = self._sound(random.choice(_SIZES))
        self._seq = self._expected.pop("seq", self._seq + 1)
        if "offset_samples" in self._expected:
            self._bytes = 2 * self._expected.pop("offset_samples")
        samples = self._bytes // 2
        message = Header(Kind.INPUT_AUDIO, self._seq, samples).pack(audio)
        if random.random() >= self._wrongness:
            self._bytes += len(audio)
            return message
        self._seq -= 1
        at = random.randrange(32)
        return random.choice(
            (
                message[:at],
                message[:at] + random.randbytes(1) + message[at + 1 :],
                message + b"\0",
                Header(Kind.INPUT_AUDIO, random.choice(_MEDIA), samples).pack(audio),
                Header(Kind.INPUT_AUDIO, self._seq + 1, random.choice(_MEDIA)).pack(audio),
                random.randbytes(100),
            )
        )


def audio(message: bytes) -> bytes | None:
    """Return the audio of a message of a client, or `None` if it is not one."""
    try:
        header, payload = unpack(message)
    except BinaryMessageError:
        return None
    return payload if header.kind is Kind.INPUT_AUDIO else None


class EventTexts:
    """The texts of the events of a session, also of those that it sends as binary messages."""

    def __init__(self) -> None:
        self._reader = BinaryMediaReader()

    def read(self, message: str | bytes) -> str:
        """Return the text of a message."""
        if isinstance(message, str):
            self._reader.observe(json.loads(message))
            return message
        event = self._reader.read(message)
        delta = base64.b64encode(event.pop("data")).decode()
        event_id = f"event_0f_{event.get('seq', 'i1')}"
        return json.dumps({**event, "event_id": event_id, "delta": delta}, separators=(",", ":"))
