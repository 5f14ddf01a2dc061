"""A gpu that is not there: its memory, its time, its pictures."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime import errors
from avatar_runtime.batching.frames import AudioWindow
from avatar_runtime.engine.device import Curve
from avatar_runtime.engine.devices import simulated
from avatar_runtime.engine.rendering import blend_host

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace

    from avatar_runtime.avatars import cache
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.networks import musetalk

_PROFILE = json.dumps(
    {
        "gpuClass": "toy",
        "memoryMiB": 10_000,
        "curve": {
            "model": "v15/sd-vae/fp16",
            "baseMiB": 4000,
            "perFrameMiB": 1000,
            "frameBatchMs": [[1, 20], [4, 50], [8, 90]],
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
def gpu(assets: SimpleNamespace, anna: cache.Avatar, clock: _Time) -> simulated.SimulatedDevice:
    toy = simulated.load_gpu_spec("toy", _PROFILE)
    opened = simulated.SimulatedDevice(toy, sleep=clock.sleep, clock=clock.read)
    opened.load(assets.model)
    opened.serve({"anna": anna})
    return opened


def test_it_takes_the_time_of_its_profile(
    gpu: simulated.SimulatedDevice,
    clock: _Time,
    window: AudioWindow,
    request_of: Callable[..., FrameRequest],
) -> None:
    rendered = gpu.render([request_of(window)] * 3)  # as long as the four of its bucket

    assert clock.now == pytest.approx(0.050)
    assert sum(rendered.stages.values()) == pytest.approx(0.050)


def test_a_batch_waits_for_the_previous_one_and_not_for_its_images(
    gpu: simulated.SimulatedDevice,
    clock: _Time,
    window: AudioWindow,
    request_of: Callable[..., FrameRequest],
) -> None:
    first, second = (gpu.launch([request_of(window)] * 4) for _ in range(2))
    moments = []
    for step in (first.wait_forward, first.finish, second.wait_forward, second.finish):
        step()
        moments.append(1000 * clock.now)

    assert moments == pytest.approx([49, 50, 98.5, 99.5])


class _Neighbour:
    """Another process on the gpu."""

    def __init__(self) -> None:
        self.mib = 0
        self.failing_points: set[str] = set()

    def used_mib(self) -> int:
        return self.mib

    def fails(self, point: simulated.Point) -> bool:
        return point in self.failing_points


def test_memory_grows_with_the_batch_and_is_cached_until_release(
    gpu: simulated.SimulatedDevice, window: AudioWindow, request_of: Callable[..., FrameRequest]
) -> None:
    used = [gpu.memory().used_bytes]
    for frames in (4, 1):
        gpu.render([request_of(window)] * frames)
        used.append(gpu.memory().used_bytes)
    gpu.release()
    used.append(gpu.memory().used_bytes)

    assert used == [4000 * _MIB, 8000 * _MIB, 8000 * _MIB, 4000 * _MIB]
    assert gpu.memory().total_bytes == 10_000 * _MIB


def test_a_full_gpu_runs_out_of_memory_and_keeps_its_memory(
    gpu: simulated.SimulatedDevice, window: AudioWindow, request_of: Callable[..., FrameRequest]
) -> None:
    with pytest.raises(errors.DeviceMemoryError):
        gpu.render([request_of(window)] * 5)  # eight would take 12,000 MiB

    assert gpu.memory().used_bytes == 4000 * _MIB
    assert len(gpu.render([request_of(window)] * 4).frames) == 4


def test_a_neighbour_takes_memory_and_gives_it_back(
    assets: SimpleNamespace,
    anna: cache.Avatar,
    clock: _Time,
    window: AudioWindow,
    request_of: Callable[..., FrameRequest],
) -> None:
    neighbour = _Neighbour()
    toy = simulated.load_gpu_spec("toy", _PROFILE)
    shared = simulated.SimulatedDevice(
        toy, neighbour=neighbour, sleep=clock.sleep, clock=clock.read
    )
    shared.load(assets.model)
    shared.serve({"anna": anna})
    neighbour.mib = 5500
    assert shared.memory().used_bytes == 9500 * _MIB
    with pytest.raises(errors.DeviceMemoryError):
        shared.render([request_of(window)])

    neighbour.mib = 0
    assert len(shared.render([request_of(window)]).frames) == 1


@pytest.mark.parametrize("point", ["load", "serve", "step", "finish"])
def test_memory_can_run_out_wherever_it_is_allocated(
    assets: SimpleNamespace,
    anna: cache.Avatar,
    window: AudioWindow,
    request_of: Callable[..., FrameRequest],
    point: str,
) -> None:
    neighbour = _Neighbour()
    neighbour.failing_points = {point}
    shared = simulated.SimulatedDevice(
        simulated.load_gpu_spec("toy", _PROFILE), neighbour=neighbour
    )
    steps: dict[str, Callable[[], object]] = {
        "load": lambda: shared.load(assets.model),
        "serve": lambda: shared.serve({"anna": anna}),
        "step": lambda: shared.launch([request_of(window)]),
        "finish": lambda: shared.launch([request_of(window)]).finish(),
    }
    for step, work in steps.items():
        if step == point:
            with pytest.raises(errors.DeviceMemoryError):
                work()
            return
        work()


def test_it_shows_the_source_frames(
    gpu: simulated.SimulatedDevice,
    anna: cache.Avatar,
    window: AudioWindow,
    request_of: Callable[..., FrameRequest],
) -> None:
    rendered = gpu.render([request_of(window, source_frame=7), request_of(window)])

    expected = [blend_host.encode_jpeg(anna.frame(i), 192, 192, 90) for i in (4, 0)]
    assert [frame.image for frame in rendered.frames] == expected


def test_it_states_the_curve_of_its_profile(gpu: simulated.SimulatedDevice) -> None:
    points = ((1, 20.0), (4, 50.0), (8, 90.0))

    assert gpu.curve() == Curve("v15/sd-vae/fp16", 4000, 1000, points)
    assert gpu.buckets(8) == ()  # nothing to warm up


@pytest.mark.parametrize("profile", ["{", "[]", "{}", '{"curve": 1}', '{"curve": {"model": "a"}}'])
def test_a_wrong_profile_is_a_settings_error(profile: str) -> None:
    with pytest.raises(errors.SettingsError, match="a profile with gpuClass, memoryMiB and curve"):
        simulated.load_gpu_spec("toy", profile)


def test_it_requires_the_same_model_of_avatars_as_a_real_device(
    assets: SimpleNamespace, tiny: musetalk.MuseTalk
) -> None:
    info = simulated.SimulatedDevice(simulated.load_gpu_spec("toy", _PROFILE)).load(assets.model)

    assert (info.version, info.vae_hash, info.context_s) == ("v15", tiny.vae_hash, 3)


@pytest.mark.parametrize(
    ("gpu_class", "fits", "does_not"), [("rtx-4090", 48, 64), ("h100-80gb", 64, 300)]
)
def test_shipped_profiles_describe_gpus(gpu_class: str, fits: int, does_not: int) -> None:
    gpu = simulated.load_gpu_spec(gpu_class, None)

    needs = [gpu.curve.base_mib + gpu.curve.per_frame_mib * b for b in (fits, does_not)]
    assert needs[0] <= gpu.memory_mib < needs[1]


def test_a_neighbour_uses_the_memory_in_its_file(tmp_path: Path) -> None:
    file = tmp_path / "mib"
    neighbour = simulated.NeighbourFile(file)
    gpu = simulated.SimulatedDevice(simulated.load_gpu_spec("toy", _PROFILE), neighbour=neighbour)
    assert gpu.memory().used_bytes == 0
    for text, mib in (("4000\n", 4000), ("", 4000), ("much", 4000), ("99999", 10_000)):
        file.write_text(text)
        assert gpu.memory().used_bytes == mib * _MIB
    file.unlink()
    assert gpu.memory().used_bytes == 0
    assert not neighbour.fails("step")
