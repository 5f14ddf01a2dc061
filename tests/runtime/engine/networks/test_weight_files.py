"""Files in place of weights: one clear sentence each, for the conversion and for a served model."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from avatar_runtime import __main__ as command
from avatar_runtime import errors
from avatar_runtime.engine.devices import torch_device
from avatar_runtime.engine.networks import musetalk, weight_files, weights
from avatar_runtime.tools import convert

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace

_VAE = "sd-vae/diffusion_pytorch_model"
_UNET = "musetalkV15/unet"
_CONFIG = "musetalkV15/musetalk.json"
_POINTER = b"""version https://git-lfs.github.com/spec/v1
oid sha256:1b4889b6b1d4ce7ae320a02dedaeff1780ad77d415ea0d744b476155c6377ddc
size 334707217
"""
_PAGE = b"\n<!DOCTYPE html>\n<html><head><title>Sign in</title></head></html>"


@pytest.fixture
def folder(assets: SimpleNamespace, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    shutil.copytree(assets.model, tmp_path / "model")
    return tmp_path / "model"


def _pickled(folder: Path) -> tuple[Path, dict[str, torch.Tensor]]:
    """Return the path of a pickle in place of the UNet's safetensors file, and its tensors."""
    tensors = load_file(folder / f"{_UNET}.safetensors")
    (folder / f"{_UNET}.safetensors").unlink()
    return folder / f"{_UNET}.pth", tensors


def _faults(folder: Path) -> set[str]:
    """Return the errors of the conversion and of a device that loads the model."""
    found = set()
    out = folder.parent / "out"
    for load in (
        lambda: convert.convert(folder, out),
        lambda: torch_device.TorchDevice("cpu").load(folder),
    ):
        with pytest.raises(errors.AssetError) as caught:
            load()
        found.add(str(caught.value))
    assert not out.exists()
    assert not any("weights_only" in fault or "\n" in fault for fault in found)
    return found


@pytest.mark.parametrize("name", [f"{_UNET}.safetensors", f"{_UNET}.pth", f"{_VAE}.safetensors"])
@pytest.mark.parametrize(
    ("content", "reported"),
    [
        (b"", "the file is empty (0 bytes), download it again"),
        (_POINTER, "the file is a git-lfs pointer in place of the 334707217 bytes of weights"),
        (_PAGE, "the file is an HTML page"),
        (b'{"error": "not found"}', "the file is text (XML or JSON), not weights"),
        (bytes(range(256)), "unreadable: not a whole"),
    ],
    ids=["empty", "git-lfs", "page", "json", "noise"],
)
def test_what_is_not_weights_is_named(
    folder: Path, name: str, content: bytes, reported: str
) -> None:
    if name.endswith(".pth"):
        _pickled(folder)
    (folder / name).write_bytes(content)

    (fault,) = _faults(folder)

    assert fault.startswith(f"{folder / name}: unreadable: ")
    assert reported in fault


def test_a_file_that_ends_early_is_named(folder: Path) -> None:
    path, tensors = _pickled(folder)
    torch.save(tensors, path)
    path.write_bytes(path.read_bytes()[:-5000])
    assert _faults(folder) == {f"{path}: unreadable: not a whole file of torch.save"}


@pytest.mark.parametrize(
    ("held", "reported"),
    [
        ([torch.zeros(2), 3], "it holds a list with 2 entries"),
        (torch.zeros(2, 3), "it holds one tensor of the shape (2, 3)"),
        ({"epoch": 3, "step": 4}, "it holds no tensors; its first keys are: 'epoch', 'step'"),
        ({}, "its first keys are: none"),
        (7, "it holds a int"),
    ],
    ids=["list", "tensor", "numbers", "nothing", "number"],
)
@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_pickle_without_tensors_by_name_is_named(
    folder: Path, held: object, reported: str, is_legacy: bool
) -> None:
    path, _ = _pickled(folder)
    torch.save(held, path, _use_new_zipfile_serialization=not is_legacy)

    (fault,) = _faults(folder)

    assert fault.startswith(f"{path}: not a file of weights by name: ")
    assert reported in fault


class _Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run by a pickle",)


@pytest.mark.parametrize("is_legacy", [False, True])
def test_a_forbidden_object_is_named_without_torchs_advice(
    folder: Path, is_legacy: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    path, tensors = _pickled(folder)
    held = {**tensors, "run": _Command()}
    torch.save(held, path, _use_new_zipfile_serialization=not is_legacy)

    (fault,) = _faults(folder)

    assert fault == (
        f"{path}: not a file of weights alone: it holds an object of print, must hold only tensors"
    )
    assert "run by a pickle" not in capsys.readouterr().out


def test_a_plain_pickle_is_refused(folder: Path) -> None:
    path, _ = _pickled(folder)
    path.write_bytes(pickle.dumps({"conv_in.bias": [1.0, 2.0]}))
    (fault,) = _faults(folder)
    assert fault.startswith(f"{path}: ")


def test_the_first_format_of_torch_is_read(folder: Path) -> None:
    before = musetalk.load(folder).unet.state_dict()
    path, tensors = _pickled(folder)
    torch.save(tensors, path, _use_new_zipfile_serialization=False)

    convert.convert(folder, folder.parent / "out")

    for made in (musetalk.load(folder), musetalk.load(folder.parent / "out")):
        after = made.unet.state_dict()
        assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {f"module.{k}": t for k, t in tensors.items()},
        lambda tensors: {f"unet.{k}": t for k, t in tensors.items()},
        lambda tensors: {"state_dict": {f"module.unet.{k}": t for k, t in tensors.items()}},
        lambda tensors: {"epoch": 3, **{f"_orig_mod.{k}": t for k, t in tensors.items()}},
    ],
    ids=["module", "unet", "state_dict", "compiled"],
)
def test_prefixes_of_wrappers_are_removed(
    folder: Path, wrap: Callable[[dict[str, torch.Tensor]], dict[str, Any]]
) -> None:
    path, tensors = _pickled(folder)
    torch.save(wrap(tensors), path)

    assert weight_files.read(path).keys() == tensors.keys()
    assert convert.convert(folder, folder.parent / "out")["networks"]["unet"]["tensors"] == len(
        tensors
    )


@given(st.lists(st.text("ab.", min_size=1, max_size=8), min_size=1, max_size=5, unique=True))
def test_a_prefix_is_removed_only_if_every_name_has_it(names: list[str]) -> None:
    assert weight_files.plain_names(f"module.{name}" for name in names) == names
    mixed = ["conv_in.bias", *(f"module.{name}" for name in names)]
    assert weight_files.plain_names(mixed) == mixed


@given(st.binary(max_size=200))
def test_any_start_of_a_file_has_an_answer(start: bytes) -> None:
    fault = weight_files.start_fault(start)
    assert fault is None or fault.startswith("the file is ")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_numbers_are_named(folder: Path, value: float) -> None:
    path = folder / f"{_UNET}.safetensors"
    tensors = load_file(path)
    tensors["conv_in.bias"][3] = value
    tensors["conv_out.bias"] = torch.zeros(4, dtype=torch.int32)
    save_file(tensors, path)

    assert _faults(folder) == {
        f"{path}: 2 tensors wrong: conv_in.bias has 1 value that is not finite, "
        "conv_out.bias has the type int32, must have floating-point numbers"
    }


def test_large_weights_are_numbers() -> None:
    assert weights._value_fault("a", torch.full((9,), 3e38)) is None


@pytest.mark.parametrize(
    ("file", "change", "reported"),
    [
        (
            _CONFIG,
            {"block_out_channels": ["32", 48, 64, 64]},
            "block_out_channels[0] is '32', must be a whole number from 1 to 8192",
        ),
        (
            _CONFIG,
            {"block_out_channels": "320, 640"},
            "block_out_channels is '320, 640', must be a list of 1 to 16 whole numbers",
        ),
        (
            _CONFIG,
            {"attention_head_dim": [5, 10, 20, 20]},
            "attention_head_dim is [5, 10, 20, 20], must be one whole number for all levels",
        ),
        (_CONFIG, {"attention_head_dim": 7}, "[0] is 32, must be a multiple of attention_head_dim"),
        (
            _CONFIG,
            {"norm_num_groups": 5},
            "block_out_channels[1] is 48, must be a multiple of norm",
        ),
        (_CONFIG, {"block_out_channels": [32, 48]}, "has 2 entries, must have 4"),
        (_CONFIG, {"layers_per_block": 0}, "layers_per_block is 0, must be a whole number"),
        (_CONFIG, {"layers_per_block": True}, "layers_per_block is True, must be a whole number"),
        (_CONFIG, {"layers_per_block": 10**40}, "must be a whole number from 1 to 8192"),
        (_CONFIG, {"flip_sin_to_cos": 1}, "flip_sin_to_cos is 1, must be true or false"),
        (_CONFIG, {"norm_eps": "1e-5"}, "norm_eps is '1e-5', must be a number over 0"),
        ("sd-vae/config.json", {"scaling_factor": float("nan")}, "scaling_factor is nan, must be"),
        ("sd-vae/config.json", {"sample_size": 129}, "vae sample_size is 129, must be a multiple"),
        ("whisper/config.json", {"encoder_attention_heads": 3}, "whisper d_model is 64, must be"),
        ("whisper/config.json", {"d_model": None}, "d_model is None, must be a whole number"),
    ],
)
def test_a_wrong_size_in_a_configuration_is_named(
    folder: Path, file: str, change: dict[str, object], reported: str
) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    (fault,) = _faults(folder)

    assert reported in fault
    assert str(folder) in fault


@pytest.mark.parametrize("content", ["", "[1]", '"text"', "[" * 100_000, "{"])
def test_a_configuration_that_is_no_object_is_named(folder: Path, content: str) -> None:
    (folder / _CONFIG).write_text(content)
    (fault,) = _faults(folder)
    assert fault.startswith(str(folder / _CONFIG))
    assert len(fault) < 300


def test_a_list_of_equal_head_counts_is_one_head_count(folder: Path) -> None:
    path = folder / _CONFIG
    path.write_text(json.dumps(json.loads(path.read_text()) | {"attention_head_dim": [8] * 4}))
    assert musetalk.load(folder).config.unet.attention_head_dim == 8


def test_the_command_prints_one_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / f"{_UNET}.safetensors").write_bytes(_POINTER)
    arguments = ["convert", "--model", str(folder), "--out", str(folder.parent / "out")]

    assert command.main(arguments) != 0

    printed = capsys.readouterr().err.strip()
    assert "git-lfs pointer" in printed
    assert "Traceback" not in printed


def _old_names(tensors: dict[str, torch.Tensor], *, is_convolution: bool) -> dict[str, Any]:
    """Return the tensors as the first releases of diffusers named them."""
    renamed = {}
    for name, tensor in tensors.items():
        old = name
        for new, was in {
            "to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn",
        }.items():  # fmt: skip
            old = old.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        linear = old != name and name.endswith("weight") and is_convolution
        renamed[old] = tensor[:, :, None, None].contiguous() if linear else tensor
    return renamed


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_one_vae_has_one_hash_in_every_file(folder: Path, dtype: torch.dtype) -> None:
    path = folder / f"{_VAE}.safetensors"
    now = {k: t.to(dtype) for k, t in load_file(path).items()}
    old = _old_names(now, is_convolution=True)
    linear = _old_names(now, is_convolution=False)
    wrapped = {f"module.{k}": t for k, t in old.items()}
    hashes = set()
    for tensors in (now, old, linear, wrapped):
        save_file(tensors, path)
        hashes.add(weights.vae_hash(path))
    path.unlink()
    for tensors in (now, old, wrapped):
        torch.save(tensors, folder / f"{_VAE}.bin")
        hashes.add(weights.vae_hash(folder / f"{_VAE}.bin"))
        torch.save(tensors, folder / f"{_VAE}.bin", _use_new_zipfile_serialization=False)
        hashes.add(weights.vae_hash(folder / f"{_VAE}.bin"))
    out = folder.parent / "out"
    hashes.add(convert.convert(folder, out)["vae_hash"])
    hashes.add(musetalk.load(out).vae_hash)

    assert len(old.keys() - now.keys()) == 16
    assert len(hashes) == 1
