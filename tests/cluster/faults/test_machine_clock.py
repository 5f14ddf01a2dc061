"""The clock that leaves out the time in which processes wait for a processor."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from localcluster.faults.machine_clock import MachineClock, read_waits

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localcluster.faults.machine_clock import Waits

pytestmark = pytest.mark.realtime


class Machine:
    """A machine whose times a test sets."""

    def __init__(self) -> None:
        self.wall_s = 100.0
        self.waits: Waits = {"p1": 5.0, "p2": 7.0}
        self.clock = MachineClock(tuple, lambda: self.wall_s, lambda _: {**self.waits})

    def after(self, wall_s: float, **waits: float) -> float:
        self.wall_s += wall_s
        for thread, waited_s in waits.items():
            self.waits[thread] = self.waits.get(thread, 0.0) + waited_s
        self.clock.advance()
        return self.clock.now()


def test_the_longest_wait_of_a_thread_does_not_count() -> None:
    machine = Machine()
    assert machine.after(1.0) == pytest.approx(1.0)
    assert machine.after(1.0, p1=0.25, p2=0.5) == pytest.approx(1.5)
    assert machine.after(1.0, p1=1.1) == pytest.approx(1.5)  # the two clocks differ a little
    assert machine.after(1.0, p3=9.0) == pytest.approx(2.5)  # it waited before it was followed
    assert machine.after(1.0, p3=0.5) == pytest.approx(3.0)


@contextlib.contextmanager
def busy(count: int) -> Iterator[list[int]]:
    """Run processes that want one processor together."""
    code = "import os\nos.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\nwhile True: pass"
    running = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(count)]
    try:
        yield [each.pid for each in running]
    finally:
        for each in running:
            each.kill()
            each.wait()


@pytest.mark.skipif(not os.path.exists("/proc/self/schedstat"), reason="needs Linux")
def test_processes_that_share_a_processor_wait() -> None:
    with busy(3) as pids:
        deadline = time.monotonic() + 30.0
        clock, started_s = MachineClock(lambda: pids), time.monotonic()
        while time.monotonic() - started_s < 0.5 or not all(read_waits(pids).values()):
            assert time.monotonic() < deadline
        clock.advance()
        assert clock.now() < 0.7 * (time.monotonic() - started_s)


def test_a_process_that_ended_has_no_waits() -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    assert read_waits([ended.pid]) == {}
    assert f"/proc/{os.getpid()}/task/{os.getpid()}" in read_waits([os.getpid()])
