"""The runtime's simulated devices know the GPU profiles that the chart ships."""

import json
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_runtime_carries_the_profiles_of_the_chart() -> None:
    source = yaml.safe_load((ROOT / "charts/avatar-operator/gpu-profiles.yaml").read_text())
    copy = (ROOT / "runtime/avatar_runtime/engine/gpu_profiles.json").read_text()
    assert "rtx-4090" in source
    assert copy == json.dumps(source, indent=1) + "\n", "write json.dumps(source, indent=1) there"
