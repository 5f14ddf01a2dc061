"""ONNX Runtime sends nothing about this program to its vendor."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

IMPORTS = (
    "from avatar_runtime.onnx_runtime import onnxruntime",
    "from avatar_runtime.audio import voice_activity",
)


def started(home: Path, code: str) -> list[str]:
    """Return the files that an import leaves in the home folder of a user outside CI."""
    home.mkdir()
    # Nothing else, because the library looks for variables of CI systems.
    environment = {"HOME": str(home), "PATH": os.environ["PATH"]}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    return [path.name for path in home.rglob("*") if path.is_file()]


@pytest.mark.parametrize("code", IMPORTS, ids=["module", "user"])
def test_nothing_identifies_the_device(tmp_path: Path, code: str) -> None:
    assert started(tmp_path / "home", code) == []
    # What this prevents: the library as it is identifies the device.
    assert "deviceid" in started(tmp_path / "other", "import onnxruntime")
