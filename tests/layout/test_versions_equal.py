"""The distribution and the chart have one version."""

from __future__ import annotations

import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_chart_has_the_version_of_the_distribution() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    chart = yaml.safe_load((ROOT / "charts/avatar-operator/Chart.yaml").read_text())
    assert chart["version"] == version
    assert chart["appVersion"] == version
