"""JPEG encoding on the device, used only after a trial image."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, Protocol

import cv2
import numpy as np
import torch

if TYPE_CHECKING:
    from torch import Tensor

JPEG_TOLERANCE: Final = 4.0
"""Mean levels by which the trial image of an encoder may differ after decoding."""

_log: Final = logging.getLogger(__name__)


class JpegEncoder(Protocol):
    """`(h, w, 3) uint8` BGR on the device and a quality from 1 to 100, to `(bytes,) uint8`."""

    def __call__(self, image: Tensor, quality: int, /) -> Tensor: ...


def device_encoder(device: torch.device) -> JpegEncoder | None:
    """Return torchcodec's encoder (nvJPEG on CUDA) after a trial, or log why not: `None`."""
    try:
        from torchcodec.encoders import JpegEncoder as Encoder
    except (ImportError, OSError, RuntimeError) as error:
        _log.info("jpeg on the host reason=torchcodec is not usable: %s", str(error)[:200])
        return None

    def encode(image: Tensor, quality: int) -> Tensor:
        planes = image.permute(2, 0, 1).flip(0).contiguous()
        file: Tensor = Encoder(planes).to_tensor(quality=quality)
        return file

    if (fault := trial_fault(encode, device)) is not None:
        _log.warning("jpeg on the host reason=%s", fault)
        return None
    return encode


def trial_fault(encode: JpegEncoder, device: torch.device) -> str | None:
    """Return what is wrong with the file that an encoder makes of a soft image, or `None`."""
    rows, columns = np.indices((64, 64), dtype=np.uint8)
    image = np.stack([rows + columns, 3 * rows, 2 * columns], axis=2)
    try:
        file = encode(torch.from_numpy(image).to(device), 95).cpu().numpy()
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    decoded = cv2.imdecode(file, cv2.IMREAD_COLOR)
    if decoded is None or decoded.shape != image.shape:
        return "the trial image cannot be decoded"
    error_levels = float(np.abs(decoded.astype(int) - image).mean())
    if error_levels > JPEG_TOLERANCE:
        return f"the trial image is {error_levels:.1f} levels off, limit {JPEG_TOLERANCE}"
    return None
