"""The demo that the repository carries: small, whole, and its parts made for each other."""

from __future__ import annotations

import json
import wave
from pathlib import Path

import numpy as np
import pytest

from avatar_runtime.avatars import cache
from avatar_runtime.engine.networks.musetalk import load
from avatar_training import pipeline

EXAMPLES = Path(__file__).parents[2] / "examples"
MODEL = EXAMPLES / "models" / "demo"
AVATARS = sorted(path for path in (EXAMPLES / "avatars").iterdir() if path.is_dir())


def test_the_model_is_at_most_eight_megabytes() -> None:
    assert sum(f.stat().st_size for f in MODEL.rglob("*") if f.is_file()) <= 8e6


def test_the_report_names_the_weights_that_are_shipped() -> None:
    report = json.loads((MODEL / "evaluation.json").read_text())
    assert report["sha256"] == pipeline.hashes(MODEL)


def test_the_weights_are_one_run_of_the_training_command_within_its_limit() -> None:
    report = json.loads((MODEL / "training.json").read_text())
    assert report["sha256"] == pipeline.hashes(MODEL)
    assert report["seed"] == 7
    assert report["command"]["wall_minutes"] <= 90
    for name, budget in (
        ("audio", pipeline.FULL.audio),
        ("vae", pipeline.FULL.vae),
        ("unet", pipeline.FULL.unet),
    ):
        assert report["stages"][name]["steps"] == budget.steps
        assert not report["stages"][name]["ended_by_time"]


def test_silence_closes_the_mouth() -> None:
    silence = json.loads((MODEL / "evaluation.json").read_text())["silence"]
    assert silence["after_ms"] <= 80
    assert silence["opening_share_max"] <= 0.05


def test_the_evaluation_includes_another_synthesizer_and_recordings() -> None:
    report = json.loads((MODEL / "evaluation.json").read_text())
    strangers = {entry["voice"]: entry for entry in report["strangers"]}
    assert len([name for name in strangers if name.startswith("flite")]) >= 4
    assert strangers["reading"]["seconds"] > 20
    for entry in strangers.values():
        assert entry["opening_correlation"] > 0.7, entry
        assert abs(entry["lag_frames"]) <= 1, entry


def test_the_evaluation_passed_with_voices_that_are_not_in_the_training() -> None:
    report = json.loads((MODEL / "evaluation.json").read_text())
    assert len(report["voices"]) >= 4
    for voice in report["voices"]:
        assert voice["seconds"] >= 60
        assert voice["opening_correlation"] >= 0.8, voice
        assert abs(voice["lag_frames"]) <= 1, voice
    assert abs(report["shuffled_control"]["opening_correlation"]) < 0.3


@pytest.mark.slow
def test_at_least_two_avatars_belong_to_the_model() -> None:
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
