"""A unit test that uses the name of a fixture for tools would be left out of `make unit`."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pytest

TESTS = Path(__file__).parents[1]
OWNERS = {
    "cluster": {"conftest.py"},
    "release": {"e2e/conftest.py"},
    "prometheus": {"e2e/conftest.py"},
    "fleet": {"e2e/conftest.py"},
    "helm": {"charts/conftest.py"},
    "promtool": {"charts/test_alerts.py"},
    "redis_server": {"gateway/conftest.py"},
    "images": {"cluster/images/test_images.py"},
    "actionlint": {"layout/test_workflows.py"},
}
"""The fixtures of `TOOL_FIXTURES` in tests/conftest.py, and the files that define them."""


def fixtures(file: Path) -> set[str]:
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return {
        node.name
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, functions)
        and any("fixture" in ast.unparse(each) for each in node.decorator_list)
    }


def definitions() -> dict[str, set[str]]:
    """Return the files that define each fixture, by the names of the fixtures."""
    found: dict[str, set[str]] = {}
    for file in sorted(TESTS.rglob("*.py")):
        for name in fixtures(file):
            found.setdefault(name, set()).add(str(file.relative_to(TESTS)))
    return found


def test_no_other_fixture_has_the_name_of_one_that_runs_a_tool() -> None:
    found = definitions()
    assert {name: found.get(name, set()) for name in OWNERS} == OWNERS


def test_every_fixture_that_runs_a_tool_is_checked(pytestconfig: pytest.Config) -> None:
    (hooks,) = (
        plugin
        for plugin in pytestconfig.pluginmanager.get_plugins()
        if getattr(plugin, "__file__", None) == str(TESTS / "conftest.py")
    )
    assert hooks.TOOL_FIXTURES == set(OWNERS)
