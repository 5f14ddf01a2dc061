"""Reads a MuseTalk folder in the published layout and checks it as a whole (docs/musetalk.md).

One error reports every missing, surplus and misshaped tensor of a file.
"""

from __future__ import annotations

import hashlib
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeVar

import numpy as np

from avatar_runtime import errors
from avatar_runtime.engine.device import VERSIONS
from avatar_runtime.engine.networks import weight_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from pathlib import Path

    import torch
    from numpy.typing import NDArray
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
_OLD_ATTENTION: Final = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
_MAX_NAMED: Final = 8  # tensors of one kind that the message names

Array = TypeVar("Array", "Tensor", "NDArray[Any]")


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
        AssetError: the path is no folder, or parts are missing; names each of them.
    """
    if not path.is_dir():
        fault = "is not a folder" if path.exists() else "does not exist"
        raise errors.AssetError(str(path), f"{fault}, must be a model folder")
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


def read_vae(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the VAE under their current names."""
    return _current_vae_names(weight_files.read(path))


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
        AssetError: tensors are missing, surplus, misshaped or not numbers; names them.
    """
    own = module.state_dict()
    expected = {name: tuple(t.shape) for name, t in own.items()}
    # Others are counters, which batch normalisation has.
    numbers = {n: t for n, t in tensors.items() if n not in own or own[n].is_floating_point()}
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
        *_named("wrong", [f for n, t in sorted(numbers.items()) if (f := _value_fault(n, t))]),
    ]
    if faults:
        raise errors.AssetError(str(path), "; ".join(faults))
    module.load_state_dict(dict(tensors), assign=True)


def _value_fault(name: str, tensor: Tensor) -> str | None:
    """Return why the values of a tensor are unusable, or `None`. Reads the tensor once."""
    import torch

    if not tensor.is_floating_point():
        kind = str(tensor.dtype).removeprefix("torch.")
        return f"{name} has the type {kind}, must have floating-point numbers"
    # One pass: the sum is finite if all values are, unless it overflows, which is looked into.
    if torch.isfinite(tensor.sum(dtype=torch.float32)):
        return None
    count = int((~torch.isfinite(tensor)).sum())
    noun = "value that is" if count == 1 else "values that are"
    return f"{name} has {count} {noun} not finite" if count else None


def vae_hash(path: Path) -> str:
    """Return the SHA-256 of the VAE tensors in name order.

    It depends on names, types, shapes and values alone: a pickle, a file with the old names of the
    attention layers and a converted file of one VAE have the same hash.

    Raises:
        AssetError: the file is unreadable.
    """
    digest = hashlib.sha256()
    for name, (dtype, array) in sorted(_vae_arrays(path).items()):
        digest.update(f"{name}:{dtype}:{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _vae_arrays(path: Path) -> dict[str, tuple[str, NDArray[Any]]]:
    """Return type and values of each tensor, in NumPy, since a simulated device has no torch."""
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        weight_files.check_start(path)
        try:
            stored = load_file(path)
        except (KeyError, TypeError, AttributeError):
            pass  # bfloat16, which NumPy has not
        except (OSError, SafetensorError) as error:
            fault = f"unreadable: not a whole safetensors file ({error})"
            raise errors.AssetError(str(path), fault) from error
        else:
            named = dict(zip(weight_files.plain_names(stored), stored.values(), strict=True))
            return {k: _typed(a) for k, a in _current_vae_names(named).items()}
    return {name: _numpy(tensor) for name, tensor in read_vae(path).items()}


def _typed(array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
    # With the package ml_dtypes, which others bring, NumPy does have bfloat16.
    if array.dtype.name == "bfloat16":
        return "bfloat16", np.ascontiguousarray(array).view(np.int16)
    return array.dtype.str, array


def _numpy(tensor: Tensor) -> tuple[str, NDArray[Any]]:
    import torch

    if tensor.dtype is torch.bfloat16:
        return "bfloat16", tensor.contiguous().view(torch.int16).numpy()
    array = tensor.contiguous().numpy()
    return array.dtype.str, array


def _current_vae_names(tensors: Mapping[str, Array]) -> dict[str, Array]:
    """Return tensors of torch or NumPy; older files store attention as 1x1 convolutions."""
    renamed: dict[str, Array] = {}
    for name, tensor in tensors.items():
        *front, layer, kind = name.split(".")
        if "attentions" in front and layer in _OLD_ATTENTION:
            name = ".".join([*front, _OLD_ATTENTION[layer], kind])
        if "attentions" in front and kind == "weight" and tensor.ndim == 4:
            tensor = tensor.reshape(tensor.shape[:2])
        renamed[name] = tensor
    return renamed


def _named(kind: str, names: list[str]) -> list[str]:
    if not names:
        return []
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    return [f"{len(names)} tensors {kind}: {', '.join(names[:_MAX_NAMED])}{more}"]
