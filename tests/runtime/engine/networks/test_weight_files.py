"""Files of weights as people have them: old formats, wrapped names, and other files."""

from __future__ import annotations

import json
import math
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from avatar_runtime import errors
from avatar_runtime.engine.networks import musetalk, weight_files, weights

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace

UNET = "musetalkV15/unet.safetensors"
VAE = "sd-vae/diffusion_pytorch_model.safetensors"


@pytest.fixture
def folder(assets: SimpleNamespace, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    shutil.copytree(assets.model, tmp_path / "model")
    return tmp_path / "model"


def fault_of(path: Path) -> str:
    with pytest.raises(errors.AssetError) as caught:
        weight_files.read(path)
    message = str(caught.value)
    assert "weights_only" not in message
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"", "is empty; the download did not finish"),
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 3\n",
            "is a pointer of Git LFS, not the weights; run 'git lfs pull' in its repository",
        ),
        (
            b"\n<!DOCTYPE html><html><body>Sign in</body></html>",
            "is a web page, not the weights; the address of the download was wrong",
        ),
        (b'{"error": "not found"}', "is a JSON document, not the weights"),
        (b"nonsense", "not a file of weights"),
        (b"PK\x03\x04 cut", "unreadable: "),
    ],
)
def test_what_is_no_file_of_weights_is_named(tmp_path: Path, content: bytes, fault: str) -> None:
    path = tmp_path / "unet.pth"
    path.write_bytes(content)
    assert fault_of(path).startswith(fault)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    assert fault_of(tmp_path / "unet.pth") == "unreadable: No such file or directory"


@pytest.mark.parametrize(
    ("document", "kind"), [([torch.zeros(1)], "list"), (torch.zeros(1), "Tensor"), (3, "int")]
)
def test_other_pickled_objects_are_named(tmp_path: Path, document: object, kind: str) -> None:
    path = tmp_path / "unet.pth"
    torch.save(document, path)
    assert fault_of(path) == f"contains a {kind}, must contain a mapping of names to tensors"


def test_a_pickle_without_tensors_is_named(tmp_path: Path) -> None:
    path = tmp_path / "unet.pth"
    torch.save({"epoch": 3}, path)
    assert fault_of(path) == "contains no tensor under a name"


def test_objects_that_would_run_code_are_named(tmp_path: Path) -> None:
    path = tmp_path / "unet.pth"
    torch.save({"model": torch.nn.Linear(1, 1)}, path)
    assert fault_of(path).startswith("contains more than weights: torch.nn.modules.linear.Linear")


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("prefix", ["", "module.", "unet.", "module.unet."])
def test_old_formats_and_wrapped_names_are_read(
    tmp_path: Path, *, is_zip: bool, prefix: str
) -> None:
    path = tmp_path / "unet.pth"
    tensors = {"conv_in.weight": torch.arange(4.0), "conv_out.bias": torch.ones(2)}
    stored = {prefix + name: tensor for name, tensor in tensors.items()}
    torch.save({"state_dict": stored}, path, _use_new_zipfile_serialization=is_zip)
    read = weight_files.read(path)
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)


def test_a_prefix_of_some_names_alone_stays(tmp_path: Path) -> None:
    path = tmp_path / "unet.pth"
    torch.save({"module.a": torch.zeros(1), "b": torch.zeros(1)}, path)
    assert weight_files.read(path).keys() == {"module.a", "b"}


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_named(folder: Path, value: float) -> None:
    path = folder / UNET
    tensors = load_file(path)
    tensors["conv_in.bias"][0] = value
    save_file(tensors, path)
    with pytest.raises(errors.AssetError) as caught:
        musetalk.load(folder)
    fault = "weights are NaN or infinite in conv_in.bias; the file is damaged"
    assert str(caught.value) == f"{path}: {fault}"


@pytest.mark.parametrize(
    ("field", "value", "must"),
    [
        ("block_out_channels", "320", "a list of positive integers"),
        ("block_out_channels", ["320", 640], "a list of positive integers"),
        ("block_out_channels", [], "a list of positive integers"),
        ("attention_head_dim", [5, 10, 20, 20], "one positive integer"),
        ("layers_per_block", 0, "one positive integer"),
        ("layers_per_block", True, "one positive integer"),
        ("layers_per_block", 1 << 40, "one positive integer"),
        ("norm_eps", "1e-5", "a positive number"),
    ],
)
def test_a_configuration_of_wrong_types_is_named(
    folder: Path, field: str, value: object, must: str
) -> None:
    path = folder / "musetalkV15/musetalk.json"
    document = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**document, field: value}), encoding="utf-8")
    with pytest.raises(errors.AssetError) as caught:
        musetalk.load(folder)
    shown = tuple(value) if isinstance(value, list) else value
    assert str(caught.value) in {
        f"{path}: {field} is {each!r}, must be {must}" for each in (value, shown)
    }


def test_the_hash_of_the_vae_does_not_depend_on_format_and_names(folder: Path) -> None:
    path = folder / VAE
    expected = weights.vae_hash(path)
    old = {new: name for name, new in weights.OLD_ATTENTION.items()}
    renamed = {}
    for name, tensor in load_file(path).items():
        front, _, kind = name.rpartition(".")
        for new, layer in old.items():
            if "attentions" in front and front.endswith(f".{new}"):
                front = front.removesuffix(new) + layer
                tensor = tensor[:, :, None, None] if kind == "weight" else tensor
        renamed[f"{front}.{kind}"] = tensor.contiguous()
    assert renamed.keys() != load_file(path).keys()
    save_file(renamed, path)
    assert weights.vae_hash(path) == expected
    binary = path.with_suffix(".bin")
    torch.save(renamed, binary)
    assert weights.vae_hash(binary) == expected
