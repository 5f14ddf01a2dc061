"""Opens a device by its name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

from avatar_contracts.environment import Fault
from avatar_runtime import errors

if TYPE_CHECKING:
    from avatar_runtime.engine.device import Device, ModelOptions

_SIMULATED: Final = "simulated:"


def open_device(
    name: str,
    *,
    profile: str | None = None,
    threads: int | None = None,
    neighbour: str | None = None,
    options: ModelOptions | None = None,
) -> Device:
    """Return the device of a name: `cpu`, `cuda`, `simulated:CLASS`, or `auto`.

    `auto` is `cuda` if torch sees a CUDA device, else `cpu`.

    `profile` is the JSON text of AVATAR_GPU_PROFILE, used by simulated devices. `threads` bounds
    the threads of the CPU; `None` is the default of torch, at most the CPU limit of the pod
    (`cpus.find`). OMP_NUM_THREADS bounds both.
    `neighbour` is a file with a number of MiB that a simulated device counts as the memory of
    another process.

    Raises:
        SettingsError: the name, the class or the profile is wrong, or `neighbour` is set for a
            real device.
    """
    # Imported here, since a simulated pod must not load torch.
    if name.startswith(_SIMULATED):
        from avatar_runtime.engine.devices import simulated

        gpu = simulated.load_gpu_spec(name.removeprefix(_SIMULATED), profile)
        neighbour_file = simulated.NeighbourFile(Path(neighbour)) if neighbour else None
        return simulated.SimulatedDevice(gpu, neighbour=neighbour_file)
    if neighbour:
        raise errors.SettingsError(
            Fault("AVATAR_SIMULATED_NEIGHBOUR", neighbour, f"unset: {name} is not simulated")
        )
    # Threads on a shared CPU must not spin; OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name in {"cpu", "cuda"}:
        from avatar_runtime.engine.devices import torch_device

        return torch_device.TorchDevice(name, threads, options)
    raise errors.SettingsError(Fault("device", name, "auto, cpu, cuda or simulated:CLASS"))
