"""The supervisor: nothing it started is left, however it or its owner ends."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from localcluster import errors, paths, waiting
from localcluster.controlplane import folder, processes, supervision, supervisor

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from pathlib import Path

pytestmark = pytest.mark.slow

# Ignores SIGTERM and leaves a grandchild in a session of its own, whose parent has gone.
STUBBORN = (
    "sh", "-c", "trap '' TERM; (setsid sleep 600 & echo $! > grandchild); echo up; sleep 600"
)  # fmt: skip
POLITE = ("sh", "-c", "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done")

OWNER = """
import asyncio, pathlib, signal, sys
from localcluster import paths, waiting
from localcluster.controlplane import folder, supervision, supervisor
signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
async def main():
    layout = paths.Layout.of(pathlib.Path(sys.argv[1]))
    spec = supervisor.Spec("it", tuple(sys.argv[2:]), {"PATH": "/usr/bin:/bin"},
                           str(layout.log("it")), 0.3)
    async with supervision.supervised(layout):
        await supervision.start(layout, spec)
        await asyncio.Event().wait()
asyncio.run(main())
"""


@pytest.fixture
def layout(tmp_path: Path) -> paths.Layout:
    made = paths.Layout.of(tmp_path / ("long" * 40))  # longer than a socket's address may be
    folder.claim(made)
    made.logs.mkdir()
    return made


@pytest.fixture
def owner(layout: paths.Layout) -> Iterator[subprocess.Popen[bytes]]:
    argv = [sys.executable, "-c", OWNER, str(layout.root), *STUBBORN]
    with subprocess.Popen(argv, env={**os.environ, "PYTHONPATH": str(paths.MODULE)}) as process:
        try:
            yield process
        finally:
            process.kill()


def spec(layout: paths.Layout, *argv: str, grace_s: float = 5) -> supervisor.Spec:
    env = {"PATH": os.environ["PATH"]}
    return supervisor.Spec("it", argv, env, str(layout.log("it")), grace_s)


async def until_it_says(layout: paths.Layout, word: str) -> None:
    async def lines() -> list[str]:
        return paths.tail(layout.log("it")).splitlines()

    await waiting.until(lines, lambda seen: word in seen, f"the component says {word}")


async def gone(identities: tuple[processes.Identity, ...]) -> None:
    async with asyncio.timeout(20):
        for identity in identities:
            await processes.until_gone(identity)


def family(pid: int) -> tuple[processes.Identity, ...]:
    return tuple(processes.identify(below) for below in processes.descendants(pid))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
async def test_all_processes_end_with_their_owner(
    layout: paths.Layout, owner: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    await until_it_says(layout, "up")
    below = family(owner.pid)
    grandchild = int((layout.root / "grandchild").read_text())
    assert grandchild in {identity.pid for identity in below}
    assert len(below) >= 4  # the supervisor, the shell, its sleep, the orphan
    owner.send_signal(number)
    await gone(below)


@pytest.mark.parametrize(
    ("grace_s", "cleans_up"),
    [pytest.param(0, False, id="killed"), pytest.param(5, True, id="told")],
)
async def test_the_components_end_with_a_killed_supervisor(
    layout: paths.Layout, grace_s: float, cleans_up: bool
) -> None:
    async with supervision.supervised(layout) as identity:
        status = await supervision.start(layout, spec(layout, *POLITE, grace_s=grace_s))
        await until_it_says(layout, "up")
        identity.signal(signal.SIGKILL)
        await gone((identity, status.identity))
    assert ("bye" in paths.tail(layout.log("it"))) == cleans_up


async def test_the_status_shows_a_component_that_ended_by_itself(layout: paths.Layout) -> None:
    async with supervision.supervised(layout):
        await supervision.start(layout, spec(layout, "sh", "-c", "exit 3"))

        async def exit_code() -> int | None:
            return (await supervision.status(layout))["it"].exit_code

        await waiting.until(exit_code, lambda code: code == 3, "the component is reaped")


async def test_a_stopped_component_restarts_with_its_command(layout: paths.Layout) -> None:
    async with supervision.supervised(layout):
        first = await supervision.start(layout, spec(layout, *POLITE))
        with pytest.raises(errors.SupervisorFailed, match="runs it already"):
            await supervision.restart(layout, "it")
        await until_it_says(layout, "up")
        await supervision.stop(layout, "it", grace_s=10)
        assert (await supervision.status(layout))["it"].exit_code == 7
        again = await supervision.restart(layout, "it")
        assert again.identity != first.identity
        assert again.exit_code is None


async def test_a_component_that_ignores_sigterm_is_killed(layout: paths.Layout) -> None:
    async with supervision.supervised(layout):
        await supervision.start(layout, spec(layout, *STUBBORN))
        await until_it_says(layout, "up")
        await supervision.stop(layout, "it", grace_s=0.1)
        assert (await supervision.status(layout))["it"].exit_code == -signal.SIGKILL


async def test_components_with_grace_may_clean_up(layout: paths.Layout) -> None:
    async with supervision.supervised(layout):
        await supervision.start(layout, spec(layout, *POLITE))
        await until_it_says(layout, "up")
    assert "bye" in paths.tail(layout.log("it"))


@pytest.mark.parametrize(
    "ask",
    [
        pytest.param(lambda layout: supervision.restart(layout, "nobody"), id="unknown name"),
        pytest.param(
            lambda layout: supervision.start(layout, spec(layout, "/no/such/file")), id="no binary"
        ),
    ],
)
async def test_a_wrong_request_is_rejected_without_side_effects(
    layout: paths.Layout, ask: Callable[[paths.Layout], Awaitable[object]]
) -> None:
    async with supervision.supervised(layout):
        with pytest.raises(errors.SupervisorFailed):
            await ask(layout)
        assert await supervision.status(layout) == {}
