"""One loaded MuseTalk model: audio to tokens, tokens and latents to faces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from avatar_runtime import errors
from avatar_runtime.engine.networks import (
    network_config,
    taesd,
    unet,
    vae,
    weight_files,
    weights,
    whisper,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

WINDOW_STEPS: Final = 10
# The supported values; a file with another value is rejected.
UNET_FIXED: Final[Mapping[str, Any]] = {
    "act_fn": "silu",
    "center_input_sample": False,
    "downsample_padding": 1,
    "mid_block_scale_factor": 1,
    "use_linear_projection": False,
    "dual_cross_attention": False,
    "only_cross_attention": False,
    "class_embed_type": None,
    "resnet_time_scale_shift": "default",
    "time_embedding_type": "positional",
    "down_block_types": ["CrossAttnDownBlock2D"] * 3 + ["DownBlock2D"],
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlock2D"] * 3,
}
VAE_FIXED: Final[Mapping[str, Any]] = {"act_fn": "silu", "in_channels": 3, "out_channels": 3}
TAESD_FIXED: Final[Mapping[str, Any]] = {
    "act_fn": "relu",
    "out_channels": 3,
    "upsample_fn": "nearest",
    "upsampling_scaling_factor": 2,
    "scaling_factor": 1.0,
    "shift_factor": 0.0,
}
WHISPER_FIXED: Final[Mapping[str, Any]] = {
    "activation_function": "gelu",
    "scale_embedding": False,
}


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The sizes of all networks."""

    unet: unet.UNetConfig
    vae: vae.VAEConfig
    whisper: whisper.WhisperConfig
    taesd: taesd.TinyConfig | None = None
    """`None`: the VAE decodes."""

    @property
    def tokens(self) -> int:
        """Audio tokens of a frame: 50 in the published model."""
        return WINDOW_STEPS * self.whisper.states

    def faults(self) -> list[str]:
        """Return the sizes in which the networks do not fit together."""
        pairs = {
            "whisper d_model and unet cross_attention_dim": (
                self.whisper.d_model,
                self.unet.cross_attention_dim,
            ),
            "twice vae latent_channels and unet in_channels": (
                2 * self.vae.latent_channels,
                self.unet.in_channels,
            ),
            "vae latent_channels and unet out_channels": (
                self.vae.latent_channels,
                self.unet.out_channels,
            ),
        }
        if self.taesd is not None:
            pairs |= {
                "vae and taesd latent_channels": (
                    self.vae.latent_channels,
                    self.taesd.latent_channels,
                ),
                "the sides of images from vae and taesd": (
                    self.vae.sample_size,
                    self.vae.latent_size * self.taesd.upscale,
                ),
            }
        differing = [f"{names} differ: {a} and {b}" for names, (a, b) in pairs.items() if a != b]
        return [*self._own_faults(), *differing]

    def _own_faults(self) -> list[str]:
        """Return the sizes that a network cannot have, whatever the others are."""
        multiples, widths = network_config.multiple_faults, network_config.widths
        levels = len(UNET_FIXED["down_block_types"])
        found = len(self.unet.block_out_channels)
        faults = []
        if found != levels:
            faults.append(f"unet block_out_channels has {found} entries, must have {levels}")
        unet_divisors = {
            "norm_num_groups": self.unet.norm_num_groups,
            "attention_head_dim": self.unet.attention_head_dim,
        }
        faults += multiples("unet", widths(self.unet.block_out_channels), unet_divisors)
        vae_divisors = {"norm_num_groups": self.vae.norm_num_groups}
        faults += multiples("vae", widths(self.vae.block_out_channels), vae_divisors)
        halvings = 1 << len(self.vae.block_out_channels) - 1
        sizes = {"sample_size": self.vae.sample_size}
        faults += multiples("vae", sizes, {"the scale of its levels,": halvings})
        heads = {"encoder_attention_heads": self.whisper.encoder_attention_heads}
        return faults + multiples("whisper", {"d_model": self.whisper.d_model}, heads)


class MuseTalk:
    """The networks on one device, in one precision. Call it under `inference_mode`."""

    def __init__(self, config: ModelConfig, version: str, vae_hash: str) -> None:
        """Create the networks with undefined weights, which `weights.fill` or a training sets."""
        self.config = config
        self.version = version
        self.vae_hash = vae_hash
        with _Uninitialised():
            self.unet = unet.UNet(config.unet)
            self.vae = vae.VAE(config.vae)
            self.whisper = whisper.Encoder(config.whisper)
            self.taesd = None if config.taesd is None else taesd.TinyDecoder(config.taesd)
        self.log_mel = whisper.LogMel(config.whisper.num_mel_bins)
        width = config.unet.cross_attention_dim
        self.positions = whisper.positional_encoding(config.tokens, width)
        self.device = torch.device("cpu")
        self.dtype = torch.float32

    @property
    def crop_size(self) -> int:
        """Side of the generated face, pixels."""
        return self.config.vae.sample_size

    @property
    def latent_size(self) -> int:
        return self.config.vae.latent_size

    @property
    def context_samples(self) -> int:
        """16 kHz samples of one context of the audio encoder."""
        return self.config.whisper.context_samples

    @property
    def decoder(self) -> str:
        """The decoder, one of `device.DECODERS`."""
        return "sd-vae" if self.taesd is None else "taesd"

    def networks(self) -> Mapping[str, nn.Module]:
        whole: dict[str, nn.Module] = {"unet": self.unet, "vae": self.vae, "whisper": self.whisper}
        return whole if self.taesd is None else {**whole, "taesd": self.taesd}

    def to(
        self,
        device: torch.device,
        dtype: torch.dtype,
        on_progress: Callable[[int, int], None] = lambda done, total: None,
    ) -> MuseTalk:
        """Move all networks; the log-mel stays in float32, whose range it needs.

        `on_progress` is called after each tensor with the bytes moved and the total bytes.
        """
        networks = self.networks().values()
        weights.place(networks, device, dtype, on_progress, self._encoding_parts(device))
        for network in networks:
            network.eval()
        self.log_mel.to(device)
        self.positions = self.positions.to(device, dtype)
        self.device, self.dtype = device, dtype
        return self

    def _encoding_parts(self, device: torch.device) -> list[nn.Module]:
        """Return the parts of the VAE that encode, if the device is the CPU.

        In the channels-last layout, group normalisation on the CPU has 6 times the error of the
        plain layout (full VAE, random weights: 1.4e-6 against 2.0e-7 of float64). Latents are made
        once, so digits matter more than time. Serving removes these parts (`folding.fold`).
        """
        if device.type != "cpu":
            return []
        names = ("encoder", "quant_conv")
        return [getattr(self.vae, name) for name in names if hasattr(self.vae, name)]

    def encode_audio(self, contexts: Sequence[NDArray[np.float32]]) -> Tensor:
        """Return `(n, positions, states, width)` features of contexts of 16 kHz samples.

        Each context is padded with zeros to the length of the model.

        Raises:
            ValueError: a context is longer.
        """
        # Pinned for a GPU: a copy from pageable memory would wait for all earlier batches.
        padded = torch.zeros(
            len(contexts), self.context_samples, pin_memory=self.device.type == "cuda"
        )
        for row, context in zip(padded.numpy(), contexts, strict=True):
            row[: len(context)] = context
        mel = self.log_mel(padded.to(self.device, non_blocking=True))
        features: Tensor = self.whisper(mel.to(self.dtype))
        return features

    def window(self, features: Tensor, first_step: int, steps: int) -> Tensor:
        """Return the tokens `(tokens, width)` of one frame from the features of its context.

        Steps before 0 and from `steps` on are zero vectors (docs/musetalk.md, Sound).
        """
        begin, end = max(0, first_step), max(0, min(first_step + WINDOW_STEPS, steps))
        rows = features.new_zeros(WINDOW_STEPS, *features.shape[1:])
        if begin < end:
            rows[begin - first_step : end - first_step] = features[begin:end]
        return rows.flatten(0, 1)

    def predict(self, latents: Tensor, tokens: Tensor) -> Tensor:
        """Return `(b, 4, s, s)` latents of new faces; `tokens` without positional encoding."""
        ordered = latents.contiguous(memory_format=torch.channels_last)
        out: Tensor = self.unet(ordered, tokens + self.positions)
        return out

    def decode(self, latents: Tensor) -> Tensor:
        """Return `(b, c, c, 3) uint8` BGR faces on the device."""
        decoded = self.vae.decode(latents) if self.taesd is None else self.taesd.decode(latents)
        return vae.to_bytes(decoded)

    def encode(self, crops: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return scaled latents `(n, 4, s, s)` of RGB crops `(n, 3, c, c)` in [-1, 1]."""
        with torch.inference_mode():
            images = torch.from_numpy(np.ascontiguousarray(crops)).to(self.device, self.dtype)
            return np.asarray(self.vae.encode(images).float().cpu().numpy())


class _Uninitialised(TorchFunctionMode):
    """Skips the random initialisation of weights that are read from a file.

    Untouched memory costs nothing. The meta device would do the same, but its first use imports
    sympy and the compiler, which takes 4 s of the start of a pod.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        if func in {nn.init.kaiming_uniform_, nn.init.uniform_, nn.init.normal_}:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


def load(path: Path, version: str | None = None, decoder: str = "sd-vae") -> MuseTalk:
    """Return the model of a folder, in float32 on the CPU.

    Raises:
        AssetError: a part is missing, unreadable, or does not fit.
    """
    return read(path, version, decoder).to(torch.device("cpu"), torch.float32)


def read(path: Path, version: str | None = None, decoder: str = "sd-vae") -> MuseTalk:
    """Return the model of a folder with memory-mapped weights, which `MuseTalk.to` reads.

    Raises:
        AssetError: a part is missing, unreadable, or does not fit.
    """
    files = weights.find(path, version, decoder)
    model = MuseTalk(read_config(files), files.version, weights.vae_hash(files.vae))
    for name, network in model.networks().items():
        weights.fill(network, read_network(files, name), getattr(files, name))
    return model


def read_config(files: weights.ModelFolder) -> ModelConfig:
    """Return the sizes in the files of a folder.

    Raises:
        AssetError: a file is unreadable, or the networks do not fit together.
    """
    config = ModelConfig(
        network_config.read(files.unet_config, unet.UNetConfig, UNET_FIXED),
        network_config.read(files.vae_config, vae.VAEConfig, VAE_FIXED),
        network_config.read(files.whisper_config, whisper.WhisperConfig, WHISPER_FIXED),
        None
        if files.taesd_config is None
        else network_config.read(files.taesd_config, taesd.TinyConfig, TAESD_FIXED),
    )
    if faults := config.faults():
        raise errors.AssetError(str(files.path), "; ".join(faults))
    return config


def read_network(files: weights.ModelFolder, name: str) -> dict[str, Tensor]:
    """Return the tensors of one of `MuseTalk.networks` under our names."""
    read: dict[str, Callable[[Path], dict[str, Tensor]]] = {
        "unet": weight_files.read,
        "vae": weights.read_vae,
        "whisper": weights.read_whisper,
        "taesd": weights.read_taesd,
    }
    return read[name](getattr(files, name))
