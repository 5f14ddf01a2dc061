"""The mutation run: what it changes, what it leaves alone, and which tests it chooses."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from cosmic_ray.mutating import mutate_code

from mutants import baseline, layout, places, report, statements, warm, worker
from mutants.__main__ import draw

if TYPE_CHECKING:
    from collections.abc import Callable

PACKAGES = [Path("operator/avatar_operator"), Path("runtime/avatar_gateway")]


def changes(source: str) -> set[str]:
    """Return every program that a mutation makes of a source."""
    made = {
        places.mutate(source, mutation)
        for place in places.places("file.py", source)
        for mutation in place.mutations
    }
    return {text for text in made if text is not None}


@pytest.mark.parametrize("name", statements.OPERATORS)
def test_own_operators_do_as_their_examples_say(name: str) -> None:
    made = statements.OPERATORS[name]
    for example in made.examples():
        assert mutate_code(example.pre_mutation_code, made(), 0) == example.post_mutation_code


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("x = a + b\n", "x = a - b\n"),
        ("x = a < b\n", "x = a <= b\n"),
        (
            "def f(a: int = 1) -> int:\n    return g\n",
            "def f(a: int = 1) -> int:\n    return None\n",
        ),
        ("self.a[0] = b\n", "pass\n"),
        ("if a:\n    pass\n", "if not a:\n    pass\n"),
        ("# é ü\nx: Final = 'é' + b\n", "# é ü\nx: Final = 'é' - b\n"),
    ],
)
def test_a_place_gives_a_change(source: str, expected: str) -> None:
    assert expected in changes(source)


@pytest.mark.parametrize(
    "source",
    [
        "x: A | None\n",
        "x: 'Literal[1, 2]'\n",
        "def f(a: dict[str, Literal[1]] | None, *, b: A | B) -> C | None: ...\n",
        "def f(*, a, b): ...\n",
        "def f():\n    return None\n",
        "x = lambda *, a: a\n",
        "Told = Ready | Failed[int] | None\n",
        "Told: TypeAlias = Literal[1, 2]\n",
        "if TYPE_CHECKING:\n    x = 1 + 2\n",
        "if __name__ == '__main__':\n    main()\n",
        "@x.dataclass(frozen=True, slots=True)\nclass A:\n    pass\n",
        "@override\ndef f(): ...\n",
        "@functools.lru_cache(maxsize=1)\ndef f(): ...\n",
        "x = zip(a, b, strict=True)\n",
        "x = cast(A | B, c)\n",
        "_log.info('%d', 1)\n",
        '"""A docstring."""\n',
    ],
)
def test_what_makes_no_difference_is_left_alone(source: str) -> None:
    removed_decorator = source.partition("\n")[2]
    assert changes(source) - {removed_decorator} == set()


def test_a_removed_decorator_of_the_type_checker_is_left_alone() -> None:
    assert changes("@override\ndef f(): ...\n") == set()
    assert changes("@property\ndef f(): ...\n") == {"def f(): ...\n"}


def test_a_returned_false_becomes_true_only() -> None:
    assert changes("def f():\n    return False\n") == {"def f():\n    return True\n"}


def test_lines_of_a_place_are_those_of_its_statement() -> None:
    source = (
        "def f():\n    return g(\n        a,\n        1,\n    )\n\n\nif (\n    b > 2\n):\n    c()\n"
    )
    lines = {place.start[0]: place.lines for place in places.places("file.py", source)}
    assert lines[4] == (2, 3, 4, 5)
    assert lines[9] == (8, 9, 10)
    assert lines[11] == (11,)


def test_a_draw_is_repeatable_and_each_mutant_is_another_program() -> None:
    files = {"a.py": "x = 1 + 2\ny = a and b\n", "b.py": "z = c < d\n"}
    drawn = draw(files, 5, seed=1)
    assert [mutant.source for mutant in drawn] == [m.source for m in draw(files, 5, seed=1)]
    assert [mutant.source for mutant in drawn] != [m.source for m in draw(files, 5, seed=2)]
    assert [mutant.number for mutant in drawn] == [1, 2, 3, 4, 5]
    assert all(mutant.source != files[mutant.place.file] for mutant in drawn)
    assert {line for m in drawn for line in m.diff.splitlines() if line.startswith("-x")} == {
        "-x = 1 + 2"
    }
    assert len(draw(files, 100, seed=1)) == 5


@pytest.mark.parametrize(
    ("file", "test", "rank"),
    [
        ("core/cron.py", "tests/operator/core/test_cron.py", 0),
        ("core/cron.py", "tests/operator/core/test_cron_zones.py", 0),
        ("core/cron.py", "tests/operator/core/test_cronicle.py", 1),
        ("core/cron.py", "tests/operator/test_cron.py", 2),
        ("core/plan/stages.py", "tests/operator/core/plan/test_stages.py", 0),
        ("core/plan/stages.py", "tests/operator/core/plan/test_other.py", 1),
        ("core/plan/stages.py", "tests/operator/core/test_stages.py", 2),
        ("core/plan/stages.py", "tests/operator/test_main.py", 3),
        ("core/plan/__init__.py", "tests/operator/core/plan/test_plan.py", 0),
        ("__main__.py", "tests/operator/test_main.py", 0),
        ("core/cron.py", "tests/gateway/core/test_cron.py", 9),
    ],
)
def test_rank_of_a_test_file(file: str, test: str, rank: int) -> None:
    module = layout.Module.of(f"operator/avatar_operator/{file}", PACKAGES)
    assert module.rank(test) == rank


def test_areas() -> None:
    def area(file: str) -> str:
        return layout.Module.of(file, PACKAGES).area

    assert area("operator/avatar_operator/core/plan/a.py") == "operator core"
    assert area("operator/avatar_operator/cluster.py") == "operator shell"
    assert area("runtime/avatar_gateway/core/a.py") == "gateway core"


FILE = "operator/avatar_operator/core/cron.py"


def test_planned_tests_run_the_line_and_the_nearest_are_first() -> None:
    mirror, near, far = (
        "tests/operator/core/test_cron.py::a",
        "tests/operator/core/test_other.py::b",
        "tests/operator/test_main.py::c",
    )
    durations = {far: 0.1, near: 1.0, mirror: 2.0, "tests/gateway/test_main.py::d": 0.1}
    lines = {1: frozenset({""}), 5: frozenset({near, far, mirror}), 6: frozenset({far})}
    base = baseline.Baseline(durations, (), {FILE: lines})
    module = layout.Module.of(FILE, PACKAGES)
    assert base.planned(module, FILE, [5]).tests == (mirror, near, far)
    assert base.planned(module, FILE, [5]).seconds == pytest.approx(3.1)
    assert base.planned(module, FILE, [6]).tests == (far,)
    assert base.planned(module, FILE, [1]).tests == (mirror, near, far)
    assert base.planned(module, FILE, [99]).tests == (mirror,)
    starting = baseline.Baseline(
        durations, (), {FILE: lines}, frozenset({"tests/operator/test_main.py"})
    )
    assert starting.planned(module, FILE, [99]).tests == (mirror, far)
    assert starting.planned(module, FILE, [5]).tests == (mirror, near, far)
    slow = {mirror: baseline.BUDGET_S + 1, near: 1.0}
    assert baseline.Baseline(slow, (), {FILE: lines}).planned(module, FILE, [5]).tests == (near,)


@pytest.mark.parametrize(
    ("status", "output", "outcome"),
    [
        (0, "1 passed", "survived"),
        (1, "FAILED a.py::b - assert 1", "killed"),
        (2, "ERROR a.py", "killed"),
        (1, "FAILED a.py::b - Failed: Timeout (>20.0s) from pytest-timeout.", "timeout"),
        (None, "", "timeout"),
        (-11, "", "killed"),
        (4, "ImportError while loading conftest '/x'", "killed"),
        (1, "", None),
        (3, "Traceback", None),
        (4, "ERROR: file not found", None),
        (5, "no tests ran", None),
        (3, "x\npytest.PytestUnraisableExceptionWarning: Exception ignored in: <socket>", "killed"),
        (3, "INTERNALERROR> something else", None),
    ],
)
def test_outcome_of_a_run(status: int | None, output: str, outcome: str | None) -> None:
    assert worker.outcome_of(status, output) == outcome


def test_a_changed_file_is_put_back_and_has_another_time_each_time(tmp_path: Path) -> None:
    file = tmp_path / "a.py"
    file.write_text("x = 1\n")
    times = []
    for text in ("x = 2\n", "x = 3\n"):
        with worker.changed(file, text):
            assert file.read_text() == text
            times.append(int(file.stat().st_mtime))
        times.append(int(file.stat().st_mtime))
        assert file.read_text() == "x = 1\n"
    assert len(set(times)) == 4


def test_the_report_counts_by_area_and_names_survivors() -> None:
    def result(number: int, area: str, outcome: str) -> report.Result:
        return report.Result(number, "a.py:7", "own/x", area, outcome, 3, 1.0, "", "-x\n+y")

    outcomes = ("killed", "timeout", "survived", "uncovered")
    results = [result(n, "operator core", outcome) for n, outcome in enumerate(outcomes)]
    results.append(result(4, "gateway core", "killed"))
    assert report.summary(results)["operator core"]["score"] == 0.5
    assert report.summary(results)["all"]["score"] == 0.6
    reported = report.text(results)
    assert "survived: a.py:7 (3 tests)\n-x\n+y" in reported
    assert "uncovered: a.py:7" in reported
    document = report.document(results, seed=1)
    assert json.loads(json.dumps(document))["results"][2]["outcome"] == "survived"


@pytest.fixture
def child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, float], int | None]:
    """Run a test file in a fork, as the warm process does for a mutant."""
    monkeypatch.chdir(tmp_path)

    def run(source: str, limit_s: float) -> int | None:
        Path("test_it.py").write_text(source)
        task = {"tests": ["test_it.py::test_it"], "limit_s": limit_s, "test_limit_s": 5,
                "output": str(tmp_path / "output.txt")}  # fmt: skip
        status: int | None = warm.run(task, f"test-{os.getpid()}")["status"]
        return status

    return run


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("body", "limit_s", "status"),
    [
        ("assert True", 30, 0),
        ("assert False", 30, 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 30, -11),
        ("import signal; signal.pause()", 3, None),
    ],
)
def test_status_of_a_child(
    child: Callable[[str, float], int | None], body: str, limit_s: float, status: int | None
) -> None:
    assert child(f"def test_it():\n    {body}\n", limit_s) == status


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_what_a_test_leaves_behind_is_ended(
    child: Callable[[str, float], int | None], tmp_path: Path
) -> None:
    script = "import signal; signal.pause()"
    source = (
        "import subprocess, pathlib\ndef test_it():\n"
        f"    command = [{sys.executable!r}, '-c', {script!r}]\n"
        "    left = subprocess.Popen(command, start_new_session=True)\n"
        f"    pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(left.pid))\n"
    )
    child(source, 30)
    status = Path("/proc", (tmp_path / "pid").read_text(), "stat")
    deadline = time.monotonic() + 10
    while status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
