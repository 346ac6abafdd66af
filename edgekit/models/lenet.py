"""LeNet-5 (LeCun et al., 1998) with a batch norm before each sigmoid, for 28x28 pictures."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.batchnorm import BatchNorm

Norm = Callable[[int], nn.Module]


class LeNet(nn.Sequential):
    """LeNet-5: C x 28 x 28 -> 6 x 12 x 12 -> 16 x 4 x 4 -> 256 -> 120 -> 84 -> classes."""

    def __init__(self, norm2d: Norm, norm1d: Norm, num_classes: int, in_channels: int) -> None:
        super().__init__(
            nn.Conv2d(in_channels, 6, kernel_size=5),
            norm2d(6),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
            nn.Conv2d(6, 16, kernel_size=5),
            norm2d(16),
            nn.Sigmoid(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 120),
            norm1d(120),
            nn.Sigmoid(),
            nn.Linear(120, 84),
            norm1d(84),
            nn.Sigmoid(),
            nn.Linear(84, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x C x 28 x 28 -> logits N x classes; raises ModelError for another size."""
        if tuple(x.shape[-2:]) != (28, 28):
            raise ModelError(f"LeNet takes pictures of 28x28, got {x.shape[-2]}x{x.shape[-1]}", "set resize = 28")
        for layer in self:
            x = layer(x)
        return x


def lenet(num_classes: int = 10, in_channels: int = 1) -> LeNet:
    """LeNet with ``nn.BatchNorm2d`` and ``nn.BatchNorm1d``."""
    return LeNet(nn.BatchNorm2d, nn.BatchNorm1d, num_classes, in_channels)


def lenet_scratch(num_classes: int = 10, in_channels: int = 1) -> LeNet:
    """LeNet with edgekit's own ``BatchNorm``."""
    return LeNet(BatchNorm, BatchNorm, num_classes, in_channels)
