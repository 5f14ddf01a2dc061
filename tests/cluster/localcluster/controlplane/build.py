"""Builds the tools of the Go module once, into a cache outside the checkout."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
import re
import signal
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from localcluster import errors, paths
from localcluster.controlplane import processes, toolchain

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

FLAGS: Final = ("-trimpath", "-mod=readonly")
TICK_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Tool:
    """A main package of the module and the name of its binary."""

    name: str
    package: str


@dataclass(frozen=True, slots=True)
class Step:
    """The progress of the build."""

    tool: str
    number: int
    count: int
    tool_s: float
    total_s: float
    done: bool


class Progress(Protocol):
    """Reports the progress of the build."""

    def say(self, text: str) -> None: ...

    def step(self, step: Step) -> None: ...


def parse_tools(go_mod: str) -> tuple[Tool, ...]:
    """Return the tools of a go.mod, in the order of the file."""
    packages: list[str] = []
    for block in re.findall(r"^tool \(\n(.*?)^\)", go_mod, re.MULTILINE | re.DOTALL):
        packages += block.split()
    packages += re.findall(r"^tool ([^\s(]\S*)$", go_mod, re.MULTILINE)
    return tuple(Tool(binary_name(package), package) for package in packages)


def binary_name(package: str) -> str:
    """Return the name of a package's binary; the package of etcd's server has another name."""
    if re.fullmatch(r"go\.etcd\.io/etcd/server/v\d+", package):
        return "etcd"
    parts = package.split("/")
    return parts[-2] if re.fullmatch(r"v\d+", parts[-1]) and len(parts) > 1 else parts[-1]


def link_flags(go_mod: str) -> str:
    """Return the linker flags, which make the binaries small and set the version of Kubernetes.

    Without the version, the API server reports `v0.0.0-master+$Format:%H$`, which kubectl rejects.
    """
    found = re.search(r"^\s*(?:require )?k8s\.io/kubernetes (v(\d+)\.(\d+)\.\S+)", go_mod, re.M)
    if found is None:
        return "-s -w"
    variables = {"gitVersion": found[1], "gitMajor": found[2], "gitMinor": found[3]}
    stamps = (f"-X k8s.io/component-base/version.{k}={v}" for k, v in variables.items())
    return " ".join(("-s -w", *stamps))


def cache_key(go_mod: str, go_sum: str) -> str:
    """Return the name of the cache folder, which depends on the sources and the flags."""
    digest = hashlib.sha256()
    for text in (go_mod, go_sum, *FLAGS):
        digest.update(text.encode() + b"\0")
    return digest.hexdigest()[:16]


def cache_root(environ: Mapping[str, str]) -> Path:
    """Return the user's cache folder of this project."""
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ["HOME"]) / ".cache")
    return Path(base) / "avatar-service" / "cluster"


def find_prebuilt(tools: Sequence[Tool], environ: Mapping[str, str]) -> dict[str, Path]:
    """Return the binaries in `KUBEBUILDER_ASSETS`, by name."""
    assets = environ.get("KUBEBUILDER_ASSETS")
    if not assets:
        return {}
    offered = ((tool.name, Path(assets) / tool.name) for tool in tools)
    return {name: path for name, path in offered if os.access(path, os.X_OK)}


async def ensure(
    progress: Progress, environ: Mapping[str, str], module: Path = paths.MODULE
) -> dict[str, Path]:
    """Build the missing tools, and return the binary of each tool by name.

    An interrupted build loses only the current tool: a binary gets its name when it is complete.

    Raises:
        GoMissing: no Go toolchain is available.
        BuildFailed: a tool does not compile.
    """
    go_mod, go_sum = (module / "go.mod").read_text(), (module / "go.sum").read_text()
    tools = parse_tools(go_mod)
    binaries = find_prebuilt(tools, environ)
    root = cache_root(environ)
    folder = root / cache_key(go_mod, go_sum) / "bin"
    cached = {tool.name: folder / tool.name for tool in tools if tool.name not in binaries}
    if all(path.exists() for path in cached.values()):
        return binaries | cached
    folder.mkdir(parents=True, exist_ok=True)
    async with _locked(folder.parent / "lock", progress):
        missing = [tool for tool in tools if tool.name in cached and not cached[tool.name].exists()]
        if missing:
            go = await toolchain.find_go(toolchain.wanted_version(go_mod), root, progress.say)
            await _Builder(go, module, folder, link_flags(go_mod), progress).build(missing)
    return binaries | cached


@contextlib.asynccontextmanager
async def _locked(path: Path, progress: Progress) -> AsyncIterator[None]:
    """Hold the lock of a cache folder; the kernel releases it when the process ends."""
    with path.open("w") as file:
        reported = False
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not reported:
                    progress.say("another process builds the same tools, waiting for it")
                reported = True
                await asyncio.sleep(TICK_S)
        yield


@dataclass(slots=True)
class _Builder:
    go: Path
    module: Path
    folder: Path
    link_flags: str
    progress: Progress

    async def build(self, tools: Sequence[Tool]) -> None:
        for leftover in self.folder.glob(".*.partial"):
            leftover.unlink()
        started = time.monotonic()
        for number, tool in enumerate(tools, 1):
            await self._build_one(tool, number, len(tools), started)

    async def _build_one(self, tool: Tool, number: int, count: int, started: float) -> None:
        partial = self.folder / f".{tool.name}.{os.getpid()}.partial"
        tool_started = time.monotonic()

        def report(done: bool) -> None:
            now = time.monotonic()
            elapsed, total = now - tool_started, now - started
            self.progress.step(Step(tool.name, number, count, elapsed, total, done))

        report(done=False)
        process = await asyncio.create_subprocess_exec(
            self.go, "build", *FLAGS, "-buildvcs=false", "-ldflags", self.link_flags,
            "-o", partial, tool.package,
            cwd=self.module, env=_build_environment(os.environ),
            preexec_fn=processes.die_with_parent, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        output = await self._wait(process, report)
        if process.returncode != 0:
            raise errors.BuildFailed(tool.name, process.returncode or 0, _last_lines(output))
        partial.rename(self.folder / tool.name)
        report(done=True)

    async def _wait(self, process: asyncio.subprocess.Process, report: _Report) -> str:
        reading = asyncio.create_task(process.communicate(), name="go build")
        try:
            while not (await asyncio.wait({reading}, timeout=TICK_S))[0]:
                report(done=False)
        except asyncio.CancelledError:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGTERM)
            await asyncio.wait({reading}, timeout=5)
            raise
        output, _ = reading.result()
        return output.decode(errors="replace")


class _Report(Protocol):
    def __call__(self, done: bool) -> None: ...


def _build_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of `go build` without variables that change the result."""
    fixed = {"CGO_ENABLED": "0", "GOFLAGS": "", "GOWORK": "off", "GOTOOLCHAIN": "local"}
    return {**environ, **fixed}


def _last_lines(output: str, lines: int = 40) -> str:
    return "\n".join(output.splitlines()[-lines:])
