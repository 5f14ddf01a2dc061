"""The workflows of GitHub Actions are valid, pin what they use, and publish the chart's images."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster import errors, paths
from localcluster.controlplane import build

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yaml"))
RELEASE = ROOT / ".github/workflows/release.yaml"


class Silence:
    """A progress report that nobody reads."""

    def say(self, text: str) -> None:
        del text

    def step(self, step: build.Step) -> None:
        del step


@pytest.fixture
async def actionlint() -> Path:
    """Give actionlint. It has a Go module of its own, which leaves the key of the others alone."""
    try:
        tools = await build.ensure(Silence(), os.environ, paths.MODULE / "workflows")
    except errors.GoMissing as error:
        pytest.skip(f"actionlint cannot be built: {error}")
    return tools["actionlint"]


@pytest.mark.slow
def test_workflows_are_valid(actionlint: Path) -> None:
    assert len(WORKFLOWS) >= 2
    done = subprocess.run([actionlint, *WORKFLOWS], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_actions_are_pinned_by_a_full_version_or_a_commit(file: Path) -> None:
    used = re.findall(r"uses: (\S+)", file.read_text())
    assert used
    pin = re.compile(r"[\w./-]+@(v\d+\.\d+\.\d+|[0-9a-f]{40})")
    assert [action for action in used if not pin.fullmatch(action)] == []


@pytest.mark.parametrize("file", WORKFLOWS, ids=lambda file: file.stem)
def test_workflows_have_no_rights_by_default_and_a_time_limit(file: Path) -> None:
    content = yaml.safe_load(file.read_text())
    assert content["permissions"] == {"contents": "read"}
    assert [name for name, job in content["jobs"].items() if "timeout-minutes" not in job] == []


def test_release_publishes_the_images_of_the_chart() -> None:
    values = yaml.safe_load((ROOT / "charts/avatar-operator/values.yaml").read_text())
    jobs: dict[str, Any] = yaml.safe_load(RELEASE.read_text())["jobs"]
    published = jobs["images"]["strategy"]["matrix"]["include"]
    assert {f"avatar-musetalk/{entry['name']}" for entry in published} == {
        part["image"]["repository"] for part in values.values() if "image" in (part or {})
    }
    for entry in published:
        assert (ROOT / entry["file"]).is_file()
        if entry["name"] != "runtime":
            assert entry["platforms"] == "linux/amd64,linux/arm64"
