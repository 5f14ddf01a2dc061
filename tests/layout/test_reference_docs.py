"""The generated reference pages equal what their generator makes of the sources."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

REFERENCE = Path(__file__).parents[2] / "docs/reference"
NAMES = ("crds.md", "metrics.md", "commands.md", "turn-states.md")
KNOWN = {
    "crds.md": [
        "| `spec.autoscaling.schedules[].timeZone` | string |",
        r"!has(self.autoscaling) \|\| self.replicas == 1",
        "`status.calibrations[].model`",
    ],
    "metrics.md": [
        "| `avatar_runtime_frames_total` | counter | `kind` |",
        "| `avatar_operator_is_leader` | gauge |",
        "| `avatar_gateway_rejections_total` | counter | `reason` |",
    ],
    "commands.md": ["### avatar-operator plan", "| `--service` | FILE | required |"],
    "turn-states.md": ["| `waiting` |  |  | `ending` |"],
}


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    generated: dict[str, str] = runpy.run_path(str(REFERENCE / "generate.py"))["pages"]()
    return generated


@pytest.mark.parametrize("name", NAMES)
def test_page_equals_its_source(pages: dict[str, str], name: str) -> None:
    message = f"run python docs/reference/generate.py: {name} differs from its source"
    assert (REFERENCE / name).read_text() == pages[name], message


@pytest.mark.parametrize("name", NAMES)
def test_generator_reads_the_source(pages: dict[str, str], name: str) -> None:
    assert [text for text in KNOWN[name] if text not in pages[name]] == []


def test_every_generated_page_is_checked_and_listed(pages: dict[str, str]) -> None:
    index = (REFERENCE / "index.md").read_text()
    assert sorted(pages) == sorted(NAMES)
    assert [name for name in NAMES if f"]({name})" not in index] == []
