"""The distribution, the chart and the JavaScript package have one version."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_chart_has_the_version_of_the_distribution() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((ROOT / "charts/avatar-operator/Chart.yaml").read_text())
    assert chart["version"] == version
    assert chart["appVersion"] == version


def test_the_javascript_package_has_the_version_of_the_distribution() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    package = ROOT / "runtime/avatar_contracts/page/client/package.json"
    assert json.loads(package.read_text())["version"] == version
    assert f"| `avatar-client` (JavaScript) | {version}," in (ROOT / "docs/clients.md").read_text()
