"""Recognises a WAV file where a client should send samples alone."""

from __future__ import annotations

import struct
from typing import Final

_ENCODINGS: Final = {1: "PCM", 3: "float", 6: "A-law", 7: "mu-law", 0xFFFE: "extensible"}
_FORMAT: Final = struct.Struct("<HHIIHH")


def describe(audio: bytes) -> str | None:
    """Return what the header at the start of the audio says, or `None` if there is none."""
    if audio[:4] != b"RIFF" or audio[8:12] != b"WAVE":
        return None
    at = 12
    while at + 8 <= len(audio):
        size = int.from_bytes(audio[at + 4 : at + 8], "little")
        if audio[at : at + 4] == b"fmt " and at + 8 + _FORMAT.size <= len(audio):
            encoding, channels, rate, _, _, bits = _FORMAT.unpack_from(audio, at + 8)
            name = _ENCODINGS.get(encoding, f"encoding {encoding}")
            return f"{name}, {bits} bits, {rate} Hz, channels: {channels}"
        at += 8 + size + size % 2
    return "no format"
