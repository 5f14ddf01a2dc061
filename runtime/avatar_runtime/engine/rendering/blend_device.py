"""Blends drawn faces into avatars' pictures on the device that drew them.

The same arithmetic as `pictures.compose`, in torch: the face is resized by OpenCV's own weights
and mixed in integers, so a pixel is within one level of the host's, and one that the mask does
not cover is the source pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from avatar_runtime.avatars import cache, masks
from avatar_runtime.engine.rendering import resize
from avatar_runtime.engine.rendering.lru import ByteCache

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Executor

    from torch import Tensor

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import FrameRequest

_LINES_BYTES: Final = 64 << 20  # of resizing weights: a box side of 300 takes 300 KiB

Key = tuple[str, int]
"""An avatar and one of its stored frames."""


@dataclass(frozen=True, slots=True)
class Composed:
    """The pictures of a batch in one tensor, so that one copy brings them to the host."""

    flat: Tensor
    """`(bytes,) uint8`: BGR pictures row by row, one after the other."""
    shapes: Sequence[tuple[int, int]]
    """Height and width of each picture."""

    def views(self) -> list[Tensor]:
        """Return the pictures, `(h, w, 3) uint8`, in the memory of `flat`."""
        ends = np.cumsum([3 * h * w for h, w in self.shapes]).tolist()
        starts = [0, *ends]
        return [
            self.flat[begin:end].view(h, w, 3)
            for begin, end, (h, w) in zip(starts, ends, self.shapes, strict=False)
        ]


@dataclass(frozen=True, slots=True)
class _Place:
    """One stored frame of an avatar on the device, ready for any face."""

    source: Tensor
    """`(H, W, 3) uint8` BGR."""
    rows: slice
    columns: slice
    """Of the source: the smallest rectangle that the mask touches."""
    weight: Tensor
    """`(h, w, 1) int32`, 0 to 255: how strongly that rectangle is redrawn."""
    down: Tensor
    """`(h, c) float32`: face rows to rows of the rectangle."""
    across: Tensor
    """`(c, w) float32`."""

    @property
    def nbytes(self) -> int:
        return self.source.nbytes + self.weight.nbytes


class Composer:
    """Keeps the frames that were used last on the device. Call it under `inference_mode`."""

    def __init__(
        self,
        avatars: Mapping[str, Avatar],
        device: torch.device,
        pool: Executor,
        limit_bytes: int,
    ) -> None:
        """`limit_bytes` is what source pictures and masks may hold on the device."""
        self._avatars = avatars
        self._device = device
        self._pool = pool
        self._places: ByteCache[Key, _Place] = ByteCache(limit_bytes, lambda place: place.nbytes)
        self._lines: ByteCache[tuple[int, int, int], Tensor] = ByteCache(
            _LINES_BYTES, lambda line: line.nbytes
        )

    @property
    def used_bytes(self) -> int:
        """What the cached frames hold on the device."""
        return self._places.used_bytes

    def compose(self, batch: Sequence[FrameRequest], faces: Tensor) -> Composed:
        """Return the pictures of a batch in the sizes asked for; `faces` are `(n, c, c, 3) uint8`.

        Queues work and, once the avatars' frames are resident, waits for none of it.
        """
        keys = [self._key(request) for request in batch]
        places = self._resident(keys, faces.shape[1])
        shapes = [(request.height, request.width) for request in batch]
        total = sum(3 * h * w for h, w in shapes)
        composed = Composed(torch.empty(total, dtype=torch.uint8, device=self._device), shapes)
        rows = zip(batch, places, faces, composed.views(), strict=True)
        for request, place, face, view in rows:
            mouth = request.window.mouth
            if place.source.shape == view.shape:
                view.copy_(place.source)
                _redraw(view, place, face, mouth)
            else:
                whole = place.source.clone()
                _redraw(whole, place, face, mouth)
                view.copy_(self._resized(whole, view.shape[0], view.shape[1]))
        return composed

    def clear(self) -> None:
        """Forget every cached frame."""
        self._places.clear()
        self._lines.clear()

    def _key(self, request: FrameRequest) -> Key:
        frames = self._avatars[request.avatar].manifest.frames
        return request.avatar, cache.fold(request.source_frame, frames)

    def _resident(self, keys: Sequence[Key], crop: int) -> list[_Place]:
        """Return the places of a batch; files of those that are new are decoded side by side."""
        new = [key for key in dict.fromkeys(keys) if key not in self._places]
        decode = [self._avatars[name].decode for name, _ in new]
        pictures = self._pool.map(lambda read, key: read(key[1]), decode, new)
        decoded = dict(zip(new, pictures, strict=True))
        # Kept in a list of our own: a batch of more frames than the cache holds must be whole.
        made: dict[Key, _Place] = {}
        for key in keys:
            if key not in made:
                made[key] = self._places.get(key, partial(self._place, key, decoded, crop))
        return [made[key] for key in keys]

    def _place(
        self,
        key: Key,
        decoded: Mapping[Key, np.ndarray[tuple[int, ...], np.dtype[np.uint8]]],
        crop: int,
    ) -> _Place:
        avatar, index = self._avatars[key[0]], key[1]
        picture = decoded[key] if key in decoded else avatar.decode(index)
        box, mask = avatar.box(index), avatar.mask(index)
        inner = masks.touched(mask)
        rows, columns = slice(inner.y1, inner.y2), slice(inner.x1, inner.x2)
        weight = np.ascontiguousarray(mask[rows, columns, None], np.int32)
        return _Place(
            source=torch.from_numpy(picture).to(self._device),
            rows=slice(box.y1 + rows.start, box.y1 + rows.stop),
            columns=slice(box.x1 + columns.start, box.x1 + columns.stop),
            weight=torch.from_numpy(weight).to(self._device),
            down=self._line(crop, box.height, resize.FACE)[rows],
            across=self._line(crop, box.width, resize.FACE)[columns].T,
        )

    def _resized(self, picture: Tensor, height: int, width: int) -> Tensor:
        """Return a picture in another size, filtered as `pictures.encode_jpeg` does."""
        method = resize.method(picture.shape[1], width)
        down = self._line(picture.shape[0], height, method)
        across = self._line(picture.shape[1], width, method).T
        planes = down @ picture.permute(2, 0, 1).float() @ across
        return planes.round_().clamp_(0, 255).permute(1, 2, 0)

    def _line(self, source: int, target: int, method: int) -> Tensor:
        """Return the weights of one axis, `(target, source) float32`."""
        return self._lines.get(
            (source, target, method),
            lambda: torch.tensor(resize.matrix(source, target, method), device=self._device),
        )


def _redraw(picture: Tensor, place: _Place, face: Tensor, mouth: float = 1.0) -> None:
    """Mix a face into the rectangle of a picture that its mask touches."""
    planes = place.down @ face.permute(2, 0, 1).float() @ place.across
    drawn = planes.round_().clamp_(0, 255).to(torch.int32).permute(1, 2, 0)
    weight = place.weight
    if mouth < 1:
        weight = (weight * mouth).round_().to(torch.int32)
    below = picture[place.rows, place.columns]
    mixed = drawn * weight + below.to(torch.int32) * (255 - weight) + 127
    below.copy_(mixed // 255)
