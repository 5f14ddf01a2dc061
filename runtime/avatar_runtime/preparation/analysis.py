"""The first pass: decodes the source once, finds the face, and stores the frames as files.

Each chunk of frames is stored when it is finished. Nothing but a few numbers a frame stays in
memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice, pairwise
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime import errors
from avatar_runtime.avatars import cache, preparation
from avatar_runtime.avatars.geometry import Box
from avatar_runtime.preparation import stored_frames
from avatar_runtime.preparation.faces import Face
from avatar_runtime.preparation.quality import FrameFacts
from avatar_runtime.preparation.stored_frames import StoredFrame

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from avatar_runtime.preparation.locating import Located, Locator
    from avatar_runtime.preparation.meter import Meter
    from avatar_runtime.preparation.progress import Progress
    from avatar_runtime.preparation.source import Source
    from avatar_runtime.preparation.staging import Staging

CHUNK_FRAMES: Final = 50
"""Frames that are stored, and lost by an interruption, together: 2 s of the clip."""
BATCH_FRAMES: Final = 10
"""Frames in memory at once, 60 MB of 1080p, of which the detector searches the first one.

It divides a chunk, so that a preparation that is continued searches the same frames.
"""
STAGE: Final = "seen"
_NUMBERS: Final = (
    "yaw_degrees",
    "pitch_degrees",
    "presence",
    "lip_gap",
    "sharpness",
    "lip_redness",
    "outside_ratio",
)


@dataclass(frozen=True, slots=True)
class Analysis:
    """What the first pass found."""

    facts: Sequence[FrameFacts]
    notes: Sequence[str]
    """What the source reported about damage and changes."""

    @property
    def valid(self) -> list[bool]:
        return [fact.box is not None for fact in self.facts]

    @property
    def chunks(self) -> int:
        return -(-len(self.facts) // CHUNK_FRAMES)


def analyse(
    source: Source,
    locator: Locator,
    pixels: str,
    staging: Staging,
    meter: Meter,
    progress: Progress,
) -> Analysis:
    """Store all frames of a source and return their facts; go on after stored chunks.

    Raises:
        SourceError: the source cannot be decoded or has no frame.
    """
    facts, number = _stored(staging, locator)
    ended = staging.load_note(STAGE)
    if ended is None:
        progress.stage("find the face", source.info.frames, len(facts))
        frames = source.frames(start=len(facts))
        while found := _store_chunk(frames, locator, pixels, staging, number, meter, progress):
            facts += found
            number += 1
        ended = {"frames": len(facts), "notes": list(source.notes)}
        staging.save_note(STAGE, ended)
    if not facts:
        raise errors.AssetError(source.info.name, "the source has no frame")
    return Analysis(facts, ended["notes"])


def load_faces(staging: Staging, number: int) -> list[Face | None]:
    """Return the faces of a finished chunk, for the parser."""
    chunk = _finished(staging, number)
    numbers = iter(range(len(chunk["faces"])))
    return [_face(chunk, next(numbers)) if known else None for known in chunk["has_face"]]


def load_frames(staging: Staging, number: int, size: tuple[int, int]) -> Iterator[StoredFrame]:
    """Yield the frames of a finished chunk, of `size` (width, height), mapped from the disk."""
    chunk = _finished(staging, number)
    files, parts = (
        [chunk[name][a:b] for a, b in pairwise(chunk[offsets])]
        for name, offsets in (("pixels", "pixel_offsets"), ("parts", "part_offsets"))
    )
    boxes = [Box(*map(int, row)) for row in chunk["part_boxes"]]
    for file, box, part in zip(files, boxes, parts, strict=True):
        yield StoredFrame(file, size, box, part)


def _finished(staging: Staging, number: int) -> Mapping[str, NDArray[Any]]:
    chunk = staging.load(STAGE, number)
    if chunk is None:
        fault = f"chunk {number} is missing; run the command again"
        raise errors.AssetError(str(staging.folder), fault, permanent=False)
    return chunk


def _stored(staging: Staging, locator: Locator) -> tuple[list[FrameFacts], int]:
    """Return the facts of all chunks of an earlier run without a gap, and their number."""
    facts: list[FrameFacts] = []
    number = 0
    while (chunk := staging.load(STAGE, number)) is not None:
        facts += [_unpacked(row) for row in chunk["facts"]]
        locator.restore(chunk["state"])
        number += 1
    return facts, number


def _store_chunk(
    frames: Iterator[NDArray[np.uint8]],
    locator: Locator,
    pixels: str,
    staging: Staging,
    number: int,
    meter: Meter,
    progress: Progress,
) -> list[FrameFacts]:
    """Store the next frames as a chunk and return their facts; nothing after the last frame."""
    located: list[Located] = []
    stored = _Stored([], [], [])
    while len(located) < CHUNK_FRAMES:
        with meter.stage("decode", 0) as timed:
            batch = list(islice(frames, BATCH_FRAMES))
            timed.frames = len(batch)
        if not batch:
            break
        with meter.stage("detect", len(batch)):
            here = locator.locate(batch)
        with meter.stage("store", len(batch)):
            for frame, one in zip(batch, here, strict=True):
                stored.add(frame, one.facts.box, pixels)
        located += here
        progress.advance(len(batch))
    if located:
        staging.save(STAGE, number, {**_packed(located, stored), "state": locator.state()})
    return [one.facts for one in located]


@dataclass(frozen=True, slots=True)
class _Stored:
    """Files of the frames of a chunk: the whole pictures, and their parts around the face."""

    files: list[NDArray[np.uint8]]
    parts: list[Box]
    part_files: list[NDArray[np.uint8]]

    def add(self, frame: NDArray[np.uint8], face: Box | None, pixels: str) -> None:
        part = stored_frames.part_of(face, frame.shape[1], frame.shape[0])
        self.files.append(preparation.picture_file(frame, pixels))
        self.parts.append(part)
        self.part_files.append(stored_frames.part_file(frame, part, pixels))


def _packed(located: Sequence[Located], stored: _Stored) -> dict[str, NDArray[Any]]:
    faces = [one.face for one in located if one.face is not None]
    flat, offsets = cache.pack(stored.files)
    flat_parts, part_offsets = cache.pack(stored.part_files)
    empty = np.zeros((len(faces), 0, 2), np.float32)
    with_mesh = faces and all(face.mesh is not None for face in faces)
    return {
        "facts": np.array([_row(one.facts) for one in located], np.float64),
        "has_face": np.array([one.face is not None for one in located], np.uint8),
        "faces": np.array([_face_row(face) for face in faces], np.float64).reshape(-1, 12),
        "points": np.stack([face.points for face in faces]) if faces else empty,
        "mesh": np.stack([np.asarray(f.mesh) for f in faces]) if with_mesh else empty,
        "pixels": flat,
        "pixel_offsets": offsets,
        "parts": flat_parts,
        "part_offsets": part_offsets,
        "part_boxes": np.array([(b.x1, b.y1, b.x2, b.y2) for b in stored.parts], np.int32),
    }


def _row(facts: FrameFacts) -> list[float]:
    box = facts.box
    corners = [0, 0, 0, 0] if box is None else [box.x1, box.y1, box.x2, box.y2]
    return [facts.faces, box is not None, *corners, *(getattr(facts, name) for name in _NUMBERS)]


def _unpacked(row: NDArray[np.float64]) -> FrameFacts:
    faces, known, *corners = map(int, row[:6])
    numbers = dict(zip(_NUMBERS, map(float, row[6:]), strict=True))
    return FrameFacts(faces=faces, box=Box(*corners) if known else None, **numbers)


def _face_row(face: Face) -> list[float]:
    box = face.box
    return [
        box.x1, box.y1, box.x2, box.y2, face.score, *face.nose_point, face.lip_gap,
        face.yaw_degrees, face.pitch_degrees, face.roll_degrees, face.presence,
    ]  # fmt: skip


def _face(chunk: Mapping[str, NDArray[Any]], index: int) -> Face:
    row = [float(value) for value in chunk["faces"][index]]
    mesh = np.array(chunk["mesh"][index]) if chunk["mesh"].shape[1] else None
    return Face(
        box=Box(*map(int, row[:4])),
        score=row[4],
        points=np.array(chunk["points"][index]),
        nose_point=(row[5], row[6]),
        lip_gap=row[7],
        yaw_degrees=row[8],
        pitch_degrees=row[9],
        roll_degrees=row[10],
        presence=row[11],
        mesh=mesh,
    )
