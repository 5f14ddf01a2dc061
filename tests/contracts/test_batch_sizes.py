"""The operator and the runtime use the same batch sizes, each from a list of its own."""

from __future__ import annotations

from avatar_operator.core.gpus import batch_size
from avatar_runtime.batching import buckets


def test_the_operator_considers_the_batch_sizes_that_the_runtime_captures() -> None:
    assert batch_size.BUCKETS == buckets.BUCKETS
