"""The forward pass of UNet and decoder over one batch: eager, or by captured CUDA graphs.

A UNet pass launches about a thousand kernels. Launching them one by one costs the host more than
a small batch costs the GPU; a CUDA graph launches them at once. A graph uses the same memory in
each replay, so each bucket has static tensors that are filled before its graph is replayed.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import torch

from avatar_runtime.batching import buckets

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor

    from avatar_runtime.engine.networks.musetalk import MuseTalk
    from avatar_runtime.engine.rendering.cpu_parallel import CpuShards

CAPTURE_AT: Final = 2
"""The batch of a bucket that is captured: the first one has initialised every library."""
CAPTURE_AFTER_RELEASE: Final = 100
"""Batches of a bucket before it is captured again: memory that was short must have settled."""

_log: Final = logging.getLogger(__name__)


class CapturedGraph(Protocol):
    """Work that can be replayed at little cost to the host."""

    @property
    def result(self) -> Tensor:
        """The tensor that every replay overwrites."""
        ...

    def replay(self) -> None:
        """Repeat the work with the current contents of its inputs."""
        ...


class ForwardPass(Protocol):
    """Generates the faces of a batch. Call it under `inference_mode`."""

    def run(
        self, latents: Sequence[Tensor], tokens: Sequence[Tensor], end_stage: Callable[[str], None]
    ) -> Tensor:
        """Return `(n, c, c, 3) uint8` BGR faces on the device, valid until the next batch."""
        ...

    def release(self) -> None:
        """Free the memory that is cached for later batches."""
        ...


class EagerForward:
    """Runs the model on batches of any size."""

    def __init__(self, model: MuseTalk, shards: CpuShards) -> None:
        self._model = model
        self._shards = shards

    def run(
        self, latents: Sequence[Tensor], tokens: Sequence[Tensor], end_stage: Callable[[str], None]
    ) -> Tensor:
        inputs = torch.stack(list(latents)), torch.stack(list(tokens))
        end_stage("encode_audio")
        predicted = self._shards.run(self._model.predict, *inputs)
        end_stage("unet")
        faces = self._shards.run(self._model.decode, predicted)
        end_stage("vae")
        return faces

    def release(self) -> None:
        """Do nothing: no memory is cached."""


@dataclass(slots=True)
class _GraphCaptureBuffer:
    """The static inputs of one bucket."""

    latents: Tensor
    tokens: Tensor
    batches: int = 0
    graphs: tuple[CapturedGraph, CapturedGraph] | None = None
    """UNet and decoder, separate so that each can be timed."""


class BucketForward:
    """Runs whole buckets; rows past the batch hold older frames, and their faces are discarded."""

    def __init__(
        self, model: MuseTalk, capture: Callable[[Callable[[], Tensor]], CapturedGraph]
    ) -> None:
        """`capture` raises a `RuntimeError` if the work cannot be captured."""
        self._model = model
        self._capture_graph = capture
        self._buffers: dict[int, _GraphCaptureBuffer] = {}
        self._capture_at = CAPTURE_AT
        self.not_captured: dict[int, str] = {}
        """Buckets that run eagerly because their capture failed, and why."""

    def run(
        self, latents: Sequence[Tensor], tokens: Sequence[Tensor], end_stage: Callable[[str], None]
    ) -> Tensor:
        frames = len(latents)
        size = buckets.around(frames)
        buffer = self._buffers.get(size) or self._allocate(size)
        torch.stack(list(latents), out=buffer.latents[:frames])
        torch.stack(list(tokens), out=buffer.tokens[:frames])
        buffer.batches += 1
        if (
            buffer.graphs is None
            and buffer.batches >= self._capture_at
            and size not in self.not_captured
        ):
            self._capture(size, buffer)
        end_stage("encode_audio")
        if buffer.graphs is None:
            predicted = self._model.predict(buffer.latents, buffer.tokens)
            end_stage("unet")
            faces = self._model.decode(predicted)
        else:
            unet, decoder = buffer.graphs
            unet.replay()
            end_stage("unet")
            decoder.replay()
            faces = decoder.result
        end_stage("vae")
        return faces[:frames]

    def release(self) -> None:
        """Free tensors and graphs; buckets are captured again when memory has settled."""
        self._buffers.clear()
        self._capture_at = CAPTURE_AFTER_RELEASE

    def _allocate(self, size: int) -> _GraphCaptureBuffer:
        model, config = self._model, self._model.config
        side, width = model.latent_size, config.unet.cross_attention_dim
        buffer = self._buffers[size] = _GraphCaptureBuffer(
            torch.zeros(
                size, config.unet.in_channels, side, side, device=model.device, dtype=model.dtype
            ),
            torch.zeros(size, config.tokens, width, device=model.device, dtype=model.dtype),
        )
        return buffer

    def _capture(self, size: int, buffer: _GraphCaptureBuffer) -> None:
        """Capture a bucket; if that fails, it runs eagerly from now on."""
        model = self._model
        try:
            unet = self._capture_graph(lambda: model.predict(buffer.latents, buffer.tokens))
            decoder = self._capture_graph(lambda: model.decode(unet.result))
        except RuntimeError as error:
            self.not_captured[size] = f"{type(error).__name__}: {error}"
            _log.warning("batch not captured bucket=%d reason=%s", size, self.not_captured[size])
            return
        buffer.graphs = (unet, decoder)
