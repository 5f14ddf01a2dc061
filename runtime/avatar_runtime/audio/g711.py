"""G.711 from and to 16-bit PCM, by table (ITU-T G.711, tables 1a and 2a)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray


def decode_ulaw(data: bytes) -> bytes:
    """Return little-endian PCM16 of mu-law bytes, one sample per byte."""
    return _ULAW[np.frombuffer(data, np.uint8)].tobytes()


def decode_alaw(data: bytes) -> bytes:
    """Return little-endian PCM16 of A-law bytes, one sample per byte."""
    return _ALAW[np.frombuffer(data, np.uint8)].tobytes()


def encode_ulaw(samples: NDArray[np.int16]) -> bytes:
    """Return the mu-law byte nearest to each PCM16 sample."""
    return _encode(samples, _ULAW)


def encode_alaw(samples: NDArray[np.int16]) -> bytes:
    """Return the A-law byte nearest to each PCM16 sample."""
    return _encode(samples, _ALAW)


def _encode(samples: NDArray[np.int16], table: NDArray[np.int16]) -> bytes:
    codes = np.argsort(table, kind="stable")
    levels = table[codes].astype(np.int32)
    middles = (levels[1:] + levels[:-1]) / 2
    return codes[np.searchsorted(middles, samples)].astype(np.uint8).tobytes()


def _ulaw_table() -> NDArray[np.int16]:
    code = ~np.arange(256, dtype=np.int32) & 0xFF
    magnitude = (((code & 0x0F) << 3) + 132 << (code >> 4 & 7)) - 132
    return np.where(code & 0x80, -magnitude, magnitude).astype("<i2")


def _alaw_table() -> NDArray[np.int16]:
    code = np.arange(256, dtype=np.int32) ^ 0x55
    segment, step = code >> 4 & 7, (code & 0x0F) << 4
    magnitude = np.where(segment == 0, step + 8, step + 264 << np.maximum(segment - 1, 0))
    return np.where(code & 0x80, magnitude, -magnitude).astype("<i2")


_ULAW: Final = _ulaw_table()
_ALAW: Final = _alaw_table()
