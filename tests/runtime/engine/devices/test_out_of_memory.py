"""Errors that mean out of memory, from every library."""

from __future__ import annotations

import pytest
import torch

from avatar_runtime import errors
from avatar_runtime.engine.devices import out_of_memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be asynchronously"),
        torch.AcceleratorError("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuFFT error: CUFFT_ALLOC_FAILED"),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
        MemoryError("Unable to allocate 1.00 TiB for an array"),
    ],
    ids=lambda error: str(error)[:40],
)
def test_out_of_memory_errors_are_translated(error: Exception) -> None:
    with pytest.raises(errors.DeviceMemoryError) as caught, out_of_memory.translate(lambda: 5):
        raise error
    assert (caught.value.wanted_bytes, caught.value.free_bytes) == (None, 5)
    assert caught.value.__cause__ is error


def test_a_capture_that_failed_for_memory_is_out_of_memory() -> None:
    def capture() -> None:
        try:
            raise torch.OutOfMemoryError("CUDA out of memory")
        finally:
            raise RuntimeError("CUDA error: operation failed due to a previous error")

    with pytest.raises(RuntimeError) as caught:
        capture()
    assert out_of_memory.is_out_of_memory(caught.value)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: an illegal memory access was encountered"),
        RuntimeError("Given groups=1, weight of size [8, 3, 3, 3]"),
        ValueError("out of memory"),
    ],
)
def test_other_errors_pass_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, out_of_memory.translate(lambda: 0):
        raise error
    assert caught.value is error
    assert not out_of_memory.is_out_of_memory(error)


def test_an_error_of_the_runtime_passes_unchanged() -> None:
    reported = errors.AssetError("model", "out of memory")
    with pytest.raises(errors.AssetError), out_of_memory.translate(lambda: 0):
        raise reported


def test_a_real_out_of_memory_error_of_the_cpu_is_recognised() -> None:
    with pytest.raises(errors.DeviceMemoryError), out_of_memory.translate(lambda: 0):
        torch.empty(1 << 60, dtype=torch.uint8)
