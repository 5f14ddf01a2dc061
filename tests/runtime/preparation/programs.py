"""Runs a module of this folder in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]


def run(module: str, *arguments: str, timeout: float) -> subprocess.CompletedProcess[str]:
    """Run `tests.runtime.preparation.MODULE` for at most `timeout` seconds.

    The root is on the path by name: `make test` sets PYTHONSAFEPATH, with which Python leaves
    the working directory out. `localcluster` is on the path as in the tests.
    """
    return subprocess.run(
        [sys.executable, "-m", f"{__package__}.{module}", *arguments],
        capture_output=True, text=True, timeout=timeout, check=False,
        env=os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'cluster'}"},
    )  # fmt: skip
