"""The Silero model hears speech, and the pieces of the audio do not matter."""

from __future__ import annotations

import wave
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime.audio import voice_activity
from avatar_runtime.errors import AssetError
from avatar_runtime.protocol.audio_formats import A_LAW, FORMATS, MU_LAW, PCM_24K, AudioFormat

EXAMPLE = Path(__file__).parents[3] / "examples" / "speech.wav"


def recording() -> bytes:
    """Return one second of the example, 24 kHz."""
    with wave.open(str(EXAMPLE)) as file:
        return bytes(file.readframes(24_000))


def rates(audio: AudioFormat, pieces: list[bytes]) -> list[float]:
    detector = voice_activity.SileroDetector(audio)
    return [rate for piece in pieces for rate in detector.append(piece)]


def test_speech_is_heard() -> None:
    found = rates(PCM_24K, [recording()])
    assert len(found) == 30  # the last window waits for the filter
    assert np.mean(np.array(found) > 0.5) > 0.7


@pytest.mark.parametrize("audio", FORMATS, ids=lambda audio: f"{audio.kind} {audio.rate}")
def test_silence_is_no_speech_in_any_format(audio: AudioFormat) -> None:
    assert max(rates(audio, [audio.silence * audio.rate])) < 0.2


@pytest.mark.parametrize("audio", [MU_LAW, A_LAW], ids=["mu-law", "A-law"])
def test_loud_noise_is_no_speech(audio: AudioFormat) -> None:
    noise = np.random.default_rng(1).integers(0, 256, 2 * audio.rate, np.uint8).tobytes()
    assert np.median(rates(audio, [noise])) < 0.5


@pytest.mark.slow
@given(cuts=st.lists(st.integers(0, 24_000), max_size=30))
@settings(max_examples=25)
def test_the_pieces_do_not_change_a_bit(cuts: list[int]) -> None:
    audio = recording()
    edges = [0, *sorted(2 * cut for cut in cuts), len(audio)]
    pieces = [audio[begin:end] for begin, end in pairwise(edges)]
    assert rates(PCM_24K, pieces) == rates(PCM_24K, [audio])


def test_a_missing_model_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(voice_activity, "find_spec", lambda _: None)
    with pytest.raises(AssetError, match="silero-vad: the package has no"):
        voice_activity.load.__wrapped__()
