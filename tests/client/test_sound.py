from __future__ import annotations

import struct
import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_client import errors, sound

if TYPE_CHECKING:
    from pathlib import Path


def _write(path: Path, samples: np.ndarray, rate: int) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1 if samples.ndim == 1 else samples.shape[1])
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(samples.astype("<i2").tobytes())
    return path


@pytest.mark.parametrize("rate", [24000, 16000])
def test_wire_rates_come_back_bit_for_bit(tmp_path: Path, rate: int) -> None:
    samples = np.random.default_rng(7).integers(-32768, 32768, 30001)
    read = sound.read(_write(tmp_path / "a.wav", samples, rate))
    assert read == sound.Sound(samples.astype("<i2").tobytes(), rate)


def test_stereo_at_another_rate_is_mixed_and_resampled(tmp_path: Path) -> None:
    tone = (np.sin(np.arange(44100) * 0.05) * 8000).astype(int)
    read = sound.read(_write(tmp_path / "a.wav", np.stack([tone, tone], axis=1), 44100))
    assert read.rate == 24000
    assert read.duration_s == pytest.approx(1.0, abs=0.002)
    assert np.abs(np.frombuffer(read.pcm, "<i2")).max() > 7000


@pytest.mark.parametrize(
    "content", [b"", b"RIFF", b"not a sound at all" * 50], ids=["empty", "cut", "text"]
)
def test_an_error_names_the_broken_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "broken.wav"
    path.write_bytes(content)
    with pytest.raises(errors.AudioFileError, match=r"broken\.wav"):
        sound.read(path)


def test_a_file_without_samples_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(errors.AudioFileError):
        sound.read(_write(tmp_path / "a.wav", np.zeros(0), 24000))


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["<f4", "<f8"])
def test_samples_that_are_no_numbers_are_an_error(tmp_path: Path, kind: str, wrong: float) -> None:
    samples = np.full(48_000, 0.1, kind)
    samples[24_000] = wrong
    width, body = samples.itemsize, samples.tobytes()
    header = struct.pack("<HHIIHH", 3, 1, 24_000, 24_000 * width, width, 8 * width)
    chunks = b"fmt " + struct.pack("<I", 16) + header + b"data" + struct.pack("<I", len(body))
    path = tmp_path / "voice.wav"
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks) + len(body)) + b"WAVE")
    path.write_bytes(path.read_bytes() + chunks + body)
    with pytest.raises(errors.AudioFileError, match=r"voice\.wav.*NaN or infinity"):
        sound.read(path)


def test_chunks_and_cuts_keep_every_sample() -> None:
    whole = sound.Sound(bytes(range(250)) * 20, 24000)
    chunks = whole.chunks(40)
    assert b"".join(chunks) == whole.pcm
    assert [len(chunk) for chunk in chunks] == [1920, 1920, 1160]
    assert whole.cut(0.04).pcm == whole.pcm[:1920]
    assert whole.cut(9) == whole
