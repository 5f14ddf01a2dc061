"""A library whose private names we use has an upper bound: such a name may go in any release."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT: Final = Path(__file__).parents[2]
OTHER: Final = ("tests", "examples")
IMPORT_NAMES: Final = {
    "cv2": "opencv-python-headless",
    "pynvml": "nvidia-ml-py",
    "yaml": "pyyaml",
    "prometheus_client": "prometheus-client",
}
"""The distribution of a module whose name differs from it."""
ATTRIBUTES: Final = {"_req": "aiohttp"}
"""Private attributes of other people's objects, which no import shows, and whose they are."""
PUBLIC: Final = {"_asdict", "_fields", "_make", "_replace"}
"""Names of named tuples, public in spite of the underscore."""

Uses = dict[str, set[str]]
"""The places of use by library."""


def private(name: str) -> bool:
    return name.startswith("_") and not (name.startswith("__") and name.endswith("__"))


class _Names(ast.NodeVisitor):
    """Collects what a file imports, which private names it defines and which it uses."""

    def __init__(self) -> None:
        self.modules: dict[str, str] = {}
        self.defined: set[str] = set()
        self.uses: list[tuple[str, str, int]] = []
        self.attributes: list[tuple[str, int]] = []

    def visit_Import(self, node: ast.Import) -> None:
        for name in node.names:
            library = name.name.partition(".")[0]
            self.modules[name.asname or library] = library
            self._dotted(name.name, node.lineno)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        for name in node.names:
            self.modules[name.asname or name.name] = (node.module or "").partition(".")[0]
            self._dotted(f"{node.module}.{name.name}", node.lineno)

    def visit_Constant(self, node: ast.Constant) -> None:
        # A logger or a patched function is named by a string.
        if isinstance(node.value, str) and re.fullmatch(r"[a-z]\w*(\.\w+)+", node.value):
            self._dotted(node.value, node.lineno)

    def visit_Attribute(self, node: ast.Attribute) -> None:
        if private(node.attr) and node.attr not in PUBLIC:
            if isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
                if node.value.id in {"self", "cls"}:
                    self.defined.add(node.attr)
            self.attributes.append((node.attr, node.lineno))
            root = node.value
            while isinstance(root, ast.Attribute | ast.Call | ast.Subscript):
                root = root.func if isinstance(root, ast.Call) else root.value
            if isinstance(root, ast.Name) and root.id in self.modules:
                self.uses.append((self.modules[root.id], node.attr, node.lineno))
                self.attributes.pop()
        self.generic_visit(node)

    def visit_Name(self, node: ast.Name) -> None:
        if isinstance(node.ctx, ast.Store):
            self.defined.add(node.id)

    def visit_FunctionDef(
        self, node: ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef
    ) -> None:
        self.defined.add(node.name)
        self.generic_visit(node)

    visit_AsyncFunctionDef = visit_FunctionDef
    visit_ClassDef = visit_FunctionDef

    def _dotted(self, dotted: str, line: int) -> None:
        library, *parts = dotted.split(".")
        if any(private(part) for part in parts):
            self.uses.append((library, dotted, line))


def private_uses(sources: Mapping[str, str]) -> Uses:
    """Return where private names of other people's libraries are used, by library.

    An attribute that no source defines is somebody else's: `ATTRIBUTES` says whose, and one that
    is not there goes by the library `unknown`.
    """
    parsed: dict[str, _Names] = {}
    for name, text in sources.items():
        parsed[name] = _Names()
        parsed[name].visit(ast.parse(text))
    defined = set().union(*(names.defined for names in parsed.values()))
    own = {Path(folder).name for folder in package_folders()} | {"localcluster", "mutants", "tests"}
    found: Uses = defaultdict(set)
    for file, names in parsed.items():
        for library, name, line in names.uses:
            if library not in own and library not in sys.stdlib_module_names:
                found[IMPORT_NAMES.get(library, library)].add(f"{file}:{line} {name}")
        for name, line in names.attributes:
            if name not in defined:
                found[ATTRIBUTES.get(name, "unknown")].add(f"{file}:{line} {name}")
    return dict(found)


def package_folders() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())
    folders: list[str] = settings["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    return folders


def requirements(settings: Mapping[str, Any], product: bool) -> Iterator[str]:
    """Return the requirements of the packages, or those of the development too."""
    project = settings["project"]
    for listed in (project["dependencies"], *project["optional-dependencies"].values()):
        yield from listed
    if not product:
        for listed in settings["dependency-groups"].values():
            yield from (entry for entry in listed if isinstance(entry, str))


def unbounded(uses: Uses, settings: Mapping[str, Any], *, product: bool) -> list[str]:
    """Return the requirements that need an upper bound and have none, with the places.

    Every image installs from a requirement of its own, so each one of the packages needs it;
    what only tests use needs it once.
    """
    found = []
    for library, places in sorted(uses.items()):
        named = [
            requirement
            for requirement in requirements(settings, product)
            if re.split(r"[\[<>=!~; ]", requirement)[0].lower() == library
        ]
        bounded = [bool(re.search(r"<|==|~=", requirement)) for requirement in named]
        if not (bounded and (all(bounded) if product else any(bounded))):
            where = ", ".join(sorted(places))
            found.append(f"{library} needs an upper bound in pyproject.toml: {where}")
    return found


def read(folders: Iterable[str]) -> dict[str, str]:
    files = [file for folder in folders for file in (ROOT / folder).rglob("*.py")]
    return {str(file.relative_to(ROOT)): file.read_text() for file in files}


@pytest.fixture(scope="module")
def settings() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@pytest.fixture(scope="module")
def product_uses() -> Uses:
    return private_uses(read(package_folders()))


@pytest.fixture(scope="module")
def test_uses(product_uses: Uses) -> Uses:
    everywhere = private_uses(read([*package_folders(), *OTHER]))
    return {
        library: rest
        for library, places in everywhere.items()
        if (rest := places - product_uses.get(library, set()))
    }


def test_libraries_with_private_names_in_use_are_known(product_uses: Uses, test_uses: Uses) -> None:
    assert set(product_uses) == {"av", "kopf", "uvicorn"}, product_uses
    assert set(test_uses) <= {"aiohttp", "kopf", "uvicorn"}, test_uses


def test_each_of_them_has_an_upper_bound(
    settings: dict[str, Any], product_uses: Uses, test_uses: Uses
) -> None:
    assert unbounded(product_uses, settings, product=True) == []
    assert unbounded(test_uses, settings, product=False) == []


def test_a_bound_that_is_removed_is_noticed(
    settings: dict[str, Any], product_uses: Uses, test_uses: Uses
) -> None:
    def without(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: without(part) for key, part in value.items()}
        if isinstance(value, list):
            return [without(part) for part in value]
        return re.sub(r",?<[\d.]+", "", value) if isinstance(value, str) else value

    loose = without(settings)
    reported = unbounded(product_uses, loose, product=True)
    assert [text.split()[0] for text in reported] == ["av", "kopf", "uvicorn"]
    assert "avatar_runtime/preparation/" in reported[0]
    assert "avatar_operator/" in reported[1]
    assert "avatar_runtime/serving/" in reported[2]
    tests = unbounded(test_uses, loose, product=False)
    assert [text.split()[0] for text in tests] == sorted(test_uses)


@pytest.mark.parametrize(
    ("text", "library"),
    [
        ("from uvicorn._types import Scope", "uvicorn"),
        ("import kopf._core.reactor", "kopf"),
        ("from torch import _dynamo", "torch"),
        ("import torch\ntorch._C.x()", "torch"),
        ("import cv2 as cv\ncv.make()._inside", "opencv-python-headless"),
        ('log("kopf._core.reactor.running")', "kopf"),
        ("socket._req.abort()", "aiohttp"),
        ("socket._made_up.abort()", "unknown"),
    ],
)
def test_every_way_to_use_a_private_name_is_seen(text: str, library: str) -> None:
    assert set(private_uses({"file.py": text})) == {library}


@pytest.mark.parametrize(
    "text",
    [
        "import os\nos._exit(1)",
        "from avatar_operator.core import _own",
        "from __future__ import annotations\nimport torch\ntorch.__version__",
        "class A:\n    def __init__(self):\n        self._x = 1\nA()._x",
        "pair._replace(a=1)",
        'print("no_private.names here")',
    ],
)
def test_own_names_and_those_of_the_standard_library_are_free(text: str) -> None:
    assert private_uses({"file.py": text}) == {}
