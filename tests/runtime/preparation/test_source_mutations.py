"""Mutated files give frames or a named refusal: no crash, no hang, no noise on stderr."""

from __future__ import annotations

import pytest
from tests.runtime.preparation import programs


def run(seed: int, count: int) -> list[str]:
    """Return the line of each file."""
    done = programs.run("mutated_sources", str(seed), str(count), timeout=600)
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
