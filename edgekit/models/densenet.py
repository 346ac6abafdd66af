"""DenseNet (Huang et al., 2016): four dense blocks of four pre-activation layers, growth 32."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.resnet import stem

SMALLEST = 32


def pre_activation(in_channels: int, out_channels: int, kernel_size: int) -> nn.Sequential:
    """BN, ReLU, and a convolution that keeps height and width."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.ReLU(),
        nn.Conv2d(in_channels, out_channels, kernel_size=kernel_size, padding=kernel_size // 2),
    )


class DenseBlock(nn.Module):
    """Each layer sees all features before it and adds ``growth``; in x H x W -> (in + layers * growth) x H x W."""

    def __init__(self, layers: int, in_channels: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            pre_activation(in_channels + index * growth, growth, kernel_size=3) for index in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x in x H x W -> N x (in + layers * growth) x H x W."""
        for layer in self.layers:
            x = torch.cat((x, layer(x)), dim=1)
        return x


def transition(in_channels: int, out_channels: int) -> nn.Sequential:
    """In x H x W -> out x H/2 x W/2: BN, ReLU, 1x1 convolution, average pool."""
    return nn.Sequential(*pre_activation(in_channels, out_channels, kernel_size=1), nn.AvgPool2d(2))


class DenseNet(nn.Module):
    """Stem, dense blocks with halving transitions between them, BN, ReLU, global average pool, linear."""

    def __init__(self, num_classes: int, in_channels: int, growth: int = 32, layers: tuple[int, ...] = (4, 4, 4, 4)) -> None:
        super().__init__()
        self.stem = stem(in_channels)
        self.blocks = nn.Sequential()
        channels = 64
        for index, count in enumerate(layers):
            self.blocks.add_module(f"dense{index + 1}", DenseBlock(count, channels, growth))
            channels += count * growth
            if index < len(layers) - 1:
                self.blocks.add_module(f"transition{index + 1}", transition(channels, channels // 2))
                channels //= 2
        self.features = channels
        self.norm = nn.BatchNorm2d(channels)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(channels, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> logits N x classes; raises ModelError below 32x32."""
        height, width = x.shape[-2:]
        if height < SMALLEST or width < SMALLEST:
            raise ModelError(
                f"DenseNet needs pictures of at least {SMALLEST}x{SMALLEST}, got {height}x{width}", f"set resize = {SMALLEST}"
            )
        y = torch.relu(self.norm(self.blocks(self.stem(x))))
        out: Tensor = self.head(self.pool(y).flatten(1))
        return out


def densenet(num_classes: int = 10, in_channels: int = 1) -> DenseNet:
    """DenseNet with 16 dense layers; the last block gives 248 channels."""
    return DenseNet(num_classes, in_channels)
