"""The audio formats of a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True)
class AudioFormat:
    """One audio format: docs/wire-protocol.md, "Audio formats"."""

    kind: str
    """MIME type: `audio/pcm`, `audio/pcmu` or `audio/pcma`."""
    rate: int
    """Samples per second."""
    bytes_per_sample: int
    silence: bytes
    """One sample of silence."""

    def samples_per_frame(self, fps: int) -> int:
        """Return the samples of one video frame; `fps` must divide the rate."""
        return self.rate // fps

    def describe(self) -> dict[str, object]:
        """Return the format object of the wire protocol."""
        if self.kind == "audio/pcm":
            return {"type": self.kind, "rate": self.rate}
        return {"type": self.kind}


PCM_24K: Final = AudioFormat("audio/pcm", 24000, 2, b"\0\0")
PCM_16K: Final = AudioFormat("audio/pcm", 16000, 2, b"\0\0")
MU_LAW: Final = AudioFormat("audio/pcmu", 8000, 1, b"\xff")
A_LAW: Final = AudioFormat("audio/pcma", 8000, 1, b"\xd5")
FORMATS: Final = (PCM_24K, PCM_16K, MU_LAW, A_LAW)
