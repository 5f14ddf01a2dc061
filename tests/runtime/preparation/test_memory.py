"""The memory of a preparation does not grow with the clip."""

from __future__ import annotations

import json
import tracemalloc
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from tests.runtime.preparation import programs

from avatar_runtime.avatars import mapped_memory, masks
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import locating, pipeline, progress, tensor_stream
from avatar_runtime.preparation.source import SourceInfo
from localcluster.preparing import MemorySampler, ZeroModel, memory_bytes

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


def _peak_bytes(out: Path, frames: int) -> tuple[int, int, int]:
    """Return the peak of the memory that Python and NumPy allocate, the size of the avatar, and by
    how much the resident memory of mapped files grew at most.
    """
    source: Any = _Noise(frames)
    job = pipeline.Job(
        out=out,
        source=source,
        locator=locating.GivenLocator([_BOX] * frames),
        masker=_Masker(),
        model=ZeroModel(crop_size=64),
        options=pipeline.Options(consent="noise"),
        tools={},
        open_mouths=lambda gaps: {},
        record={"name": "noise"},
    )
    tracemalloc.start()
    try:
        with MemorySampler("RssFile") as mapped:
            report = SimpleNamespace(**pipeline.run(job, progress.Silent()))
        grown = mapped.peak - mapped.base
        return tracemalloc.get_traced_memory()[1], report.written["bytes"], grown
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_more_frames_need_the_same_memory(tmp_path: Path) -> None:
    short, few, _ = _peak_bytes(tmp_path / "short", 60)
    long, many, mapped = _peak_bytes(tmp_path / "long", 150)
    assert many - few > 75e6
    assert long - short < 5e6
    # The files are mapped, and what was read of them does not stay: a chunk has 45 MB.
    assert mapped < many * 0.6


def _anonymous(frames: int) -> int:
    done = programs.run("pipeline_memory", str(frames), timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return int(json.loads(done.stdout)["peak_bytes"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_times_the_frames_need_the_same_anonymous_memory() -> None:
    few, many = 200, 1000
    # 800 drawn frames have 61 MB decoded; their facts and boxes have 0.4 MB.
    assert _anonymous(many) - _anonymous(few) < 4e6


def test_mapped_files_stay_usable_after_their_memory_is_given_back(tmp_path: Path) -> None:
    content = np.arange(4 << 20, dtype=np.uint8).reshape(2, -1)
    tensor_stream.write(tmp_path / "a", tensor_stream.whole({"a": content, "b": content[:1]}))
    found = tensor_stream.mapped(tmp_path / "a")
    assert int(found["a"].sum()) == int(content.sum())
    before = memory_bytes("RssFile")
    plain = np.zeros(4)
    mapped_memory.release([found["a"][1:], plain])
    assert before - memory_bytes("RssFile") > 3e6
    np.testing.assert_array_equal(found["a"], content)
