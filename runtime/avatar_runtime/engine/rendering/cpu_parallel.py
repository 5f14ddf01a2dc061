"""Splits a batch on the CPU into shards that are computed at the same time, each on one core."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from torch import Tensor


class CpuShards:
    """As many shards as the device has cores; a single shard runs on the calling thread."""

    def __init__(self, pool: Executor, count: int = 1) -> None:
        """`pool` has at least `count` threads."""
        self._pool = pool
        self._count = count

    def run(self, work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
        """Return the result of `work` on all rows; the result of a row depends on no other row."""
        count = min(self._count, len(inputs[0]))
        if count == 1:
            return work(*inputs)
        shards = zip(*(rows.tensor_split(count) for rows in inputs), strict=True)
        return torch.cat(list(self._pool.map(lambda shard: _inferred(work, *shard), shards)))


def _inferred(work: Callable[..., Tensor], *inputs: Tensor) -> Tensor:
    with torch.inference_mode():  # the mode is thread-local: that of the caller does not apply
        return work(*inputs)
