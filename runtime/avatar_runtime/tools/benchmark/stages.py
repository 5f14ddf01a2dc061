"""Measurements of the device alone: each bucket by stage, the model, its work and memory."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from math import ceil
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from avatar_runtime import errors
from avatar_runtime.batching import buckets
from avatar_runtime.engine import calibration
from avatar_runtime.engine.device import MIB
from avatar_runtime.tools.benchmark.plan import noise

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from avatar_runtime.avatars.cache import AvatarInfo
    from avatar_runtime.batching.frames import FrameRequest
    from avatar_runtime.engine import engine
    from avatar_runtime.engine.device import Device
    from avatar_runtime.tools.benchmark.plan import Plan

_ROUNDS: Final = 5  # of each bucket, after two that warm it up and capture its graph


@dataclass(frozen=True, slots=True)
class ModelSpeed:
    """The speed of the networks alone, frames per second."""

    model: float
    """UNet and decoder."""
    networks: float
    """With the audio encoder, once for the frames that share an encode."""

    @classmethod
    def of(cls, frames: int, seconds: Mapping[str, float]) -> ModelSpeed:
        """Return the speed of a number of frames, from the seconds of all stages."""
        model = seconds["unet"] + seconds["vae"]
        return cls(frames / model, frames / (model + seconds["encode_audio"]))


def bucket_rows(engine: engine.Engine, batch_size: int) -> list[dict[str, Any]]:
    """Return a row of the document for each bucket up to a size."""
    avatar = next(iter(engine.avatars.values()))
    rows = []
    for size in (b for b in buckets.BUCKETS if b <= batch_size):
        measured = [
            engine.device.render(_requests(avatar, size, f"bucket-{size}-{turn}")).stages
            for turn in range(2 + _ROUNDS)
        ][2:]
        ms = {name: 1000 * statistics.median(s[name] for s in measured) for name in measured[0]}
        total = 1000 * statistics.median(sum(s.values()) for s in measured)
        allocated, reserved = _memory_mib(engine.device)
        rows.append(
            {
                "batch": size,
                "unet_ms": round(ms["unet"], 3),
                "vae_ms": round(ms["vae"], 3),
                "compose_ms": round(ms["compose"], 3),
                "encode_ms": round(ms["jpeg"], 3),
                "audio_ms": round(ms["encode_audio"], 3),
                "total_ms": round(total, 3),
                "allocated_mib": allocated,
                "reserved_mib": reserved,
                "frames_per_s": round(1000 * size / total, 2),
            }
        )
    return rows


def model_only(engine: engine.Engine, plan: Plan, turn: int) -> ModelSpeed:
    """Return the speed of the networks alone at the full batch."""
    forward = getattr(engine.device, "forward", None)
    avatar = next(iter(engine.avatars.values()))
    name = f"model-only-{turn}"
    if forward is None:  # a simulated GPU reports its stages
        stages = engine.device.render(_requests(avatar, plan.batch_size, name)).stages
        return ModelSpeed.of(plan.batch_size, stages)
    forward(_requests(avatar, plan.batch_size, name))
    rounds = max(3, ceil(plan.sessions * plan.frames / plan.batch_size / 2))
    total: Counter[str] = Counter()
    for number in range(rounds):
        # A new session each time, so that its audio is encoded again.
        total.update(forward(_requests(avatar, plan.batch_size, f"{name}-{number}")))
    return ModelSpeed.of(rounds * plan.batch_size, total)


def work(device: Device) -> tuple[float | None, float | None]:
    """Return the GFLOP of a frame and the nominal TFLOP/s of the GPU; `None` if unknown."""
    count = getattr(device, "gflop_per_frame", None)
    peak = getattr(device, "peak_tflops", None)
    return None if count is None else round(count(), 3), None if peak is None else peak()


def autograd_rows(device: Device, sizes: Sequence[int]) -> list[dict[str, Any]] | None:
    """Return the memory of a forward pass with gradients disabled and enabled; CUDA only.

    The memory excludes the weights. A size that does not fit has `None`.
    """
    measure = getattr(device, "activations_mib", None)
    if measure is None or measure(1, autograd=False) is None:
        return None

    def peak_mib(size: int, autograd: bool) -> float | None:
        try:
            return round(float(measure(size, autograd=autograd)), 1)
        except errors.DeviceMemoryError:
            return None
        finally:
            device.release()

    return [
        {
            "batch": size,
            "inference_mib": peak_mib(size, False),
            "autograd_mib": peak_mib(size, True),
        }
        for size in sizes
    ]


def _requests(avatar: AvatarInfo, size: int, session: str) -> list[FrameRequest]:
    """Return a batch of noise."""
    samples = (np.frombuffer(noise(50), "<i2") / 32768).astype(np.float32)
    return calibration.requests(avatar, size, session, 1, samples)


def _memory_mib(device: Device) -> tuple[int, int]:
    """Return the MiB of the tensors and of the device; the same without an allocator."""
    reported = device.memory().used_bytes // MIB
    if device.name != "cuda":
        return reported, reported
    import torch

    return torch.cuda.max_memory_allocated() // MIB, torch.cuda.memory_reserved() // MIB
