"""Peaks by name, and the memory that NVML reports."""

from __future__ import annotations

import types

import pytest

from avatar_runtime.engine.device import Memory
from avatar_runtime.engine.devices import gpu_info


@pytest.mark.parametrize(
    ("name", "half"),
    [
        ("NVIDIA H100 80GB HBM3", 989.4),
        ("NVIDIA H100 PCIe", 756.0),
        ("NVIDIA H100 NVL", 835.5),
        ("NVIDIA H200", 989.4),
        ("NVIDIA A100-SXM4-80GB", 312.0),
        ("NVIDIA A100 80GB PCIe", 312.0),
        ("NVIDIA L40S", 362.0),
        ("NVIDIA L4", 121.0),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA GeForce RTX 4090 D", None),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", None),
        ("NVIDIA L40", None),
        ("Quadro", None),
    ],
)
def test_a_gpu_is_known_by_the_name_that_its_driver_reports(name: str, half: float | None) -> None:
    found = gpu_info.peak(name)
    assert (found and found.half) == half


def test_the_peak_depends_on_the_precision() -> None:
    peak = gpu_info.PEAKS["A100"]
    assert (peak.of("fp16"), peak.of("bf16"), peak.of("fp32")) == (312.0, 312.0, 19.5)


class _NvmlError(Exception):
    pass


def _nvml(known: str) -> types.SimpleNamespace:
    """Return the part of NVML that is used, with one card or slice."""

    def by_uuid(uuid: str) -> str:
        if uuid != known:
            raise _NvmlError(uuid)
        return uuid

    def memory(handle: str) -> types.SimpleNamespace:
        assert handle == known
        return types.SimpleNamespace(used=3 << 30, total=24 << 30, free=21 << 30)

    return types.SimpleNamespace(
        NVMLError=_NvmlError,
        nvmlInit=lambda: None,
        nvmlDeviceGetHandleByUUID=by_uuid,
        nvmlDeviceGetMemoryInfo=memory,
    )


@pytest.mark.parametrize("known", ["GPU-12ab", "MIG-12ab"])
@pytest.mark.parametrize("reported", ["12ab", "GPU-12ab", "MIG-12ab"])
def test_memory_is_that_of_the_gpu_or_slice_with_the_uuid(known: str, reported: str) -> None:
    assert gpu_info.NvmlMemory(_nvml(known), reported).memory() == Memory(3 << 30, 24 << 30)


def test_without_nvml_memory_is_read_through_cuda() -> None:
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        pass
    else:
        pytest.skip("this machine has NVIDIA's driver")
    own = Memory(1, 2)
    assert gpu_info.memory_reader("12ab", lambda: own)() == own


@pytest.mark.gpu
def test_nvml_and_cuda_agree_about_the_gpu() -> None:
    import torch

    free, total = torch.cuda.mem_get_info()
    uuid = str(torch.cuda.get_device_properties(0).uuid)
    read = gpu_info.memory_reader(uuid, lambda: Memory(0, 0))()

    assert read.total_bytes == pytest.approx(total, rel=0.03)
    assert read.used_bytes == pytest.approx(total - free, abs=0.03 * total)
