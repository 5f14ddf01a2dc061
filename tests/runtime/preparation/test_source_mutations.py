"""Mutated files give frames or a named refusal: no crash, no hang, no noise on stderr."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def run(seed: int, count: int) -> list[str]:
    """Return the line of each file."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.runtime.preparation.mutated_sources", str(seed), str(count)],
        capture_output=True, text=True, cwd=ROOT, timeout=600,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    last = lines[-1] if lines else "nothing"
    assert done.returncode == 0, f"exit {done.returncode} at {last}: {done.stderr[-2000:]}"
    assert done.stderr == ""
    assert len(lines) == count
    return lines


def check(lines: list[str]) -> None:
    refused = [line for line in lines if " refused: " in line]
    made = [line for line in lines if " frames " in line]
    assert len(refused) + len(made) == len(lines)
    assert not [line for line in refused if "\\n" in line]
    assert refused
    assert made


@pytest.mark.slow
def test_30_mutated_files() -> None:
    check(run(seed=1, count=30))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_300_mutated_files() -> None:
    check(run(seed=2, count=300))
