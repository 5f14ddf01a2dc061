"""The source roots stay plain folders, and no module hides one of the standard library."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = ("operator", "runtime", "tests", "tests/operator")


@pytest.mark.parametrize("folder", PLAIN)
def test_source_root_has_no_init_file(folder: str) -> None:
    assert not (ROOT / folder / "__init__.py").exists(), (
        f"{folder}/__init__.py shadows the standard library or breaks collection"
    )


def test_no_test_folder_is_a_package_but_localcluster() -> None:
    packages = {path.parent.relative_to(ROOT) for path in (ROOT / "tests").rglob("__init__.py")}
    outside = {p for p in packages if not p.is_relative_to("tests/cluster/localcluster")}
    assert outside == set()


def test_operator_of_the_standard_library_is_the_one_imported() -> None:
    import operator

    assert ROOT not in Path(operator.__file__).parents or ".venv" in operator.__file__


def test_no_module_is_named_like_the_standard_library() -> None:
    sources = [*(ROOT / "operator").rglob("*.py"), *(ROOT / "runtime").rglob("*.py")]
    names = {path.stem for path in sources if not path.stem.startswith("__")}
    assert len(sources) > 10
    assert names & sys.stdlib_module_names == set()
