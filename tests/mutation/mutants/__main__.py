"""Command line: `python -m mutants --mutants 200 --seed 1`; see tests/mutation/README.md."""

from __future__ import annotations

import argparse
import json
import queue
import random
import sys
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from mutants import baseline, layout, places, report
from mutants.worker import Worker, copy_repository

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

FOLDER: Final = layout.REPOSITORY / "build" / "mutants"
WORKERS: Final = 2


@dataclass(frozen=True, slots=True)
class Mutant:
    """A place with the change that was drawn for it."""

    number: int
    place: places.Place
    mutation: places.Mutation
    source: str
    diff: str


def draw(files: Mapping[str, str], count: int, seed: int) -> list[Mutant]:
    """Draw mutants: first a place, each one with the same chance, then one change for it."""
    found = [place for file, source in files.items() for place in places.places(file, source)]
    chance = random.Random(seed)
    chance.shuffle(found)
    drawn: list[Mutant] = []
    for place in found:
        if len(drawn) == count:
            break
        mutation = chance.choice(place.mutations)
        before = files[place.file]
        after = places.mutate(before, mutation)
        if after is not None:
            diff = places.diff(place.file, before, after)
            drawn.append(Mutant(len(drawn) + 1, place, mutation, after, diff))
    return drawn


class Run:
    """Tests the mutants, one after another in each of the copies."""

    def __init__(self, mutants: Sequence[Mutant], base: baseline.Baseline) -> None:
        self._base = base
        self._count = len(mutants)
        self._packages = layout.package_folders(layout.REPOSITORY)
        self._waiting: queue.SimpleQueue[Mutant] = queue.SimpleQueue()
        for mutant in mutants:
            self._waiting.put(mutant)
        self._results: list[report.Result] = []
        self._fault: BaseException | None = None

    def results(self, copies: Sequence[Path]) -> list[report.Result]:
        """Test all; the first fault of this tool ends the run and is raised."""
        threads = [threading.Thread(target=self._work, args=(copy,)) for copy in copies]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._fault is not None:
            raise self._fault
        return sorted(self._results, key=lambda result: result.number)

    def _work(self, copy: Path) -> None:
        try:
            with Worker(copy) as worker:
                controlled = False
                while self._fault is None:
                    mutant = self._waiting.get_nowait()
                    planned = self._planned(mutant)
                    if planned.tests and not controlled:
                        worker.control(planned)
                        controlled = True
                    self._results.append(self._result(worker, mutant, planned))
                    self._tell(self._results[-1])
        except queue.Empty:
            pass
        except BaseException as error:
            self._fault = error

    def _planned(self, mutant: Mutant) -> baseline.Planned:
        place = mutant.place
        module = layout.Module.of(place.file, self._packages)
        return self._base.planned(module, place.file, place.lines)

    def _result(self, worker: Worker, mutant: Mutant, planned: baseline.Planned) -> report.Result:
        file = mutant.place.file
        outcome, seconds, killer = "uncovered", 0.0, ""
        if planned.tests:
            outcome, seconds, killer = worker.test(file, mutant.source, planned)
        return report.Result(
            mutant.number,
            f"{file}:{mutant.place.start[0]}",
            mutant.mutation.operator,
            layout.Module.of(file, self._packages).area,
            outcome,
            len(planned.tests),
            seconds,
            killer,
            mutant.diff,
        )

    def _tell(self, result: report.Result) -> None:
        done = f"[{len(self._results)}/{self._count}]"
        name = result.operator.partition("/")[2]
        print(f"{done:>9} {result.outcome:9} {result.seconds:5.1f} s  {result.place}  {name}")


def main() -> int:
    """Draw, test and report; the exit status says only whether the run was possible."""
    parser = argparse.ArgumentParser(prog="mutants", description=__doc__)
    parser.add_argument("--mutants", type=int, default=200, metavar="N", help="how many to draw")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="of the draw")
    parser.add_argument("--only", default="*", metavar="GLOB", help="draw from these files only")
    parser.add_argument("--list", action="store_true", help="print the changes and test nothing")
    arguments = parser.parse_args()
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    started = time.monotonic()
    names = layout.sources(layout.REPOSITORY, arguments.only)
    files = {name: (layout.REPOSITORY / name).read_text() for name in names}
    mutants = draw(files, arguments.mutants, arguments.seed)
    if arguments.list:
        print("\n".join(mutant.diff for mutant in mutants))
        return 0
    FOLDER.mkdir(parents=True, exist_ok=True)
    copies = [copy_repository(FOLDER / f"copy-{number}") for number in range(WORKERS)]
    packages = layout.package_folders(layout.REPOSITORY)
    wanted = {layout.Module.of(mutant.place.file, packages).tests for mutant in mutants}
    folders = sorted(str(folder) for folder in wanted if (copies[0] / folder).is_dir())
    print(f"the tests of {', '.join(folders)} on the unchanged sources")
    base = baseline.measure(copies[0], FOLDER, folders)
    baseline_s = round(time.monotonic() - started)
    print(f"{len(base.durations)} passed in {baseline_s} s; left out: {list(base.failed)}")
    results = Run(mutants, base).results(copies)
    seconds = round(time.monotonic() - started)
    document = report.document(
        results, seed=arguments.seed, only=arguments.only, seconds=seconds,
        baseline_seconds=baseline_s, left_out=base.failed,
    )  # fmt: skip
    (FOLDER / "report.json").write_text(json.dumps(document, indent=1) + "\n")
    print(report.text(results))
    print(f"{seconds} s; the report is in {FOLDER / 'report.json'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
