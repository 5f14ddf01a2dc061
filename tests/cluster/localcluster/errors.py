"""The errors of the local cluster.

LocalClusterError
├── GoMissing            no Go toolchain is new enough, and none can be installed
├── BuildFailed          `go build` of one tool failed
├── ForeignFolder        the state folder contains something else
├── AlreadyRunning       a cluster runs in this state folder
├── NotRunning           no cluster runs in this state folder
├── PortTaken            a requested port is in use
├── ComponentFailed      a component ended, or did not become ready in time
├── SupervisorFailed     the parent process of the components does not answer
└── CommandFailed        kubectl or helm failed
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class LocalClusterError(Exception):
    """Base of all errors this package raises on purpose."""


class GoMissing(LocalClusterError):
    """No Go toolchain can build the module."""

    def __init__(self, wanted: str, found: str, reason: str) -> None:
        super().__init__(wanted, found, reason)
        self.wanted = wanted
        self.found = found
        self.reason = reason

    def __str__(self) -> str:
        return f"Go {self.wanted} or newer is needed, found {self.found}, and {self.reason}"


class BuildFailed(LocalClusterError):
    """One tool did not compile."""

    def __init__(self, tool: str, exit_code: int, output: str) -> None:
        super().__init__(tool, exit_code, output)
        self.tool = tool
        self.exit_code = exit_code
        self.output = output

    def __str__(self) -> str:
        return f"go build of {self.tool} ended with {self.exit_code}:\n{self.output.rstrip()}"


class ForeignFolder(LocalClusterError):
    """The state folder has files but no state file: it may contain data of the user."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return (
            f"{self.folder} is not empty and was not created by localcluster, choose another folder"
        )


class AlreadyRunning(LocalClusterError):
    """One state folder serves one cluster at a time."""

    def __init__(self, folder: Path, pid: int) -> None:
        super().__init__(folder, pid)
        self.folder = folder
        self.pid = pid

    def __str__(self) -> str:
        return f"a cluster with process {self.pid} runs in {self.folder}, stop it first"


class NotRunning(LocalClusterError):
    """No cluster runs in the state folder."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.folder = folder

    def __str__(self) -> str:
        return f"no cluster runs in {self.folder}"


class PortTaken(LocalClusterError):
    """A requested port cannot be bound."""

    def __init__(self, port: int, reason: str) -> None:
        super().__init__(port, reason)
        self.port = port
        self.reason = reason

    def __str__(self) -> str:
        return f"port {self.port} of 127.0.0.1 cannot be used: {self.reason}"


class ComponentFailed(LocalClusterError):
    """A component ended or did not become ready; has the end of its log."""

    def __init__(self, name: str, what: str, log_tail: str) -> None:
        super().__init__(name, what, log_tail)
        self.name = name
        self.what = what
        self.log_tail = log_tail

    def __str__(self) -> str:
        return (
            f"{self.name} {self.what}; the end of its log:\n{self.log_tail.rstrip() or '(empty)'}"
        )


class SupervisorFailed(LocalClusterError):
    """The supervisor rejected a request or did not answer."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.what = what

    def __str__(self) -> str:
        return f"the supervisor {self.what}"


class CommandFailed(LocalClusterError):
    """A command failed."""

    def __init__(self, argv: Sequence[str], exit_code: int, stderr: str) -> None:
        super().__init__(argv, exit_code, stderr)
        self.argv = tuple(argv)
        self.exit_code = exit_code
        self.stderr = stderr

    def __str__(self) -> str:
        return f"{' '.join(self.argv)} ended with {self.exit_code}: {self.stderr.strip()}"
