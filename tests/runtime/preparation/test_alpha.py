"""How opaque the frames of a source are, and their chunks on disk."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest
from tests.runtime.preparation import clips

from avatar_runtime import errors
from avatar_runtime.preparation import alpha, analysis, meter, progress, sources, staging
from avatar_runtime.preparation.source import SourceOptions

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray


@pytest.mark.parametrize(
    "view", [{}, {"crop": (10, 20, 200, 180)}, {"max_side": 100}], ids=["whole", "crop", "smaller"]
)
def test_the_alpha_goes_through_the_steps_of_the_colours(
    tmp_path: Path, view: dict[str, object]
) -> None:
    rows, columns = np.indices((240, 256))
    opaque = np.clip(rows + columns - 100, 0, 255)
    picture = np.dstack([rows, 255 - columns, columns, opaque]).astype(np.uint8)
    path = clips.photo(tmp_path / "a.png", picture)
    grey = clips.photo(tmp_path / "grey.png", np.dstack([opaque] * 3).astype(np.uint8))
    over_black, over_white, expected = (
        sources.open(file, SourceOptions(background=colour, **view))  # type: ignore[arg-type]
        for file, colour in ((path, alpha.BLACK), (path, alpha.WHITE), (grey, ""))
    )
    found = next(alpha.DifferenceMattes(over_black, over_white).frames())
    assert np.abs(found.astype(int) - next(expected.frames())[..., 0]).max() <= 2


@dataclass
class Counted:
    """Alpha whose value is the number of its frame."""

    count: int
    started: list[int]

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        self.started.append(start)
        for index in range(start, self.count):
            yield np.full((8, 8), index, np.uint8)


def test_a_preparation_goes_on_after_the_chunks_that_are_stored(tmp_path: Path) -> None:
    total = analysis.CHUNK_FRAMES + 7
    shown = progress.Silent()
    with staging.opened(tmp_path / "eve", "key") as work:
        short = Counted(total - 1, [])
        with pytest.raises(errors.AssetError, match=f"frame {total - 1} has no alpha"):
            alpha.store(short, total, work, meter.Meter(), shown)
        whole = Counted(total, [])
        alpha.store(whole, total, work, meter.Meter(), shown)
        assert (short.started, whole.started) == ([0], [analysis.CHUNK_FRAMES])
        values = []
        for number in range(2):
            chunk = work.load(alpha.STAGE, number)
            assert chunk is not None
            files, offsets = chunk["alpha_pixels"], chunk["alpha_offsets"]
            for begin, end in pairwise(offsets):
                mask = cv2.imdecode(files[begin:end], cv2.IMREAD_GRAYSCALE)
                assert mask is not None
                values.append(int(mask.max()))
        assert values == list(range(total))
        alpha.store(whole, total, work, meter.Meter(), shown)
        assert len(whole.started) == 1
