"""From drawn faces to JPEG files in the host's memory: the half of a batch after the model.

`begin` queues what the device has to do and returns; `finish` waits for it. Between them the
engine's thread may start the next batch, so that copying and encoding cost the device nothing.
"""

from __future__ import annotations

import logging
import time
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol

import cv2
import numpy as np
import torch

from avatar_runtime.avatars import cache
from avatar_runtime.batching.frames import Frame
from avatar_runtime.engine.device import Rendered
from avatar_runtime.engine.rendering import blend_host

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.rendering.blend_device import Composed, Composer
    from avatar_runtime.engine.rendering.stage_timer import Watch

JPEG_TOLERANCE: Final = 4.0
"""Mean levels by which an encoder's trial picture may differ after decoding."""

_log: Final = logging.getLogger(__name__)


class Begun(Protocol):
    """A batch whose way to the host is queued."""

    def finish(self) -> Rendered:
        """Wait for the pictures and return them. Any thread may call it, once."""
        ...


class Finisher(Protocol):
    """Takes faces as the drawer leaves them."""

    def begin(self, batch: Sequence[FrameRequest], faces: Tensor, watch: Watch) -> Begun:
        """Queue what follows; `faces`, `(n, c, c, 3) uint8`, may be overwritten afterwards."""
        ...

    def clear(self) -> None:
        """Give back the memory that is kept for later batches."""
        ...


class HostFinisher:
    """Composes with OpenCV and encodes with libjpeg on the threads of a pool."""

    def __init__(self, avatars: Mapping[str, cache.Avatar], pool: Executor) -> None:
        self._avatars = avatars
        self._pool = pool

    def begin(self, batch: Sequence[FrameRequest], faces: Tensor, watch: Watch) -> Begun:
        return _OnHost(self, batch, faces.cpu().numpy(), watch)

    def clear(self) -> None:
        """Keep nothing on a device."""

    def compose(
        self, batch: Sequence[FrameRequest], faces: NDArray[np.uint8]
    ) -> list[NDArray[np.uint8]]:
        return list(self._pool.map(self._compose, batch, faces))

    def encode(
        self, batch: Sequence[FrameRequest], whole: Sequence[NDArray[np.uint8]]
    ) -> list[Frame]:
        return list(self._pool.map(_encoded, batch, whole))

    def _compose(self, request: FrameRequest, face: NDArray[np.uint8]) -> NDArray[np.uint8]:
        avatar = self._avatars[request.avatar]
        index = cache.fold(request.source_frame, avatar.manifest.frames)
        return blend_host.compose(avatar, index, face, request.window.mouth)


@dataclass(frozen=True, slots=True)
class _OnHost:
    finisher: HostFinisher
    batch: Sequence[FrameRequest]
    faces: NDArray[np.uint8]
    watch: Watch

    def finish(self) -> Rendered:
        began = time.perf_counter()
        whole = self.finisher.compose(self.batch, self.faces)
        composed = time.perf_counter()
        frames = self.finisher.encode(self.batch, whole)
        self.watch.add("compose", composed - began)
        self.watch.add("jpeg", time.perf_counter() - composed)
        return Rendered(frames, self.watch.stages())


class DeviceFinisher:
    """Composes on the device, brings a batch to the host in one copy, encodes in a pool.

    With an encoder of the device's only the JPEG files are copied.
    """

    def __init__(
        self, composer: Composer, pool: Executor, device: torch.device, encoder: JpegEncoder | None
    ) -> None:
        self._composer = composer
        self._pool = pool
        self._side = SideStream(device)
        self._encoder = encoder

    def begin(self, batch: Sequence[FrameRequest], faces: Tensor, watch: Watch) -> Begun:
        composed = self._composer.compose(batch, faces)
        watch.lap("compose")
        if self._encoder is not None:
            turn = self._side.turn(composed.flat)
            return _ToEncode(self._side, self._encoder, batch, composed, turn, watch)
        return _OnItsWay(self._pool, batch, composed, self._side.copy(composed.flat), watch)

    def clear(self) -> None:
        self._composer.clear()


@dataclass(frozen=True, slots=True)
class _OnItsWay:
    pool: Executor
    batch: Sequence[FrameRequest]
    composed: Composed
    arrival: Arrival
    watch: Watch

    def finish(self) -> Rendered:
        flat = self.arrival.wait()
        began = time.perf_counter()
        ends = np.cumsum([3 * h * w for h, w in self.composed.shapes])
        parts = np.split(flat, ends[:-1])
        whole = [
            part.reshape(h, w, 3) for part, (h, w) in zip(parts, self.composed.shapes, strict=True)
        ]
        frames = list(self.pool.map(_encoded, self.batch, whole))
        self.watch.add("jpeg", time.perf_counter() - began)
        return Rendered(frames, self.watch.stages())


@dataclass(frozen=True, slots=True)
class _ToEncode:
    side: SideStream
    encoder: JpegEncoder
    batch: Sequence[FrameRequest]
    composed: Composed
    turn: torch.cuda.Event | None
    watch: Watch

    def finish(self) -> Rendered:
        with self.side.entered(self.turn):
            began = time.perf_counter()
            views = zip(self.composed.views(), self.batch, strict=True)
            files = [self.encoder(view, request.quality) for view, request in views]
            jpegs = [file.cpu().numpy().tobytes() for file in files]
            self.watch.add("jpeg", time.perf_counter() - began)
        frames = [Frame(request, jpeg) for request, jpeg in zip(self.batch, jpegs, strict=True)]
        return Rendered(frames, self.watch.stages())


class SideStream:
    """A stream beside the engine's, for what follows a batch; on the CPU there is none."""

    def __init__(self, device: torch.device) -> None:
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]

    def copy(self, flat: Tensor) -> Arrival:
        """Queue the copy of `flat` to the host behind what the current stream holds."""
        if self._stream is None:
            return Arrival(flat, None)
        # The allocator of pinned memory waits by itself for the copies out of or into it.
        host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
        flat.record_stream(self._stream)
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            host.copy_(flat, non_blocking=True)
        done = blocking_event()
        done.record(self._stream)
        return Arrival(host, done)

    def turn(self, flat: Tensor) -> torch.cuda.Event | None:
        """Return when `flat` will be ready, and keep its memory until it was read there."""
        if self._stream is None:
            return None
        flat.record_stream(self._stream)
        ready = blocking_event()
        ready.record()
        return ready

    @contextmanager
    def entered(self, turn: torch.cuda.Event | None) -> Iterator[None]:
        """Wait for a turn, then run what is queued inside on this stream."""
        if self._stream is None or turn is None:
            yield
            return
        turn.synchronize()
        with torch.cuda.stream(self._stream):
            yield


@dataclass(frozen=True, slots=True)
class Arrival:
    """A tensor on its way to the host."""

    host: Tensor
    done: torch.cuda.Event | None

    def wait(self) -> NDArray[np.uint8]:
        """Return the bytes once they are all there."""
        if self.done is not None:
            self.done.synchronize()
        return np.asarray(self.host.numpy(), np.uint8)


def blocking_event() -> torch.cuda.Event:
    """Return an event whose waiters sleep: one that spins takes a core from the encoders."""
    return torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]


class JpegEncoder(Protocol):
    """`(h, w, 3) uint8` BGR on the device and a quality from 1 to 100, to `(bytes,) uint8`."""

    def __call__(self, picture: Tensor, quality: int, /) -> Tensor: ...


def device_encoder(device: torch.device) -> JpegEncoder | None:
    """Return torchcodec's encoder (nvJPEG on CUDA) after a trial, or `None` and log why not."""
    try:
        from torchcodec.encoders import JpegEncoder as Encoder
    except (ImportError, OSError, RuntimeError) as error:
        _log.info("jpeg on the host reason=torchcodec is not usable: %s", str(error)[:200])
        return None

    def encode(picture: Tensor, quality: int) -> Tensor:
        planes = picture.permute(2, 0, 1).flip(0).contiguous()
        made: Tensor = Encoder(planes).to_tensor(quality=quality)
        return made

    if (fault := _fault(encode, device)) is not None:
        _log.warning("jpeg on the host reason=%s", fault)
        return None
    return encode


def _fault(encode: JpegEncoder, device: torch.device) -> str | None:
    """Return what is wrong with an encoder's file of a soft picture, or `None`."""
    rows, columns = np.indices((64, 64), dtype=np.uint8)
    picture = np.stack([rows + columns, 3 * rows, 2 * columns], axis=2)
    try:
        file = encode(torch.from_numpy(picture).to(device), 95).cpu().numpy()
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)
    if decoded is None or decoded.shape != picture.shape:
        return "the trial picture cannot be decoded"
    error_levels = float(np.abs(decoded.astype(int) - picture).mean())
    if error_levels > JPEG_TOLERANCE:
        return f"the trial picture is {error_levels:.1f} levels off, limit {JPEG_TOLERANCE}"
    return None


def _encoded(request: FrameRequest, picture: NDArray[np.uint8]) -> Frame:
    jpeg = blend_host.encode_jpeg(picture, request.width, request.height, request.quality)
    return Frame(request, jpeg)
