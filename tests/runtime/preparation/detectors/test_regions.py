from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime.preparation.detectors import regions
from avatar_runtime.preparation.detectors.regions import Region

SIDES = st.integers(1, 4000)


@pytest.mark.slow
@given(width=SIDES, height=SIDES, per_side=st.sampled_from([2, 4]))
def test_tiles_cover_each_frame_and_are_bounded(width: int, height: int, per_side: int) -> None:
    tiles = regions.tiles(width, height, per_side)
    assert 1 <= len(tiles) <= 8 * (per_side + 1)
    for length, starts in (
        (width, sorted({tile.x for tile in tiles})),
        (height, sorted({tile.y for tile in tiles})),
    ):
        side = tiles[0].side
        assert starts[0] <= 0
        assert starts[-1] + side >= length
        assert all(b - a <= side for a, b in pairwise(starts))


@pytest.mark.slow
@given(x=st.integers(0, 1919), y=st.integers(0, 1079))
def test_a_small_face_lies_wholly_in_a_tile(x: int, y: int) -> None:
    face = 100  # pixels; tiles of a frame of 1920x1080 have 618 and repeat about a quarter
    x, y = min(x, 1920 - face), min(y, 1080 - face)
    assert any(
        tile.x <= x and tile.y <= y and x + face <= tile.x + tile.side
        and y + face <= tile.y + tile.side
        for tile in regions.tiles(1920, 1080, 2)
    )  # fmt: skip


@pytest.mark.parametrize(
    ("width", "height", "looks"),
    [(512, 512, [1, 5]), (1920, 1080, [1, 9]), (3840, 2160, [1, 9, 32])],
)
def test_the_whole_frame_is_searched_first_and_many_tiles_only_in_large_ones(
    width: int, height: int, looks: list[int]
) -> None:
    order = regions.search_order(width, height)
    assert [len(group) for group in order] == looks
    (whole,) = order[0]
    assert whole == Region((width - max(width, height)) // 2, (height - max(width, height)) // 2,
                           max(width, height))  # fmt: skip
    padded = order[1][0]
    assert padded.side == 2 * whole.side


@pytest.mark.slow
@given(width=st.integers(1, 900), height=st.integers(1, 900))
def test_every_region_of_every_frame_can_be_cut(width: int, height: int) -> None:
    frame = np.zeros((height, width, 3), np.uint8)
    for group in regions.search_order(width, height):
        for region in (group[0], group[-1]):
            assert regions.cut(frame, region, 192).shape == (192, 192, 3)


def test_a_region_is_letterboxed_with_black() -> None:
    frame = np.full((100, 200, 3), 255, np.uint8)
    square = regions.cut(frame, Region(0, -50, 200), 192)
    assert (square[:48] == 0).all()
    assert (square[48:144] == 255).all()
    assert (square[144:] == 0).all()


def test_points_of_a_region_return_to_the_frame() -> None:
    region = Region(100, -40, 60)
    found = region.in_frame(np.array([[0, 0], [0.5, 1]]))
    assert found.tolist() == [[100, -40], [130, 20]]
