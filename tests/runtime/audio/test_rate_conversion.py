"""16-bit PCM between sample rates."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_runtime.audio.rate_conversion import PcmRateConverter


def tone(rate: int, seconds: float = 1.0) -> bytes:
    times = np.arange(int(rate * seconds)) / rate
    return (np.sin(2 * np.pi * 440 * times) * 16000).astype("<i2").tobytes()


@pytest.mark.parametrize(
    ("rate", "to_rate"), [(16000, 24000), (24000, 16000), (8000, 24000), (24000, 8000)]
)
@pytest.mark.parametrize("chunk", [2, 74, 960, 100_000])
def test_a_tone_stays_the_same_tone(rate: int, to_rate: int, chunk: int) -> None:
    converter, audio = PcmRateConverter(rate, to_rate), tone(rate, 0.1 if chunk == 2 else 1.0)
    parts = [converter.convert(audio[at : at + chunk]) for at in range(0, len(audio), chunk)]
    converted = b"".join([*parts, converter.finish()])
    expected = np.frombuffer(tone(to_rate, 0.1 if chunk == 2 else 1.0), "<i2").astype(float)
    got = np.frombuffer(converted, "<i2").astype(float)
    assert len(got) == len(expected)
    edge = to_rate // 100  # the filter sees silence before the start and after the end
    error = np.abs(got - expected)[edge:-edge]
    assert error.max() < 16000 * 0.005


def test_loud_audio_is_clipped_and_does_not_wrap() -> None:
    loud = np.tile(np.array([32767] * 40 + [-32768] * 40, "<i2"), 20).tobytes()
    got = np.frombuffer(PcmRateConverter(24000, 16000).convert(loud), "<i2")
    assert got.max() == 32767
    assert got.min() == -32768
