"""CUDA graphs, all in one pool of memory. Nothing here runs without a GPU."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor


@dataclass(frozen=True, slots=True)
class GraphRecording:
    """A captured graph and the tensor that it writes."""

    graph: torch.cuda.CUDAGraph
    result: Tensor

    def replay(self) -> None:
        """Queue the whole graph on the current stream."""
        self.graph.replay()


class GraphRecorder:
    """Captures work on a stream of its own, as the capture of a graph demands.

    The graphs share one pool: only one runs at a time, since all are replayed on the engine's
    stream, and a result that is still held is not reused by a later capture. Captured from the
    largest bucket down, the smaller ones fit into the memory of the first.
    """

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Callable[[], Tensor]) -> GraphRecording:
        """Return the recording of `work`, which reads and writes static tensors alone."""
        current = torch.cuda.current_stream()
        # Once outside of the capture: libraries hold a workspace for each stream, and one that
        # came into being during the capture would belong to the graph.
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            work()
        current.wait_stream(self._stream)
        graph = torch.cuda.CUDAGraph()
        # Other threads may ask the driver for memory figures meanwhile: thread_local lets them.
        with torch.cuda.graph(
            graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"
        ):
            result = work()
        return GraphRecording(graph, result)
