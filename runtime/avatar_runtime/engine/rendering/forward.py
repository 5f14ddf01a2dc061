"""UNet and decoder over one batch: as they are, or from static tensors by recorded graphs.

A UNet pass is about a thousand kernels. Launching them one by one costs the host more than a
small batch costs the GPU, and a CUDA graph launches them at once; it needs the same memory at
each run, so each bucket has tensors of its own that are filled before it is replayed.
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
    from avatar_runtime.engine.rendering.cpu_parallel import Lanes

CAPTURE_AT: Final = 2
"""A bucket's second batch is recorded: its first has started every library it needs."""
CAPTURE_AFTER_DROP: Final = 100
"""Batches of a bucket before it is recorded again: memory that was short must have settled."""

_log: Final = logging.getLogger(__name__)


class Recording(Protocol):
    """Work that can be done again at little cost to the host."""

    @property
    def result(self) -> Tensor:
        """The tensor that every replay fills anew."""
        ...

    def replay(self) -> None:
        """Do the work again, with what its inputs hold now."""
        ...


class Drawer(Protocol):
    """Draws the faces of a batch. Call it under `inference_mode`."""

    def draw(
        self, latents: Sequence[Tensor], tokens: Sequence[Tensor], lap: Callable[[str], None]
    ) -> Tensor:
        """Return `(n, c, c, 3) uint8` BGR faces on the device, good until the next batch."""
        ...

    def drop(self) -> None:
        """Give back the memory that is kept for later batches."""
        ...


class PlainDrawer:
    """Runs the model on batches of any size."""

    def __init__(self, model: MuseTalk, lanes: Lanes) -> None:
        self._model = model
        self._lanes = lanes

    def draw(
        self, latents: Sequence[Tensor], tokens: Sequence[Tensor], lap: Callable[[str], None]
    ) -> Tensor:
        inputs = torch.stack(list(latents)), torch.stack(list(tokens))
        lap("encode_audio")
        predicted = self._lanes.spread(self._model.predict, *inputs)
        lap("unet")
        faces = self._lanes.spread(self._model.decode, predicted)
        lap("vae")
        return faces

    def drop(self) -> None:
        """Keep nothing, as ever."""


@dataclass(slots=True)
class _Canvas:
    """The static inputs of one bucket."""

    latents: Tensor
    tokens: Tensor
    batches: int = 0
    recorded: tuple[Recording, Recording] | None = None
    """UNet and decoder, apart so that each can be timed."""


class BucketDrawer:
    """Runs whole buckets; rows past the batch hold older frames, and their faces are left out."""

    def __init__(
        self, model: MuseTalk, record: Callable[[Callable[[], Tensor]], Recording]
    ) -> None:
        """`record` raises a `RuntimeError` where the work cannot be recorded."""
        self._model = model
        self._record = record
        self._canvases: dict[int, _Canvas] = {}
        self._capture_at = CAPTURE_AT
        self.refused: dict[int, str] = {}
        """Buckets that run launch by launch since they could not be recorded, and why."""

    def draw(
        self, latents: Sequence[Tensor], tokens: Sequence[Tensor], lap: Callable[[str], None]
    ) -> Tensor:
        frames = len(latents)
        size = buckets.around(frames)
        canvas = self._canvases.get(size) or self._blank(size)
        torch.stack(list(latents), out=canvas.latents[:frames])
        torch.stack(list(tokens), out=canvas.tokens[:frames])
        canvas.batches += 1
        if (
            canvas.recorded is None
            and canvas.batches >= self._capture_at
            and size not in self.refused
        ):
            self._capture(size, canvas)
        lap("encode_audio")
        if canvas.recorded is None:
            predicted = self._model.predict(canvas.latents, canvas.tokens)
            lap("unet")
            faces = self._model.decode(predicted)
        else:
            unet, decoder = canvas.recorded
            unet.replay()
            lap("unet")
            decoder.replay()
            faces = decoder.result
        lap("vae")
        return faces[:frames]

    def drop(self) -> None:
        """Forget tensors and recordings; buckets are recorded again when memory has settled."""
        self._canvases.clear()
        self._capture_at = CAPTURE_AFTER_DROP

    def _blank(self, size: int) -> _Canvas:
        model, config = self._model, self._model.config
        side, width = model.latent_size, config.unet.cross_attention_dim
        made = self._canvases[size] = _Canvas(
            torch.zeros(
                size, config.unet.in_channels, side, side, device=model.device, dtype=model.dtype
            ),
            torch.zeros(size, config.tokens, width, device=model.device, dtype=model.dtype),
        )
        return made

    def _capture(self, size: int, canvas: _Canvas) -> None:
        """Record a bucket; one that cannot be is run launch by launch from now on."""
        model = self._model
        try:
            unet = self._record(lambda: model.predict(canvas.latents, canvas.tokens))
            decoder = self._record(lambda: model.decode(unet.result))
        except RuntimeError as error:
            self.refused[size] = f"{type(error).__name__}: {error}"
            _log.warning("batch not recorded bucket=%d reason=%s", size, self.refused[size])
            return
        canvas.recorded = (unet, decoder)
