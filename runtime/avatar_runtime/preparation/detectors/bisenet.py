"""The face parser of MuseTalk: BiSeNet with 19 classes, from the file `79999_iter.pth`.

The network is that of the paper "BiSeNet: Bilateral Segmentation Network for Real-time Semantic
Segmentation" (arXiv:1808.00897) on a ResNet-18, without its spatial path. Names of the modules are
those of the published weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from avatar_runtime.engine.networks import weight_files, weights

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from avatar_runtime.avatars.geometry import Box
    from avatar_runtime.preparation.faces import Face

CLASSES: Final = 19
_MEAN: Final = (0.485, 0.456, 0.406)
_STD: Final = (0.229, 0.224, 0.225)
_TRAINING_ONLY: Final = ("conv_out16.", "conv_out32.", "cp.resnet.fc.")
"""Prefixes of weights that only the training uses."""


class BiSeNetParser:
    """A `FaceParser` with upstream's network, on the CPU."""

    def __init__(self, path: Path) -> None:
        """Load the weights.

        Raises:
            AssetError: the file is missing, unreadable, or of another network.
        """
        tensors = weight_files.read(path)
        used = {k: v for k, v in tensors.items() if not k.startswith(_TRAINING_ONLY)}
        self._network = BiSeNet().eval()
        weights.fill(self._network, used, path)

    @property
    def name(self) -> str:
        return "bisenet-79999"

    def parse(
        self,
        squares: Iterable[NDArray[np.uint8]],
        faces: Sequence[Face],
        crops: Sequence[Box],
    ) -> list[NDArray[np.uint8]]:
        """Return the class of each pixel; see `FaceParser`. Only `squares` is used."""
        return [self._parse(square) for square in squares]

    @torch.inference_mode()
    def _parse(self, square: NDArray[np.uint8]) -> NDArray[np.uint8]:
        rgb = torch.from_numpy(np.ascontiguousarray(square[:, :, ::-1])).permute(2, 0, 1) / 255
        mean, std = (torch.tensor(each).view(3, 1, 1) for each in (_MEAN, _STD))
        scores = self._network(((rgb - mean) / std).unsqueeze(0))
        return np.asarray(scores[0].argmax(dim=0).to(torch.uint8).numpy(), np.uint8)


class BiSeNet(nn.Module):
    """Scores of each class for each pixel."""

    def __init__(self) -> None:
        super().__init__()
        self.cp = _ContextPath()
        self.ffm = _FeatureFusion(256, 256)
        self.conv_out = _Output(256, CLASSES)

    def forward(self, pictures: Tensor) -> Tensor:
        """Return the scores, `(n, 19, h, w)`, of normalised pictures `(n, 3, h, w)`."""
        spatial, context = self.cp(pictures)
        scores = self.conv_out(self.ffm(spatial, context))
        return functional.interpolate(
            scores, pictures.shape[2:], mode="bilinear", align_corners=True
        )


class _ConvNorm(nn.Module):
    def __init__(self, inputs: int, outputs: int, kernel: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.bn(self.conv(x)))


class _ResidualBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.downsample = (
            nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
            if stride != 1 or inputs != outputs
            else None
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.bn2(self.conv2(functional.relu(self.bn1(self.conv1(x)))))
        shortcut = x if self.downsample is None else self.downsample(x)
        return functional.relu(shortcut + residual)


class _ResNet18(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.layer1 = _stage(64, 64, 1)
        self.layer2 = _stage(64, 128, 2)
        self.layer3 = _stage(128, 256, 2)
        self.layer4 = _stage(256, 512, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the features at an 8th, a 16th and a 32nd of the size."""
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer1(functional.max_pool2d(x, 3, 2, 1))
        eighth = self.layer2(x)
        sixteenth = self.layer3(eighth)
        return eighth, sixteenth, self.layer4(sixteenth)


def _stage(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        _ResidualBlock(inputs, outputs, stride), _ResidualBlock(outputs, outputs, 1)
    )


class _AttentionRefinement(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = _ConvNorm(inputs, outputs, 3)
        self.conv_atten = nn.Conv2d(outputs, outputs, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.conv(x)
        pooled = functional.adaptive_avg_pool2d(features, 1)
        return features * torch.sigmoid(self.bn_atten(self.conv_atten(pooled)))


class _ContextPath(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.resnet = _ResNet18()
        self.arm16 = _AttentionRefinement(256, 128)
        self.arm32 = _AttentionRefinement(512, 128)
        self.conv_head32 = _ConvNorm(128, 128, 3)
        self.conv_head16 = _ConvNorm(128, 128, 3)
        self.conv_avg = _ConvNorm(512, 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the features of the ResNet and the refined ones, both at an 8th of the size."""
        eighth, sixteenth, last = self.resnet(x)
        whole = self.conv_avg(functional.adaptive_avg_pool2d(last, 1))
        coarse = self.arm32(last) + whole
        coarse = self.conv_head32(functional.interpolate(coarse, sixteenth.shape[2:]))
        fine = self.arm16(sixteenth) + coarse
        return eighth, self.conv_head16(functional.interpolate(fine, eighth.shape[2:]))


class _FeatureFusion(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.convblk = _ConvNorm(inputs, outputs, 1)
        self.conv1 = nn.Conv2d(outputs, outputs // 4, 1, bias=False)
        self.conv2 = nn.Conv2d(outputs // 4, outputs, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        features: Tensor = self.convblk(torch.cat([spatial, context], dim=1))
        pooled = functional.adaptive_avg_pool2d(features, 1)
        weight = torch.sigmoid(self.conv2(functional.relu(self.conv1(pooled))))
        return features * weight + features


class _Output(nn.Module):
    def __init__(self, inputs: int, classes: int) -> None:
        super().__init__()
        self.conv = _ConvNorm(inputs, inputs, 3)
        self.conv_out = nn.Conv2d(inputs, classes, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        scores: Tensor = self.conv_out(self.conv(x))
        return scores
