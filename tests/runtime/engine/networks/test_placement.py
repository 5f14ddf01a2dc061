"""What a move of the networks to a device moves, and what keeps its type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avatar_runtime.engine.networks import musetalk, vae, weights

if TYPE_CHECKING:
    import pytest


class Network:
    def __init__(self) -> None:
        self.calls: list[object] = []

    def eval(self) -> None:
        self.calls.append("eval")

    def to(self, *given: object) -> None:
        self.calls.append(given)


def test_the_log_mel_is_moved_and_keeps_its_type(monkeypatch: pytest.MonkeyPatch) -> None:
    placed: list[Any] = []
    monkeypatch.setattr(weights, "place", lambda *given: placed.append(given))
    networks, log_mel = {"unet": Network(), "vae": Network()}, Network()
    fake: Any = object.__new__(musetalk.MuseTalk)
    fake.networks = lambda: networks
    fake.log_mel = log_mel
    fake.positions = torch.zeros(2, 3)
    device = torch.device("meta")

    def on_progress(done: int, total: int) -> None:
        raise AssertionError((done, total))

    assert fake.to(device, torch.float16, on_progress) is fake
    assert log_mel.calls == [(device,)]
    assert all(network.calls == ["eval"] for network in networks.values())
    ((moved, where, dtype, progress, contiguous),) = placed
    assert (list(moved), where, dtype) == (list(networks.values()), device, torch.float16)
    assert progress is on_progress
    assert contiguous == []
    assert (fake.positions.device, fake.positions.dtype) == (device, torch.float16)
    assert (fake.device, fake.dtype) == (device, torch.float16)


def test_the_cpu_encodes_in_the_plain_layout(tiny: musetalk.MuseTalk) -> None:
    plain = vae.VAE(tiny.config.vae)
    plain.load_state_dict({k: t.contiguous() for k, t in tiny.vae.state_dict().items()})
    crops = np.random.default_rng(0).uniform(-1, 1, (2, 3, 128, 128)).astype(np.float32)
    with torch.inference_mode():
        expected = plain.eval().encode(torch.from_numpy(crops)).numpy()

    made = tiny.encode(crops.transpose(0, 2, 3, 1).copy().transpose(0, 3, 1, 2))

    assert np.array_equal(made, expected)
    decoder = tiny.vae.decoder.conv_in.weight
    assert decoder.is_contiguous(memory_format=torch.channels_last)
