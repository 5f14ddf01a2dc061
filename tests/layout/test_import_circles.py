"""No import circles: none by a type annotation and none by an import inside a function either."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

import grimp
import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT: Final = Path(__file__).parents[2]

Graph = dict[str, set[str]]


def packages() -> list[str]:
    """Return the packages of the wheel and the local cluster of the tests."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return [Path(folder).name for folder in folders] + ["localcluster"]


def import_graph(*names: str) -> Graph:
    """Return what each module of some packages imports from them, in any place of the file."""
    graph = grimp.build_graph(*names, exclude_type_checking_imports=False, cache_dir=None)
    return {
        module: set(graph.find_modules_directly_imported_by(module)) for module in graph.modules
    }


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Return one shortest circle of each group of modules that import each other."""
    found = []
    for group in groups(graph):
        start = min(group)
        circle = shortest_circle(graph, group, start)
        found.append(circle)
    return sorted(found)


def groups(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """Return the strongly connected components that hold a circle (by Tarjan's algorithm)."""
    number: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[set[str]] = []

    def visit(module: str) -> None:
        number[module] = low[module] = len(number)
        stack.append(module)
        for other in sorted(graph[module]):
            if other not in number:
                visit(other)
                low[module] = min(low[module], low[other])
            elif other in stack:
                low[module] = min(low[module], number[other])
        if low[module] == number[module]:
            place = stack.index(module)
            group = set(stack[place:])
            del stack[place:]
            if len(group) > 1 or module in graph[module]:
                found.append(group)

    for module in sorted(graph):
        if module not in number:
            visit(module)
    return found


def shortest_circle(graph: Mapping[str, set[str]], group: set[str], start: str) -> list[str]:
    """Return the modules of a shortest way from a module back to itself."""
    ways = [[start]]
    seen: set[str] = set()
    while True:
        longer = []
        for way in ways:
            for other in sorted(graph[way[-1]] & group):
                if other == start:
                    return [*way, start]
                if other not in seen:
                    seen.add(other)
                    longer.append([*way, other])
        ways = longer


def test_no_package_has_an_import_circle() -> None:
    graph = import_graph(*packages())
    assert len(graph) > 100
    sizes = [f"{len(group)} modules: {', '.join(sorted(group))}" for group in groups(graph)]
    reported = [" -> ".join(circle) for circle in circles(graph)]
    assert reported == [], "\n".join(reported + sizes)


def test_every_way_to_import_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "circular"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "one.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from circular import two\n"
    )
    (package / "two.py").write_text("def late() -> None:\n    from circular.three import name\n")
    (package / "three.py").write_text("import circular.one\nname = 1\n")
    (package / "four.py").write_text("import circular.one\n")
    monkeypatch.syspath_prepend(tmp_path)
    graph = import_graph("circular")
    assert groups(graph) == [{"circular.one", "circular.two", "circular.three"}]
    assert circles(graph) == [["circular.one", "circular.two", "circular.three", "circular.one"]]
    (package / "three.py").write_text("name = 1\n")
    assert circles(import_graph("circular")) == []
    sys.modules.pop("circular", None)


@pytest.mark.parametrize(
    ("graph", "expected"),
    [
        ({"a": {"b"}, "b": {"c"}, "c": set()}, []),
        ({"a": {"a"}}, [["a", "a"]]),
        ({"a": {"b", "c"}, "b": {"c"}, "c": {"a"}}, [["a", "c", "a"]]),
        (
            {"a": {"b"}, "b": {"a"}, "c": {"d", "a"}, "d": {"c"}},
            [["a", "b", "a"], ["c", "d", "c"]],
        ),
        ({"a": {"b", "c"}, "b": {"d"}, "c": {"d"}, "d": set()}, []),
    ],
)
def test_circles_of_small_graphs(graph: Graph, expected: list[list[str]]) -> None:
    assert circles(graph) == expected
