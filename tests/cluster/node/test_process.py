"""Commands as local processes."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

from localcluster import paths
from localcluster.node.errors import StartError
from localcluster.node.process import Process, Runner, find_bwrap, kill_leftovers
from localcluster.node.view import Command, Mount

BWRAP = find_bwrap()
WAYS = [
    pytest.param(None, id="rewrite"),
    pytest.param(
        BWRAP, id="bwrap", marks=pytest.mark.skipif(BWRAP is None, reason="no bwrap installed")
    ),
]


@pytest.fixture(params=WAYS)
def runner(request: pytest.FixtureRequest, tmp_path: Path) -> Runner:
    return Runner(request.param, mark=str(tmp_path))


def shell(script: str, **env: str) -> Command:
    return Command(("sh", "-c", script), {"PATH": os.environ["PATH"], **env}, "/")


async def until_logged(log: Path, text: str) -> None:
    async with asyncio.timeout(10):
        while True:
            if text in read(log):
                return
            await asyncio.sleep(0.01)


async def until_gone(pid: int) -> None:
    async with asyncio.timeout(10):
        while True:
            if is_gone(pid):
                return
            await asyncio.sleep(0.01)


def read(log: Path) -> str:
    return log.read_text()


def is_there(path: str) -> bool:
    return os.path.lexists(path)


def is_gone(pid: int) -> bool:
    """Whether it ended; a zombie that nobody reaps has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


@pytest.mark.parametrize(
    ("script", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -9 $$", 137), ("kill -15 $$", 143)]
)
async def test_the_exit_code_after_a_signal_is_128_plus_its_number(
    runner: Runner, tmp_path: Path, script: str, code: int
) -> None:
    process = runner.start(shell(script), (), tmp_path / "log")
    assert await process.wait() == code
    assert not process.running


async def test_output_is_appended_to_the_log(runner: Runner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("before\n")
    await runner.start(shell("echo out; echo err >&2"), (), log).wait()
    assert log.read_text() == "before\nout\nerr\n"


async def test_a_process_gets_only_the_environment_of_its_command(
    runner: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OF_THE_NODE", "leaks")
    outcome = await runner.run(shell("echo $A-$OF_THE_NODE", A="a"), (), 10)
    assert (outcome.code, outcome.output) == (0, "a-")


async def test_sigterm_reaches_the_main_process(runner: Runner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    script = "trap 'echo told; exit 7' TERM; echo set; while :; do sleep 0.02; done"
    process = runner.start(shell(script), (), log)
    await until_logged(log, "set")
    process.terminate()
    assert await process.wait() == 7
    assert log.read_text() == "set\ntold\n"


async def test_children_end_with_the_main_process(runner: Runner, tmp_path: Path) -> None:
    log = tmp_path / "log"
    process = runner.start(shell("sleep 1000 & echo $!"), (), log)
    assert await process.wait() == 0
    await until_gone(int(log.read_text()))


async def test_a_mounted_folder_is_visible_at_its_path(runner: Runner, tmp_path: Path) -> None:
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "file").write_text("content")
    mounts = (Mount("/models", volume), Mount("/opt/avatar/x", volume, read_only=True))
    outcome = await runner.run(shell("cat /models/file /opt/avatar/x/file; pwd"), mounts, 10)
    assert outcome.output == "contentcontent/"
    assert not is_there("/models")
    assert not is_there("/opt/avatar")


async def test_a_missing_command_is_named(runner: Runner, tmp_path: Path) -> None:
    with pytest.raises(StartError, match='exec: "no-such-command": executable file not found'):
        runner.start(Command(("no-such-command",), {"PATH": "/bin"}, "/"), (), tmp_path / "log")
    outcome = await runner.run(Command(("no-such-command",), {"PATH": "/bin"}, "/"), (), 1)
    assert outcome.code == 127


async def test_a_command_over_its_time_limit_is_killed(runner: Runner) -> None:
    outcome = await runner.run(shell("sleep 1000"), (), 0.05)
    assert (outcome.code, outcome.output) == (124, "command timed out after 0.05 s")


async def test_processes_end_with_the_node(runner: Runner, tmp_path: Path) -> None:
    """A node that is killed leaves nothing behind, whatever it had started."""
    log = tmp_path / "log"
    owner = f"""
import asyncio, pathlib
from localcluster.node.process import Runner
from localcluster.node.view import Command
async def main():
    runner = Runner({runner.bwrap!r}, "x")
    command = Command(("sh", "-c", "echo $$; exec sleep 1000"), {{"PATH": "/usr/bin:/bin"}}, "/")
    await runner.start(command, (), pathlib.Path({str(log)!r})).wait()
asyncio.run(main())
"""
    log.touch()
    env = {**os.environ, "PYTHONPATH": str(paths.MODULE)}
    node = await asyncio.create_subprocess_exec(sys.executable, "-c", owner, env=env)
    await until_logged(log, "\n")
    node.kill()
    assert await node.wait() == -9
    await until_gone(int(log.read_text()))


async def test_processes_of_a_previous_run_are_found_by_their_mark(
    tmp_path: Path,
) -> None:
    mine = Runner(None, mark=str(tmp_path / "mine"))
    other = Runner(None, mark=str(tmp_path / "other"))
    log = tmp_path / "log"
    left: list[Process] = [r.start(shell("exec sleep 1000"), (), log) for r in (mine, other)]
    assert kill_leftovers(mine.mark) == 1
    assert await left[0].wait() == 137
    assert left[1].running
    left[1].kill()
    assert await left[1].wait() == 137
