"""Model folders in upstream's layout: found, read, and refused with all their faults."""

from __future__ import annotations

import json
import pickle
import shutil
from typing import TYPE_CHECKING

import pytest
import torch
from safetensors.torch import load_file, save_file

from avatar_runtime import errors
from avatar_runtime.engine.networks import musetalk, vae, weights
from avatar_runtime.tools import random_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import SimpleNamespace


@pytest.fixture
def folder(assets: SimpleNamespace, tmp_path: Path) -> Path:
    """Return a copy that a test may spoil."""
    shutil.copytree(assets.model, tmp_path / "model")
    return tmp_path / "model"


def test_safetensors_and_pickles_give_the_same_model(folder: Path) -> None:
    before = musetalk.load(folder)
    for old, new in {
        "musetalkV15/unet.safetensors": "musetalkV15/unet.pth",
        "sd-vae/diffusion_pytorch_model.safetensors": "sd-vae/diffusion_pytorch_model.bin",
        "whisper/model.safetensors": "whisper/pytorch_model.bin",
    }.items():
        torch.save(load_file(folder / old), folder / new)
        (folder / old).unlink()

    after = musetalk.load(folder)

    assert after.vae_hash == before.vae_hash
    for name, network in before.networks().items():
        other = after.networks()[name].state_dict()
        assert all(torch.equal(t, other[k]) for k, t in network.state_dict().items())


def test_the_first_version_is_read_from_its_own_folder(folder: Path) -> None:
    (folder / "musetalk").mkdir()
    shutil.copy(folder / "musetalkV15/musetalk.json", folder / "musetalk/musetalk.json")
    unet = load_file(folder / "musetalkV15/unet.safetensors")
    torch.save(unet, folder / "musetalk/pytorch_model.bin")

    assert musetalk.load(folder, "v1").version == "v1"
    assert musetalk.load(folder).version == "v15"


def test_the_vae_is_read_from_the_folder_name_of_musetalk_too(folder: Path) -> None:
    (folder / "sd-vae").rename(folder / "sd-vae-ft-mse")

    assert musetalk.load(folder).crop_size == 128


def test_old_names_of_the_vae_attention_are_read(folder: Path) -> None:
    path = folder / "sd-vae/diffusion_pytorch_model.safetensors"
    before = musetalk.load(folder).vae.state_dict()
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in load_file(path).items():
        for new, was in old.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{was}.")
        is_old = any(f".{was}.weight" in name for was in old.values())
        renamed[name] = tensor[:, :, None, None].contiguous() if is_old else tensor
    save_file(renamed, path)

    after = musetalk.load(folder).vae.state_dict()

    assert any("query" in name for name in renamed)
    assert all(torch.equal(tensor, after[name]) for name, tensor in before.items())


def test_a_path_that_is_no_folder_is_named_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("a")
    for name, fault in (("nope", "does not exist"), ("README.md", "is not a folder")):
        with pytest.raises(errors.AssetError) as caught:
            weights.find(tmp_path / name)
        assert str(caught.value) == f"{tmp_path / name}: {fault}, must be a model folder"


def test_missing_parts_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "musetalkV15").mkdir()
    (tmp_path / "musetalkV15/musetalk.json").write_text("{}")

    with pytest.raises(errors.AssetError) as caught:
        weights.find(tmp_path)

    reported = str(caught.value)
    assert "no file musetalkV15/unet.safetensors or unet.pth" in reported
    assert "no file sd-vae/config.json" in reported
    assert "no file whisper/model.safetensors or pytorch_model.bin" in reported
    assert "musetalk.json" not in reported


def test_missing_surplus_and_misshaped_tensors_are_reported_in_one_error(folder: Path) -> None:
    path = folder / "musetalkV15/unet.safetensors"
    tensors = load_file(path)
    del tensors["conv_in.bias"]
    tensors["extra"] = torch.zeros(1)
    tensors["conv_out.bias"] = torch.zeros(5)
    save_file(tensors, path)

    with pytest.raises(errors.AssetError) as caught:
        musetalk.load(folder)

    assert str(caught.value) == (
        f"{path}: 1 tensors missing: conv_in.bias; 1 tensors surplus: extra; "
        "1 tensors misshaped: conv_out.bias is (5,), must be (4,)"
    )


class _Command:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("run by a pickle",)


def test_a_pickle_that_runs_code_is_rejected_and_does_not_run(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "musetalkV15/unet.safetensors").unlink()
    torch.save({"conv_in.bias": _Command()}, folder / "musetalkV15/unet.pth")

    with pytest.raises(errors.AssetError, match=r"unet\.pth: not a file of weights alone"):
        musetalk.load(folder)
    assert "run by a pickle" not in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"nonsense", pickle.dumps({"a": 1})])
def test_a_broken_file_is_reported(folder: Path, content: bytes) -> None:
    path = folder / "sd-vae/diffusion_pytorch_model.safetensors"
    path.write_bytes(content)

    with pytest.raises(errors.AssetError, match=r"diffusion_pytorch_model\.safetensors: unread"):
        musetalk.load(folder)


@pytest.mark.parametrize(
    ("file", "change", "reported"),
    [
        ("musetalkV15/musetalk.json", {"act_fn": "relu"}, "act_fn is 'relu', must be 'silu'"),
        (
            "musetalkV15/musetalk.json",
            {"use_linear_projection": True},
            "use_linear_projection is True, must be False",
        ),
        (
            "musetalkV15/musetalk.json",
            {"cross_attention_dim": 384},
            "whisper d_model and unet cross_attention_dim differ: 64 and 384",
        ),
        ("whisper/config.json", {"activation_function": "relu"}, "must be 'gelu'"),
    ],
)
def test_an_unsupported_network_is_rejected(
    folder: Path, file: str, change: dict[str, object], reported: str
) -> None:
    path = folder / file
    path.write_text(json.dumps(json.loads(path.read_text()) | change))

    with pytest.raises(errors.AssetError) as caught:
        musetalk.load(folder)
    assert reported in str(caught.value)


def test_the_scaling_factor_that_the_published_file_omits_is_known(folder: Path) -> None:
    path = folder / "sd-vae/config.json"
    document = json.loads(path.read_text())
    del document["scaling_factor"]
    path.write_text(json.dumps(document))

    assert musetalk.load(folder).config.vae.scaling_factor == 0.18215


@pytest.fixture
def small(folder: Path) -> Path:
    """Return the folder with a TAESD beside the model."""
    made = random_model.make(random_model.preset("tiny", "taesd"))
    random_model.save(folder, made)
    return folder


def test_the_small_decoder_is_read_from_both_file_layouts(small: Path) -> None:
    stored = load_file(small / "taesd/diffusion_pytorch_model.safetensors")
    plain = musetalk.load(small, decoder="taesd")
    with_encoder = stored | {"encoder.layers.0.weight": torch.zeros(8, 3, 3, 3)}
    torch.save(with_encoder, small / "taesd/diffusion_pytorch_model.bin")
    (small / "taesd/diffusion_pytorch_model.safetensors").unlink()
    pickled = musetalk.load(small, decoder="taesd")

    assert (plain.decoder, musetalk.load(small).decoder) == ("taesd", "sd-vae")
    assert plain.taesd is not None
    assert pickled.taesd is not None
    ours, theirs = plain.taesd.state_dict(), pickled.taesd.state_dict()
    assert ours.keys() == stored.keys()
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())


def test_latents_go_to_the_small_decoder_with_their_scaling_factor(small: Path) -> None:
    made = musetalk.load(small, decoder="taesd")
    assert made.taesd is not None
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    with torch.inference_mode():
        direct = vae.to_bytes(made.taesd.decode(latents))
        assert torch.equal(made.decode(latents), direct)


@pytest.mark.parametrize(
    ("spoil", "reported"),
    [
        (lambda folder: shutil.rmtree(folder), "no file taesd/config.json"),
        (
            lambda folder: save_file(
                {"surplus": torch.zeros(1)}, folder / "diffusion_pytorch_model.safetensors"
            ),
            "tensors missing: decoder.layers.0.bias",
        ),
        (
            lambda folder: _edit(folder / "config.json", {"num_decoder_blocks": [1, 1, 1]}),
            "the sides of images from vae and taesd differ: 128 and 64",
        ),
        (
            lambda folder: _edit(folder / "config.json", {"scaling_factor": 0.5}),
            "scaling_factor is 0.5, must be 1.0",
        ),
    ],
    ids=["missing", "other tensors", "other size", "other scaling"],
)
def test_a_wrong_small_decoder_is_reported(
    small: Path, spoil: Callable[[Path], None], reported: str
) -> None:
    spoil(small / "taesd")

    with pytest.raises(errors.AssetError) as caught:
        musetalk.load(small, decoder="taesd")
    assert reported in str(caught.value)


def _edit(path: Path, change: dict[str, object]) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def test_weights_are_placed_one_by_one_and_counted(folder: Path) -> None:
    reported: list[tuple[int, int]] = []
    made = musetalk.read(folder).to(
        torch.device("cpu"), torch.bfloat16, lambda done, total: reported.append((done, total))
    )

    parameters = [p for n in made.networks().values() for p in n.parameters()]
    assert len(reported) == len(parameters)
    assert reported == sorted(reported)
    total = 4 * sum(p.numel() for p in parameters)  # of the float32 that was read
    assert reported[-1] == (total, total)
    assert {p.dtype for p in parameters} == {torch.bfloat16}
    assert not any(p.requires_grad for p in parameters)
    square = made.unet.conv_in.weight
    assert square.is_contiguous(memory_format=torch.channels_last)
