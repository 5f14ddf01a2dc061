"""Runs one command as a local process group that ends with this process at the latest."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from localcluster.controlplane.processes import die_with_parent

from .errors import StartError
from .view import Command, Mount, rewritten, wrapped

MARK: Final = "LOCALCLUSTER_NODE"  # variable that marks the processes of the node


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a short command (a probe or a hook) ended."""

    code: int
    output: str


class Runner:
    """Starts commands with the mounts that this machine supports."""

    def __init__(self, bwrap: str | None, mark: str) -> None:
        self.bwrap = bwrap
        self.mark = mark
        """Value of the variable MARK; processes of a previous run of this node have it, too."""

    @property
    def way(self) -> str:
        """How mounts become visible: `bwrap` or `rewrite`."""
        return "bwrap" if self.bwrap else "rewrite"

    def start(self, command: Command, mounts: tuple[Mount, ...], log: Path) -> Process:
        """Start a command with its output appended to `log`.

        Raises:
            StartError: the executable does not exist.
        """
        outside = rewritten(command, mounts)
        if shutil.which(outside.words[0], path=command.env.get("PATH")) is None:
            word = command.words[0]
            raise StartError(f'exec: "{word}": executable file not found in $PATH')
        shown = wrapped(command, mounts, self.bwrap) if self.bwrap else outside
        env = {**shown.env, MARK: self.mark}
        try:
            with log.open("ab") as output:
                child = subprocess.Popen(
                    shown.words,
                    env=env,
                    cwd=shown.folder,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    preexec_fn=die_with_parent,  # safe, because this process has one thread
                )
        except OSError as error:
            raise StartError(f"cannot start {command.words[0]}: {error.strerror}") from error
        return Process(child, behind_bwrap=bool(self.bwrap))

    async def run(
        self, command: Command, mounts: tuple[Mount, ...], timeout_s: float | None
    ) -> Outcome:
        """Run a command to its end; after `timeout_s` it is killed, with code 124 as `timeout`."""
        with tempfile.NamedTemporaryFile() as file:
            path = Path(file.name)
            try:
                process = self.start(command, mounts, path)
            except StartError as error:
                return Outcome(127, str(error))
            try:
                async with asyncio.timeout(timeout_s):
                    code = await process.wait()
            except TimeoutError:
                process.kill()
                await process.wait()  # otherwise the process is not reaped if the loop ends now
                return Outcome(124, f"command timed out after {timeout_s} s")
            finally:
                process.kill()
            return Outcome(code, _tail(path))


class Process:
    """A started process group; a pidfd reports its end, without a thread."""

    def __init__(self, child: subprocess.Popen[bytes], behind_bwrap: bool) -> None:
        self._child = child
        self._behind_bwrap = behind_bwrap
        self.killed = False
        """Whether the node killed it, so that no hook runs for it."""
        self._loop = asyncio.get_running_loop()
        self._ended: asyncio.Future[int] = self._loop.create_future()
        self._pidfd = os.pidfd_open(child.pid)
        self._loop.add_reader(self._pidfd, self._on_end)

    @property
    def pid(self) -> int:
        """Return the process id of the group leader."""
        return self._child.pid

    @property
    def running(self) -> bool:
        """Return whether the main process runs."""
        return not self._ended.done()

    async def wait(self) -> int:
        """Return the exit code, or 128 + signal if a signal ended the process."""
        return await asyncio.shield(self._ended)

    def terminate(self) -> None:
        """Send SIGTERM only to the main process, as container runtimes do."""
        if not self.running:
            return
        try:
            if not self._behind_bwrap:
                self._child.send_signal(signal.SIGTERM)
                return
            # bwrap must keep running: its end would kill the command.
            children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
            for pid in children.split():
                os.kill(int(pid), signal.SIGTERM)
        except (ProcessLookupError, FileNotFoundError):
            pass  # it has ended meanwhile

    def kill(self) -> None:
        """Kill the whole group."""
        self.killed = True
        if self.running:
            _kill_group(self.pid)

    def _on_end(self) -> None:
        self._loop.remove_reader(self._pidfd)
        os.close(self._pidfd)
        # The leader is not reaped yet, so no other group can have this number.
        _kill_group(self.pid)
        code = self._child.wait()
        self._ended.set_result(128 - code if code < 0 else code)


def find_bwrap() -> str | None:
    """Return the path of bwrap if it is installed and can create mount namespaces."""
    path = shutil.which("bwrap")
    if path is None:
        return None
    probe = [path, "--dev-bind", "/", "/", "--tmpfs", "/tmp", "true"]
    works = subprocess.run(probe, capture_output=True, check=False, timeout=10).returncode == 0
    return path if works else None


def kill_leftovers(mark: str) -> int:
    """Kill processes of a previous run of this node; return their number."""
    wanted = f"{MARK}={mark}".encode()
    count = 0
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if wanted in (folder / "environ").read_bytes().split(b"\0"):
                os.kill(int(folder.name), signal.SIGKILL)
                count += 1
        except OSError:
            continue  # it ended, or belongs to another user
    return count


def _kill_group(pid: int) -> None:
    try:
        os.killpg(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass


def _tail(path: Path, size: int = 4096) -> str:
    return path.read_bytes()[-size:].decode(errors="replace").strip()
