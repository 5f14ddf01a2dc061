"""What several packages need is defined once, in `avatar_contracts`."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "operator", ROOT / "runtime")
CONTRACTS = Path("runtime/avatar_contracts")

FILES = {"index.html": CONTRACTS / "page", "gpu_profiles.json": CONTRACTS}
"""Each packaged file by its name, with the only folder that holds one."""


@pytest.mark.parametrize(("name", "folder"), FILES.items(), ids=FILES)
def test_file_exists_once(name: str, folder: Path) -> None:
    found = [path.relative_to(ROOT) for root in SOURCES for path in root.rglob(name)]
    assert found == [folder / name]


LITERALS = ("avatar.musetalk.io", "/control/v1/state?", "/control/v1/drain")
"""Text that code takes from `avatar_contracts.labels`."""


def literals(source: str) -> set[str]:
    """Return the string constants of a module, without its docstrings."""
    tree = ast.parse(source)
    statements = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in statements
    }


@pytest.mark.parametrize("text", LITERALS)
def test_no_other_package_spells_a_shared_name(text: str) -> None:
    sources = [path for root in SOURCES for path in root.rglob("*.py")]
    assert len(sources) > 100
    found = [
        str(path.relative_to(ROOT))
        for path in sources
        if not path.is_relative_to(ROOT / CONTRACTS)
        and any(text in literal for literal in literals(path.read_text()))
    ]
    assert found == []


def test_literals_are_found_but_docstrings_are_not() -> None:
    source = '"""avatar.musetalk.io"""\nname = f"avatar.musetalk.io/{1}"\n'
    assert literals(source) == {"avatar.musetalk.io/"}
