"""Every tracked symlink leads to something inside the repository."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def links(root: Path) -> list[Path]:
    """Return the symlinks that git tracks under a root, also those that lead nowhere."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--stage"], cwd=root, check=True, capture_output=True
    ).stdout.split(b"\0")
    entries = [entry.partition(b"\t") for entry in listed if entry]
    return [root / os.fsdecode(name) for kind, _, name in entries if kind.startswith(b"120000")]


def faults(root: Path) -> list[str]:
    """Return what is wrong with the tracked symlinks under a root."""
    found = []
    for link in links(root):
        name, target = link.relative_to(root), os.readlink(link)
        resolved = (link.parent / target).resolve()
        if Path(target).is_absolute() or not resolved.is_relative_to(root.resolve()):
            found.append(f"{name} -> {target} leaves the repository")
        elif not resolved.exists():
            found.append(f"{name} -> {target} leads nowhere")
    return found


def test_tracked_links_lead_to_something_in_the_repository() -> None:
    assert faults(ROOT) == []


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one file `here/file` and nothing else."""
    root = tmp_path / "repository"
    (root / "here").mkdir(parents=True)
    (root / "here" / "file").write_text("text")
    subprocess.run(["git", "init", "-q"], cwd=root, check=True)
    return root


@pytest.mark.parametrize(
    ("target", "fault"),
    [
        ("file", ""),
        ("../here", ""),
        ("missing", "here/link -> missing leads nowhere"),
        ("../../outside", "here/link -> ../../outside leaves the repository"),
        ("/etc", "here/link -> /etc leaves the repository"),
    ],
)
def test_a_link_that_leads_nowhere_or_outside_is_found(
    repository: Path, target: str, fault: str
) -> None:
    (repository.parent / "outside").write_text("text")
    (repository / "here" / "link").symlink_to(target)
    subprocess.run(["git", "add", "."], cwd=repository, check=True)
    assert len(links(repository)) == 1
    assert faults(repository) == ([fault] if fault else [])
