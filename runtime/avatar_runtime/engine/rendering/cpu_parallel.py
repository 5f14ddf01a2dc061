"""Cuts a batch on the CPU into parts that are computed at once, each on one core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from torch import Tensor


class Lanes:
    """As many parts as a device has cores to give; one lane does the work where it is called."""

    def __init__(self, pool: Executor, count: int = 1) -> None:
        """`pool` has at least `count` threads."""
        self._pool = pool
        self._count = count

    def spread(self, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return the work on all rows of the inputs, which depend on no other row."""
        lanes = min(self._count, len(inputs[0]))
        if lanes == 1:
            return work(*inputs)
        parts = zip(*(rows.tensor_split(lanes) for rows in inputs), strict=True)
        return torch.cat(list(self._pool.map(lambda part: _inferred(work, *part), parts)))


def _inferred(work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    with torch.inference_mode():  # a mode of the thread, so that the caller's does not count
        return work(*inputs)
