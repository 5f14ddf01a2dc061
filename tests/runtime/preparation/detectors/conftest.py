"""Photographs that ship in packages, and the detector with the real models."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import pytest

from avatar_runtime.preparation.detectors.mesh_detector import MeshDetector

if TYPE_CHECKING:
    from numpy.typing import NDArray

PHOTOGRAPHS = {
    # Eileen Collins, NASA, public domain.
    "astronaut": ("skimage", "data/astronaut.png"),
    # Grace Hopper with glasses and a cap, photograph of the US Navy, public domain.
    "hopper": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),
    # A man in profile at a camera, Lav Varshney, CC0.
    "camera": ("skimage", "data/camera.png"),
    # A cat, Stéfan van der Walt, CC0.
    "cat": ("skimage", "data/chelsea.png"),
    "coffee": ("skimage", "data/coffee.png"),
    "rocket": ("skimage", "data/rocket.jpg"),
}


@pytest.fixture(scope="session")
def photographs() -> dict[str, NDArray[np.uint8]]:
    """Return the pictures, `(h, w, 3) uint8` BGR."""
    read = {}
    for name, (package, file) in PHOTOGRAPHS.items():
        spec = find_spec(package)
        assert spec is not None
        assert spec.origin is not None
        read[name] = np.asarray(cv2.imread(str(Path(spec.origin).parent / file)), np.uint8)
    return read


@pytest.fixture(scope="session")
def detector() -> MeshDetector:
    return MeshDetector()
