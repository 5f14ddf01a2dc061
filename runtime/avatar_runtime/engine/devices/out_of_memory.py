"""Recognises the errors of torch that mean out of memory, and translates them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Libraries below torch allocate memory themselves and have their own messages: the driver and its
# runtime (contexts, modules, pinned memory), cuBLAS and cuDNN (handles, workspaces), and the
# host's allocator, which is the device's on the CPU.
_MESSAGES: Final = (
    "out of memory",
    "cudaerrormemoryallocation",
    "cublas_status_alloc_failed",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error_host_allocation_failed",
    "cudnn_status_internal_error_device_allocation_failed",
    "cusolver_status_alloc_failed",
    "cufft_alloc_failed",
    "nvjpeg_status_allocator_failure",
    "defaultcpuallocator",
    "can't allocate memory",
)


def is_out_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or one in its chain of causes, means out of memory.

    An allocation that fails during the capture of a graph also invalidates the capture. Only the
    second error reaches the caller; its context is the first one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(
            part in str(error).lower() for part in _MESSAGES
        ):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def translate(free_bytes: Callable[[], int]) -> Iterator[None]:
    """Raise out-of-memory errors as `DeviceMemoryError`; other errors pass unchanged."""
    try:
        yield
    except errors.AvatarRuntimeError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise errors.DeviceMemoryError(None, free_bytes()) from error
