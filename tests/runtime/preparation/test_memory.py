"""The memory of a preparation does not grow with the clip."""

from __future__ import annotations

import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from avatar_runtime.avatars import cache, masks
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import locating, pipeline, progress
from avatar_runtime.preparation.source import SourceInfo

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from numpy.typing import NDArray

_WIDTH, _HEIGHT = 960, 540
_BOX = Box(300, 120, 520, 400)


class _Noise:
    """Frames that do not compress: each stored one has about 0.9 MB."""

    notes = ()

    def __init__(self, frames: int) -> None:
        facts: dict[str, Any] = {"codec": "raw", "pixel_format": "bgr24", "has_audio": False}
        self.info = SourceInfo(
            name="noise", sha256="0" * 64, kind="folder", width=_WIDTH, height=_HEIGHT, fps=25,
            frames=frames, source_width=_WIDTH, source_height=_HEIGHT, source_fps=25.0,
            source_seconds=frames / 25, start=0.0, end=frames / 25, crop=None, **facts,
        )  # fmt: skip

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        for index in range(start, self.info.frames):
            shape = (_HEIGHT, _WIDTH, 3)
            yield np.random.default_rng(index).integers(0, 256, shape, np.uint8)


class _Masker:
    def masks(
        self, first: int, frames: Any, boxes: Any, crops: Any, faces: Any
    ) -> list[NDArray[np.uint8]]:
        return [masks.ellipse(box, crop) for box, crop in zip(boxes, crops, strict=True)]


class _Model:
    """An encoder of zeros, and no pictures."""

    version, vae_hash, crop_size = "v15", "none", 64

    @property
    def encoder(self) -> Any:
        return self

    def encode(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.zeros((len(crops), 4, 8, 8), np.float32)

    def draw_preview(self, avatar: cache.Avatar) -> NDArray[np.uint8]:
        return np.zeros(1, np.uint8)

    draw_idle: Any = None


def _peak_bytes(out: Path, frames: int) -> tuple[int, int]:
    """Return the peak of the memory that Python and NumPy allocate, and the size of the avatar."""
    source: Any = _Noise(frames)
    job = pipeline.Job(
        out=out,
        source=source,
        locator=locating.GivenLocator([_BOX] * frames),
        masker=_Masker(),
        model=_Model(),
        options=pipeline.Options(consent="noise"),
        tools={},
        open_mouths=lambda gaps: {},
        record={"name": "noise"},
    )
    tracemalloc.start()
    try:
        report = SimpleNamespace(**pipeline.run(job, progress.Silent()))
        return tracemalloc.get_traced_memory()[1], report.written["bytes"]
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_more_frames_need_the_same_memory(tmp_path: Path) -> None:
    short, few = _peak_bytes(tmp_path / "short", 60)
    long, many = _peak_bytes(tmp_path / "long", 150)
    assert many - few > 75e6
    assert long - short < 5e6
