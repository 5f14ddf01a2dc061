"""Reads a MuseTalk folder in the published layout and checks it as a whole (docs/musetalk.md).

Pickles are read with `weights_only=True`. One error reports every missing, surplus and misshaped
tensor of a file.
"""

from __future__ import annotations

import hashlib
import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, Final, TypeVar

from avatar_runtime import errors
from avatar_runtime.engine.device import VERSIONS
from avatar_runtime.engine.networks import weight_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import torch
    from torch import Tensor, nn

_UNETS: Final = {
    "v15": ("musetalkV15", ("unet.safetensors", "unet.pth")),
    "v1": ("musetalk", ("pytorch_model.safetensors", "pytorch_model.bin")),
}
_VAE_FOLDERS: Final = ("sd-vae", "sd-vae-ft-mse")
_VAE_FILES: Final = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")
_WHISPER_FILES: Final = ("model.safetensors", "pytorch_model.bin")
MANIFEST: Final = "manifest.json"
_VERIFIERS: Final = 2  # files hashed at once: one core hashes about as fast as one disk reads
WHISPER_PREFIX: Final = "model.encoder."
# Names of the first diffusers releases, which the published VAE file still carries.
OLD_ATTENTION: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_MAX_NAMED: Final = 8  # tensors of one kind that the message names

_MAX_SIZE: Final = 1 << 20
"""Largest width or count in a configuration: far over any network, and no memory bomb."""

Config = TypeVar("Config")


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """Paths of the parts of one model."""

    path: Path
    version: str
    unet_config: Path
    unet: Path
    vae_config: Path
    vae: Path
    whisper_config: Path
    whisper: Path
    taesd_config: Path | None
    """`None`, like `taesd`, if the VAE decodes."""
    taesd: Path | None


def find(path: Path, version: str | None = None, decoder: str = "sd-vae") -> ModelFolder:
    """Return the files of a model; `version` defaults to the newest in the folder.

    The VAE is required with any decoder, since avatars are bound to its hash.

    Raises:
        AssetError: parts are missing; names each of them.
    """
    faults: list[str] = []
    versions = [version] if version else list(VERSIONS)
    found_versions = [v for v in versions if (path / _UNETS[v][0]).is_dir()]
    if not found_versions:
        faults.append(f"no folder {' or '.join(_UNETS[v][0] for v in versions)}")
    chosen = (found_versions or versions)[0]
    unet, unet_files = _UNETS[chosen]
    vae = next((name for name in _VAE_FOLDERS if (path / name).is_dir()), _VAE_FOLDERS[0])

    def one_of(folder: str, names: tuple[str, ...]) -> Path:
        for name in names:
            if (path / folder / name).is_file():
                return path / folder / name
        faults.append(f"no file {folder}/{' or '.join(names)}")
        return path

    found = ModelFolder(
        path=path,
        version=chosen,
        unet_config=one_of(unet, ("musetalk.json",)),
        unet=one_of(unet, unet_files),
        vae_config=one_of(vae, ("config.json",)),
        vae=one_of(vae, _VAE_FILES),
        whisper_config=one_of("whisper", ("config.json",)),
        whisper=one_of("whisper", _WHISPER_FILES),
        taesd_config=one_of("taesd", ("config.json",)) if decoder == "taesd" else None,
        taesd=one_of("taesd", _VAE_FILES) if decoder == "taesd" else None,
    )
    if faults:
        raise errors.AssetError(str(path), "; ".join(faults))
    return found


def verify(path: Path) -> None:
    """Compare every file of a converted folder with its manifest; other folders have none.

    Reads all files once, which also brings them into the page cache for the load that follows.

    Raises:
        AssetError: files are missing or changed; names each of them.
    """
    manifest = path / MANIFEST
    if not manifest.is_file():
        return
    try:
        stated: dict[str, str] = dict(json.loads(manifest.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise errors.AssetError(str(manifest), f"unreadable: {error!r}") from error
    with ThreadPoolExecutor(_VERIFIERS, "verify") as pool:
        found = pool.map(lambda name: sha256(path / name), stated)
        faults = [
            f"{name} is missing"
            if digest is None
            else f"{name} has the SHA-256 {digest}, the manifest says {stated[name]}"
            for name, digest in zip(stated, found, strict=True)
            if digest != stated[name]
        ]
    if faults:
        raise errors.AssetError(str(path), "; ".join(faults))


def sha256(path: Path) -> str | None:
    """Return the hash of a file, read in pieces; `None` if it cannot be read."""
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError:
        return None


def read_config(path: Path, kind: type[Config], fixed: Mapping[str, Any]) -> Config:
    """Return the fields of `kind` in a JSON file; the fields in `fixed` must have these values.

    Raises:
        AssetError: the file is unreadable, or describes an unsupported network.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        other = {k: v for k, v in fixed.items() if document.get(k, v) != v}
    except (OSError, ValueError, AttributeError) as error:
        raise errors.AssetError(str(path), f"unreadable: {error}") from error
    if other:
        stated = "; ".join(f"{k} is {document[k]!r}, must be {v!r}" for k, v in other.items())
        raise errors.AssetError(str(path), stated)
    values, faults = {}, []
    for each in fields(kind):  # type: ignore[arg-type]
        value = document.get(each.name, each.default)
        value = tuple(value) if isinstance(value, list) else value
        if not _is_like(value, each.default):
            faults.append(f"{each.name} is {document[each.name]!r}, must be {_kind(each.default)}")
        values[each.name] = value
    if faults:
        raise errors.AssetError(str(path), "; ".join(faults))
    return kind(**values)


def _is_like(value: object, default: object) -> bool:
    """Return whether a value of a configuration has the type of the default and is possible."""
    if isinstance(default, tuple):
        return isinstance(value, tuple) and len(value) > 0 and all(_is_like(v, 1) for v in value)
    if isinstance(default, bool) or isinstance(value, bool):
        return isinstance(default, bool) and isinstance(value, bool)
    if isinstance(default, float):
        return isinstance(value, int | float) and 0 < value < math.inf
    if isinstance(default, int):
        return isinstance(value, int) and 0 < value <= _MAX_SIZE
    return isinstance(value, type(default))


def _kind(default: object) -> str:
    if isinstance(default, tuple):
        return "a list of positive integers"
    if isinstance(default, bool):
        return "true or false"
    if isinstance(default, float):
        return "a positive number"
    return "one positive integer" if isinstance(default, int) else "a text"


def read_vae(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the VAE under their current names."""
    return _renamed(weight_files.read(path))


def _renamed(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """Return the tensors or arrays of a VAE under their current names and in their shapes."""
    renamed = {}
    for name, tensor in tensors.items():
        *front, layer, kind = name.split(".")
        if "attentions" in front and layer in OLD_ATTENTION:
            # Older files store these layers as 1x1 convolutions.
            plain = tensor.reshape(tensor.shape[0], -1) if kind == "weight" else tensor
            renamed[".".join([*front, OLD_ATTENTION[layer], kind])] = plain
        else:
            renamed[name] = tensor
    return renamed


def read_whisper(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the encoder in a Whisper file."""
    tensors = weight_files.read(path)
    for prefix in (WHISPER_PREFIX, "encoder."):
        if part := {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}:
            return part
    return tensors


def read_taesd(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the small decoder in a TAESD file."""
    tensors = weight_files.read(path)
    return {name: t for name, t in tensors.items() if not name.startswith("encoder.")}


def place(
    modules: Iterable[nn.Module],
    device: torch.device,
    dtype: torch.dtype,
    on_progress: Callable[[int, int], None],
    contiguous: Iterable[nn.Module] = (),
) -> None:
    """Move weights one by one, so that the host never has a second copy of the model.

    Files are memory-mapped: each tensor is read, converted and copied in turn. Convolutions get
    the channels-last layout, which has the fastest kernels on the GPU and, by a quarter, the CPU.
    The modules in `contiguous` keep the plain layout. `on_progress` is called after each tensor
    with the bytes done and the total bytes.
    """
    import torch

    plain = {id(p) for module in contiguous for p in module.parameters()}
    parameters = [p for module in modules for p in module.parameters()]
    total, done = sum(p.nbytes for p in parameters), 0
    for parameter in parameters:
        done += parameter.nbytes
        is_kernel = parameter.dim() == 4 and id(parameter) not in plain
        order = torch.channels_last if is_kernel else torch.contiguous_format
        parameter.data = parameter.data.to(device=device, dtype=dtype, memory_format=order)
        parameter.requires_grad_(False)
        on_progress(done, total)


def fill(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Load exactly these weights into the module.

    Raises:
        AssetError: tensors are missing, surplus, misshaped or not finite; names them.
    """
    expected = {name: tuple(t.shape) for name, t in module.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    faults = [
        *_named("missing", sorted(expected.keys() - given.keys())),
        *_named("surplus", sorted(given.keys() - expected.keys())),
        *_named(
            "misshaped",
            [
                f"{name} is {given[name]}, must be {shape}"
                for name, shape in sorted(expected.items())
                if given.get(name, shape) != shape
            ],
        ),
    ]
    if faults:
        raise errors.AssetError(str(path), "; ".join(faults))
    weight_files.check_finite(tensors, path)
    module.load_state_dict(dict(tensors), assign=True)


def vae_hash(path: Path) -> str:
    """Return the SHA-256 of the VAE tensors in name order, independent of the file format."""
    digest = hashlib.sha256()
    for name, array in sorted(_vae_arrays(path).items()):
        digest.update(f"{name}:{array.dtype.str}:{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def _vae_arrays(path: Path) -> dict[str, Any]:
    """Return the tensors as numpy arrays, since a simulated device must not load torch."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return _renamed(load_file(path))
        except (OSError, SafetensorError) as error:
            raise errors.AssetError(str(path), f"unreadable: {error}") from error
    return {name: tensor.contiguous().numpy() for name, tensor in read_vae(path).items()}


def _named(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return [f"{len(names)} tensors {kind}: {', '.join(names[:_MAX_NAMED])}{more}"]
