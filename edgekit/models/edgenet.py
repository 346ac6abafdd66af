"""EdgeNet: a small network of nothing but what compilers for small devices run well in 8 bits."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn


class EdgeNet(nn.Sequential):
    """Five 3x3 convolutions, each with batch norm and ReLU, two max-pools, the mean over the picture, one linear layer.

    The first convolution sees the picture in full; a strided one there costs accuracy. ``widths`` are the channels before,
    between and after the pools; (16, 40, 72) makes 94,090 parameters for 10 classes of grey pictures. The folded network is
    convolutions with ReLU, pools and one Gemm.
    """

    def __init__(self, num_classes: int, in_channels: int, widths: Sequence[int]) -> None:
        first, second, third = widths
        super().__init__(
            *block(in_channels, first),
            nn.MaxPool2d(2),
            *block(first, second),
            *block(second, second),
            nn.MaxPool2d(2),
            *block(second, third),
            *block(third, third),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(third, num_classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W, sides of at least 4 -> logits N x classes."""
        for layer in self:
            x = layer(x)
        return x


def block(inputs: int, outputs: int) -> tuple[nn.Module, ...]:
    """A convolution that keeps height and width, batch norm, ReLU."""
    return nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()


def edgenet(num_classes: int = 10, in_channels: int = 1, widths: Sequence[int] = (16, 40, 72)) -> EdgeNet:
    """EdgeNet with three widths, best multiples of 8: tensor cores and vector units take channels in eights."""
    return EdgeNet(num_classes, in_channels, widths)
