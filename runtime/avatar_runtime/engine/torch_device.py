"""The real devices: torch on the CPU in float32 and on CUDA in float16, one code for both."""

from __future__ import annotations

import ctypes
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2

from avatar_runtime import errors
from avatar_runtime.batching.buckets import BUCKETS
from avatar_runtime.engine.device import Calibration, Memory, ModelInfo

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.device import Rendered
    from avatar_runtime.engine.model import MuseTalk
    from avatar_runtime.engine.runner import Runner

_PICTURE_THREADS: Final = 4  # composition and JPEG; more do not shorten a batch
# Of glibc's mallopt(3). By default each tensor over some size is a mapping of its own and the end
# of the heap goes back at once, so that every step of a batch faults its memory in anew: a
# thousand faults a frame, a tenth of its time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 512 << 20
_HEAP_BYTES: Final = 32 << 20  # the most that mallopt takes


class TorchDevice:
    """Runs the model; torch itself is imported by `load`, on the engine's thread."""

    def __init__(self, name: str, threads: int | None = None) -> None:
        self.name = name
        self._threads = threads
        self._lanes = 1
        self._pool: ThreadPoolExecutor | None = None
        self._model: MuseTalk | None = None
        self._runner: Runner | None = None

    def load(self, model_dir: Path) -> ModelInfo:
        import torch

        from avatar_runtime.engine import folding, model

        threads = self._threads or torch.get_num_threads()
        if self.name == "cpu":
            # A batch is cut into one part a core instead of each of its thousand steps: threads
            # that meet a thousand times wait a thousand times for the slowest (docs/engine.md).
            self._lanes = threads
            _keep_freed_memory()
        torch.set_num_threads(1 if self.name == "cpu" else threads)
        workers = max(self._lanes, min(threads, _PICTURE_THREADS))
        # The number is each thread's own.
        self._pool = ThreadPoolExecutor(
            workers, "pictures", initializer=torch.set_num_threads, initargs=(1,)
        )
        cv2.setNumThreads(1)  # pictures are spread over the pool instead
        if self.name == "cuda" and not torch.cuda.is_available():
            raise errors.EngineError("device cuda is asked for, this process sees no CUDA device")
        loaded = model.load(model_dir)
        folding.fold(loaded, upsampling=self.name == "cpu")
        dtype = torch.float16 if self.name == "cuda" else torch.float32
        with _memory_errors():
            self._model = loaded.to(torch.device(self.name), dtype)
        precision = "fp16" if self.name == "cuda" else "fp32"
        return ModelInfo(
            version=loaded.version,
            vae_hash=loaded.vae_hash,
            context_s=loaded.config.whisper.max_source_positions // 50,
            variant=f"{loaded.version}/sd-vae/{precision}",
        )

    def serve(self, avatars: Mapping[str, Avatar]) -> None:
        from avatar_runtime.engine import runner

        assert self._model is not None, "load comes before serve"
        assert self._pool is not None, "load comes before serve"
        with _memory_errors():
            self._runner = runner.Runner(self._model, avatars, self._pool, self._lanes)

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        import torch

        assert self._runner is not None, "serve comes before render"
        with _memory_errors(), torch.inference_mode():
            return self._runner.render(batch)

    def draw(self, batch: Sequence[FrameRequest]) -> Mapping[str, float]:
        """Draw the faces of a batch alone and return the seconds of each stage."""
        import torch

        assert self._runner is not None, "serve comes before draw"
        with _memory_errors(), torch.inference_mode():
            return self._runner.draw(batch)

    def gflop_per_frame(self) -> float:
        """Return the work of drawing one face, counted on the loaded networks."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        assert self._model is not None, "load comes before gflop_per_frame"
        model, config = self._model, self._model.config
        side, width = config.vae.latent_size, config.unet.cross_attention_dim
        latents = torch.zeros(1, config.unet.in_channels, side, side).to(model.device, model.dtype)
        tokens = torch.zeros(1, config.tokens, width).to(model.device, model.dtype)
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.decode(model.predict(latents, tokens))
        return float(counter.get_total_flops()) / 1e9

    @property
    def pads(self) -> bool:
        return self.name == "cuda"

    def release(self) -> None:
        if self.name == "cuda":
            import torch

            torch.cuda.empty_cache()

    def buckets(self, batch_size: int) -> Sequence[int]:
        if self.name == "cuda":
            return [b for b in BUCKETS if b <= batch_size]
        return sorted({1, batch_size})  # the CPU compiles nothing, it only shows its line

    def curve(self) -> Calibration | None:
        return None

    def memory(self) -> Memory:
        if self.name == "cuda":
            import torch

            free, total = torch.cuda.mem_get_info()
            return Memory(total - free, total)
        page = os.sysconf("SC_PAGE_SIZE")
        resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return Memory(resident * page, os.sysconf("SC_PHYS_PAGES") * page)

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
        self._runner = self._model = None


def _keep_freed_memory() -> None:
    """Let the allocator keep what a batch frees for the next one; other C libraries differ."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turn torch's refusals of device memory into ours."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        free, _ = torch.cuda.mem_get_info()
        raise errors.DeviceMemoryError(None, free) from error
