"""The audio formats of a session, and the way from each of them to 16-bit samples."""

from __future__ import annotations

from array import array
from dataclasses import dataclass
from sys import byteorder
from typing import Final


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One format of wire protocol §6."""

    kind: str
    """MIME type: `audio/pcm`, `audio/pcmu` or `audio/pcma`."""
    rate: int
    """Samples a second."""
    bytes_per_sample: int

    def samples_per_frame(self, fps: int) -> int:
        """Return the samples that one video frame covers; a whole number for served rates."""
        return self.rate // fps

    def to_pcm16(self, data: bytes) -> bytes:
        """Return `data` as 16-bit little-endian samples at the same rate."""
        table = _TABLES.get(self.kind)
        if table is None:
            return data
        samples = array("h", [table[code] for code in data])
        if byteorder == "big":
            samples.byteswap()
        return samples.tobytes()

    def describe(self) -> dict[str, object]:
        """Return the format as the session object shows it."""
        if self.kind == "audio/pcm":
            return {"type": self.kind, "rate": self.rate}
        return {"type": self.kind}


def _mu_law(code: int) -> int:
    """Decode one byte of G.711 mu-law (ITU-T G.711, table 2a) to 16 bits."""
    code = ~code & 0xFF
    magnitude = (((code & 0x0F) << 3) + 0x84) << ((code & 0x70) >> 4)
    return 0x84 - magnitude if code & 0x80 else magnitude - 0x84


def _a_law(code: int) -> int:
    """Decode one byte of G.711 A-law (ITU-T G.711, table 1a) to 16 bits."""
    code ^= 0x55
    segment = (code & 0x70) >> 4
    magnitude = ((code & 0x0F) << 4) + 8
    if segment:
        magnitude = (magnitude + 0x100) << (segment - 1)
    return magnitude if code & 0x80 else -magnitude


PCM_24K: Final = AudioFormat("audio/pcm", 24000, 2)
PCM_16K: Final = AudioFormat("audio/pcm", 16000, 2)
MU_LAW: Final = AudioFormat("audio/pcmu", 8000, 1)
A_LAW: Final = AudioFormat("audio/pcma", 8000, 1)
FORMATS: Final = (PCM_24K, PCM_16K, MU_LAW, A_LAW)

_TABLES: Final = {
    MU_LAW.kind: tuple(_mu_law(code) for code in range(256)),
    A_LAW.kind: tuple(_a_law(code) for code in range(256)),
}
