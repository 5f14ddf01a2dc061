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
    """Draws the binary messages of one client, whose numbers and positions follow each other."""

    def __init__(self, random: Random, sound: Callable[[int], bytes], wrongness: float) -> None:
        self._random = random
        self._sound = sound
        self._wrongness = wrongness
        self._seq = 0
        self._samples = 0

    def draw(self) -> bytes:
        """Return the next message, which may be wrong."""
        random = self._random
        audio = self._sound(random.choice(_SIZES))
        self._seq += 1
        message = Header(Kind.INPUT_AUDIO, self._seq, self._samples).pack(audio)
        self._samples += len(audio) // 2
        if random.random() >= self._wrongness:
            return message
        at = random.randrange(24)  # a position that is far too high would end all that follow
        return random.choice(
            (
                message[:at],
                message[:at] + random.randbytes(1) + message[at + 1 :],
                message + b"\0",
                Header(Kind.INPUT_AUDIO, random.choice(_MEDIA), self._samples).pack(audio),
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
