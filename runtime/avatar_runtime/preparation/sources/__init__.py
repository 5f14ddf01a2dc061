"""Sources of pictures: a video, a photo or a folder of pictures.

`open` tells them apart and gives frames in one size, at one rate, with the right colours.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from avatar_runtime.preparation.source import SourceOptions
from avatar_runtime.preparation.sources import files, folder, video

if TYPE_CHECKING:
    from avatar_runtime.preparation.source import Source


def open(path: str | Path, options: SourceOptions | None = None) -> Source:  # noqa: A001
    """Open the source at `path`; nothing is kept open between iterations.

    Raises:
        SourceError: The source cannot be used; one sentence says why.
    """
    files.refuse_url(str(path))
    chosen = Path(path)
    opened = folder.open_folder if chosen.is_dir() else video.open_file
    return opened(chosen, options or SourceOptions())
