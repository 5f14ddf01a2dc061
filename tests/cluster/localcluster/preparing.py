"""What tests and benchmarks of a preparation share: a stand-in for the model, and its memory."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from avatar_runtime.avatars.cache import Avatar

_VAE_SCALE: Final = 8  # pixels of a crop in one latent pixel


class ZeroModel:
    """A model whose latents are zeros of the true size; it draws nothing."""

    version, vae_hash = "v15", "none"
    draw_idle: Any = None

    def __init__(self, crop_size: int = 256) -> None:
        self.crop_size = crop_size

    @property
    def encoder(self) -> Any:
        return self

    def encode(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        side = self.crop_size // _VAE_SCALE
        return np.zeros((len(crops), 4, side, side), np.float32)

    def draw_preview(self, avatar: Avatar) -> NDArray[np.uint8]:
        return np.zeros(1, np.uint8)


class MemorySampler:
    """Samples one kind of resident memory of this process in a thread, within a `with` block."""

    def __init__(self, kind: str = "RssAnon", every_s: float = 0.001) -> None:
        """`kind` is a field of `/proc/self/status`: `RssAnon` or `RssFile`."""
        self._kind, self._every_s = kind, every_s
        self.peak = self.base = memory_bytes(kind)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._ended.wait(self._every_s):
            self.peak = max(self.peak, memory_bytes(self._kind))

    def __enter__(self) -> MemorySampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()


def memory_bytes(kind: str) -> int:
    """Return one kind of resident memory of this process now."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(f"{kind}:")[1].split()[0])
