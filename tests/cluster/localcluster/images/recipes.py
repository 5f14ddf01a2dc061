"""The images: what each is built from, and the key under which a build of it is kept."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

EPOCH_S: Final = 1_767_225_600
"""The time of every file in every layer, 2026-01-01T00:00:00Z, unless SOURCE_DATE_EPOCH is set.

It is not the time of the commit: equal files shall be equal layers in all releases.
"""
CHART: Final = Path("charts/avatar-operator")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One image. Paths are relative to the root of the repository."""

    name: str
    containerfile: str
    locks: tuple[str, ...]
    arguments: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Release:
    """What the chart calls the images."""

    references: Mapping[str, str]
    """The reference of each image by its name in the chart, `avatar-musetalk/operator:0.1.0`."""
    version: str
    source: str


BUILD_LOCK: Final = "requirements/build.txt"
RUNTIME_LOCKS: Final = (BUILD_LOCK, "requirements/placeholders.txt")
RECIPES: Final = (
    Recipe("operator", "operator/Containerfile", (BUILD_LOCK, "requirements/operator.txt")),
    Recipe("gateway", "runtime/Containerfile.gateway", (BUILD_LOCK, "requirements/gateway.txt")),
    Recipe(
        "runtime",
        "runtime/Containerfile",
        (*RUNTIME_LOCKS, "requirements/runtime-cpu.txt"),
        (("VARIANT", "cpu"),),
    ),
)
"""What `make images` builds. The runtime is the variant for machines without a GPU."""
GPU_RUNTIME: Final = Recipe(
    "runtime", "runtime/Containerfile", (*RUNTIME_LOCKS, "requirements/runtime.txt")
)


def read_release(root: Path) -> Release:
    """Return the default names of the images in the chart, with its appVersion as tag."""
    chart = yaml.safe_load((root / CHART / "Chart.yaml").read_text())
    values = yaml.safe_load((root / CHART / "values.yaml").read_text())
    version = str(chart["appVersion"])
    references = {
        recipe.name: f"{values[recipe.name]['image']['repository']}:{version}" for recipe in RECIPES
    }
    sources = [*chart.get("sources", ()), chart.get("home") or ""]
    return Release(references, version, sources[0])


def copied_paths(containerfile: str) -> tuple[str, ...]:
    """Return what a Containerfile copies from the repository, in its order."""
    found: list[str] = []
    for line in re.findall(r"^COPY (?!--from)(.+)$", containerfile, re.MULTILINE):
        found += line.split()[:-1]
    return tuple(found)


def input_key(root: Path, recipe: Recipe, more: Iterable[str]) -> str:
    """Return the key of everything that an image is built from.

    `more` holds the inputs that are no files of the repository: the base, the labels, the builder.
    Folders are hashed with the names and executable bits of their files, without bytecode.
    """
    digest = hashlib.sha256()
    text = (root / recipe.containerfile).read_text()
    for part in (recipe.name, text, *more, *(f"{k}={v}" for k, v in recipe.arguments)):
        digest.update(part.encode() + b"\0")
    for path in copied_paths(text):
        for file in _files(root / path):
            executable = os.access(file, os.X_OK)
            digest.update(f"{file.relative_to(root)}\0{executable}\0".encode())
            digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
        return
    for file in sorted(path.rglob("*")):
        if file.is_file() and "__pycache__" not in file.parts:
            yield file
