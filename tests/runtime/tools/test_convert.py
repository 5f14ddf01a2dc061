"""A model folder written again as safetensors."""

from __future__ import annotations

import hashlib
import json
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file

from avatar_runtime import __main__ as command
from avatar_runtime import errors
from avatar_runtime.engine import device
from avatar_runtime.engine.devices import torch_device
from avatar_runtime.engine.networks import musetalk, weights
from avatar_runtime.tools import convert, random_model

if TYPE_CHECKING:
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def pickled(assets: SimpleNamespace, tmp_path: Path) -> Path:
    """Return the folder as upstream ships it."""
    folder = tmp_path / "upstream"
    shutil.copytree(assets.model, folder)
    for old, new in {
        "musetalkV15/unet.safetensors": "musetalkV15/unet.pth",
        "sd-vae/diffusion_pytorch_model.safetensors": "sd-vae/diffusion_pytorch_model.bin",
        "whisper/model.safetensors": "whisper/pytorch_model.bin",
    }.items():
        torch.save(load_file(folder / old), folder / new)
        (folder / old).unlink()
    return folder


def test_the_converted_model_is_the_same_model(pickled: Path, tmp_path: Path) -> None:
    manifest = convert.convert(pickled, tmp_path / "converted")
    before, after = musetalk.load(pickled), musetalk.load(tmp_path / "converted")

    assert manifest["vae_hash"] == after.vae_hash == before.vae_hash
    for name, network in before.networks().items():
        other = after.networks()[name].state_dict()
        assert all(torch.equal(t, other[k]) for k, t in network.state_dict().items())
    left = {p.suffix for p in (tmp_path / "converted").rglob("*") if p.is_file()}
    assert left == {".safetensors", ".json"}


def test_the_manifest_lists_the_files_of_the_folder(
    pickled: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "converted"
    assert command.main(["convert", "--model", str(pickled), "--out", str(out)]) == 0

    manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
    assert json.loads(capsys.readouterr().out) == manifest
    there = {str(p.relative_to(out)): p for p in out.rglob("*") if p.is_file()}
    assert manifest["files"].keys() == there.keys() - {"manifest.json"}
    for name, digest in manifest["files"].items():
        assert hashlib.sha256(there[name].read_bytes()).hexdigest() == digest
        assert there[name].stat().st_mode & 0o777 == 0o644
    assert (manifest["version"], manifest["networks"]["unet"]["dtypes"]) == ("v15", ["float32"])


def test_a_converted_folder_is_compared_with_its_hashes(pickled: Path, tmp_path: Path) -> None:
    out = tmp_path / "converted"
    convert.convert(pickled, out)
    weights.verify(out)
    weights.verify(pickled)  # it states nothing

    path = out / "musetalkV15/unet.safetensors"
    spoiled = bytearray(path.read_bytes())
    spoiled[-1] ^= 1  # one bit of the last weight: every name and shape still fits
    path.write_bytes(spoiled)
    (out / "whisper/config.json").unlink()
    with pytest.raises(errors.AssetError) as caught:
        weights.verify(out)

    reported = str(caught.value)
    assert "musetalkV15/unet.safetensors has the SHA-256" in reported
    assert "whisper/config.json is missing" in reported
    assert "sd-vae" not in reported


def test_a_device_verifies_unless_it_is_disabled(pickled: Path, tmp_path: Path) -> None:
    out = tmp_path / "converted"
    convert.convert(pickled, out)
    config = out / "whisper/config.json"
    config.write_text(config.read_text() + "\n")  # harmless, and not what was converted

    with pytest.raises(errors.AssetError, match=r"whisper/config\.json has the SHA-256"):
        torch_device.TorchDevice("cpu").load(out)
    trusting = torch_device.TorchDevice("cpu", options=device.ModelOptions(verify=False))
    assert trusting.load(out).version == "v15"


@pytest.mark.parametrize("content", ["", "{}", '{"files": 3}'])
def test_a_broken_manifest_is_reported(pickled: Path, content: str) -> None:
    (pickled / "manifest.json").write_text(content)
    with pytest.raises(errors.AssetError, match=r"manifest\.json: unreadable"):
        weights.verify(pickled)


def test_a_small_decoder_beside_the_model_is_converted(pickled: Path, tmp_path: Path) -> None:
    random_model.save(tmp_path / "made", random_model.make(random_model.preset("tiny", "taesd")))
    shutil.copytree(tmp_path / "made/taesd", pickled / "taesd")
    manifest = convert.convert(pickled, tmp_path / "converted")

    assert manifest["networks"].keys() == {"unet", "vae", "whisper", "taesd"}
    assert "taesd/config.json" in manifest["files"]
    assert musetalk.load(tmp_path / "converted", decoder="taesd").decoder == "taesd"


def test_half_precision_stays_half_precision(pickled: Path, tmp_path: Path) -> None:
    path = pickled / "musetalkV15/unet.pth"
    torch.save({k: t.half() for k, t in torch.load(path, weights_only=True).items()}, path)

    manifest = convert.convert(pickled, tmp_path / "converted")

    assert manifest["networks"]["unet"]["dtypes"] == ["float16"]


def test_the_first_version_keeps_its_folder(pickled: Path, tmp_path: Path) -> None:
    (pickled / "musetalkV15").rename(pickled / "musetalk")
    (pickled / "musetalk/unet.pth").rename(pickled / "musetalk/pytorch_model.bin")
    manifest = convert.convert(pickled, tmp_path / "converted")

    assert manifest["version"] == "v1"
    assert musetalk.load(tmp_path / "converted").version == "v1"


def test_a_wrong_model_or_an_existing_folder_leaves_nothing_behind(
    pickled: Path, tmp_path: Path
) -> None:
    path = pickled / "whisper/pytorch_model.bin"
    torch.save({"model.encoder.conv1.bias": torch.zeros(3)}, path)
    with pytest.raises(errors.AssetError, match=r"tensors missing: conv1\.weight"):
        convert.convert(pickled, tmp_path / "converted")
    with pytest.raises(errors.AssetError, match="exists already"):
        convert.convert(pickled, pickled)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["upstream"]
