from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from avatar_operator.__main__ import BROKEN_PIPE, main

if TYPE_CHECKING:
    from tests.operator.conftest import Make

REPOSITORY = Path(__file__).parents[2]
SERVICE = REPOSITORY / "examples" / "avatarservice.yaml"


def write(folder: Path, name: str, *items: object) -> str:
    path = folder / name
    path.write_text(yaml.safe_dump({"kind": "List", "items": list(items)}))
    return str(path)


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> Any:
    assert main(["plan", *arguments, "-o", "json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_example_is_planned_with_the_shipped_profiles(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = write(tmp_path, "nodes.yaml", make.node_body())
    found = plan(capsys, "--service", str(SERVICE), "--nodes", nodes)
    assert found["service"] == "default/concierge"
    assert [pool["gpuClass"] for pool in found["pools"]] == ["rtx-4090", "a100-80gb", "h100-80gb"]
    assert [action["kind"] for action in found["actions"]] == ["CreatePod"]


def test_pods_and_their_states_are_read_from_a_file(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    body = make.service_body(replicas=0)
    del body["metadata"]["uid"]
    state = {"pod": "p0", "capacity": 2, "free": 1, "draining": False, "ready": True}
    arguments = [
        "--service",
        write(tmp_path, "service.yaml", body),
        "--nodes",
        write(tmp_path, "nodes.yaml", make.node_body()),
        "--profiles",
        write(tmp_path, "profiles.yaml", make.profile_body()),
        "--state",
        write(tmp_path, "state.yaml", make.pod_body(), {**state, "sessions": 1}),
    ]
    found = plan(capsys, *arguments)
    assert found["actions"] == [
        {
            "kind": "ProtectPod",
            "name": "p0",
            "gpuClass": "rtx-4090",
            "reason": "it has 1 session",
        },
        {
            "kind": "DrainPod",
            "name": "p0",
            "gpuClass": "rtx-4090",
            "reason": "it has 1 session",
        },
    ]


def test_a_table_is_printed_by_default(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = write(tmp_path, "nodes.yaml", make.node_body())
    assert main(["plan", "--service", str(SERVICE), "--nodes", nodes]) == 0
    assert "rtx-4090   8" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("kind: List\nitems: []", "contains no AvatarService", id="nothing"),
        pytest.param("a: [", "is not YAML", id="broken"),
        pytest.param("- 1", "contains an item that is not an object", id="no object"),
        pytest.param("x", "contains an item that is not an object", id="a word"),
        pytest.param(
            "{kind: AvatarService}\n---\n---\n{kind: AvatarService}",
            "contains 2 AvatarService, must contain exactly one",
            id="two",
        ),
        pytest.param(
            "{kind: AvatarService, metadata: {name: a}, spec: {fps: 3}}",
            "AvatarService default/a: spec.fps is 3, must be one of 10, 16, 20, 25",
            id="field",
        ),
    ],
)
def test_an_invalid_file_is_named_with_its_fault(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    service = tmp_path / "service.yaml"
    service.write_text(text)
    nodes = write(tmp_path, "nodes.yaml", make.node_body())
    assert main(["plan", "--service", str(service), "--nodes", nodes]) == 1
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err


def test_a_missing_file_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--service", "none.yaml", "--nodes", "none.yaml"]) == 1
    assert "--service none.yaml: No such file" in capsys.readouterr().err


def test_run_names_the_variable_that_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("AVATAR_NAMESPACE", raising=False)
    assert main(["run"]) == 2
    assert "AVATAR_NAMESPACE is not set" in capsys.readouterr().err


def test_a_reader_that_closes_the_pipe_gets_no_traceback(tmp_path: Path, make: Make) -> None:
    nodes = write(tmp_path, "nodes.yaml", make.node_body())
    state = write(tmp_path, "pods.yaml", make.pod_body())
    command = [sys.executable, "-m", "avatar_operator", "plan"]
    process = subprocess.Popen(
        [*command, "--service", str(SERVICE), "--nodes", nodes, "--state", state],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()  # as `head` does once it has its lines
    with process.stderr as stderr:
        assert stderr.read() == b""
    assert process.wait() == BROKEN_PIPE


def test_a_plan_without_pods_warns_that_every_gpu_counts_as_free(
    tmp_path: Path, make: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    nodes = write(tmp_path, "nodes.yaml", make.node_body())
    arguments = ["plan", "--service", str(SERVICE), "--nodes", nodes]
    assert main(arguments) == 0
    assert "every GPU counts as free" in capsys.readouterr().err
    user = make.pod_body("other", metadata={"namespace": "globex"})
    assert main([*arguments, "--state", write(tmp_path, "pods.yaml", user)]) == 0
    assert capsys.readouterr().err == ""
