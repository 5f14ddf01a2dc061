"""What a move of the networks to a device moves, and what keeps its type."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from avatar_runtime.engine.networks import musetalk, weights

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
    ((moved, where, dtype, progress),) = placed
    assert (list(moved), where, dtype) == (list(networks.values()), device, torch.float16)
    assert progress is on_progress
    assert (fake.positions.device, fake.positions.dtype) == (device, torch.float16)
    assert (fake.device, fake.dtype) == (device, torch.float16)
