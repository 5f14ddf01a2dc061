"""Opens the device of a name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Final

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

    `auto` is `cuda` where torch sees one, else `cpu`.

    `profile` is the JSON text of AVATAR_GPU_PROFILE, used by simulated devices; `threads` bounds
    the CPU's, `None` is torch's own choice, which OMP_NUM_THREADS bounds. `neighbour` is the file
    whose number of MiB a simulated device counts as another process's memory.

    Raises:
        SettingsError: the name, the class or the profile is wrong, or a neighbour is made up for a
            device that is real.
    """
    # Imports are here, since a simulated pod must neither wait for torch nor hold it.
    if name.startswith(_SIMULATED):
        from avatar_runtime.engine.devices import simulated

        card = simulated.load_card(name.removeprefix(_SIMULATED), profile)
        beside = simulated.NeighbourFile(Path(neighbour)) if neighbour else None
        return simulated.SimulatedDevice(card, neighbour=beside)
    if neighbour:
        raise errors.SettingsError(
            "AVATAR_SIMULATED_NEIGHBOUR", neighbour, f"unset: {name} is not simulated"
        )
    # Threads of a CPU that is shared must not spin; OpenMP reads this when torch is imported.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if name == "auto":
        import torch

        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name in {"cpu", "cuda"}:
        from avatar_runtime.engine.devices import torch_device

        return torch_device.TorchDevice(name, threads, options)
    raise errors.SettingsError("device", name, "auto, cpu, cuda or simulated:CLASS")
