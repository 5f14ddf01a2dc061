"""From a source to an avatar folder: analyse, judge, make, join, show, and publish.

A clip that the verdict refuses costs no work of the model, and nothing is written at the output.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

import cv2

from avatar_runtime.avatars import preparation
from avatar_runtime.preparation import (
    alpha,
    analysis,
    closing,
    making,
    meter,
    publishing,
    quality,
    report,
    staging,
    tracking,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

    from avatar_runtime.avatars import cache
    from avatar_runtime.avatars.geometry import Box
    from avatar_runtime.avatars.preparation import Encoder
    from avatar_runtime.preparation.idle import Closing
    from avatar_runtime.preparation.locating import Locator
    from avatar_runtime.preparation.masking import Masker
    from avatar_runtime.preparation.progress import Progress
    from avatar_runtime.preparation.source import Source

_REVISION: Final = 3
"""Raised when the same inputs give other chunks, so that old ones are not used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How an avatar is prepared; part of the key of its chunks."""

    consent: str
    disclosure: str = ""
    mask_mode: str | None = None
    """`None`: that of the model's version."""
    upper_boundary_ratio: float = 0.5
    cheek_width: int = 90
    bbox_shift: int = 0
    background: str = ""
    pixels: str = "jpeg"
    face_resize: str = "bilinear"
    smoothing: float = tracking.SMOOTHING
    """Standard deviation of the filter of the boxes over time, frames; 0 for none."""
    batch_size: int = preparation.BATCH


class ModelPart(Protocol):
    """What the pipeline needs of the model."""

    @property
    def encoder(self) -> Encoder: ...

    def draw_idle(
        self, avatar: cache.Avatar, closings: Mapping[int, Closing]
    ) -> Iterator[NDArray[np.uint8]]:
        """Yield frames `(h, w, 3) uint8` BGR of an avatar as they look in silence."""
        ...

    def draw_preview(self, avatar: cache.Avatar) -> NDArray[np.uint8]:
        """Return the contact sheet as a JPEG file."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Everything that one preparation works with."""

    out: Path
    source: Source
    locator: Locator
    masker: Masker
    model: ModelPart
    options: Options
    tools: Mapping[str, str]
    """Names of the detector and the parser."""
    open_mouths: Callable[[Sequence[float | None]], Mapping[int, Closing]]
    """Returns the frames whose idle picture is drawn, from the lip gaps of all frames."""
    record: Mapping[str, Any]
    """What the manifest keeps of the source."""
    crops: Sequence[Box] | None = None
    """Crop boxes that were imported; `None`: those around the face boxes."""
    warnings: Sequence[str] = ()
    notes: Sequence[str] = ()
    resume: bool = True
    mattes: alpha.Mattes | None = None
    """How opaque the frames are; `None`: wholly."""

    def manifest(self, invalid: Sequence[int], frames: int) -> cache.Manifest:
        """Return the manifest for the invalid frames and the number of frames."""
        options, info = self.options, self.source.info
        fields: dict[str, Any] = {
            name: getattr(options, name)
            for name in (
                "consent",
                "disclosure",
                "upper_boundary_ratio",
                "cheek_width",
                "bbox_shift",
                "background",
                "pixels",
                "face_resize",
            )
        }
        if options.mask_mode is not None:
            fields["mask_mode"] = options.mask_mode
        return preparation.describe(
            self.model.encoder,
            fps=info.fps,
            width=info.width,
            height=info.height,
            frames=frames,
            invalid_frames=tuple(invalid),
            source=dict(self.record),
            tools={**self.tools, "smoothing": f"gaussian {options.smoothing:g} frames"},
            **fields,
        )

    def key(self) -> str:
        """Return the hash of all inputs that the chunks depend on."""
        encoder = self.model.encoder
        inputs = {
            "revision": _REVISION,
            "source": {**self.record, "info": asdict(self.source.info)},
            "options": asdict(self.options),
            "manifest": self.manifest((), 1).canonical(),
            "model": [encoder.version, encoder.vae_hash, encoder.crop_size],
        }
        text = json.dumps(inputs, sort_keys=True, default=str)
        return hashlib.sha256(text.encode()).hexdigest()


def run(job: Job, progress: Progress) -> dict[str, Any]:
    """Prepare an avatar and return its report; `written` is `None` if the clip is refused.

    Raises:
        AvatarRuntimeError: an input is unusable.
        OSError: the disk is full.
    """
    opened = staging.opened(job.out, job.key(), restart=not job.resume)
    with one_opencv_thread(), opened as work:
        times = meter.Meter()
        found = analysis.analyse(job.source, job.locator, job.options.pixels, work, times, progress)
        verdict = quality.judge(found.facts)
        notes = [*job.notes, *found.notes, *_resumption(work)]
        if verdict.grade is quality.Grade.REFUSED:
            progress.finish()
            work.remove()
            return report.document(verdict, _context(job, notes, times))
        document = _finish(job, work, found, verdict, notes, times, progress)
        work.remove()
        return document


@contextmanager
def one_opencv_thread() -> Iterator[None]:
    """Let OpenCV work in the calling thread only.

    The networks of the detector are small: a second thread costs half as much processor time
    again, since threads wait in a loop, while the decoder of the source has work for them.
    """
    before = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        yield
    finally:
        cv2.setNumThreads(before)


def _finish(
    job: Job,
    work: staging.Staging,
    found: analysis.Analysis,
    verdict: quality.Verdict,
    notes: Sequence[str],
    times: meter.Meter,
    progress: Progress,
) -> dict[str, Any]:
    info = job.source.info
    boxes = making.place(found, job.options.smoothing, info.width, info.height, job.crops)
    recipe = making.Recipe(
        masker=job.masker,
        encoder=job.model.encoder,
        batch_size=job.options.batch_size,
    )
    making.make(found, boxes, recipe, work, times, progress)
    folder, plain = publishing.join(work, found.chunks, job.manifest)
    gaps = [f.lip_gap if plain.valid(i) else None for i, f in enumerate(found.facts)]
    closings = job.open_mouths(gaps)
    if closings:
        closing.close(plain, closings, job.model.draw_idle, work, times, progress)
    if job.mattes is not None:
        alpha.store(job.mattes, len(found.facts), work, times, progress)
    progress.finish()
    avatar = publishing.complete(
        work,
        found.chunks,
        folder,
        job.manifest,
        has_idle=bool(closings),
        has_alpha=job.mattes is not None,
    )
    preview = job.model.draw_preview(avatar)
    written = {
        "path": str(job.out),
        "bytes": publishing.size_bytes(folder),
        "content_hash": avatar.info.content_hash,
        "preview": publishing.PREVIEW,
    }
    invalid = avatar.manifest.invalid_frames
    context = _context(job, notes, times, written, tuple(closings), invalid)
    document = report.document(verdict, context)
    publishing.publish(folder, job.out, document, preview)
    return document


def _context(
    job: Job,
    notes: Sequence[str],
    times: meter.Meter,
    written: Mapping[str, Any] | None = None,
    idle: Sequence[int] = (),
    invalid: Sequence[int] = (),
) -> report.Context:
    # Without the notes, which the report has once.
    source = {k: v for k, v in asdict(job.source.info).items() if k != "notes"}
    return report.Context(
        name=job.out.name,
        source=source,
        options=asdict(job.options),
        tools=job.manifest((), 1).tools,
        warnings=job.warnings,
        notes=notes,
        timings_ms=times.per_frame_ms(),
        idle_frames=idle,
        invalid_frames=invalid,
        written=written,
    )


def _resumption(work: staging.Staging) -> list[str]:
    if work.resumed:
        return ["an earlier run of this command was continued; the times are those of this run"]
    if work.restarted:
        return ["an earlier run had other inputs and was not continued"]
    return []
