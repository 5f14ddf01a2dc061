"""Where the sources are, which tests mirror them and which area they belong to."""

from __future__ import annotations

import fnmatch
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

REPOSITORY: Final = Path(__file__).parents[3]
LEFT_OUT: Final = ("avatar_training", "avatar_client")
"""Packages that make no decision in a cluster."""
STRANGE: Final = 9
"""The rank of a test file of another package."""


def package_folders(repository: Path) -> list[Path]:
    """Return the package folders of the wheel, relative to the repository."""
    settings = tomllib.loads((repository / "pyproject.toml").read_text())
    folders = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return [Path(folder) for folder in folders]


def source_roots(repository: Path) -> list[Path]:
    """Return the folders that hold packages, and that of the local cluster."""
    roots = {folder.parent for folder in package_folders(repository)}
    return [*sorted(roots), Path("tests/cluster")]


def sources(repository: Path, pattern: str) -> list[str]:
    """Return the source files that mutants are made of and a pattern matches, in order."""
    found = []
    for folder in package_folders(repository):
        if folder.name not in LEFT_OUT:
            found += [file.relative_to(repository) for file in (repository / folder).rglob("*.py")]
    return sorted(str(file) for file in found if fnmatch.fnmatch(str(file), pattern))


@dataclass(frozen=True, slots=True)
class Module:
    """A source file, as `operator/avatar_operator/core/plan.py`."""

    package: str
    folders: tuple[str, ...]
    stem: str

    @classmethod
    def of(cls, file: str, packages: Sequence[Path]) -> Module:
        path = Path(file)
        folder = next(folder for folder in packages if path.is_relative_to(folder))
        inside = path.relative_to(folder)
        return cls(folder.name.removeprefix("avatar_"), inside.parent.parts, inside.stem)

    @property
    def area(self) -> str:
        """The package and its first folder; what lies in no folder is the package's shell."""
        return f"{self.package} {self.folders[0] if self.folders else 'shell'}"

    @property
    def tests(self) -> Path:
        """The folder of the package's tests."""
        return Path("tests", self.package)

    def rank(self, test_file: str) -> int:
        """Return how near a test file is: 0 mirrors the module, then by the folders in common."""
        path = Path(test_file)
        name = path.stem.removeprefix("test_")
        stem = self.folders[-1] if self.stem == "__init__" and self.folders else self.stem
        stem = stem.strip("_")
        mirror = self.tests.joinpath(*self.folders)
        if path.parent == mirror and (name == stem or name.startswith(f"{stem}_")):
            return 0
        if not path.is_relative_to(self.tests):
            return STRANGE
        common = 0
        for mine, theirs in zip(
            self.folders, path.relative_to(self.tests).parent.parts, strict=False
        ):
            if mine != theirs:
                break
            common += 1
        return 1 + len(self.folders) - common
