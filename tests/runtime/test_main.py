"""Tests of the command line: what each option becomes; the tools have tests of their own."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from avatar_runtime import __main__ as command
from avatar_runtime import settings
from avatar_runtime.engine.devices import factory
from avatar_runtime.tools import lookahead
from avatar_runtime.tools.benchmark import measuring, report

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class Read(Exception):
    """Ends a command when its settings are read."""


SERVE = {
    "--model": "AVATAR_MODEL",
    "--avatars": "AVATAR_AVATAR_FOLDER",
    "--device": "AVATAR_DEVICE",
    "--precision": "AVATAR_PRECISION",
    "--decoder": "AVATAR_DECODER",
    "--batch-size": "AVATAR_BATCH_SIZE",
    "--listen": "AVATAR_LISTEN",
    "--admin": "AVATAR_ADMIN",
}
VALUES = {"--device": "cpu", "--precision": "fp32", "--decoder": "sd-vae", "--batch-size": "4"}


@pytest.mark.parametrize("given", [[], [*SERVE]], ids=["none", "all"])
def test_an_option_of_serve_replaces_its_variable(
    monkeypatch: pytest.MonkeyPatch, given: list[str]
) -> None:
    received: dict[str, str] = {}

    def from_env(environment: Mapping[str, str]) -> None:
        received.update(environment)
        raise Read

    monkeypatch.setattr(settings, "from_env", from_env)
    for variable in SERVE.values():
        monkeypatch.setenv(variable, "of the environment")
    options = [word for name in given for word in (name, VALUES.get(name, f"x{name}"))]
    with pytest.raises(Read):
        command.main(["serve", *options])
    assert {name: received[variable] for name, variable in SERVE.items()} == {
        name: VALUES.get(name, f"x{name}") if name in given else "of the environment"
        for name in SERVE
    }


@pytest.mark.parametrize("writes", [False, True])
def test_the_figures_of_lookahead_are_printed_and_written_on_request(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    writes: bool,
) -> None:
    monkeypatch.setattr(lookahead, "run", lambda *_: {"error": 1.5})
    monkeypatch.setattr(lookahead, "table", lambda document: f"error {document['error']}")
    out = tmp_path / "new" / "figures.json"
    options = ["--model", "m", "--avatar", "a", "--audio", "s"]
    assert command.main(["lookahead", *options, *(["--json", str(out)] if writes else [])]) == 0
    assert capsys.readouterr().out == "error 1.5\n"
    assert out.exists() == writes
    if writes:
        assert json.loads(out.read_text()) == {"error": 1.5}


@pytest.mark.parametrize(
    ("pads", "options", "batch_size"),
    [(True, [], 64), (False, [], 8), (True, ["--batch-size", "4"], 4)],
)
def test_a_benchmark_uses_the_largest_batch_that_the_device_is_for(
    monkeypatch: pytest.MonkeyPatch, pads: bool, options: list[str], batch_size: int
) -> None:
    plans: list[Any] = []

    def run(_: object, plan: Any) -> dict[str, object]:
        plans.append(plan)
        return {}

    monkeypatch.setattr(factory, "open_device", lambda *_, **__: SimpleNamespace(pads=pads))
    monkeypatch.setattr(measuring, "run", run)
    monkeypatch.setattr(report, "table", lambda _: "")
    assert command.main(["bench", "--device", "cpu", *options]) == 0
    assert [plan.batch_size for plan in plans] == [batch_size]


def test_a_benchmark_passes_its_options_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[Any] = []
    plans: list[Any] = []

    def open_device(name: str, *, options: Any) -> SimpleNamespace:
        opened.append((name, options.precision, options.decoder))
        return SimpleNamespace(pads=False)

    def run(_: object, plan: Any) -> dict[str, object]:
        plans.append(plan)
        return {"frames": plan.frames}

    monkeypatch.setattr(factory, "open_device", open_device)
    monkeypatch.setattr(measuring, "run", run)
    monkeypatch.setattr(report, "table", lambda document: f"frames {document['frames']}")
    monkeypatch.setattr(report, "svg", lambda document: f"<svg {document['frames']}>")
    out, plot = tmp_path / "a" / "b.json", tmp_path / "c" / "d.svg"
    options = ["--device", "cpu", "--frames", "7", "--sessions", "3", "--decoder", "taesd"]
    written = ["--json", str(out), "--plot", str(plot)]
    assert command.main(["bench", *options, *written]) == 0
    assert [(plan.frames, plan.sessions, plan.decoder) for plan in plans] == [(7, 3, "taesd")]
    assert [(name, decoder) for name, _, decoder in opened] == [("cpu", "taesd")]
    assert capsys.readouterr().out == "frames 7\n"
    assert out.read_text() == '{\n  "frames": 7\n}\n'
    assert plot.read_text() == "<svg 7>"
    assert command.main(["bench", "--from", str(out)]) == 0
    assert (len(plans), capsys.readouterr().out) == (1, "frames 7\n")
