"""Every command reports the version, and wrong settings end it with exit status 2."""

from __future__ import annotations

import importlib
import importlib.metadata
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hatchling.builders.wheel import WheelBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]
PACKAGES = [
    "avatar_operator",
    "avatar_runtime",
    "avatar_gateway",
    "avatar_client",
    "avatar_training",
]


def main_of(package: str) -> Callable[..., int | None]:
    found: Callable[..., int | None] = importlib.import_module(f"{package}.__main__").main
    return found


@pytest.mark.parametrize("package", PACKAGES)
def test_a_command_prints_its_version(
    package: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [package, "--version"])
    with pytest.raises(SystemExit) as stopped:
        main_of(package)()
    assert stopped.value.code == 0
    printed = capsys.readouterr().out.split()[-1]
    assert printed == importlib.metadata.version("avatar-service")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert printed == project["version"]


@pytest.mark.parametrize(
    ("package", "command", "variable", "value"),
    [
        ("avatar_operator", "run", "AVATAR_NAMESPACE", ""),
        ("avatar_operator", "run", "AVATAR_RESYNC_S", "soon"),
        ("avatar_runtime", "serve", "AVATAR_MODEL", ""),
        ("avatar_gateway", "serve", "AVATAR_GATEWAY_KEY", "short"),
    ],
)
def test_a_wrong_setting_ends_a_command_with_status_2(
    package: str,
    command: str,
    variable: str,
    value: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AVATAR_NAMESPACE", "system")
    monkeypatch.setenv("AVATAR_RUNTIME_IMAGE", "runtime:1")
    monkeypatch.setenv(variable, value)
    assert main_of(package)([command]) == 2
    assert f"{variable} is " in capsys.readouterr().err


def test_every_package_in_the_wheel_has_a_py_typed_marker() -> None:
    builder = WheelBuilder(str(ROOT))
    files = {file.distribution_path for file in builder.recurse_included_files()}
    packages = [Path(path).name for path in builder.config.packages]
    assert set(PACKAGES) <= set(packages)
    assert {f"{package}/py.typed" for package in packages} <= files
