"""Checks a model folder as a whole and writes it as safetensors files with a manifest.

Pickles are read once, here, instead of at each start of a pod. The bytes of every tensor are
unchanged, so avatars that were prepared with the model stay valid.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from safetensors.torch import save_file

from avatar_runtime import errors
from avatar_runtime.engine.networks import musetalk, weights

if TYPE_CHECKING:
    from torch import Tensor

SCHEMA: Final = 1
_UNETS: Final = {
    "v15": "musetalkV15/unet.safetensors",
    "v1": "musetalk/pytorch_model.safetensors",
}


def convert(source: Path, out: Path, version: str | None = None) -> dict[str, Any]:
    """Write the folder `out` with one rename and return its manifest.

    Raises:
        AssetError: the model is unusable, or `out` exists.
    """
    if out.exists():
        raise errors.AssetError(str(out), "exists already, name a new folder")
    # A small decoder beside the model is converted, too; the server chooses the decoder.
    decoder = "taesd" if (source / "taesd").is_dir() else "sd-vae"
    files = weights.find(source, version, decoder)
    made = musetalk.MuseTalk(musetalk.read_config(files), files.version, "")
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        targets = {
            "unet": staging / _UNETS[files.version],
            "vae": staging / "sd-vae/diffusion_pytorch_model.safetensors",
            "whisper": staging / "whisper/model.safetensors",
            "taesd": staging / "taesd/diffusion_pytorch_model.safetensors",
        }
        parts = {}
        for name, network in made.networks().items():
            tensors = musetalk.read_network(files, name)
            weights.fill(network, tensors, getattr(files, name))
            parts[name] = _write(targets[name], tensors, name)
        _copy_configs(files, {name: targets[name].parent for name in parts})
        manifest = {
            "schema": SCHEMA,
            "version": files.version,
            "vae_hash": weights.vae_hash(targets["vae"]),
            "networks": parts,
            "files": {
                str(path.relative_to(staging)): weights.sha256(path)
                for path in sorted(staging.rglob("*"))
                if path.is_file()
            },
        }
        text = json.dumps(manifest, indent=2, sort_keys=True) + "\n"
        (staging / weights.MANIFEST).write_text(text, encoding="utf-8")
        _make_readable(staging)
        staging.rename(out)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return manifest


def _write(path: Path, tensors: dict[str, Tensor], name: str) -> dict[str, Any]:
    path.parent.mkdir(parents=True, exist_ok=True)
    prefix = weights.WHISPER_PREFIX if name == "whisper" else ""
    plain = {f"{prefix}{key}": tensor.contiguous() for key, tensor in tensors.items()}
    save_file(plain, path, metadata={"format": "pt"})
    return {
        "tensors": len(plain),
        "parameters": sum(tensor.numel() for tensor in plain.values()),
        "dtypes": sorted({str(t.dtype).removeprefix("torch.") for t in plain.values()}),
    }


def _copy_configs(files: weights.ModelFolder, folders: dict[str, Path]) -> None:
    for name, folder in folders.items():
        config: Path = getattr(files, f"{name}_config")
        shutil.copyfile(config, folder / config.name)
    preprocessor = files.whisper_config.with_name("preprocessor_config.json")
    if preprocessor.is_file():
        shutil.copyfile(preprocessor, folders["whisper"] / preprocessor.name)


def _make_readable(folder: Path) -> None:
    """Make files readable that mkdtemp and safetensors made private: pods run as another user."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
