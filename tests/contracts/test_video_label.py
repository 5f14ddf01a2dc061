"""The label and the metadata of a video that is generated."""

from __future__ import annotations

import numpy as np
import pytest

from avatar_contracts import video_label


@pytest.mark.parametrize(("width", "height"), [(384, 384), (1920, 1080), (64, 64), (200, 40)])
@pytest.mark.parametrize("text", ["AI generated", "Généré par une IA", "x" * 100])
def test_the_label_is_in_the_bottom_corner(width: int, height: int, text: str) -> None:
    image = np.full((height, width, 3), 200, np.uint8)

    labelled = video_label.draw(image, text)

    assert (image == 200).all()
    rows = np.flatnonzero((labelled != image).any(axis=(1, 2)))
    assert rows[-1] == height - 1
    assert rows[0] >= height - max(24, height * 0.1)
    assert (labelled[rows[0] :] > 100).any(), "there are letters on the bar"
    assert labelled[rows[0] :, -1].max() <= 50, "the text ends inside the picture"


def test_no_text_changes_nothing() -> None:
    image = np.full((64, 64, 3), 200, np.uint8)

    assert video_label.draw(image, "") is image


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "AI generated"),
        ("AI generated", "AI generated"),
        ("Made by Acme", "AI generated: Made by Acme"),
    ],
)
def test_the_comment_says_that_the_video_is_generated(text: str, expected: str) -> None:
    assert video_label.comment(text) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [(None, ""), (5, ""), ("a\nb\x00", "ab"), ("y" * 500, "y" * 100), ("AI", "AI")],
)
def test_a_label_from_a_server_is_one_short_line(value: object, expected: str) -> None:
    assert video_label.printable(value) == expected
