"""Composition in torch beside the one in OpenCV."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from avatar_runtime.avatars import cache, geometry
from avatar_runtime.batching.frames import AudioWindow
from avatar_runtime.engine.rendering import blend_device, blend_host, resize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    from avatar_runtime.batching.frames import FrameRequest

_WINDOW = AudioWindow(0, 0, memoryview(b""), 0, 0, silent=False)


@pytest.fixture
def composer(anna: cache.Avatar) -> Iterator[blend_device.Composer]:
    with ThreadPoolExecutor(1) as pool:
        yield blend_device.Composer({"anna": anna}, torch.device("cpu"), pool, 1 << 20)


def _faces(count: int, side: int = 128) -> NDArray[np.uint8]:
    """Return noise and soft pictures: overshoot at edges as well as plain skin."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (count, side, side, 3), np.uint8)
    noise[1::2] = [cv2.GaussianBlur(face, (15, 15), 0) for face in noise[1::2]]
    return noise


@pytest.mark.parametrize("face_resize", ["bilinear", "lanczos"])
@torch.inference_mode()
def test_images_equal_those_of_the_host_within_one_level(
    anna: cache.Avatar,
    composer: blend_device.Composer,
    request_of: Callable[..., FrameRequest],
    face_resize: str,
) -> None:
    anna.manifest = replace(anna.manifest, face_resize=face_resize)
    batch = [request_of(_WINDOW, source_frame=i) for i in range(8)]
    faces = _faces(8)

    views = composer.compose(batch, torch.from_numpy(faces)).views()

    for request, face, view in zip(batch, faces, views, strict=True):
        index = cache.fold(request.source_frame, 6)
        expected, source = blend_host.compose(anna, index, face), anna.frame(index)
        made = view.numpy()
        covered = np.zeros(source.shape[:2], bool)
        box = anna.box(index)
        covered[box.y1 : box.y2, box.x1 : box.x2] = anna.mask(index) > 0
        assert np.array_equal(made[~covered], source[~covered])
        assert np.abs(made.astype(int) - expected).max() <= 1
        assert (made[covered] != source[covered]).any(axis=1).mean() > 0.9


@torch.inference_mode()
def test_a_batch_uses_the_mouth_opacity_of_each_window(
    anna: cache.Avatar, composer: blend_device.Composer, request_of: Callable[..., FrameRequest]
) -> None:
    shares = [1.0, 0.5, 1 / 3]
    batch = [request_of(replace(_WINDOW, mouth_opacity=share)) for share in shares]
    faces = _faces(3)

    views = composer.compose(batch, torch.from_numpy(faces)).views()

    for share, face, view in zip(shares, faces, views, strict=True):
        expected = blend_host.compose(anna, 0, face, share).astype(int)
        assert np.abs(view.numpy() - expected).max() <= 1


@pytest.mark.parametrize("mouth", [0.0, 0.3, 0.5, 1.0])
@torch.inference_mode()
def test_a_closing_mouth_is_blended_with_its_opacity(
    anna: cache.Avatar, composer: blend_device.Composer, mouth: float
) -> None:
    face = _faces(2)[1]
    (frame,) = composer._cached([(anna, 0)], 128)
    made = frame.source.clone()
    blend_device.blend(made, frame, torch.from_numpy(face), mouth)

    expected = blend_host.compose(anna, 0, face, mouth)
    assert np.abs(made.numpy().astype(int) - expected).max() <= 1
    assert np.array_equal(expected, anna.frame(0)) == (mouth == 0)


@torch.inference_mode()
@pytest.mark.parametrize(("width", "height"), [(96, 96), (128, 144), (256, 320), (192, 192)])
def test_other_sizes_are_filtered_as_on_the_host(
    anna: cache.Avatar,
    composer: blend_device.Composer,
    request_of: Callable[..., FrameRequest],
    width: int,
    height: int,
) -> None:
    asked = replace(request_of(_WINDOW), width=width, height=height)
    face = _faces(2)[1:]
    whole = blend_host.compose(anna, 0, face[0])
    method = resize.method(192, width)
    expected = cv2.resize(whole, (width, height), interpolation=method).astype(int)

    (made,) = composer.compose([asked], torch.from_numpy(face)).views()

    assert made.shape == (height, width, 3)
    assert np.abs(made.numpy() - expected).max() <= 2  # one level before the resize, one after
    assert np.abs(made.numpy() - expected).mean() < 0.1


@torch.inference_mode()
def test_a_frame_without_a_face_keeps_its_source(
    anna: cache.Avatar, composer: blend_device.Composer, request_of: Callable[..., FrameRequest]
) -> None:
    anna._valid = np.array([1, 0, 1, 1, 1, 1], np.uint8)
    anna._boxes[1] = geometry.Box(0, 0, 0, 0)  # what stands there without a face has no meaning
    batch = [request_of(_WINDOW, source_frame=i) for i in range(3)]

    views = composer.compose(batch, torch.from_numpy(_faces(3))).views()

    same = [np.array_equal(view.numpy(), anna.frame(i)) for i, view in enumerate(views)]
    assert same == [False, True, False]


@settings(max_examples=40)
@given(
    method=st.sampled_from(list(resize.FACE.values())),
    side=st.sampled_from([64, 128, 256]),
    width=st.integers(20, 330),
    height=st.integers(20, 330),
    seed=st.integers(0, 9),
)
def test_the_matrices_are_opencvs_own_filters(
    method: int, side: int, width: int, height: int, seed: int
) -> None:
    """Any crop size and any ratio of a face box."""
    face = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    down = resize.matrix(side, height, method)
    across = resize.matrix(side, width, method)

    planes = np.einsum("ys,stc,xt->yxc", down, face.astype(np.float32), across, optimize=True)

    expected = cv2.resize(face, (width, height), interpolation=method)
    ours = np.clip(np.rint(planes), 0, 255)
    assert np.abs(ours - expected).max() <= 1


@torch.inference_mode()
def test_frames_are_cached_on_the_device_up_to_the_limit(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    decoded: list[int] = []

    class Counting(cache.Avatar):
        def __init__(self) -> None:
            self.__dict__.update(anna.__dict__)

        def decode(self, index: int) -> NDArray[np.uint8]:
            decoded.append(index)
            return anna.decode(index)

    faces = torch.from_numpy(_faces(6))
    picture = 192 * 192 * 3
    with ThreadPoolExecutor(1) as pool:
        roomy = blend_device.Composer({"anna": Counting()}, torch.device("cpu"), pool, 20 * picture)
        tight = blend_device.Composer({"anna": Counting()}, torch.device("cpu"), pool, 2 * picture)
        batch = [request_of(_WINDOW, source_frame=i) for i in range(6)]
        first = roomy.compose(batch, faces).flat
        again = roomy.compose(batch, faces).flat
        assert decoded == list(range(6))
        assert roomy.used_bytes >= 6 * picture
        small = tight.compose(batch, faces).flat
        assert tight.used_bytes <= 2 * picture
    assert torch.equal(first, again)
    assert torch.equal(first, small)  # a batch larger than the cache is whole all the same
    roomy.clear()
    assert roomy.used_bytes == 0


@torch.inference_mode()
def test_an_avatar_replaced_under_its_name_has_its_own_cached_frames(
    anna: cache.Avatar, request_of: Callable[..., FrameRequest]
) -> None:
    class Replaced(cache.Avatar):
        def __init__(self) -> None:
            self.__dict__.update(anna.__dict__)
            self.info = replace(anna.info, content_hash="f" * 64)

        def decode(self, index: int) -> NDArray[np.uint8]:
            return np.zeros_like(anna.decode(index))

    avatars = {"old": anna, "new": Replaced()}
    faces = torch.from_numpy(_faces(2)[:1])
    with ThreadPoolExecutor(1) as pool:
        composer = blend_device.Composer(avatars, torch.device("cpu"), pool, 1 << 24)
        old, new = (
            composer.compose([request_of(_WINDOW, avatar=name)], faces).views()[0]
            for name in ("old", "new")
        )

    assert old[:20].float().mean() > 50
    assert new[:20].max() == 0


@torch.inference_mode()
@pytest.mark.parametrize("size", [(101, 91), (64, 64), (192, 192)])
def test_a_part_of_the_picture_is_that_of_the_host(
    anna: cache.Avatar,
    composer: blend_device.Composer,
    request_of: Callable[..., FrameRequest],
    size: tuple[int, int],
) -> None:
    crop = (20, 30, 121, 121)
    asked = replace(request_of(_WINDOW), width=size[0], height=size[1], crop=crop)
    face = _faces(2)[1:]
    (view,) = composer.compose([asked], torch.from_numpy(face)).views()

    whole = blend_host.compose(anna, 0, face[0])
    expected = blend_host.resized(np.ascontiguousarray(whole[30:121, 20:121]), *size)
    assert view.shape == expected.shape
    assert np.abs(view.numpy().astype(int) - expected).max() <= 2
    jpeg = np.frombuffer(blend_host.encode_shown(blend_host.shown(whole, asked), asked), np.uint8)
    shown = np.asarray(cv2.imdecode(jpeg, cv2.IMREAD_COLOR))
    assert shown.shape == expected.shape
    assert cv2.PSNR(shown, expected) > 30
