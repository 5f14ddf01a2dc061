"""Opens the face detector and the face parser of a preparation."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from avatar_runtime.preparation.faces import FaceDetector, FaceParser


def open_detector(dwpose: Path | None = None) -> FaceDetector:
    """Return the detector of the landmarks: DWPose if its ONNX file is given, else the mesh.

    Raises:
        AssetError: a model file is missing or unreadable.
    """
    from avatar_runtime.preparation.detectors.mesh_detector import MeshDetector

    if dwpose is None:
        return MeshDetector()
    from avatar_runtime.preparation.detectors.dwpose import DWPose

    return DWPose(dwpose, MeshDetector())


def open_parser(weights: Path | None = None) -> FaceParser:
    """Return the parser: BiSeNet if its weights are given, else polygons of the landmarks.

    Raises:
        AssetError: the file of the weights is missing or unreadable.
    """
    if weights is None:
        from avatar_runtime.preparation.detectors.mesh_parser import MeshParser

        return MeshParser()
    from avatar_runtime.preparation.detectors.bisenet import BiSeNetParser

    return BiSeNetParser(weights)
