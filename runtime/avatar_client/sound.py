"""Audio files as 16-bit mono samples, the format of the wire protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import av
import av.error
import numpy as np

from avatar_client import errors
from avatar_contracts import media_files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

BYTES_PER_SAMPLE: Final = 2
WIRE_RATES: Final = (24000, 16000)
"""Sample rates that the server supports; other rates are resampled to the first one."""


@dataclass(frozen=True, slots=True)
class Sound:
    """Mono audio."""

    pcm: bytes
    """Little-endian signed 16-bit samples."""
    rate: int
    """Samples per second."""

    @property
    def samples(self) -> int:
        """Return the number of samples."""
        return len(self.pcm) // BYTES_PER_SAMPLE

    @property
    def duration_s(self) -> float:
        """Return the duration in seconds."""
        return self.samples / self.rate

    def cut(self, duration_s: float) -> Sound:
        """Return the start of the audio, at most `duration_s` long."""
        return Sound(self.pcm[: int(duration_s * self.rate) * BYTES_PER_SAMPLE], self.rate)

    def chunks(self, chunk_ms: int) -> Sequence[bytes]:
        """Return the samples in chunks of `chunk_ms`; the last one may be shorter."""
        step = self.rate * chunk_ms // 1000 * BYTES_PER_SAMPLE
        return [self.pcm[start : start + step] for start in range(0, len(self.pcm), step)]


def read(path: Path) -> Sound:
    """Return the audio of a file; mono 16-bit WAV at a supported rate is returned unchanged.

    Raises:
        AudioFileError: the file is missing, broken, has no audio, or samples that are no numbers.
    """
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise errors.AudioFileError(str(path), "it has no sound")
            stream = container.streams.audio[0]
            rate = stream.rate if stream.rate in WIRE_RATES else WIRE_RATES[0]
            resampler = av.AudioResampler(format="s16", layout="mono", rate=rate)
            pcm = bytearray()
            for frame in container.decode(stream):
                _check_finite(path.name, frame)
                for piece in resampler.resample(frame):
                    pcm += bytes(piece.planes[0])[: piece.samples * BYTES_PER_SAMPLE]
            for piece in resampler.resample(None):
                pcm += bytes(piece.planes[0])[: piece.samples * BYTES_PER_SAMPLE]
    except (OSError, av.error.FFmpegError) as error:
        raise errors.AudioFileError(str(path), media_files.read_fault(error)) from error
    if not pcm:
        raise errors.AudioFileError(str(path), "it has no samples")
    return Sound(bytes(pcm), rate)


def _check_finite(name: str, frame: av.AudioFrame) -> None:
    """Check the samples of a file with floating-point samples."""
    if frame.format.name.startswith(("flt", "dbl")):
        finite = np.isfinite(frame.to_ndarray())
        if not finite.all():
            where = (frame.pts or 0) * frame.time_base if frame.time_base else 0
            raise errors.AudioFileError(
                name, f"samples are not finite numbers (NaN or infinity), near {float(where):.2f} s"
            )
