"""The real devices: torch on the CPU and on CUDA, with the same code."""

from __future__ import annotations

import logging
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Final

import cv2

from avatar_runtime import cpus, errors
from avatar_runtime.batching.buckets import BUCKETS
from avatar_runtime.engine.device import MIB, Curve, Memory, ModelInfo, ModelOptions
from avatar_runtime.engine.devices import gpu_info, host_memory, out_of_memory

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    import torch

    from avatar_runtime.avatars.cache import Avatar
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine.device import InFlight, Rendered
    from avatar_runtime.engine.networks.musetalk import MuseTalk
    from avatar_runtime.engine.rendering.delivery import Postprocessor
    from avatar_runtime.engine.rendering.forward import ForwardPass
    from avatar_runtime.engine.rendering.renderer import Renderer

_CPU_IMAGE_THREADS: Final = 4  # composition and JPEG; more do not shorten a batch
_CUDA_IMAGE_THREADS: Final = 16  # JPEG beside a GPU: 500 full frames a second need 12 cores
_FRAME_CACHE_SHARE: Final = 1 / 16  # of the GPU memory: 250 source frames of 1080p on 24 GiB
_DEFAULT_PRECISION: Final = {"cpu": "fp32", "cuda": "fp16"}

_log: Final = logging.getLogger(__name__)


class TorchDevice:
    """Runs the model. `load` imports torch, on the engine's thread."""

    def __init__(
        self, name: str, threads: int | None = None, options: ModelOptions | None = None
    ) -> None:
        self.name = name
        self._options = options or ModelOptions()
        self._threads = threads
        self._shards = 1
        self._pool: ThreadPoolExecutor | None = None
        self._model: MuseTalk | None = None
        self._renderer: Renderer | None = None
        self._read_memory: Callable[[], Memory] = host_memory.read

    @property
    def precision(self) -> str:
        """The precision of weights and activations, one of `device.PRECISIONS`."""
        return self._options.precision or _DEFAULT_PRECISION[self.name]

    def load(self, model_dir: Path) -> ModelInfo:
        import torch

        from avatar_runtime.engine.networks import folding, musetalk, weights

        self._prepare()
        if self._options.verify:
            weights.verify(model_dir)
        loaded = musetalk.read(model_dir, self._options.version, self._options.decoder)
        folding.fold(loaded, upsampling=self.name == "cpu")
        with out_of_memory.translate(self._free):
            dtypes = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
            place = torch.device(self.name)
            self._model = loaded.to(place, dtypes[self.precision], _LoadProgress().report)
        return ModelInfo(
            version=loaded.version,
            vae_hash=loaded.vae_hash,
            context_s=loaded.config.whisper.max_source_positions // 50,
            variant=f"{loaded.version}/{loaded.decoder}/{self.precision}",
            latent_size=loaded.latent_size,
        )

    def serve(self, avatars: Mapping[str, Avatar]) -> None:
        from avatar_runtime.engine.rendering import cpu_parallel, delivery, forward, renderer

        assert self._pool is not None, "call load first"
        model, pool = self._loaded(), self._pool
        shards = cpu_parallel.CpuShards(pool, self._shards)
        forward_pass: ForwardPass
        postprocessor: Postprocessor
        with out_of_memory.translate(self._free):
            if self.name == "cuda":
                forward_pass, postprocessor = _on_cuda(
                    model, avatars, pool, self.memory().total_bytes
                )
            else:
                forward_pass = forward.EagerForward(model, shards)
                postprocessor = delivery.HostPostprocessor(avatars, pool)
            self._renderer = renderer.Renderer(model, avatars, forward_pass, postprocessor, shards)

    @property
    def overlaps(self) -> bool:
        return self.name == "cuda"  # on the CPU both halves of a batch use the same cores

    def render(self, batch: Sequence[FrameRequest]) -> Rendered:
        return self.launch(batch).finish()

    def launch(self, batch: Sequence[FrameRequest]) -> InFlight:
        import torch

        with out_of_memory.translate(self._free), torch.inference_mode():
            return _TranslatedInFlight(self._serving().launch(batch), self._free)

    def forward(self, batch: Sequence[FrameRequest]) -> Mapping[str, float]:
        """Generate only the faces of a batch and return the seconds of each stage."""
        import torch

        with out_of_memory.translate(self._free), torch.inference_mode():
            return self._serving().forward(batch)

    def gflop_per_frame(self) -> float:
        """Return the GFLOP of UNet and decoder for one face, counted on the loaded networks."""
        import torch
        from torch.utils.flop_counter import FlopCounterMode

        latents, tokens = self._inputs(1)
        model = self._loaded()
        with torch.inference_mode(), FlopCounterMode(display=False) as counter:
            model.decode(model.predict(latents, tokens))
        return float(counter.get_total_flops()) / 1e9

    def peak_tflops(self) -> float | None:
        """Return the nominal TFLOP/s of the GPU in this precision, or `None` if it is unknown."""
        if self.name != "cuda":
            return None
        import torch

        known = gpu_info.peak(torch.cuda.get_device_name())
        return None if known is None else known.of(self.precision)

    def activations_mib(self, frames: int, *, autograd: bool) -> float | None:
        """Return the peak memory of a forward pass over the weights; `None` on the CPU.

        `autograd`: with gradients enabled, as in a server that never disables them.
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
            with out_of_memory.translate(self._free), torch.set_grad_enabled(autograd):
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
        if self._renderer is not None:
            self._renderer.release()
        if self.name == "cuda":
            import torch

            torch.cuda.empty_cache()

    def buckets(self, batch_size: int) -> Sequence[int]:
        if self.name == "cuda":
            return [b for b in BUCKETS if b <= batch_size]
        return sorted({1, batch_size})  # the CPU compiles nothing: two points give the curve

    def curve(self) -> Curve | None:
        return None

    def memory(self) -> Memory:
        return self._read_memory()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None
        self._renderer = self._model = None

    def _prepare(self) -> None:
        """Configure torch and OpenCV for this process.

        Raises:
            EngineError: CUDA is missing.
        """
        import torch

        threads = self._threads or min(torch.get_num_threads(), cpus.find().count)
        if self.name == "cpu":
            # A batch is split into one shard per core, instead of each of its thousand steps:
            # threads that synchronise a thousand times wait each time for the slowest one
            # (docs/engine.md).
            self._shards = threads
            host_memory.keep_freed()
        if self._pool is None:
            most = _CUDA_IMAGE_THREADS if self.name == "cuda" else _CPU_IMAGE_THREADS
            # The number of threads of torch is a setting of each thread.
            self._pool = ThreadPoolExecutor(
                max(self._shards, min(threads, most)),
                "images",
                initializer=torch.set_num_threads,
                initargs=(1,),
            )
        torch.set_num_threads(1 if self.name == "cpu" else threads)
        cv2.setNumThreads(1)  # pictures are run over the pool instead
        if self.name != "cuda":
            return
        if not torch.cuda.is_available():
            raise errors.EngineError("device is cuda, but this process sees no CUDA device")
        if self.precision == "fp32":
            # By default the inputs of float32 convolutions are rounded to 10 bits (TF32).
            torch.backends.cudnn.conv.fp32_precision = "ieee"  # type: ignore[attr-defined]
        uuid = str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)
        self._read_memory = gpu_info.memory_reader(uuid, _cuda_memory)

    def _loaded(self) -> MuseTalk:
        assert self._model is not None, "call load first"
        return self._model

    def _serving(self) -> Renderer:
        assert self._renderer is not None, "call serve first"
        return self._renderer

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


class _TranslatedInFlight:
    """A batch in flight whose out-of-memory errors are raised as `DeviceMemoryError`."""

    def __init__(self, in_flight: InFlight, free: Callable[[], int]) -> None:
        self._in_flight = in_flight
        self._free = free

    def wait_forward(self) -> None:
        with out_of_memory.translate(self._free):
            self._in_flight.wait_forward()

    def finish(self) -> Rendered:
        with out_of_memory.translate(self._free):
            return self._in_flight.finish()


class _LoadProgress:
    """Logs one line for each quarter of the model that is loaded."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self._quarter = 0

    def report(self, done: int, total: int) -> None:
        quarter = 4 * done // total
        if quarter > self._quarter:
            self._quarter = quarter
            _log.info(
                "model loading done_mib=%d total_mib=%d seconds=%.2f",
                done // MIB, total // MIB, time.perf_counter() - self._began,
            )  # fmt: skip


def _on_cuda(
    model: MuseTalk, avatars: Mapping[str, Avatar], pool: ThreadPoolExecutor, memory_bytes: int
) -> tuple[ForwardPass, Postprocessor]:
    from avatar_runtime.engine.rendering import (
        blend_device,
        cuda_graphs,
        delivery,
        forward,
        jpeg_encoder,
    )

    limit = int(memory_bytes * _FRAME_CACHE_SHARE)
    composer = blend_device.Composer(avatars, model.device, pool, limit)
    encoder = jpeg_encoder.device_encoder(model.device)
    return (
        forward.BucketForward(model, cuda_graphs.GraphCapturer(model.device)),
        delivery.DevicePostprocessor(composer, pool, model.device, encoder),
    )


def _cuda_memory() -> Memory:
    """Return the memory of the whole GPU as CUDA reports it."""
    import torch

    free, total = torch.cuda.mem_get_info()
    return Memory(total - free, total)
