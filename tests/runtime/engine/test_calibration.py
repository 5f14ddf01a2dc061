"""The start of a device: what fits, what it takes, how long it lasts."""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import pytest

from avatar_runtime import errors
from avatar_runtime.avatars.cache import AvatarInfo
from avatar_runtime.engine import calibration, device

if TYPE_CHECKING:
    from collections.abc import Sequence

    from avatar_runtime.batching.frames import FrameRequest

_ANNA = AvatarInfo("anna", 64, 64, 25, 6, "hash")


class FakeGpu:
    """Has room for `room` frames, and holds the memory of its largest batch."""

    name, pads = "gpu", True

    def __init__(self, room: int) -> None:
        self.room = room
        self.batches: list[int] = []
        self.responses: set[tuple[str, int]] = set()
        self.releases = 0
        self._largest = 0

    def buckets(self, batch_size: int) -> Sequence[int]:
        return [size for size in (1, 2, 4, 8) if size <= batch_size]

    def render(self, batch: Sequence[FrameRequest]) -> device.Rendered:
        self.batches.append(len(batch))
        if len(batch) > self.room:
            raise errors.DeviceMemoryError(None, 0)
        self.responses.add((batch[0].session, batch[0].response_ref))
        self._largest = max(self._largest, len(batch))
        return device.Rendered([], dict.fromkeys(device.STAGES, 0.0))

    def memory(self) -> device.Memory:
        return device.Memory((1000 + 100 * self._largest) * device.MIB, 24_000 * device.MIB)

    def release(self) -> None:
        self.releases += 1


def _measure(gpu: FakeGpu) -> calibration.Measured:
    return calibration.measure(gpu, "v15/sd-vae/fp16", _ANNA, 8)  # type: ignore[arg-type]


def test_buckets_run_in_ascending_descending_and_ascending_order() -> None:
    gpu = FakeGpu(room=8)
    measured = _measure(gpu)

    assert [size for size, _ in groupby(gpu.batches)] == [1, 2, 4, 8, 4, 2, 1, 2, 4, 8]
    # Memory is read on the way up: later every bucket holds what the largest took.
    assert (measured.curve.base_mib, measured.curve.per_frame_mib) == (1000, 100)
    assert [size for size, _ in measured.curve.frame_batch_ms] == [1, 2, 4, 8]
    assert measured.oom_batch is None
    # No batch is answered from what an earlier one has heard.
    assert len(gpu.responses) == len(gpu.batches)


def test_a_bucket_that_does_not_fit_is_tried_once() -> None:
    gpu = FakeGpu(room=4)
    measured = _measure(gpu)

    assert measured.oom_batch == 8
    assert [size for size, _ in measured.curve.frame_batch_ms] == [1, 2, 4]
    assert gpu.batches.count(8) == 1
    assert gpu.releases == 1


def test_a_device_without_memory_for_one_frame_is_an_error() -> None:
    with pytest.raises(errors.DeviceMemoryError):
        _measure(FakeGpu(room=0))


def test_frames_of_a_batch_share_an_encode_in_pairs() -> None:
    samples = np.zeros(16_000, np.float32)
    batch = calibration.requests(_ANNA, 5, "s", 3, samples)
    assert [(r.frame_index, r.source_frame, r.window.group) for r in batch] == [
        (0, 0, 0), (1, 1, 0), (2, 2, 1), (3, 3, 1), (4, 4, 2),
    ]  # fmt: skip
    assert [r.window.first_step for r in batch] == [34, 36, 34, 36, 34]
    assert {(r.session, r.response_ref, r.epoch, r.deadline) for r in batch} == {("s", 3, 0, 0.0)}
    assert {(r.avatar, r.quality, r.width, r.height) for r in batch} == {
        (_ANNA.name, 80, _ANNA.width, _ANNA.height)
    }
    for request in batch:
        window = request.window
        assert (window.steps, window.silent, window.mouth_opacity) == (50, False, 1.0)
        assert window.context.readonly
        assert window.context is batch[0].window.context


@pytest.mark.parametrize(
    ("points", "batch_size", "sessions"),
    [
        pytest.param([(1, 12.3), (4, 19.2), (8, 28.5)], 4, 7, id="208-frames-a-second"),
        pytest.param([(1, 12.3), (4, 19.2), (8, 28.5)], 64, 10, id="not-past-the-measured-sizes"),
        pytest.param([(1, 10.0), (2, 80.0)], 2, 3, id="a-small-batch-is-faster"),
        pytest.param([(1, 51.7), (4, 176.7)], 4, 0, id="not-one-session"),
    ],
)
def test_a_device_carries_nine_tenths_of_its_frames(
    points: list[tuple[int, float]], batch_size: int, sessions: int
) -> None:
    curve = device.Curve("v15/sd-vae/fp16", 3100, 306, tuple(points))
    assert calibration.sessions_carried(curve, batch_size, 25) == sessions
