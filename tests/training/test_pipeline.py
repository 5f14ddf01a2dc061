"""The whole training, a few steps of everything."""

from __future__ import annotations

import ctypes
import json
from typing import TYPE_CHECKING

import pytest
import torch

from avatar_runtime.avatars import cache
from avatar_runtime.engine.networks.musetalk import load
from avatar_training import pipeline, products
from avatar_training.networks import Sizes

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def _has_espeak() -> bool:
    try:
        ctypes.CDLL("libespeak-ng.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    # Two threads that wait for each other on shared cores can take a hundred times as long.
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_the_stages_share_the_minutes_and_two_run_in_parallel() -> None:
    plan = pipeline.FULL.within(50)
    assert plan.audio.seconds == plan.vae.seconds
    assert plan.vae.seconds + plan.unet.seconds == pytest.approx(50 * 60)
    assert plan.unet.seconds > 10 * 60
    assert plan.audio.steps == pipeline.FULL.audio.steps


@pytest.mark.slow
@pytest.mark.skipif(not _has_espeak(), reason="libespeak-ng1 is not installed")
def test_a_smoke_training_improves_every_loss_and_the_runtime_loads_it(tmp_path: Path) -> None:
    sizes = Sizes(crop=64)
    report = pipeline.train(tmp_path, pipeline.SMOKE, sizes, seed=3)
    for name, stage in report["stages"].items():
        assert stage["last"]["loss"] < 0.9 * stage["first"]["loss"], name
    assert report["audio_opening_correlation"] > 0.4
    assert json.loads((tmp_path / "report.json").read_text())["seed"] == 3
    assert "| vae |" in (tmp_path / "report.md").read_text()

    model = load(tmp_path / "model")
    assert model.crop_size == 64
    products.write_avatars(tmp_path / "avatars", model, names=["mira"])
    avatar = cache.read(tmp_path / "avatars" / "mira")
    assert avatar.manifest.vae_hash == model.vae_hash
    assert avatar.latents.shape[1:] == (8, 8, 8)
    # Around the mouth the mask lets nothing of the face's upper half through.
    mask = avatar.mask(0)
    assert mask[: len(mask) // 3].max() == 0
    assert mask[len(mask) * 3 // 4, mask.shape[1] // 2] == 255
    assert max(mask[:, 0].max(), mask[:, -1].max(), mask[-1].max()) < 60

    again = pipeline.train(tmp_path, pipeline.SMOKE, sizes, seed=3)
    assert again["sha256"] == report["sha256"]
