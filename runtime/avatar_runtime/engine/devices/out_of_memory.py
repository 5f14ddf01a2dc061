"""Which of torch's errors say that memory is short, and their one translation."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

from avatar_runtime import errors

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

# Libraries below torch allocate for themselves and are refused in their own words: the driver and
# its runtime (contexts, modules, pinned memory), cuBLAS and cuDNN (handles, workspaces), and the
# host's allocator, which is the device's on the CPU.
_WORDS: Final = (
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


def is_refusal(error: BaseException | None) -> bool:
    """Whether an error, or one that it followed from, says that memory is short.

    An allocation that fails while a graph is captured also spoils the capture, and only that
    second error reaches the caller: its context holds the first one.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, MemoryError):
            return True
        if isinstance(error, RuntimeError) and any(w in str(error).lower() for w in _WORDS):
            return True
        error = error.__cause__ or error.__context__
    return False


@contextmanager
def translated(free_bytes: Callable[[], int]) -> Iterator[None]:
    """Turn every refusal of memory into a `DeviceMemoryError`; other errors pass as they are."""
    try:
        yield
    except errors.AvatarRuntimeError:
        raise
    except (RuntimeError, MemoryError) as error:
        if not is_refusal(error):
            raise
        raise errors.DeviceMemoryError(None, free_bytes()) from error
