"""Blends generated faces into the source frames of avatars, on the device that generated them.

The same arithmetic as `blend_host.compose`, in torch: the face is resized with the weights of
OpenCV and blended in integers. A pixel differs from that of the host by at most one level. A
pixel outside the blend mask, or of a frame without a face, is the source pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from avatar_runtime.avatars import cache, idle_pictures
from avatar_runtime.engine.rendering import patches, resize
from avatar_runtime.engine.rendering.lru import LRUCache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from numpy.typing import NDArray
    from torch import Tensor

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import FrameRequest, Patch

_WEIGHTS_BYTES: Final = 64 << 20  # of resize weights: those of a box side of 300 take 300 KiB

FrameKey = tuple[str, int]
"""Key of an avatar and one of its stored frames."""


@dataclass(frozen=True, slots=True)
class Composed:
    """The images of a batch in one tensor, so that a single copy brings them to the host."""

    flat: Tensor
    """`(bytes,) uint8`: BGR images row by row, one after the other."""
    shapes: Sequence[tuple[int, int]]
    """Height and width of each image."""
    patches: Sequence[Patch | None]
    """Where each image belongs; `None` for a whole frame."""

    def views(self) -> list[Tensor]:
        """Return the images, `(h, w, 3) uint8`, as views of `flat`."""
        ends = np.cumsum([3 * h * w for h, w in self.shapes]).tolist()
        starts = [0, *ends]
        return [
            self.flat[begin:end].view(h, w, 3)
            for begin, end, (h, w) in zip(starts, ends, self.shapes, strict=False)
        ]


@dataclass(frozen=True, slots=True)
class _DeviceFrame:
    """One stored frame of an avatar on the device, with the blend mask of its face box."""

    source: Tensor
    """`(H, W, 3) uint8` BGR."""
    rows: slice
    columns: slice
    """Rows and columns of the bounding box of the blend mask in `source`."""
    mask: Tensor
    """`(h, w, 1) int32`, 0 to 255: weight of the face in the bounding box; empty without a face."""
    row_weights: Tensor
    """`(h, c) float32`: resizes rows of the face to rows of the bounding box."""
    column_weights: Tensor
    """`(c, w) float32`: resizes columns of the face to columns of the bounding box."""
    idle: Tensor | None = None
    """`(h, w, 3) uint8`: the bounding box in silence; `None` if that is the source picture."""
    alpha: Tensor | None = None
    """`(H, W, 1) uint8`: how opaque the picture is; `None` if it is so wholly."""

    @property
    def nbytes(self) -> int:
        others = sum(t.nbytes for t in (self.idle, self.alpha) if t is not None)
        return self.source.nbytes + self.mask.nbytes + others


class Composer:
    """Blends batches; caches stored frames on the device. Call it under `inference_mode`."""

    def __init__(
        self,
        avatars: Mapping[str, Avatar],
        device: torch.device,
        pool: Executor,
        limit_bytes: int,
    ) -> None:
        """`limit_bytes` bounds the cached source frames and masks on the device."""
        self._avatars = avatars
        self._device = device
        self._pool = pool
        self._frames: LRUCache[FrameKey, _DeviceFrame] = LRUCache(
            limit_bytes, lambda frame: frame.nbytes
        )
        self._weights: LRUCache[tuple[int, int, int], Tensor] = LRUCache(
            _WEIGHTS_BYTES, lambda weights: weights.nbytes
        )

    @property
    def used_bytes(self) -> int:
        """Bytes of the cached frames on the device."""
        return self._frames.used

    def compose(self, batch: Sequence[FrameRequest], faces: Tensor) -> Composed:
        """Return the images of a batch in the requested sizes; `faces` are `(n, c, c, 3) uint8`.

        The work is queued; the call waits for it only if a stored frame is not cached.
        """
        places = [self._place(request) for request in batch]
        frames = self._cached(places, faces.shape[1])
        boxes = [
            patches.part(request, *place) for request, place in zip(batch, places, strict=True)
        ]
        shapes = [(box.height, box.width) for box in boxes]
        total = sum(3 * h * w for h, w in shapes)
        composed = Composed(
            torch.empty(total, dtype=torch.uint8, device=self._device),
            shapes,
            [
                patches.place(request, index, box)
                for request, (_, index), box in zip(batch, places, boxes, strict=True)
            ],
        )
        rows = zip(batch, frames, faces, composed.views(), boxes, strict=True)
        for request, frame, face, view, box in rows:
            opacity = request.window.mouth_opacity
            is_plain = request.crop is None and request.background is None
            if frame.source.shape == view.shape and is_plain:
                view.copy_(frame.source)
                blend(view, frame, face, opacity)
            else:
                image = frame.source.clone()
                blend(image, frame, face, opacity)
                backdrop = self._avatars[request.avatar].backdrop
                planes = self._cut_out(image, request, frame, backdrop)
                view.copy_(planes[box.y1 : box.y2, box.x1 : box.x2])
        return composed

    def clear(self) -> None:
        """Evict every cached frame."""
        self._frames.clear()
        self._weights.clear()

    def _place(self, request: FrameRequest) -> tuple[Avatar, int]:
        """Return the avatar of a request and the stored frame."""
        avatar = self._avatars[request.avatar]
        return avatar, cache.fold(request.source_frame, avatar.manifest.frames)

    def _cached(self, places: Sequence[tuple[Avatar, int]], crop: int) -> list[_DeviceFrame]:
        """Return the frames of a batch; the files of missing ones are decoded in parallel."""
        # By key: an avatar that is replaced under the same name has other frames.
        keys = [(avatar.info.key, index) for avatar, index in places]
        by_key = dict(zip(keys, places, strict=True))
        missing = [key for key in by_key if key not in self._frames]
        images = self._pool.map(lambda key: by_key[key][0].decode(key[1]), missing)
        decoded = dict(zip(missing, images, strict=True))
        # In a dict of the batch, since the batch may have more frames than the cache can hold.
        frames: dict[FrameKey, _DeviceFrame] = {}
        for key, (avatar, index) in by_key.items():
            upload = partial(self._upload, avatar, index, decoded.get(key), crop)
            frames[key] = self._frames.get(key, upload)
        return [frames[key] for key in keys]

    def _upload(
        self, avatar: Avatar, index: int, image: NDArray[np.uint8] | None, crop: int
    ) -> _DeviceFrame:
        """Copy a frame to the device; `image` is `None` if it was evicted since it was missed."""
        if image is None:
            image = avatar.decode(index)
        source = torch.from_numpy(image).to(self._device)
        alpha = None
        if avatar.info.has_alpha:
            alpha = torch.from_numpy(avatar.alpha(index)[..., None]).to(self._device)
        if not avatar.valid(index):
            nothing = torch.empty(0, 0, 1, dtype=torch.int32, device=self._device)
            return _DeviceFrame(source, slice(0), slice(0), nothing, nothing, nothing, alpha=alpha)
        box, mask = avatar.box(index), avatar.mask(index)
        inner = avatar.blended(index).relative_to(box)
        rows, columns = slice(inner.y1, inner.y2), slice(inner.x1, inner.x2)
        inner_mask = np.ascontiguousarray(mask[rows, columns, None], np.int32)
        method = resize.FACE[avatar.face_resize]
        frame_rows = slice(box.y1 + rows.start, box.y1 + rows.stop)
        frame_columns = slice(box.x1 + columns.start, box.x1 + columns.stop)
        return _DeviceFrame(
            source=source,
            rows=frame_rows,
            columns=frame_columns,
            mask=torch.from_numpy(inner_mask).to(self._device),
            row_weights=self._resize_weights(crop, box.height, method)[rows],
            column_weights=self._resize_weights(crop, box.width, method)[columns].T,
            idle=self._idle(avatar, index, frame_rows, frame_columns),
            alpha=alpha,
        )

    def _idle(self, avatar: Avatar, index: int, rows: slice, columns: slice) -> Tensor | None:
        if not avatar.has_idle(index):
            return None
        shown = np.ascontiguousarray(idle_pictures.decode(avatar, index)[rows, columns])
        return torch.from_numpy(shown).to(self._device)

    def _cut_out(
        self,
        image: Tensor,
        request: FrameRequest,
        frame: _DeviceFrame,
        backdrop: tuple[int, int, int],
    ) -> Tensor:
        """Return a picture in the crop and size of a request, as `blend_host.cut_out` does."""
        size = request.height, request.width
        if request.background is None or frame.alpha is None:
            return self._resized(_cropped(image, request), *size)
        step = [after - before for after, before in zip(request.background, backdrop, strict=True)]
        steps = torch.tensor(step, dtype=torch.float32, device=image.device)
        image = image + ((255 - frame.alpha.float()) * steps / 255).round_()
        over = self._resized(_cropped(image.clamp_(0, 255), request), *size)
        if not request.below:
            return over
        grey = self._resized(_cropped(frame.alpha, request), *size)
        return torch.cat([over, grey.expand(-1, -1, 3)])

    def _resized(self, image: Tensor, height: int, width: int) -> Tensor:
        """Return an image in another size, filtered as in `blend_host.encode_jpeg`."""
        if image.shape[:2] == (height, width):
            return image
        method = resize.method(image.shape[1], width)
        row_weights = self._resize_weights(image.shape[0], height, method)
        column_weights = self._resize_weights(image.shape[1], width, method).T
        planes = row_weights @ image.permute(2, 0, 1).float() @ column_weights
        return planes.round_().clamp_(0, 255).permute(1, 2, 0)

    def _resize_weights(self, source: int, target: int, method: int) -> Tensor:
        """Return the weights of one axis, `(target, source) float32`."""
        return self._weights.get(
            (source, target, method),
            lambda: torch.tensor(resize.matrix(source, target, method), device=self._device),
        )


def blend(image: Tensor, frame: _DeviceFrame, face: Tensor, opacity: float = 1.0) -> None:
    """Blend a face into an image of a frame, in the bounding box of its mask.

    `opacity`, 0 to 1, is the weight of this picture over the idle picture. An empty mask changes
    nothing: the frame has no face.
    """
    if not frame.mask.numel():
        return
    planes = frame.row_weights @ face.permute(2, 0, 1).float() @ frame.column_weights
    above = planes.round_().clamp_(0, 255).to(torch.int32).permute(1, 2, 0)
    weight = frame.mask
    if opacity < 1 and frame.idle is None:
        weight = (weight * opacity).round_().to(torch.int32)
    below = image[frame.rows, frame.columns]
    mixed = (above * weight + below.to(torch.int32) * (255 - weight) + 127) // 255
    if opacity < 1 and frame.idle is not None:
        share = round(opacity * 255)
        mixed = (mixed * share + frame.idle.to(torch.int32) * (255 - share) + 127) // 255
    below.copy_(mixed)


def _cropped(image: Tensor, request: FrameRequest) -> Tensor:
    """Return the part of an image, `(h, w, 3)`, that a request shows."""
    if request.crop is None:
        return image
    left, top, right, bottom = request.crop
    return image[top:bottom, left:right]
