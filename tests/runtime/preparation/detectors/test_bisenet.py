"""The parser network against plain torch operations with the same random weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from torch.nn import functional

from avatar_runtime import errors
from avatar_runtime.preparation.detectors import bisenet

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


class Reference:
    """The published computation, written out by the names of the weights."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self._tensors = tensors

    def conv(self, x: Tensor, name: str, stride: int = 1) -> Tensor:
        kernel = self._tensors[f"{name}.weight"]
        return functional.conv2d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def norm(self, x: Tensor, name: str) -> Tensor:
        names = ("running_mean", "running_var", "weight", "bias")
        mean, variance, weight, bias = (self._tensors[f"{name}.{each}"] for each in names)
        return functional.batch_norm(x, mean, variance, weight, bias)

    def conv_norm(self, x: Tensor, name: str) -> Tensor:
        return self.norm(self.conv(x, f"{name}.conv"), f"{name}.bn").clamp(min=0)

    def block(self, x: Tensor, name: str, stride: int) -> Tensor:
        inner = self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1").clamp(min=0)
        inner = self.norm(self.conv(inner, f"{name}.conv2"), f"{name}.bn2")
        if f"{name}.downsample.0.weight" in self._tensors:
            x = self.norm(self.conv(x, f"{name}.downsample.0", stride), f"{name}.downsample.1")
        return (inner + x).clamp(min=0)

    def refined(self, x: Tensor, name: str) -> Tensor:
        features = self.conv_norm(x, f"{name}.conv")
        pooled = features.mean(dim=(2, 3), keepdim=True)
        weight = self.norm(self.conv(pooled, f"{name}.conv_atten"), f"{name}.bn_atten")
        return features * weight.sigmoid()

    def scores(self, pictures: Tensor) -> Tensor:
        small = self.conv(self.features(pictures), "conv_out.conv_out")
        return functional.interpolate(
            small, pictures.shape[2:], mode="bilinear", align_corners=True
        )

    def features(self, pictures: Tensor) -> Tensor:
        x = self.norm(self.conv(pictures, "cp.resnet.conv1", 2), "cp.resnet.bn1").clamp(min=0)
        x = functional.max_pool2d(x, 3, 2, 1)
        stages = []
        for number in range(1, 5):
            for index in range(2):
                stride = 2 if number > 1 and index == 0 else 1
                x = self.block(x, f"cp.resnet.layer{number}.{index}", stride)
            stages.append(x)
        _, eighth, sixteenth, last = stages
        whole = self.conv_norm(last.mean(dim=(2, 3), keepdim=True), "cp.conv_avg")
        coarse = self.refined(last, "cp.arm32") + whole
        coarse = self.conv_norm(
            coarse.repeat_interleave(2, 2).repeat_interleave(2, 3), "cp.conv_head32"
        )
        fine = self.refined(sixteenth, "cp.arm16") + coarse
        fine = self.conv_norm(
            fine.repeat_interleave(2, 2).repeat_interleave(2, 3), "cp.conv_head16"
        )
        fused = self.conv_norm(torch.cat([eighth, fine], 1), "ffm.convblk")
        weight = self.conv(fused.mean(dim=(2, 3), keepdim=True), "ffm.conv1").clamp(min=0)
        fused = fused * self.conv(weight, "ffm.conv2").sigmoid() + fused
        return self.conv_norm(fused, "conv_out.conv")


def doubled(x: Tensor) -> Tensor:
    return x.repeat_interleave(2, 2).repeat_interleave(2, 3)


@pytest.fixture(scope="module")
def tensors() -> dict[str, Tensor]:
    """Return random weights under the published names, with those that only the training uses."""
    generator = torch.Generator().manual_seed(0)
    made = {}
    for name, tensor in bisenet.BiSeNet().state_dict().items():
        if tensor.dtype == torch.int64:
            made[name] = torch.tensor(79999)
        elif name.endswith("running_var"):
            made[name] = torch.rand(tensor.shape, generator=generator) + 0.5
        else:
            scale = tensor[0].numel() ** -0.5 if tensor.dim() == 4 else 0.2
            made[name] = torch.randn(tensor.shape, generator=generator) * scale
    made["conv_out16.conv.conv.weight"] = torch.zeros(64, 128, 3, 3)
    return made


@pytest.mark.slow
def test_the_network_computes_what_the_published_one_does(tensors: dict[str, Tensor]) -> None:
    network = bisenet.BiSeNet().eval()
    network.load_state_dict({k: v for k, v in tensors.items() if not k.startswith("conv_out16")})
    pictures = torch.randn(1, 3, 128, 128, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        difference = (network(pictures) - Reference(tensors).scores(pictures)).abs().max()
    assert difference < 1e-3


@pytest.mark.slow
def test_a_picture_is_parsed_from_a_legacy_file(tensors: dict[str, Tensor], tmp_path: Path) -> None:
    small = np.random.default_rng(0).integers(0, 256, (4, 4, 3), np.uint8)
    square = small.repeat(128, 0).repeat(128, 1)
    normalised: Any = (square[:, :, ::-1] / 255 - (0.485, 0.456, 0.406)) / (0.229, 0.224, 0.225)
    pictures = torch.from_numpy(normalised.transpose(2, 0, 1)[None].astype(np.float32))
    with torch.inference_mode():
        mean = Reference(tensors).features(pictures).mean(dim=(0, 2, 3))
    # Classes whose weights do not see the mean are the largest in some places each.
    kernel = tensors["conv_out.conv_out.weight"][:, :, 0, 0]
    kernel = kernel - torch.outer(kernel @ mean, mean) / mean.square().sum()
    seen = {**tensors, "conv_out.conv_out.weight": kernel[:, :, None, None]}
    with torch.inference_mode():
        expected = Reference(seen).scores(pictures)[0].argmax(dim=0).numpy()

    path = tmp_path / "79999_iter.pth"
    torch.save(seen, path, _use_new_zipfile_serialization=False)
    (classes,) = bisenet.BiSeNetParser(path).parse([square], [], [])

    assert classes.shape == (512, 512)
    assert classes.dtype == np.uint8
    assert len(np.unique(classes)) > 2
    assert (classes != expected).mean() < 1e-3  # two classes may have equal scores


def test_weights_of_another_network_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "79999_iter.pth"
    torch.save({"cp.resnet.conv1.weight": torch.zeros(64, 3, 7, 7)}, path)
    with pytest.raises(errors.AssetError, match=r"79999_iter\.pth: \d+ tensors missing: "):
        bisenet.BiSeNetParser(path)
