"""The parent process of the components; no component runs longer than the supervisor.

It runs as `python -m localcluster.controlplane.supervisor STATE_DIR` with its standard input on
a pipe of the owner, and serves one JSON request per connection on a Unix socket, so that any
process and any event loop can control it. The kernel closes the pipe when the owner ends for any
reason; the supervisor then stops all its descendants and ends. If the supervisor is killed, the
kernel signals the components (`PR_SET_PDEATHSIG`).
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from localcluster import paths
from localcluster.controlplane import processes

POLL_S: Final = 0.02
REQUEST_BYTES: Final = 1 << 20
REQUEST_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Spec:
    """How to start a component."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str]
    log: str
    grace_s: float
    """Seconds between SIGTERM and SIGKILL when the whole cluster stops; 0 kills immediately.

    With a value above 0, the component also receives SIGTERM if the supervisor dies.
    """


@dataclass(slots=True)
class Child:
    """A component and its latest process."""

    spec: Spec
    process: subprocess.Popen[bytes]
    started: int

    def describe(self) -> dict[str, object]:
        """Return its part of the response to a `status` request."""
        return {
            "pid": self.process.pid,
            "started": self.started,
            "exit_code": self.process.returncode,
        }


class Supervisor:
    """Starts, signals and reaps components; nothing else does."""

    def __init__(self) -> None:
        self._children: dict[str, Child] = {}

    def handle(self, request: dict[str, Any]) -> dict[str, object]:
        """Execute one request and return the response."""
        match request:
            case {"do": "start", "spec": spec}:
                return self._start(Spec(**{**spec, "argv": tuple(spec["argv"])}))
            case {"do": "restart", "name": name} if name in self._children:
                return self._start(self._children[name].spec)
            case {"do": "signal", "name": name, "number": number} if name in self._children:
                self._signal(self._children[name], number)
                return self._children[name].describe()
            case {"do": "status"}:
                return {name: child.describe() for name, child in self._children.items()}
        return {"error": f"does not understand {json.dumps(request)[:200]}"}

    def reap(self) -> None:
        """Reap all children that ended, including adopted ones."""
        for child in self._children.values():
            child.process.poll()
        known = {child.process.pid for child in self._children.values()}
        for pid in processes.descendants(os.getpid()):
            if pid not in known:
                with contextlib.suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)

    def stop(self) -> None:
        """Stop all components, the latest first: a component may need earlier ones to clean up."""
        for child in reversed(self._children.values()):
            self._stop_one(child)
        while left := processes.descendants(os.getpid()):
            for pid in left:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.reap()
            time.sleep(POLL_S)

    def _start(self, spec: Spec) -> dict[str, object]:
        running = self._children.get(spec.name)
        if running and running.process.poll() is None:
            return {"error": f"runs {spec.name} already, as process {running.process.pid}"}
        last_word = signal.SIGTERM if spec.grace_s > 0 else signal.SIGKILL
        with open(spec.log, "ab") as log:
            process = subprocess.Popen(
                spec.argv, env=spec.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True,
                preexec_fn=functools.partial(processes.die_with_parent, last_word),
            )  # fmt: skip
        child = Child(spec, process, processes.identify(process.pid).started)
        self._children[spec.name] = child
        return child.describe()

    def _signal(self, child: Child, number: int) -> None:
        if child.process.poll() is None:
            child.process.send_signal(number)

    def _stop_one(self, child: Child) -> None:
        if child.spec.grace_s > 0:
            self._signal(child, signal.SIGTERM)
            deadline = time.monotonic() + child.spec.grace_s
            while child.process.poll() is None and time.monotonic() < deadline:
                time.sleep(POLL_S)
        self._signal(child, signal.SIGKILL)
        child.process.wait()


def listen(folder: Path) -> socket.socket:
    """Return a listening socket in `folder`, whose path may exceed the limit for sockets."""
    listener = socket.socket(socket.AF_UNIX)
    os.chdir(folder)
    Path(paths.Layout(folder).socket.name).unlink(missing_ok=True)
    listener.bind(paths.Layout(folder).socket.name)
    listener.listen(16)
    return listener


def answer(supervisor: Supervisor, connection: socket.socket) -> None:
    """Serve the one request of a connection."""
    with connection:
        connection.settimeout(REQUEST_S)
        try:
            line = connection.makefile("rb").readline(REQUEST_BYTES)
            reply = supervisor.handle(json.loads(line))
        except (OSError, ValueError, TypeError, KeyError) as error:
            reply = {"error": f"could not carry it out: {error}"}
        with contextlib.suppress(OSError):  # the peer disconnected, the request is executed anyway
            connection.sendall(json.dumps(reply).encode() + b"\n")


def serve(supervisor: Supervisor, listener: socket.socket) -> None:
    """Serve until standard input ends or a signal asks to stop."""
    woken, wake = socket.socketpair()
    wake.setblocking(False)
    woken.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    with selectors.DefaultSelector() as selector:
        for source in (sys.stdin.buffer, listener, woken):
            selector.register(source, selectors.EVENT_READ)
        while True:
            ready = [key.fileobj for key, _ in selector.select()]
            if woken in ready:
                numbers = woken.recv(4096)
                supervisor.reap()
                if signal.SIGTERM in numbers or signal.SIGINT in numbers:
                    return
            if sys.stdin.buffer in ready and not os.read(0, 4096):
                return
            if listener in ready:
                answer(supervisor, listener.accept()[0])


def main(folder: Path) -> None:
    """Run the supervisor of one state folder."""
    processes.adopt_orphans()
    supervisor = Supervisor()
    with listen(folder) as listener:
        try:
            serve(supervisor, listener)
        finally:
            supervisor.stop()
            Path(paths.Layout(folder).socket.name).unlink(missing_ok=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
