"""A card that is not there: its memory, its time, its pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime import errors
from avatar_runtime.batching.windows import AudioWindow
from avatar_runtime.engine import model, pictures, simulated

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import SimpleNamespace

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import FrameRequest

_PROFILE = json.dumps(
    {
        "gpuClass": "toy",
        "memoryMiB": 10_000,
        "curve": {
            "model": "v15/sd-vae/fp16",
            "baseMiB": 4000,
            "perFrameMiB": 1000,
            "frameBatchMs": [[1, 20], [4, 50]],
        },
    }
)
_MIB = 1 << 20


class _Time:
    """A clock that only sleeping moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def read(self) -> float:
        return self.now


@pytest.fixture
def window() -> AudioWindow:
    return AudioWindow(0, 0, np.zeros(1920, np.float32).data.toreadonly(), -4, 6, silent=True)


@pytest.fixture
def clock() -> _Time:
    return _Time()


@pytest.fixture
def card(assets: SimpleNamespace, anna: cache.Avatar, clock: _Time) -> simulated.SimulatedDevice:
    toy = simulated.load_card("toy", _PROFILE)
    opened = simulated.SimulatedDevice(toy, sleep=clock.sleep, clock=clock.read)
    opened.load(assets.model)
    opened.serve({"anna": anna})
    return opened


def test_it_takes_the_time_of_its_profile(
    card: simulated.SimulatedDevice,
    clock: _Time,
    window: AudioWindow,
    request_of: Callable[..., FrameRequest],
) -> None:
    rendered = card.render([request_of(window)] * 3)

    assert clock.now == pytest.approx(0.040)
    assert sum(rendered.stages.values()) == pytest.approx(0.040)


def test_memory_grows_with_the_batch_and_a_full_card_refuses(
    card: simulated.SimulatedDevice, window: AudioWindow, request_of: Callable[..., FrameRequest]
) -> None:
    assert card.memory().used_bytes == 4000 * _MIB
    card.render([request_of(window)] * 6)
    assert card.memory().used_bytes == card.memory().total_bytes == 10_000 * _MIB

    with pytest.raises(errors.DeviceMemoryError):
        card.render([request_of(window)] * 7)


def test_it_shows_the_source_frames(
    card: simulated.SimulatedDevice,
    anna: cache.Avatar,
    window: AudioWindow,
    request_of: Callable[..., FrameRequest],
) -> None:
    rendered = card.render([request_of(window, source_frame=7), request_of(window)])

    expected = [pictures.encode_jpeg(anna.picture(i), 192, 192, 90) for i in (4, 0)]
    assert [frame.jpeg for frame in rendered.frames] == expected


def test_it_asks_avatars_for_the_same_model_as_a_real_device(
    assets: SimpleNamespace, tiny: model.MuseTalk
) -> None:
    info = simulated.SimulatedDevice(simulated.load_card("toy", _PROFILE)).load(assets.model)

    assert (info.version, info.vae_hash, info.context_s) == ("v15", tiny.vae_hash, 3)


@pytest.mark.parametrize(
    ("gpu_class", "fits", "does_not"), [("rtx-4090", 48, 64), ("h100-80gb", 64, 300)]
)
def test_shipped_profiles_are_cards(gpu_class: str, fits: int, does_not: int) -> None:
    card = simulated.load_card(gpu_class, None)

    needs = [card.curve.base_mib + card.curve.per_frame_mib * b for b in (fits, does_not)]
    assert needs[0] <= card.memory_mib < needs[1]
