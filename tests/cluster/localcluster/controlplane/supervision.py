"""Controls the supervisor from any thread, event loop or process."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from localcluster import errors, paths
from localcluster.controlplane import processes, supervisor

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Mapping

START_S: Final = 5.0
STOP_S: Final = 20.0
POLL_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Status:
    """The status of a component."""

    identity: processes.Identity
    exit_code: int | None
    """None while it runs; a negative number is the signal that ended it."""


@contextlib.asynccontextmanager
async def supervised(layout: paths.Layout) -> AsyncIterator[processes.Identity]:
    """Run a supervisor for a state folder; it stops its components when the block ends.

    Raises:
        SupervisorFailed: the supervisor does not start.
    """
    process = _spawn(layout)
    try:
        await _until_it_answers(layout, process)
        yield processes.identify(process.pid)
    finally:
        await asyncio.to_thread(_close, process)


def _spawn(layout: paths.Layout) -> subprocess.Popen[bytes]:
    with layout.log("supervisor").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "localcluster.controlplane.supervisor", layout.root],
            env={**os.environ, "PYTHONPATH": str(paths.MODULE)},
            stdin=subprocess.PIPE, stdout=log, stderr=log,
            start_new_session=True,  # Ctrl-C reaches only the owner, which then stops this process
        )  # fmt: skip


def _close(process: subprocess.Popen[bytes]) -> None:
    """Close the pipe, which stops the supervisor, and wait."""
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(STOP_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


async def _until_it_answers(layout: paths.Layout, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_S
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(errors.SupervisorFailed):
            await status(layout)
            return
        await asyncio.sleep(POLL_S)
    raise errors.SupervisorFailed(f"did not start:\n{paths.tail(layout.log('supervisor'))}")


def request(layout: paths.Layout, body: Mapping[str, object]) -> dict[str, Any]:
    """Send one request and return the response.

    Raises:
        SupervisorFailed: the supervisor rejects the request or does not answer.
    """
    try:
        with _connected(layout) as connection:
            connection.sendall(json.dumps(body).encode() + b"\n")
            reply = json.loads(connection.makefile("rb").readline())
    except (OSError, ValueError) as error:
        raise errors.SupervisorFailed(f"of {layout.root} does not answer: {error}") from error
    if "error" in reply:
        raise errors.SupervisorFailed(reply["error"])
    assert isinstance(reply, dict)
    return reply


@contextlib.contextmanager
def _connected(layout: paths.Layout) -> Iterator[socket.socket]:
    # The path through the folder's descriptor always fits into the 108 bytes of unix(7).
    folder = os.open(layout.root, os.O_PATH | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(supervisor.REQUEST_S)
            connection.connect(f"/proc/self/fd/{folder}/{layout.socket.name}")
            yield connection
    finally:
        os.close(folder)


async def start(layout: paths.Layout, spec: supervisor.Spec) -> Status:
    """Start a component."""
    return _status(await asyncio.to_thread(request, layout, {"do": "start", "spec": asdict(spec)}))


async def restart(layout: paths.Layout, name: str) -> Status:
    """Start a stopped component with its previous command."""
    return _status(await asyncio.to_thread(request, layout, {"do": "restart", "name": name}))


async def status(layout: paths.Layout) -> dict[str, Status]:
    """Return all components in the order of their start."""
    reply = await asyncio.to_thread(request, layout, {"do": "status"})
    return {name: _status(fields) for name, fields in reply.items()}


async def stop(layout: paths.Layout, name: str, grace_s: float) -> None:
    """Stop a component with SIGTERM, after `grace_s` seconds with SIGKILL; 0 kills it directly."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + grace_s
    number = signal.SIGTERM if grace_s > 0 else signal.SIGKILL
    while True:
        body = {"do": "signal", "name": name, "number": number}
        reply = _status(await asyncio.to_thread(request, layout, body))
        while reply.exit_code is None and (number == signal.SIGKILL or loop.time() < deadline):
            await asyncio.sleep(POLL_S)
            reply = (await status(layout))[name]
        if reply.exit_code is not None:
            return
        number = signal.SIGKILL


def _status(fields: Mapping[str, Any]) -> Status:
    return Status(processes.Identity(fields["pid"], fields["started"]), fields["exit_code"])
