"""From generated faces to JPEG images in the host's memory: the half of a batch after the model.

`start` queues what the device has to do and returns; `finish` waits for it. Between the two calls
the engine's thread may start the next batch, so that copying and encoding cost the device nothing.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch

from avatar_runtime.avatars import cache
from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine.device import Rendered
from avatar_runtime.engine.rendering import blend_host, patches

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.batching.frames import FrameRequest, Patch
    from avatar_runtime.engine.device import InFlight
    from avatar_runtime.engine.rendering.blend_device import Composed, Composer
    from avatar_runtime.engine.rendering.jpeg_encoder import JpegEncoder
    from avatar_runtime.engine.rendering.stage_timer import StageTimer


class Postprocessor(Protocol):
    """Turns the faces of a forward pass into frames."""

    def start(self, batch: Sequence[FrameRequest], faces: Tensor, timer: StageTimer) -> InFlight:
        """Queue the work; `faces`, `(n, c, c, 3) uint8`, may be overwritten afterwards."""
        ...

    def clear(self) -> None:
        """Free the memory that is cached for later batches."""
        ...


class HostPostprocessor:
    """Composes with OpenCV and encodes with libjpeg on the threads of a pool."""

    def __init__(self, avatars: Mapping[str, cache.Avatar], pool: Executor) -> None:
        self._avatars = avatars
        self._pool = pool

    def start(self, batch: Sequence[FrameRequest], faces: Tensor, timer: StageTimer) -> InFlight:
        return _ComposeInFlight(self, batch, faces.cpu().numpy(), timer)

    def clear(self) -> None:
        """Do nothing: no memory of a device is cached."""

    def compose(
        self, batch: Sequence[FrameRequest], faces: NDArray[np.uint8]
    ) -> list[NDArray[np.uint8]]:
        return list(self._pool.map(self._compose, batch, faces))

    def encode(
        self, batch: Sequence[FrameRequest], images: Sequence[NDArray[np.uint8]]
    ) -> list[Frame]:
        return list(self._pool.map(self._frame, batch, images))

    def _frame(self, request: FrameRequest, image: NDArray[np.uint8]) -> Frame:
        avatar = self._avatars[request.avatar]
        index = cache.fold(request.source_frame, avatar.manifest.frames)
        return patches.frame(request, avatar, index, image)

    def _compose(self, request: FrameRequest, face: NDArray[np.uint8]) -> NDArray[np.uint8]:
        avatar = self._avatars[request.avatar]
        index = cache.fold(request.source_frame, avatar.manifest.frames)
        return blend_host.compose(avatar, index, face, request.window.mouth_opacity)


@dataclass(frozen=True, slots=True)
class _ComposeInFlight:
    """A batch whose faces are on the host: composition and JPEG are left."""

    postprocessor: HostPostprocessor
    batch: Sequence[FrameRequest]
    faces: NDArray[np.uint8]
    timer: StageTimer

    def wait_forward(self) -> None:
        """Return at once: the faces have been copied."""

    def finish(self) -> Rendered:
        began = time.perf_counter()
        images = self.postprocessor.compose(self.batch, self.faces)
        composed = time.perf_counter()
        frames = self.postprocessor.encode(self.batch, images)
        self.timer.add("compose", composed - began)
        self.timer.add("jpeg", time.perf_counter() - composed)
        return Rendered(frames, self.timer.stages())


class DevicePostprocessor:
    """Composes on the device, copies a batch to the host at once and encodes it in a pool.

    With an encoder on the device only the JPEG images are copied.
    """

    def __init__(
        self, composer: Composer, pool: Executor, device: torch.device, encoder: JpegEncoder | None
    ) -> None:
        self._composer = composer
        self._pool = pool
        self._side = SideStream(device)
        self._encoder = encoder

    def start(self, batch: Sequence[FrameRequest], faces: Tensor, timer: StageTimer) -> InFlight:
        forward = self._side.record_current()
        composed = self._composer.compose(batch, faces)
        timer.end_stage("compose")
        if self._encoder is not None:
            ready = self._side.hold(composed.flat)
            return _EncodeInFlight(
                self._side, self._encoder, batch, composed, forward, ready, timer
            )
        host, copied = self._side.copy(composed.flat)
        return _CopyInFlight(self._pool, batch, composed, forward, host, copied, timer)

    def clear(self) -> None:
        self._composer.clear()


@dataclass(frozen=True, slots=True)
class _CopyInFlight:
    """A batch whose composed images are being copied to the host: JPEG is left."""

    pool: Executor
    batch: Sequence[FrameRequest]
    composed: Composed
    forward: torch.cuda.Event | None
    """Passed when the decoder has run and the device composes; `None` on the CPU."""
    host: Tensor
    copied: torch.cuda.Event | None
    """Passed when `host` is complete; `None` on the CPU."""
    timer: StageTimer

    def wait_forward(self) -> None:
        _synchronize(self.forward)

    def finish(self) -> Rendered:
        _synchronize(self.copied)
        flat = np.asarray(self.host.numpy(), np.uint8)
        began = time.perf_counter()
        shapes = self.composed.shapes
        ends = np.cumsum([3 * h * w for h, w in shapes])
        parts = np.split(flat, ends[:-1])
        images = [part.reshape(h, w, 3) for part, (h, w) in zip(parts, shapes, strict=True)]
        frames = list(self.pool.map(_encoded, self.batch, images, self.composed.patches))
        self.timer.add("jpeg", time.perf_counter() - began)
        return Rendered(frames, self.timer.stages())


@dataclass(frozen=True, slots=True)
class _EncodeInFlight:
    """A batch whose composed images are encoded on the device: JPEG and its copy are left."""

    side: SideStream
    encoder: JpegEncoder
    batch: Sequence[FrameRequest]
    composed: Composed
    forward: torch.cuda.Event | None
    """Passed when the decoder has run and the device composes; `None` on the CPU."""
    ready: torch.cuda.Event | None
    """Passed when the images are composed; `None` on the CPU."""
    timer: StageTimer

    def wait_forward(self) -> None:
        _synchronize(self.forward)

    def finish(self) -> Rendered:
        with self.side.entered(self.ready):
            began = time.perf_counter()
            views = zip(self.composed.views(), self.batch, strict=True)
            files = [
                view if request.raw or not view.numel() else self.encoder(view, request.quality)
                for view, request in views
            ]
            arrays = [file.cpu().numpy() for file in files]
            frames = [
                Frame(request, blend_host.i420(array) if request.raw else array.tobytes(), patch)
                for request, array, patch in zip(
                    self.batch, arrays, self.composed.patches, strict=True
                )
            ]
            self.timer.add("jpeg", time.perf_counter() - began)
        return Rendered(frames, self.timer.stages())


class SideStream:
    """A CUDA stream beside the engine's, for the work after a batch; on the CPU it is absent."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def record_current(self) -> torch.cuda.Event | None:
        """Return an event after the work that is queued on the current stream."""
        if self._stream is None:
            return None
        event = _blocking_event()
        event.record()
        return event

    def copy(self, flat: Tensor) -> tuple[Tensor, torch.cuda.Event | None]:
        """Queue the copy of `flat` to the host after the work of the current stream.

        Returns the tensor on the host and the event after which it is complete.
        """
        if self._stream is None:
            return flat, None
        # The allocator of pinned memory itself waits for copies from or to a block.
        host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        flat.record_stream(self._stream)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host.copy_(flat, non_blocking=True)
        copied = _blocking_event()
        copied.record(self._stream)
        return host, copied

    def hold(self, flat: Tensor) -> torch.cuda.Event | None:
        """Return the event after which `flat` is ready; keep its memory until this stream read it.

        Returns `None` on the CPU.
        """
        if self._stream is None:
            return None
        flat.record_stream(self._stream)
        return self.record_current()

    @contextmanager
    def entered(self, ready: torch.cuda.Event | None) -> Iterator[None]:
        """Wait for an event, then queue the work of the block on this stream."""
        if self._stream is None or ready is None:
            yield
            return
        ready.synchronize()
        with torch.cuda.stream(self._stream):
            yield


def _synchronize(event: torch.cuda.Event | None) -> None:
    if event is not None:
        event.synchronize()


def _blocking_event() -> torch.cuda.Event:
    """Return an event whose waiters sleep: one that spins takes a core from the encoders."""
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]


def _encoded(request: FrameRequest, image: NDArray[np.uint8], patch: Patch | None) -> Frame:
    """Return the frame of an image that the device has cropped and resized; it may be empty."""
    return Frame(request, blend_host.encode_shown(image, request) if image.size else b"", patch)
