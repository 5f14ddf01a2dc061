"""The build of the tools: what is built, where it goes, and what interrupts it."""

from __future__ import annotations

import asyncio
import fcntl
import io
import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from localcluster import errors, paths, waiting
from localcluster.controlplane import build, processes, progress, toolchain

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

GO_MOD = (paths.MODULE / "go.mod").read_text()
GO_SUM = (paths.MODULE / "go.sum").read_text()

TWO_TOOLS = """\
module example.test/tools

go 1.21

tool (
	example.test/tools/first
	example.test/tools/second
)
"""

# Stands in for Go: the binary it "builds" holds the package's name.
FAKE_GO = """\
#!/bin/sh
[ "$1" = version ] && { echo "go version go1.99.1 linux/amd64"; exit; }
while [ "$1" != -o ]; do shift; done
printf half > "$2"
case "$3" in *second) %s ;; esac
echo "$3" > "$2" && chmod +x "$2"
"""


class Recorder:
    """Keeps the progress instead of showing it."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.steps: list[build.Step] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def step(self, step: build.Step) -> None:
        self.steps.append(step)


@pytest.fixture
def module(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    folder.mkdir()
    (folder / "go.mod").write_text(TWO_TOOLS)
    (folder / "go.sum").write_text("")
    return folder


@pytest.fixture
def with_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], dict[str, str]]:
    """Return a function that puts a Go on PATH which does this when it builds the second tool."""

    def put(at_second: str) -> dict[str, str]:
        go = tmp_path / "fake" / "go"
        go.parent.mkdir(exist_ok=True)
        go.write_text(FAKE_GO % at_second)
        go.chmod(0o755)
        monkeypatch.setenv("PATH", f"{go.parent}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
        return dict(os.environ)

    return put


def test_the_module_names_the_seven_tools() -> None:
    names = {tool.name for tool in build.parse_tools(GO_MOD)}
    assert names == {
        "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler",
        "kubectl", "helm", "kwok",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("package", "name"),
    [
        pytest.param("go.etcd.io/etcd/server/v3", "etcd", id="etcd's server"),
        pytest.param("helm.sh/helm/v4/cmd/helm", "helm", id="a command"),
        pytest.param("example.test/thing/v2", "thing", id="a version at the end"),
        pytest.param("example.test/thing", "thing", id="a module that is a command"),
    ],
)
def test_a_binary_is_named_after_its_package(package: str, name: str) -> None:
    assert build.binary_name(package) == name


def test_a_single_tool_line_is_parsed() -> None:
    assert build.parse_tools("tool example.test/one\n") == (build.Tool("one", "example.test/one"),)


def test_the_binaries_know_the_version_of_kubernetes_in_go_mod() -> None:
    flags = build.link_flags("require (\n\tk8s.io/kubernetes v1.37.2 // indirect\n)\n")
    assert "version.gitVersion=v1.37.2 " in flags
    assert "version.gitMajor=1 " in flags
    assert flags.endswith("version.gitMinor=37")
    assert "gitVersion=v1." in build.link_flags(GO_MOD)


def test_changed_sources_have_another_cache() -> None:
    key = build.cache_key(GO_MOD, GO_SUM)
    assert key == build.cache_key(GO_MOD, GO_SUM)
    assert key != build.cache_key(GO_MOD, GO_SUM + "\n")
    assert key != build.cache_key(GO_MOD + "\n", GO_SUM)


def test_the_cache_follows_xdg(tmp_path: Path) -> None:
    below = "avatar-service/cluster"
    chosen = build.cache_root({"HOME": "/home/me", "XDG_CACHE_HOME": str(tmp_path)})
    assert chosen == tmp_path / below
    assert str(build.cache_root({"HOME": "/home/me"})) == f"/home/me/.cache/{below}"


def test_only_executable_assets_are_used(tmp_path: Path) -> None:
    for name, mode in (("etcd", 0o755), ("kube-apiserver", 0o644)):
        (tmp_path / name).touch(mode=mode)
    tools = build.parse_tools(GO_MOD)
    found = build.find_prebuilt(tools, {"KUBEBUILDER_ASSETS": str(tmp_path)})
    assert found == {"etcd": tmp_path / "etcd"}
    assert build.find_prebuilt(tools, {}) == {}


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("go version go1.26.8 linux/amd64", (1, 26, 8)),
        ("1.26.0", (1, 26, 0)),
        ("go1.27rc1", (1, 27)),
        ("go: command not found", ()),
    ],
)
def test_versions_of_go_are_parsed(text: str, version: tuple[int, ...]) -> None:
    assert toolchain.parse_version(text) == version


def test_the_required_version_of_go_is_read_from_the_module() -> None:
    assert toolchain.parse_version(toolchain.wanted_version(GO_MOD)) >= (1, 26)
    with pytest.raises(ValueError, match="no go line"):
        toolchain.wanted_version("module example.test/x\n")


def step(tool_s: float, *, number: int = 2, done: bool = False) -> build.Step:
    return build.Step("kube-apiserver", number, 7, tool_s, 10 + tool_s, done)


def test_the_progress_shows_the_tool_the_number_and_the_time() -> None:
    assert progress.render(step(65)) == "[2/7] building kube-apiserver 1m05s, 1m15s in all"
    assert progress.render(step(9, done=True)) == "[2/7] built kube-apiserver 9s, 19s in all"


def test_without_a_terminal_a_long_step_is_reported_repeatedly() -> None:
    stream = io.StringIO()
    screen = progress.Screen(stream)
    for second in range(70):
        screen.step(step(second))
    screen.step(step(70, done=True))
    lines = stream.getvalue().splitlines()
    assert [line.split()[3] for line in lines] == ["0s,", "30s,", "1m00s,", "1m10s,"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_terminal_shows_one_line_for_each_tool() -> None:
    stream = Terminal()
    screen = progress.Screen(stream)
    for second in range(3):
        screen.step(step(second))
    screen.step(step(3, done=True))
    assert stream.getvalue().count("\r") == 4
    assert stream.getvalue().endswith("built kube-apiserver 3s, 13s in all\n")
    assert stream.getvalue().count("\n") == 1


def test_without_uv_pip_installs_the_wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    python = tmp_path / "python"
    monkeypatch.setattr(sys, "executable", str(python))
    assert toolchain.installer({"PATH": ""}) == (str(python), "-m", "pip")
    uv = tmp_path / "uv"
    uv.touch(mode=0o755)
    assert toolchain.installer({"PATH": ""}) == (str(uv), "pip")


async def test_each_tool_is_built_once(
    module: Path, with_go: Callable[[str], dict[str, str]]
) -> None:
    environ = with_go("true")
    first, second = Recorder(), Recorder()
    binaries = await build.ensure(first, environ, module)
    assert binaries["second"].read_text() == "example.test/tools/second\n"
    done = [(s.tool, s.number, s.count) for s in first.steps if s.done]
    assert done == [("first", 1, 2), ("second", 2, 2)]
    assert await build.ensure(second, environ, module) == binaries
    assert second.steps == []


async def test_a_failed_build_shows_the_output_of_go(
    module: Path, with_go: Callable[[str], dict[str, str]]
) -> None:
    environ = with_go("echo 'main.go:3: syntax error' >&2; exit 2")
    with pytest.raises(errors.BuildFailed, match=r"second ended with 2:\nmain\.go:3: syntax"):
        await build.ensure(Recorder(), environ, module)


def start_building(module: Path, environ: dict[str, str]) -> subprocess.Popen[bytes]:
    program = (
        "import asyncio, os, pathlib, sys; from localcluster.controlplane import build, progress;"
        "asyncio.run(build.ensure(progress.Screen(sys.stdout), os.environ,"
        " pathlib.Path(sys.argv[1])))"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, module],
        env={**environ, "PYTHONPATH": str(paths.MODULE)},
        stdout=subprocess.DEVNULL,
    )


async def test_a_killed_build_resumes(
    module: Path, tmp_path: Path, with_go: Callable[[str], dict[str, str]]
) -> None:
    compiling = tmp_path / "go.pid"
    environ = with_go(f"echo $$ > {compiling}.new; mv {compiling}.new {compiling}; exec sleep 600")

    async def is_at_the_second() -> bool:
        return compiling.exists()

    with start_building(module, environ) as builder:
        await waiting.until(is_at_the_second, bool, "Go is at the second tool")
        compiler = processes.identify(int(compiling.read_text()))
        builder.send_signal(signal.SIGKILL)
    async with asyncio.timeout(5):
        await processes.until_gone(compiler)
    recorder = Recorder()
    binaries = await build.ensure(recorder, with_go("true"), module)
    assert {s.tool for s in recorder.steps} == {"second"}
    assert binaries["second"].read_text() == "example.test/tools/second\n"
    assert sorted(os.listdir(binaries["second"].parent)) == ["first", "second"]


async def test_a_second_builder_waits_for_the_first(
    module: Path, with_go: Callable[[str], dict[str, str]]
) -> None:
    environ = with_go("true")
    root = build.cache_root(environ) / build.cache_key(TWO_TOOLS, "")
    root.mkdir(parents=True)
    recorder = Recorder()
    with (root / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = asyncio.create_task(build.ensure(recorder, environ, module))

        async def said() -> list[str]:
            return recorder.said

        await waiting.until(said, bool, "the second builder says that it waits")
        assert recorder.steps == []
    await second
    assert [s.tool for s in recorder.steps if s.done] == ["first", "second"]


@pytest.mark.e2e
async def test_real_go_builds_and_reports_errors(
    tmp_path: Path, module: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name, body in (("first", 'println("hello")'), ("second", "println(")):
        (module / name).mkdir()
        (module / name / "main.go").write_text(f"package main\n\nfunc main() {{ {body} }}\n")
    with pytest.raises(errors.BuildFailed, match="syntax error") as failed:
        await build.ensure(Recorder(), os.environ, module)
    assert failed.value.tool == "second"
    (module / "second" / "main.go").write_text("package main\n\nfunc main() {}\n")
    recorder = Recorder()
    binaries = await build.ensure(recorder, os.environ, module)
    assert {s.tool for s in recorder.steps} == {"second"}
    process = await asyncio.create_subprocess_exec(
        binaries["first"], stderr=asyncio.subprocess.PIPE
    )
    assert (await process.communicate())[1] == b"hello\n"
