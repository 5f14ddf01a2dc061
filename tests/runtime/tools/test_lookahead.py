"""The table of how far a session is from the whole clip."""

from __future__ import annotations

import wave
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime.tools import lookahead

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    """Return a quarter of a second of changing noise: shorter than the model hears at once."""
    loudness = np.abs(np.sin(np.linspace(0, 9, 3840))) * 9000
    noise = (np.random.default_rng(0).uniform(-1, 1, 3840) * loudness).astype("<i2")
    with wave.open(str(tmp_path / "speech.wav"), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(16_000)
        out.writeframes(noise.tobytes())
    return tmp_path / "speech.wav"


@pytest.mark.slow
def test_a_look_ahead_over_the_whole_clip_leaves_no_distance(
    assets: SimpleNamespace, speech: Path
) -> None:
    document = lookahead.run(assets.model, assets.avatars / "anna", speech, [0, 400])

    assert (document["frames"], document["context_s"]) == (6, 3.0)
    near, whole = document["rows"]
    assert (near["needs_ms"], whole["needs_ms"]) == (120, 520)
    # From 520 ms on every context is the clip itself, as the reference's is.
    assert whole["max_abs"] < 1e-3
    assert whole["cosine_min"] > 0.9999
    assert whole["mouth_psnr_db"] > 60
    assert near["max_abs"] > 10 * whole["max_abs"]
    assert near["mouth_psnr_db"] < whole["mouth_psnr_db"]


def test_the_table_has_a_row_for_every_setting() -> None:
    row = {"needs_ms": 120, "cosine_mean": 0.99, "cosine_min": 0.9, "max_abs": 1.0}
    rows = [{"lookahead_ms": ms, **row, "mouth_psnr_db": 40.0} for ms in (0, 40)]

    lines = lookahead.table({"rows": rows}).splitlines()

    assert len(lines) == 4
    assert lines[2] == "| 0 ms | 120 ms | 0.9900 | 0.9000 | 1.00 | 40.0 dB |"
