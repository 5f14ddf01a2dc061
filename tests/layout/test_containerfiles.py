"""What the Containerfiles copy is there, and `.dockerignore` lets it through and nothing else."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import zipfile
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


PACKAGES = {
    "operator/Containerfile": {"avatar_contracts", "avatar_operator"},
    "runtime/Containerfile": {"avatar_contracts", "avatar_runtime"},
    "runtime/Containerfile.gateway": {"avatar_contracts", "avatar_gateway"},
}
PACKAGED = {"page/index.html", "gpu_profiles.json"}


@pytest.mark.slow
@pytest.mark.parametrize("name", PACKAGES)
def test_wheel_of_what_is_copied_has_the_packages_of_the_image(name: str, tmp_path: Path) -> None:
    """Build the wheel as the Containerfile does: from the copied files alone."""
    text = (ROOT / name).read_text()
    assert "rm -r" not in text
    for source, target in re.findall(r"^COPY (?!--from)(.+) /src/(\S*)$", text, re.M):
        for path in source.split():
            place = tmp_path / "src" / (target or path)
            place.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / path).is_dir():
                leave = shutil.ignore_patterns("__pycache__")
                shutil.copytree(ROOT / path, place, symlinks=True, ignore=leave)
            else:
                shutil.copy(ROOT / path, tmp_path / "src" if not target else place)
    build = "import sys, hatchling.build as b; print(b.build_wheel(sys.argv[1]))"
    subprocess.run([sys.executable, "-c", build, tmp_path], cwd=tmp_path / "src", check=True)
    (wheel,) = tmp_path.glob("*.whl")
    files = {Path(file) for file in zipfile.ZipFile(wheel).namelist()}
    packages = {file.parts[0] for file in files if not file.parts[0].endswith(".dist-info")}
    assert packages == PACKAGES[name]
    assert {Path("avatar_contracts", file) for file in PACKAGED} <= files
    if "avatar_operator" in packages:
        assert Path("avatar_operator/crds/avatarservices.yaml") in files
