"""The whole training in order: speech, audio encoder, faces, autoencoder, UNet, model folder."""

from __future__ import annotations

import hashlib
import json
import math
import platform
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch

from avatar_training import audio_stage, networks, unet_stage, vae_stage
from avatar_training.audio_stage import LogMel, MouthHeads
from avatar_training.crops import draw_all
from avatar_training.speech import Synthesizer, corpus
from avatar_training.stages import Budget, Stage

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from diffusers import AutoencoderKL
    from transformers import WhisperModel

    from avatar_training.crops import Crops
    from avatar_training.speech import Utterance

_HELD_BACK: Final = 64
"""Crops that no stage trains on; they measure the autoencoder."""
_UNIT_DEVIATION: Final = 1.0
_PROBE_SEED: Final = 1_000_003
_PROBE_CONTEXTS: Final = 48


@dataclass(frozen=True, slots=True)
class Plan:
    """The amounts of data and the budgets of a training."""

    speech_minutes: float
    crops: int
    audio: Budget
    vae: Budget
    unet: Budget
    audio_batch: int = 32
    vae_batch: int = 12
    unet_batch: int = 24
    audio_rate: float = 2e-3
    vae_rate: float = 2e-3
    unet_rate: float = 1e-3

    def within(self, minutes: float) -> Plan:
        """Return the plan with its stages limited to `minutes`; the first two run in parallel."""
        shares = {"audio": 0.5, "vae": 0.5, "unet": 0.5}
        return replace(
            self,
            **{
                name: replace(getattr(self, name), seconds=minutes * 60 * share)
                for name, share in shares.items()
            },
        )


FULL: Final = Plan(
    speech_minutes=200,
    crops=5000,
    audio=Budget(2100),
    vae=Budget(3400),
    unet=Budget(1500),
)
SMOKE: Final = Plan(
    speech_minutes=3,
    crops=120,
    audio=Budget(40),
    vae=Budget(40),
    unet=Budget(25),
    audio_batch=12,
    vae_batch=6,
    unet_batch=8,
)


def train(out: Path, plan: Plan, sizes: networks.Sizes, seed: int) -> dict[str, Any]:
    """Train what `out/checkpoints` does not contain yet, write `out/model` and return the report.

    The audio encoder and the autoencoder are independent: they are trained in parallel, each by one
    process with one thread.
    """
    began = Clock.now()
    resumed = (out / "checkpoints").exists()
    torch.set_num_threads(1)
    with ProcessPoolExecutor(1, get_context("spawn")) as beside:
        heard = beside.submit(_train_audio_in_process, out, plan, sizes, seed)
        speech = corpus(Synthesizer(), plan.speech_minutes, seed)
        vae, crops, seeing = _train_autoencoder(out, plan, sizes, seed, speech)
        audio_processor_s = heard.result()
    whisper, heads, hearing = _train_audio(out, plan, sizes, seed, speech)

    examples = unet_stage.encode_examples(whisper, vae, speech, crops, seed)
    torch.manual_seed(seed + 2)
    unet = networks.unet(sizes)
    making = _stage("unet", out, {"unet": unet}, plan.unet_rate, plan.unet, seed)
    unet_stage.train(unet, vae, making, examples, plan.unet_batch)

    model = out / "model"
    networks.save_audio_encoder(whisper, model)
    networks.save_autoencoder(vae, model)
    networks.save_unet(unet, model)
    report = {
        "seed": seed,
        "environment": environment(),
        "speech_minutes": plan.speech_minutes,
        "crops": plan.crops,
        "stages": {stage.name: stage.report() for stage in (hearing, seeing, making)},
        "audio_opening_correlation": audio_probe(whisper, heads, plan, seed),
        "autoencoder": vae_stage.evaluate(vae, crops.speaking[-_HELD_BACK:]),
        "parameters": {
            "audio": _count(whisper.encoder), "vae": _count(vae), "unet": _count(unet),
        },
        "sha256": hashes(model),
        "bytes": sum(f.stat().st_size for f in model.rglob("*") if f.is_file()),
        "command": Clock.now().minutes_since(began, audio_processor_s) | {"resumed": resumed},
    }  # fmt: skip
    (out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (out / "report.md").write_text(_markdown(report))
    return report


@dataclass(frozen=True, slots=True)
class Clock:
    """The wall time and the CPU time of this process, in seconds."""

    wall: float
    processor: float

    @classmethod
    def now(cls) -> Clock:
        """Read both clocks."""
        return cls(time.monotonic(), time.process_time())

    def minutes_since(self, began: Clock, elsewhere: float) -> dict[str, float | bool]:
        """Return the minutes since `began`; `elsewhere` is CPU seconds of other processes."""
        processor = self.processor - began.processor + elsewhere
        return {
            "wall_minutes": round((self.wall - began.wall) / 60, 2),
            "processor_minutes": round(processor / 60, 2),
        }


def _stage(
    name: str,
    out: Path,
    parts: Mapping[str, torch.nn.Module],
    rate: float,
    budget: Budget,
    seed: int,
) -> Stage:
    return Stage(name, out / "checkpoints", parts, rate, budget, seed)


def _train_audio_in_process(out: Path, plan: Plan, sizes: networks.Sizes, seed: int) -> float:
    """Train the audio encoder in its own process; return its CPU time in seconds."""
    torch.set_num_threads(1)
    speech = corpus(Synthesizer(), plan.speech_minutes, seed)
    _train_audio(out, plan, sizes, seed, speech)
    return time.process_time()


def _train_audio(
    out: Path, plan: Plan, sizes: networks.Sizes, seed: int, speech: Sequence[Utterance]
) -> tuple[WhisperModel, MouthHeads, Stage]:
    torch.manual_seed(seed)
    whisper = networks.audio_encoder(sizes)
    heads = MouthHeads(sizes.audio_width)
    parts = {"model": whisper, "heads": heads}
    stage = _stage("audio", out, parts, plan.audio_rate, plan.audio, seed)
    audio_stage.train(whisper, heads, stage, speech, plan.audio_batch)
    return whisper, heads, stage


def _train_autoencoder(
    out: Path, plan: Plan, sizes: networks.Sizes, seed: int, speech: Sequence[Utterance]
) -> tuple[AutoencoderKL, Crops, Stage]:
    crops = draw_all(speech, plan.crops, sizes.crop, seed, out / "crops")
    learned, held_back = crops.speaking[:-_HELD_BACK], crops.speaking[-_HELD_BACK:]
    torch.manual_seed(seed + 1)
    vae = networks.autoencoder(sizes)
    stage = _stage("vae", out, {"vae": vae}, plan.vae_rate, plan.vae, seed)
    vae_stage.train(vae, stage, learned, plan.vae_batch)
    # The UNet uses latents with unit deviation; every reader uses the factor in the file.
    deviation = vae_stage.latent_deviation(vae, held_back)
    vae.register_to_config(scaling_factor=round(_UNIT_DEVIATION / deviation, 5))
    return vae, crops, stage


def audio_probe(whisper: WhisperModel, heads: MouthHeads, plan: Plan, seed: int) -> float:
    """Return the correlation of the opening on new, augmented speech of the training voices."""
    speech = corpus(Synthesizer(), min(4.0, plan.speech_minutes), seed + _PROBE_SEED)
    steps = whisper.config.max_source_positions
    rng = np.random.default_rng([seed, _PROBE_SEED])
    contexts = audio_stage.random_contexts(speech, _PROBE_CONTEXTS, steps, rng)
    with torch.inference_mode():
        mel = LogMel()(contexts.samples)
        states = whisper.encoder(mel, output_hidden_states=True).hidden_states
        return audio_stage.opening_correlation(heads(states)[0], contexts)


def environment() -> dict[str, str]:
    """Return the versions of the software on which the result depends."""
    packages = ("torch", "diffusers", "transformers", "numpy", "opencv-python-headless")
    return {
        "python": platform.python_version(),
        "machine": platform.machine(),
        "threads": str(torch.get_num_threads()),
        **{name: version(name) for name in packages},
    }


def hashes(model: Path) -> dict[str, str]:
    """Return the SHA-256 of every weights file."""
    return {
        str(file.relative_to(model)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(model.rglob("*.safetensors"))
    }


def _count(module: torch.nn.Module | AutoencoderKL) -> int:
    return sum(math.prod(p.shape) for p in module.parameters())


def _markdown(report: dict[str, Any]) -> str:
    lines = ["# Training report", "", "| stage | steps | minutes | first loss | last loss |"]
    lines.append("|---|---|---|---|---|")
    for name, stage in report["stages"].items():
        first, last = (stage[k]["loss"] if stage[k] else "-" for k in ("first", "last"))
        lines.append(f"| {name} | {stage['steps']} | {stage['minutes']} | {first} | {last} |")
    lines += [
        "",
        f"- opening correlation of the audio encoder: {report['audio_opening_correlation']:.3f}",
        f"- autoencoder: {report['autoencoder']['psnr_db']:.1f} dB, "
        f"mouth {report['autoencoder']['mouth_psnr_db']:.1f} dB",
        f"- parameters: {report['parameters']}",
        f"- size: {report['bytes'] / 1e6:.2f} MB",
        f"- whole command: {report['command']}",
        f"- seed {report['seed']}, environment {report['environment']}",
        "",
    ]
    return "\n".join(lines)
