"""The mouth of a clip that talks is closed in silence."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.avatars import cache, geometry, idle_pictures, masks, preparation
from avatar_runtime.batching.frames import AudioWindow
from avatar_runtime.engine.networks import musetalk
from avatar_runtime.engine.rendering import blend_device, blend_host, idle_frames
from avatar_runtime.preparation import idle
from avatar_runtime.preparation.faces import OPEN_GAP
from avatar_training.face import draw_frame
from avatar_training.identities import IDENTITIES
from avatar_training.posing import FRAME, Mouth, Pose, face_box, redrawn_region

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from avatar_runtime.batching.frames import FrameRequest

_OPENED = [max(0.0, float(np.sin(np.pi * i / 4))) for i in range(16)] + [0.0] * 8
"""How far the drawn mouth is open in each frame: it talks in frames 1 to 11, then rests."""
_GAPS = [0.1 * opened for opened in _OPENED]
_WINDOW = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=True, mouth_opacity=0.0)


@pytest.fixture(scope="module")
def talking() -> cache.Avatar:
    """Return an avatar with idle pictures, of a drawn person who talks without moving the head."""
    model = musetalk.load(Path(__file__).parents[3] / "examples/models/demo")
    pose = Pose()
    frames = [draw_frame(IDENTITIES["anna"], pose, Mouth(open=o, teeth=o / 3)) for o in _OPENED]
    box = geometry.Box(*face_box(pose))
    rows, columns = slice(box.y1, box.y2 - 4), slice(box.x1 + 7, box.x2 - 7)
    region = np.zeros((FRAME, FRAME), np.uint8)
    region[rows, columns] = redrawn_region(pose)[rows, columns]
    crop = geometry.crop_box(box)
    mask = masks.feathered(masks.padded(region, crop), box, crop)
    count = len(frames)
    manifest, tensors = preparation.prepare(frames, [box] * count, [mask] * count, model)
    source = cache.Avatar("talking", manifest, "", tensors)
    drawn = idle.tensors(model, source, idle.open_mouths(_GAPS))
    return cache.Avatar("talking", manifest, "", tensors | drawn)


def _covered(avatar: cache.Avatar) -> NDArray[np.bool_]:
    """Return the pixels of a frame under the blend mask, which is that of every frame."""
    covered = np.zeros((FRAME, FRAME), bool)
    box = avatar.box(0)
    covered[box.y1 : box.y2, box.x1 : box.x2] = avatar.mask(0) > 0
    return covered


def _motion(pictures: NDArray[np.int64], where: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the mean change between successive pictures, in levels of 255."""
    return np.asarray(np.abs(np.diff(pictures, axis=0))[:, where].mean(axis=(1, 2)))


@pytest.mark.slow
def test_a_mouth_that_moves_in_the_clip_rests_in_silence(talking: cache.Avatar) -> None:
    count, covered = talking.manifest.frames, _covered(talking)
    source = np.array([talking.decode(i) for i in range(count)], np.int64)
    shown = np.array([idle_pictures.decode(talking, i) for i in range(count)], np.int64)
    rest = draw_frame(IDENTITIES["anna"], Pose(), Mouth()).astype(np.int64)

    assert np.array_equal(source[:, ~covered], shown[:, ~covered])
    assert _motion(source, covered).max() > 10
    assert _motion(shown, covered).max() < 1.6
    assert _motion(shown, covered)[1:11].max() < 1.1  # inside the run
    apart = [np.abs(picture - rest)[:, covered].mean((1, 2)).max() for picture in (source, shown)]
    assert apart[0] > 14
    assert apart[1] < 3


@pytest.mark.slow
def test_silence_is_shown_with_the_closed_mouth(
    talking: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    served = idle_frames.IdleFrames({"talking": talking}, 0)
    for index in (2, 20):
        request = request_of(_WINDOW, avatar="talking", source_frame=index)
        request = replace(request, width=FRAME, height=FRAME)
        expected = blend_host.encode_jpeg(idle_pictures.decode(talking, index), FRAME, FRAME, 90)
        assert served.frame(request).image == expected
    assert [talking.has_idle(i) for i in (2, 20)] == [True, False]
    assert not np.array_equal(talking.decode(2), idle_pictures.decode(talking, 2))


def _face(seed: int) -> NDArray[np.uint8]:
    noise = np.random.default_rng(seed).integers(0, 256, (128, 128, 3), np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (9, 9), 0), np.uint8)


@pytest.mark.slow
@pytest.mark.parametrize("index", [2, 12, 20], ids=["open", "fading", "closed"])
@torch.inference_mode()
def test_the_mouth_closes_to_the_idle_picture_on_both_devices(
    talking: cache.Avatar, request_of: Callable[..., FrameRequest], index: int
) -> None:
    opacities = [1.0, 2 / 3, 1 / 3, 0.0]
    window = replace(_WINDOW, silent=False)
    batch = [
        replace(
            request_of(
                replace(window, mouth_opacity=opacity), avatar="talking", source_frame=index
            ),
            width=FRAME,
            height=FRAME,
        )
        for opacity in opacities
    ]
    face = _face(0)
    host = [blend_host.compose(talking, index, face, opacity).astype(int) for opacity in opacities]
    with ThreadPoolExecutor(1) as pool:
        composer = blend_device.Composer({"talking": talking}, torch.device("cpu"), pool, 16 << 20)
        faces = torch.from_numpy(np.stack([face] * 4))
        device = [view.numpy().astype(int) for view in composer.compose(batch, faces).views()]

    shown = idle_pictures.decode(talking, index).astype(int)
    covered = _covered(talking)
    for opacity, made, other in zip(opacities, host, device, strict=True):
        assert np.array_equal(made[~covered], talking.decode(index)[~covered])
        assert np.abs(made - other).max() <= 1
        blended = opacity * host[0] + (1 - opacity) * shown
        assert np.abs(made - blended).max() <= 1.6  # the mask and the result are rounded
    assert np.array_equal(host[-1], shown)


def _weights(gaps: Sequence[float | None]) -> dict[int, float]:
    return {i: round(c.opacity, 2) for i, c in idle.open_mouths(gaps).items()}


@pytest.mark.parametrize(
    ("gaps", "weights"),
    [
        pytest.param([0.0, 0.0125, 0.0149, 0.0], {}, id="below the bar"),
        pytest.param([], {}, id="no frames"),
        pytest.param([None, None], {}, id="no face"),
        pytest.param(
            [0.0, 0.0, 0.0, 0.013, 0.03, 0.013, 0.0, 0.0, 0.0],
            {1: 0.33, 2: 0.67, 3: 1, 4: 1, 5: 1, 6: 0.67, 7: 0.33},
            id="a run with its slopes",
        ),
        pytest.param([0.05, 0.0, 0.0, 0.0], {0: 1, 1: 0.67, 2: 0.33}, id="at the start"),
        pytest.param([0.05, None, 0.0], {0: 1, 2: 0.33}, id="a frame without a face"),
    ],
)
def test_frames_that_are_closed(gaps: Sequence[float | None], weights: dict[int, float]) -> None:
    assert _weights(gaps) == weights


def test_short_pauses_of_the_mouth_are_drawn_and_long_ones_are_not() -> None:
    short = [0.05, *[0.0] * idle.JOINED_FRAMES, 0.05]
    long = [0.05, *[0.0] * (idle.JOINED_FRAMES + 1), 0.05]

    assert set(_weights(short).values()) == {1.0}
    assert list(_weights(long)) == [0, 1, 2, 12, 13, 14]


def test_the_reference_is_the_nearest_closed_mouth_or_the_most_closed_one() -> None:
    some = idle.open_mouths([0.0, 0.05, 0.06, 0.05, 0.001, 0.0])
    none = idle.open_mouths([0.08, 0.05, None, 0.06])

    assert [some[i].reference for i in range(6)] == [0, 0, 0, 4, 4, 5]
    assert {closing.reference for closing in none.values()} == {1}


@given(
    gaps=st.lists(st.none() | st.sampled_from([0.0, 0.011, 0.012, 0.019, 0.02, 0.1]), max_size=60)
)
def test_every_open_mouth_is_closed_and_no_picture_jumps(gaps: list[float | None]) -> None:
    closings = idle.open_mouths(gaps)

    assert list(closings) == sorted(closings)
    for index, gap in enumerate(gaps):
        if gap is None:
            assert index not in closings
        elif gap >= OPEN_GAP:
            assert closings[index].opacity == 1
    weights = [closings[i].opacity if i in closings else 0.0 for i in range(len(gaps))]
    for index in range(1, len(gaps)):
        if gaps[index] is not None and gaps[index - 1] is not None:
            assert abs(weights[index] - weights[index - 1]) <= 1 / 3 + 1e-9
    for closing in closings.values():
        assert gaps[closing.reference] is not None
