"""Runs the passes of a preparation and prints the peak of its anonymous memory, as JSON.

A program of its own, so that the peak is that of the passes. The frames are small, and nothing in
them is a face: locator, masker and encoder take constant time, so that thousands of frames take
seconds. The latents have the size of the published VAE, and every picture is drawn for silence.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avatar_runtime.avatars import masks
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.engine.rendering import blend_host
from avatar_runtime.preparation import idle, locating, pipeline, progress
from avatar_runtime.preparation.faces import Face
from avatar_runtime.preparation.locating import Located
from avatar_runtime.preparation.source import SourceInfo
from localcluster.preparing import MemorySampler, ZeroModel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar

_SIDE = 160
_BOX = Box(30, 20, 130, 140)
_POINTS = np.zeros((468, 2), np.float32)


class Checks:
    """A source of sharp pictures that cost little to store."""

    notes = ()

    def __init__(self, frames: int) -> None:
        facts: dict[str, Any] = {"codec": "raw", "pixel_format": "bgr24", "has_audio": False}
        self.info = SourceInfo(
            name="checks", sha256="0" * 64, kind="folder", width=_SIDE, height=_SIDE, fps=25,
            frames=frames, source_width=_SIDE, source_height=_SIDE, source_fps=25.0,
            source_seconds=frames / 25, start=0.0, end=frames / 25, crop=None, **facts,
        )  # fmt: skip

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        board = np.indices((_SIDE, _SIDE, 3))[:2].sum(axis=0) // 8 % 2
        for index in range(start, self.info.frames):
            yield (board * (100 + index % 100)).astype(np.uint8)


class Located468(locating.GivenLocator):
    """Finds the same face with a mesh in every frame."""

    def locate(self, frames: Sequence[NDArray[np.uint8]]) -> list[Located]:
        return [Located(one.facts, _face(one.facts.box)) for one in super().locate(frames)]


def _face(box: Box | None) -> Face:
    return Face(
        box=box or _BOX, score=1.0, points=_POINTS, nose_point=(0.0, 0.0), lip_gap=0.0,
        yaw_degrees=0.0, pitch_degrees=0.0, roll_degrees=0.0, presence=1.0, mesh=_POINTS,
    )  # fmt: skip


class Masker:
    """Makes ellipses."""

    def masks(
        self, first: int, frames: Any, boxes: Any, crops: Any, faces: Any
    ) -> list[NDArray[np.uint8]]:
        return [masks.ellipse(box, crop) for box, crop in zip(boxes, crops, strict=True)]


class Model(ZeroModel):
    """Draws black faces."""

    def draw_idle(
        self, avatar: Avatar, closings: Mapping[int, idle.Closing]
    ) -> Iterator[NDArray[np.uint8]]:
        for index in closings:
            float(avatar.latents[[index]].sum(dtype=np.float32))
            yield blend_host.compose(avatar, index, np.zeros((256, 256, 3), np.uint8))


def main(frames: int) -> None:
    source: Any = Checks(frames)
    with tempfile.TemporaryDirectory() as folder:
        job = pipeline.Job(
            out=Path(folder) / "made",
            source=source,
            locator=Located468([_BOX] * frames),
            masker=Masker(),
            model=Model(),
            options=pipeline.Options(consent="memory"),
            tools={},
            open_mouths=lambda gaps: {i: idle.Closing(1.0, 0) for i in range(len(gaps))},
            record={"name": "memory"},
        )
        with MemorySampler() as memory:
            report = pipeline.run(job, progress.Silent())
    figures = {
        "frames": report["frames"],
        "content_hash": report["written"]["content_hash"],
        "base_bytes": memory.base,
        "peak_bytes": memory.peak,
    }
    print(json.dumps(figures))  # noqa: T201


if __name__ == "__main__":
    main(int(sys.argv[1]))
