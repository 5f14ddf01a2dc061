"""The table in docs/clients.md names the locked versions."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

from tests.clients import environments

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "examples/clients"


def test_the_page_of_clients_has_every_locked_version() -> None:
    page = (ROOT / "docs/clients.md").read_text()
    packages = json.loads((environments.NODE_PROJECT / "package.json").read_text())["dependencies"]
    versions = [(name, packages[name]) for name in ("openai", "@openai/agents-realtime")]
    versions.append(("openai", version("openai")))
    for path in (environments.HERE / "locks").glob("*.in"):
        name = path.read_text().partition("[")[0].strip()
        locked = path.with_suffix(".txt").read_text().splitlines()
        (line,) = [line for line in locked if line.startswith(f"{name}==")]
        if path.stem != environments.NODE:
            versions.append((name, line.split("==")[1].split()[0]))
    missing = [
        (name, number) for name, number in versions if f"| `{name}` | {number} |" not in page
    ]
    assert missing == []
    scripts = {path.name for path in SCRIPTS.iterdir() if path.suffix in (".py", ".mjs")}
    assert {name for name in scripts if f"examples/clients/{name}" not in page} == set()
