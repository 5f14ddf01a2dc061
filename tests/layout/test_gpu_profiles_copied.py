"""The operator's offline plan and the runtime's simulated devices know the chart's GPU profiles."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COPIES = (
    "operator/avatar_operator/gpu_profiles.json",
    "runtime/avatar_runtime/engine/gpu_profiles.json",
)


@pytest.mark.parametrize("copy", COPIES)
def test_package_carries_the_profiles_of_the_chart(copy: str) -> None:
    source = yaml.safe_load((ROOT / "charts/avatar-operator/gpu-profiles.yaml").read_text())
    assert "rtx-4090" in source
    expected = json.dumps(source, indent=1) + "\n"
    assert (ROOT / copy).read_text() == expected, "write json.dumps(source, indent=1) there"
