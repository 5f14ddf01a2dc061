"""Programs end on SIGTERM while they start, also as the first process of a container."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAMS = ("avatar-gateway", "avatar-operator", "avatar-runtime")
SCRIPT = """
import importlib.metadata, sys, time

class Slow:
    def find_spec(self, name, path=None, target=None):
        if name.endswith(".__main__"):
            print("importing", flush=True)
            time.sleep(60)

sys.meta_path.insert(0, Slow())
(program,) = importlib.metadata.entry_points(group="console_scripts", name=sys.argv[1])
sys.exit(program.load()())
"""


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_that_imports_its_modules_ends_on_sigterm(program: str) -> None:
    arguments = [sys.executable, "-c", SCRIPT, program]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == "importing\n"
        child.send_signal(signal.SIGTERM)
        # -15 would be the default action, which the first process of a container does not have.
        assert child.wait(10) == 143
