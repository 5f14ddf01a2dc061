"""Someone who follows README: its commands, and a copy of the repository to run them in."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import os
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from localcluster import paths

if TYPE_CHECKING:
    from localcluster.controlplane.cluster import ControlPlane

STEP_S: Final = 240
FIRST_SESSION_PORT: Final = 8080
"""The local port of README's port-forward."""

PYTHON3: Final = """#!/bin/sh
# Adds the packages of the tests' environment to a new environment, so that pip needs no network.
{python} "$@" || exit
if [ "$1 $2" = "-m venv" ]; then
  for folder in "$3"/lib/python3*/site-packages; do
    echo {packages} > "$folder/dependencies.pth"
  done
fi
"""

README: Final = (paths.REPOSITORY / "README.md").read_text()
OPERATIONS: Final = (paths.REPOSITORY / "docs" / "operations.md").read_text()


@dataclass(frozen=True, slots=True)
class Reader:
    """Someone who follows README in a copy of the repository, in one shell after the other."""

    cluster: ControlPlane
    folder: Path
    environment: dict[str, str]

    async def follow(self, commands: str) -> str:
        """Run commands in one shell that ends at the first failure; return what they print.

        Raises:
            AssertionError: a command failed; has the output.
        """
        script = f"set -eu\ntrap 'kill $(jobs -p) 2> /dev/null || true' EXIT\n{commands}"
        process = await asyncio.create_subprocess_exec(
            *("bash", "-c", script),
            cwd=self.folder,
            env=self.environment,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        try:
            async with asyncio.timeout(STEP_S):
                output, _ = await process.communicate()
        finally:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
        if process.returncode:
            raise AssertionError(f"{output.decode()}\n--- of\n{commands}")
        return output.decode()


def section(text: str, title: str) -> str:
    """Return a section of a page without its sub-sections."""
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#+ |\Z)", _masked(text), re.M | re.S)
    if found is None:
        raise LookupError(f"no section {title!r}")
    return text[found.start(2) : found.end(2)]


def commands(text: str) -> str:
    """Return the commands of the code blocks of a text."""
    blocks = re.findall(r"^```sh\n(.*?)^```$", text, re.M | re.S)
    return "".join(blocks)


def _masked(text: str) -> str:
    """Hide the headings that are comments of commands; every offset stays."""
    return re.sub(
        r"^```.*?^```$", lambda block: block[0].replace("#", "."), text, flags=re.M | re.S
    )


def client_dependencies() -> list[str]:
    """Return the packages that the extras of README's `pip install` require, by name."""
    (extras,) = re.findall(r"pip install '\.\[([\w,]+)\]'", commands(README))
    wanted = importlib.metadata.requires("avatar-service") or []
    names = []
    for line in wanted:
        name, _, marker = line.partition(";")
        if not marker or any(
            f'"{extra}"' in marker.replace("'", '"') for extra in extras.split(",")
        ):
            names.append(re.split(r"[<>=!~\[ ]", name)[0])
    return names


def missing_dependencies() -> list[str]:
    """Return the packages of README's `pip install` that the environment of the tests lacks."""
    return [name for name in client_dependencies() if not _is_installed(name)]


def _is_installed(name: str) -> bool:
    try:
        return bool(importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return False


def environment(cluster: ControlPlane, tools: Path, home: Path) -> dict[str, str]:
    """Return the environment of a reader, and write the programs that it finds first to `tools`.

    The packages that the client depends on come from the environment of the tests, not from the
    network.
    """
    packages = shlex.quote(
        str(Path(str(importlib.metadata.distribution("pytest").locate_file(""))))
    )
    python = shlex.quote(sys.executable)
    write_tool(tools / "python3", PYTHON3.format(python=python, packages=packages))
    inherited = cluster.environment()
    kept = {k: v for k, v in inherited.items() if k not in ("PYTHONPATH", "AVATAR_API_KEY")}
    path = f"{tools}{os.pathsep}{inherited['PATH']}"
    # For pip, 0 is the value of this variable that turns the isolation of builds off.
    without_network = {"PIP_NO_INDEX": "1", "PIP_NO_DEPS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    return {**kept, **without_network, "PATH": path, "HOME": str(home)}


def copy_repository(to: Path) -> None:
    """Copy the files of the repository that users have: all but the tests."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=paths.REPOSITORY, check=True, capture_output=True,
    ).stdout  # fmt: skip
    for name in filter(None, listed.decode().split("\0")):
        source = paths.REPOSITORY / name
        if source.is_file() and not name.startswith("tests/"):
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


def write_tool(path: Path, text: str) -> None:
    """Write a program."""
    path.write_text(text)
    path.chmod(0o755)
