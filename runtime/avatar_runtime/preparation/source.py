"""What the preparation asks of a source of pictures, and what the source answers.

A source is a video, a photo or a folder of pictures. `sources.open` makes one from a path.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from fractions import Fraction

    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["video", "photo", "folder"]

MEGAPIXEL: Final = 1_000_000
_GIBIBYTE: Final = 1 << 30
_MEBIBYTE: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceLimits:
    """Bounds on what a source may cost, whatever the file says of itself."""

    max_seconds: float = 600.0
    """Longest part of a video that is prepared: 10 minutes."""
    min_seconds: float = 1.0
    """Shortest video; a shorter one repeats visibly."""
    max_photo_pixels: int = 100 * MEGAPIXEL
    max_frame_pixels: int = 36 * MEGAPIXEL
    """Largest frame of a video: 8192x4320 has 35.4 megapixels."""
    max_video_bytes: int = 64 * _GIBIBYTE
    """10 minutes of 4K ProRes 422 HQ have about 50 GiB."""
    max_photo_bytes: int = 256 * _MEBIBYTE
    max_pictures: int = 15_000
    """Pictures of a folder: 10 minutes at 25 fps."""
    frame_seconds: float = 60.0
    """Longest time to read or decode one frame."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceOptions:
    """The part of the source that is prepared, and how.

    `start` and `end` are seconds from the first frame. `crop` is `(x, y, width, height)` in pixels
    of the upright picture, before it is scaled down.
    """

    start: float | None = None
    end: float | None = None
    crop: tuple[int, int, int, int] | None = None
    max_side: int = 1920
    """Longest side of the frames; larger sources are scaled down."""
    fps: int = 25
    """Frame rate of the result; MuseTalk's audio features have 25 windows per second."""
    background: str = ""
    """Colour under transparent pixels, `#rrggbb`; black if empty."""
    limits: SourceLimits = field(default_factory=SourceLimits)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInfo:
    """Facts about an open source; `width`, `height`, `fps` and `frames` are those of the result."""

    name: str
    """Name of the file or folder, without its parents."""
    sha256: str
    kind: Kind
    width: int
    height: int
    fps: int
    frames: int
    """Frames at `fps`. A damaged video can give fewer; see `Source.notes`."""
    source_width: int
    """Width of the upright picture before crop and scaling."""
    source_height: int
    source_fps: float
    """Mean frame rate of the source; 0 for a photo."""
    source_seconds: float
    """Length of the whole source; 0 for a photo."""
    codec: str
    """Name of the video codec or picture format, as FFmpeg names it."""
    pixel_format: str
    has_audio: bool
    start: float
    """Seconds from the first frame of the source to the first frame of the result."""
    end: float
    crop: tuple[int, int, int, int] | None
    notes: tuple[str, ...] = ()
    """What was changed or ignored, one sentence each, for the report."""

    def record(self) -> Mapping[str, Any]:
        """Return what the manifest of the avatar keeps of its source."""
        kept = ("name", "sha256", "kind", "width", "height", "fps", "start", "end")
        values = asdict(self)
        return {key: values[key] for key in kept} | {"crop": list(self.crop) if self.crop else None}


@dataclass(frozen=True, slots=True)
class TimedPicture:
    """One frame of the result: `(height, width, 3) uint8` BGR, owned by the receiver."""

    index: int
    source_time: Fraction
    """Seconds from the first frame of the source to the source frame that is shown."""
    picture: NDArray[np.uint8]


class Source(Protocol):
    """Pictures in a fixed size and at a fixed rate; reads the file again for each iteration."""

    @property
    def info(self) -> SourceInfo:
        """Facts known before a frame is decoded."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """`info.notes` and what the last iteration found, such as damaged frames."""
        ...

    def frames(self, start: int = 0) -> Iterator[NDArray[np.uint8]]:
        """Yield the frames `start` to `info.frames - 1`, `(height, width, 3) uint8` BGR.

        `frames(start=n)` yields what `frames()` yields after its first n frames. The memory that
        an iteration needs does not depend on the number of frames.

        Raises:
            SourceError: The file changed, cannot be decoded, or exceeds a limit.
        """
        ...

    def timed(self, start: int = 0) -> Iterator[TimedPicture]:
        """Yield the same frames with the time of the source frame that each one shows.

        Raises:
            SourceError: As `frames`.
        """
        ...
