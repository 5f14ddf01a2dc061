"""The real devices: torch on the CPU and on CUDA, one code for both."""

from __future__ import annotations

import ctypes
import logging
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import cv2

from avatar_runtime import errors
from avatar_runtime.batching.buckets import BUCKETS
from avatar_runtime.engine.device import MIB, Calibration, Memory, ModelInfo, ModelOptions
from avatar_runtime.engine.devices import gpu_info, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import torch

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.device import Pending, Rendered
    from avatar_runtime.engine.networks.musetalk import MuseTalk
    from avatar_runtime.engine.rendering.delivery import Finisher
    from avatar_runtime.engine.rendering.forward import Drawer
    from avatar_runtime.engine.rendering.renderer import Runner

_PICTURE_THREADS: Final = 4  # composition and JPEG; more do not shorten a batch
_ENCODER_THREADS: Final = 16  # JPEG beside a GPU: 500 full pictures a second need a dozen cores
_PICTURE_SHARE: Final = 1 / 16  # of a GPU's memory for avatars' frames: 250 of 1080p on 24 GiB
# Of glibc's mallopt(3). By default each tensor over some size is a mapping of its own and the end
# of the heap goes back at once, so that every step of a batch faults its memory in anew: a
# thousand faults a frame, a tenth of its time.
_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
_KEPT_BYTES: Final = 512 << 20
_HEAP_BYTES: Final = 32 << 20  # the most that mallopt takes
_OWN_PRECISION: Final = {"cpu": "fp32", "cuda": "fp16"}

_log: Final = logging.getLogger(__name__)


class TorchDevice:
    """Runs the model; torch itself is imported by `load`, on the engine's thread."""

    def __init__(
        self, name: str, threads: int | None = None, options: ModelOptions | None = None
    ) -> None:
        self.name = name
        self._options = options or ModelOptions()
        self._threads = threads
        self._lanes = 1
        self._pool: ThreadPoolExecutor | None = None
        self._model: MuseTalk | None = None
        self._runner: Runner | None = None
        self._read_memory: Callable[[], Memory] = _process_memory

    @property
    def precision(self) -> str:
        """What weights and activations are held in, one of `device.PRECISIONS`."""
        return self._options.precision or _OWN_PRECISION[self.name]

    def load(self, model_dir: Path) -> ModelInfo:
        import torch

        from avatar_runtime.engine.networks import folding, musetalk, weights

        self._prepare()
        if self._options.verify:
            weights.verify(model_dir)
        loaded = musetalk.read(model_dir, self._options.version, self._options.decoder)
        folding.fold(loaded, upsampling=self.name == "cpu")
        with out_of_memory.translated(self._free):
            dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            place = torch.device(self.name)
            self._model = loaded.to(place, dtypes[self.precision], _Progress().told)
        return ModelInfo(
            version=loaded.version,
            vae_hash=loaded.vae_hash,
            context_s=loaded.config.whisper.max_source_positions // 50,
            variant=f"{loaded.version}/{loaded.decoder}/{self.precision}",
        )

    def serve(self, avatars: Mapping[str, Avatar]) -> None:
        from avatar_runtime.engine.rendering import cpu_parallel, delivery, forward, renderer

        assert self._pool is not None, "load comes first"
        model, pool = self._loaded(), self._pool
        own = cpu_parallel.Lanes(pool, self._lanes)
        drawer: Drawer
        finisher: Finisher
        with out_of_memory.translated(self._free):
            if self.name == "cuda":
                drawer, finisher = _on_cuda(model, avatars, pool, self.memory().total_bytes)
            else:
                drawer = forward.PlainDrawer(model, own)
                finisher = delivery.HostFinisher(avatars, pool)
            self._runner = renderer.Runner(model, avatars, drawer, finisher, own)

    @property
    def overlaps(self) -> bool:
        return self.name == "cuda"  # on the CPU both halves of a batch want the same cores

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        return self.launch(batch).finish()

    def launch(self, batch: Sequence[FrameRequest]) -> Pending:
        import torch

        with out_of_memory.translated(self._free), torch.inference_mode():
            return _Translated(self._running().launch(batch), self._free)

    def draw(self, batch: Sequence[FrameRequest]) -> Mapping[str, float]:
        """Draw the faces of a batch alone and return the seconds of each stage."""
        import torch

        with out_of_memory.translated(self._free), torch.inference_mode():
            return self._running().draw(batch)

    def gflop_per_frame(self) -> float:
        """Return the work of drawing one face, counted on the loaded networks."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        latents, tokens = self._inputs(1)
        model = self._loaded()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.decode(model.predict(latents, tokens))
        return float(counter.get_total_flops()) / 1e9

    def peak_tflops(self) -> float | None:
        """Return what the card could do at most in this precision, or `None` if nobody says."""
        if self.name != "cuda":
            return None
        import torch

        known = gpu_info.peak(torch.cuda.get_device_name())
        return None if known is None else known.of(self.precision)

    def activations_mib(self, frames: int, *, autograd: bool) -> float | None:
        """Return the most that drawing takes over the weights; `None` without an allocator.

        `autograd`: as a server that never turned gradients off would run it.
        """
        if self.name != "cuda":
            return None
        import torch

        model = self._loaded()
        weights = [p for network in model.networks().values() for p in network.parameters()]
        for weight in weights:
            weight.requires_grad_(autograd)
        try:
            latents, tokens = self._inputs(frames)
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            with out_of_memory.translated(self._free), torch.set_grad_enabled(autograd):
                faces = model.decode(model.predict(latents, tokens))
            torch.cuda.synchronize()
            del faces
            return (torch.cuda.max_memory_allocated() - before) / MIB
        finally:
            for weight in weights:
                weight.requires_grad_(False)

    @property
    def pads(self) -> bool:
        return self.name == "cuda"

    def release(self) -> None:
        if self._runner is not None:
            self._runner.release()
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
        return self._read_memory()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._runner = self._model = None

    def _prepare(self) -> None:
        """Set torch and OpenCV up for this process. Raises `EngineError` where CUDA is missing."""
        import torch

        threads = self._threads or torch.get_num_threads()
        if self.name == "cpu":
            # A batch is cut into one part a core instead of each of its thousand steps: threads
            # that meet a thousand times wait a thousand times for the slowest (docs/engine.md).
            self._lanes = threads
            _keep_freed_memory()
        if self._pool is None:
            most = _ENCODER_THREADS if self.name == "cuda" else _PICTURE_THREADS
            # The number of torch's threads is each thread's own.
            self._pool = ThreadPoolExecutor(
                max(self._lanes, min(threads, most)),
                "pictures",
                initializer=torch.set_num_threads,
                initargs=(1,),
            )
        torch.set_num_threads(1 if self.name == "cpu" else threads)
        cv2.setNumThreads(1)  # pictures are spread over the pool instead
        if self.name != "cuda":
            return
        if not torch.cuda.is_available():
            raise errors.EngineError("device cuda is asked for, this process sees no CUDA device")
        if self.precision == "fp32":
            # By default convolutions of float32 are rounded to 10 bits (TF32) on the way in.
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        self._read_memory = gpu_info.open_memory(uuid, _cuda_memory)

    def _loaded(self) -> MuseTalk:
        assert self._model is not None, "load comes first"
        return self._model

    def _running(self) -> Runner:
        assert self._runner is not None, "serve comes first"
        return self._runner

    def _inputs(self, frames: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return latents and tokens of zeros."""
        import torch

        model, config = self._loaded(), self._loaded().config
        side, width = model.latent_size, config.unet.cross_attention_dim
        latents = torch.zeros(frames, config.unet.in_channels, side, side)
        tokens = torch.zeros(frames, config.tokens, width)
        return latents.to(model.device, model.dtype), tokens.to(model.device, model.dtype)

    def _free(self) -> int:
        memory = self.memory()
        return memory.total_bytes - memory.used_bytes


class _Translated:
    """A batch on its way whose refusals of memory are ours."""

    def __init__(self, pending: Pending, free: Callable[[], int]) -> None:
        self._pending = pending
        self._free = free

    def wait_drawn(self) -> None:
        with out_of_memory.translated(self._free):
            self._pending.wait_drawn()

    def finish(self) -> Rendered:
        with out_of_memory.translated(self._free):
            return self._pending.finish()


class _Progress:
    """One line for each quarter of a model that takes long to load."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._quarter = 0

    def told(self, done: int, total: int) -> None:
        quarter = 4 * done // total
        if quarter > self._quarter:
            self._quarter = quarter
            _log.info(
                "model loading done_mib=%d total_mib=%d seconds=%.2f",
                done // MIB, total // MIB, time.perf_counter() - self._began,
            )  # fmt: skip


def _keep_freed_memory() -> None:
    """Let the allocator keep what a batch frees for the next one; other C libraries differ."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        mallopt(_M_MMAP_THRESHOLD, _HEAP_BYTES)


def _on_cuda(
    model: MuseTalk, avatars: Mapping[str, Avatar], pool: ThreadPoolExecutor, memory_bytes: int
) -> tuple[Drawer, Finisher]:
    from avatar_runtime.engine.rendering import blend_device, cuda_graphs, delivery, forward

    limit = int(memory_bytes * _PICTURE_SHARE)
    composer = blend_device.Composer(avatars, model.device, pool, limit)
    encoder = delivery.device_encoder(model.device)
    return (
        forward.BucketDrawer(model, cuda_graphs.GraphRecorder(model.device)),
        delivery.DeviceFinisher(composer, pool, model.device, encoder),
    )


def _process_memory() -> Memory:
    """Return what this process holds of the machine's memory."""
    page = os.sysconf("SC_PAGE_SIZE")
    resident = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return Memory(resident * page, os.sysconf("SC_PHYS_PAGES") * page)


def _cuda_memory() -> Memory:
    """Return what the whole card holds, by CUDA's own account."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return Memory(total - free, total)
