"""Names of devices, and the line of a calibration."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from avatar_runtime import errors
from avatar_runtime.engine import device
from avatar_runtime.engine.devices.factory import open_device

_CURVE = device.Curve("v15/sd-vae/fp16", 3000, 300, ((1, 20.0), (4, 50.0), (8, 100.0)))


@pytest.mark.parametrize(
    ("batch", "ms"),
    [(1, 20), (2, 30), (4, 50), (6, 75), (8, 100), (12, 150)],
    ids=["first", "between", "middle", "between", "last", "beyond"],
)
def test_times_lie_on_the_lines_between_the_points(batch: int, ms: float) -> None:
    assert _CURVE.batch_ms(batch) == pytest.approx(ms)


@given(batch=st.integers(1, 200))
def test_a_larger_batch_takes_longer(batch: int) -> None:
    assert _CURVE.batch_ms(batch + 1) > _CURVE.batch_ms(batch) > 0


def test_a_single_point_is_taken_as_proportional() -> None:
    assert device.Curve("m", 0, 0, ((2, 30.0),)).batch_ms(4) == 60


def test_the_document_is_that_of_a_profile() -> None:
    assert _CURVE.as_document() == {
        "model": "v15/sd-vae/fp16",
        "baseMiB": 3000,
        "perFrameMiB": 300,
        "frameBatchMs": [[1, 20.0], [4, 50.0], [8, 100.0]],
    }


@pytest.mark.parametrize(
    ("name", "kind"), [("cpu", "cpu"), ("cuda", "cuda"), ("simulated:l4", "simulated")]
)
def test_devices_are_opened_by_name(name: str, kind: str) -> None:
    opened = open_device(name)
    opened.close()

    assert opened.name == kind


@pytest.mark.parametrize(
    ("name", "profile", "told"),
    [
        ("gpu", None, "device is 'gpu', must be auto, cpu, cuda or simulated:CLASS"),
        ("simulated:voodoo", None, "device is 'simulated:voodoo', must be simulated: and one of"),
        ("simulated:l4", "{}", "AVATAR_GPU_PROFILE is '{}', must be a profile with gpuClass"),
        ("simulated:l4", "no", "AVATAR_GPU_PROFILE is 'no'"),
    ],
)
def test_a_wrong_device_is_named(name: str, profile: str | None, told: str) -> None:
    with pytest.raises(errors.SettingsError) as caught:
        open_device(name, profile=profile)
    assert told in str(caught.value)


@pytest.mark.slow
def test_a_simulated_card_never_loads_torch() -> None:
    program = (
        "import json, sys\n"
        "from avatar_runtime.engine import engine\n"
        "from avatar_runtime.engine.devices import factory\n"
        "factory.open_device('simulated:rtx-4090')\n"
        "print(json.dumps('torch' in sys.modules))"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)

    assert json.loads(done.stdout) is False


def test_a_neighbour_is_made_up_on_simulated_devices_alone() -> None:
    opened = open_device("simulated:l4", neighbour="/nobody/there")
    assert opened.memory().used_bytes == 0
    with pytest.raises(errors.SettingsError, match="AVATAR_SIMULATED_NEIGHBOUR is '/mib', must be"):
        open_device("cpu", neighbour="/mib")
