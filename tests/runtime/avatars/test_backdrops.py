"""Pictures over another colour than the one they were stored with."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_runtime.avatars import backdrops


def test_a_colour_is_read_as_blue_green_and_red() -> None:
    assert backdrops.parse("#0080ff") == (255, 128, 0)
    assert backdrops.parse("") == backdrops.BLACK == (0, 0, 0)


@pytest.mark.parametrize("before", ["", "#00b140", "#ffffff"])
@pytest.mark.parametrize("after", ["#000000", "#ff8000", "#ffffff"])
def test_a_picture_over_another_colour_is_the_composition(before: str, after: str) -> None:
    front, alpha = np.indices((256, 256))
    colour = np.dstack([front, 255 - front, front // 2]).astype(float)
    weight = alpha[..., None] / 255

    def over(text: str) -> np.ndarray:
        return np.rint(colour * weight + np.array(backdrops.parse(text)) * (1 - weight))

    made = backdrops.replace(
        over(before).astype(np.uint8),
        alpha.astype(np.uint8),
        backdrops.parse(before),
        backdrops.parse(after),
    )
    assert np.abs(made - over(after)).max() <= 1  # the stored picture is rounded, too
