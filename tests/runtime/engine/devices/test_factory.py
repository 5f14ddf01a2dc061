"""Devices by their names."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from avatar_runtime import errors
from avatar_runtime.engine.devices.factory import open_device


@pytest.mark.parametrize(
    ("name", "kind"), [("cpu", "cpu"), ("cuda", "cuda"), ("simulated:l4", "simulated")]
)
def test_devices_are_opened_by_name(name: str, kind: str) -> None:
    opened = open_device(name)
    opened.close()

    assert opened.name == kind


@pytest.mark.parametrize(
    ("name", "profile", "reported"),
    [
        ("gpu", None, "device is 'gpu', must be auto, cpu, cuda or simulated:CLASS"),
        ("simulated:voodoo", None, "device is 'simulated:voodoo', must be simulated: and one of"),
        ("simulated:l4", "{}", "AVATAR_GPU_PROFILE is '{}', must be a profile with gpuClass"),
        ("simulated:l4", "no", "AVATAR_GPU_PROFILE is 'no'"),
    ],
)
def test_a_wrong_device_is_reported(name: str, profile: str | None, reported: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        open_device(name, profile=profile)
    assert reported in str(caught.value)


@pytest.mark.slow
def test_a_simulated_gpu_never_loads_torch() -> None:
    program = (
        "import json, sys\n"
        "from avatar_runtime.engine import engine\n"
        "from avatar_runtime.engine.devices import factory\n"
        "factory.open_device('simulated:rtx-4090')\n"
        "print(json.dumps('torch' in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert json.loads(done.stdout) is False


def test_a_neighbour_is_only_allowed_on_simulated_devices() -> None:
    opened = open_device("simulated:l4", neighbour="/nobody/there")
    assert opened.memory().used_bytes == 0
    with pytest.raises(errors.SettingsError, match="AVATAR_SIMULATED_NEIGHBOUR is '/mib', must be"):
        open_device("cpu", neighbour="/mib")
