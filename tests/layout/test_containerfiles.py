"""What the Containerfiles copy is there, and `.dockerignore` lets it through and nothing else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CONTAINERFILES = sorted(
    file for file in ROOT.glob("*/Containerfile*") if file.parent.name not in {"build", ".venv"}
)


def copied(file: Path) -> set[str]:
    """Return what a Containerfile copies from the repository."""
    found: set[str] = set()
    for line in re.findall(r"^COPY (?!--from)(.+)$", file.read_text(), re.M):
        found |= set(line.split()[:-1])
    return found


def let_through() -> set[str]:
    lines = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in lines
    return {line.removeprefix("!") for line in lines if line.startswith("!")}


@pytest.mark.parametrize("file", CONTAINERFILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_what_is_copied_is_in_the_context(file: Path) -> None:
    sources = copied(file)
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        parents = {source, *map(str, Path(source).parents)}
        assert parents & let_through(), f".dockerignore keeps {source} out"


def test_the_context_holds_nothing_that_no_image_needs() -> None:
    assert len(CONTAINERFILES) >= 3
    sources = set().union(*map(copied, CONTAINERFILES))
    unused = {
        name for name in let_through() if not any(Path(s).is_relative_to(name) for s in sources)
    }
    assert unused == set()
