"""The demo that the repository carries: small, whole, and its parts made for each other."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from avatar_runtime.avatars import cache
from avatar_runtime.engine.model import load
from avatar_training import pipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "models" / "demo"
AVATARS = sorted(path for path in (EXAMPLES / "avatars").iterdir() if path.is_dir())


def test_the_model_is_at_most_eight_megabytes() -> None:
    assert sum(f.stat().st_size for f in MODEL.rglob("*") if f.is_file()) <= 8e6


def test_the_report_names_the_weights_that_are_shipped() -> None:
    report = json.loads((MODEL / "evaluation.json").read_text())
    assert report["sha256"] == pipeline.hashes(MODEL)


def test_the_evaluation_passed_on_voices_that_were_in_no_training() -> None:
    report = json.loads((MODEL / "evaluation.json").read_text())
    assert len(report["voices"]) >= 4
    for voice in report["voices"]:
        assert voice["seconds"] >= 60
        assert voice["opening_correlation"] >= 0.8, voice
        assert abs(voice["lag_frames"]) <= 1, voice
    assert abs(report["shuffled_control"]["opening_correlation"]) < 0.3


@pytest.mark.slow
def test_two_avatars_or_more_belong_to_the_model() -> None:
    assert len(AVATARS) >= 2
    model = load(MODEL)
    for folder in AVATARS:
        avatar = cache.read(folder)
        cache.check_model(avatar, folder, model_version=model.version, vae_hash=model.vae_hash)
        assert avatar.manifest.crop_size == model.crop_size


def test_the_greeting_is_24_khz_mono_pcm16_and_not_clipped() -> None:
    with wave.open(str(EXAMPLES / "speech.wav")) as sound:
        assert (sound.getframerate(), sound.getnchannels(), sound.getsampwidth()) == (24000, 1, 2)
        samples = np.frombuffer(sound.readframes(sound.getnframes()), "<i2")
    assert 5 <= len(samples) / 24000 <= 9
    assert 8000 < np.abs(samples).max() < 32767
