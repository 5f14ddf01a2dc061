"""The packaged files are complete, and the chart ships the same GPU profiles."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

import avatar_contracts
from avatar_contracts import packaged_files

ROOT = Path(__file__).parents[2]


def test_page_opens_a_session() -> None:
    page = packaged_files.page()
    assert page.lstrip().lower().startswith("<!doctype html>")
    assert "/v1/realtime" in page


def test_profiles_are_those_of_the_chart_in_its_order() -> None:
    source = yaml.safe_load((ROOT / "charts/avatar-operator/gpu-profiles.yaml").read_text())
    assert "rtx-4090" in source
    assert packaged_files.gpu_profiles() == source
    packaged = Path(avatar_contracts.__file__).with_name("gpu_profiles.json").read_text()
    assert packaged == json.dumps(source, indent=1) + "\n", "write json.dumps(source, indent=1)"
