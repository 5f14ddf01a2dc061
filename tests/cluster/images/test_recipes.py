"""What an image is built from decides whether it is built again."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from localcluster import paths
from localcluster.images import recipes

if TYPE_CHECKING:
    from pathlib import Path

OPERATOR = next(recipe for recipe in recipes.RECIPES if recipe.name == "operator")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Give a folder with the inputs of the operator's image."""
    text = (paths.REPOSITORY / OPERATOR.containerfile).read_text()
    for name in (OPERATOR.containerfile, *recipes.copied_paths(text)):
        source, target = paths.REPOSITORY / name, tmp_path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(
                source, target, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
            )
        else:
            shutil.copy(source, target)
    return tmp_path


def key(checkout: Path, *more: str) -> str:
    return recipes.input_key(checkout, OPERATOR, more)


def test_unchanged_inputs_have_one_key_in_all_checkouts(checkout: Path) -> None:
    assert key(checkout, "base") == key(paths.REPOSITORY, "base")


def test_bytecode_does_not_change_the_key(checkout: Path) -> None:
    before = key(checkout)
    cache = checkout / "operator/avatar_operator/__pycache__"
    cache.mkdir()
    (cache / "app.cpython-311.pyc").write_bytes(b"bytecode")
    assert key(checkout) == before


@pytest.mark.parametrize(
    "path",
    [
        "operator/Containerfile",
        "requirements/operator.txt",
        "requirements/build.txt",
        "operator/avatar_operator/app.py",
        "runtime/avatar_contracts/labels.py",
        "crds/avatarservices.yaml",
    ],
)
def test_each_input_changes_the_key(checkout: Path, path: str) -> None:
    before = key(checkout)
    file = checkout / path
    file.write_text(file.read_text() + "\n")
    assert key(checkout) != before


def test_a_renamed_file_and_another_base_change_the_key(checkout: Path) -> None:
    before = key(checkout, "base")
    assert key(checkout, "other base") != before
    folder = checkout / "operator/avatar_operator"
    (folder / "app.py").rename(folder / "application.py")
    assert key(checkout, "base") != before


def test_images_have_the_default_names_of_the_chart() -> None:
    release = recipes.read_release(paths.REPOSITORY)
    assert release.references == {
        name: f"avatar-musetalk/{name}:{release.version}"
        for name in ("operator", "gateway", "runtime")
    }


def test_recipes_name_the_locks_that_their_containerfiles_copy() -> None:
    for recipe in (*recipes.RECIPES, recipes.GPU_RUNTIME):
        copied = recipes.copied_paths((paths.REPOSITORY / recipe.containerfile).read_text())
        assert set(recipe.locks) <= set(copied)


def test_containerfiles_pin_one_base_by_digest() -> None:
    files = {paths.REPOSITORY / recipe.containerfile for recipe in recipes.RECIPES}
    pins = {
        line for file in files for line in file.read_text().splitlines() if "ARG PYTHON=" in line
    }
    (pin,) = pins
    name, _, digest = pin.partition("@sha256:")
    assert name == "ARG PYTHON=python:3.11-slim-bookworm"
    assert len(bytes.fromhex(digest)) == 32
