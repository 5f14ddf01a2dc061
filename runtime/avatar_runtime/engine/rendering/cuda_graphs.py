"""CUDA graphs that share one memory pool. Nothing here runs without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class CapturedCudaGraph:
    """A captured graph and the tensor that it writes."""

    graph: torch.cuda.CUDAGraph
    result: Tensor

    def replay(self) -> None:
        """Queue the whole graph on the current stream."""
        self.graph.replay()


class GraphCapturer:
    """Captures work on a stream of its own, which the capture of a graph requires.

    The graphs share one pool: only one runs at a time, since all are replayed on the stream of
    the engine, and a result that is still held is not reused by a later capture. If the largest
    bucket is captured first, the smaller ones fit into its memory.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> CapturedCudaGraph:
        """Return the graph of `work`, which reads and writes only static tensors."""
        current = torch.cuda.current_stream()
        # Run once outside the capture: libraries allocate a workspace for each stream, and one
        # that is allocated during the capture would belong to the graph.
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # thread_local: other threads may query the driver for memory during the capture.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = work()
        return CapturedCudaGraph(graph, result)
