"""ResNet-18 (He et al., 2015) for grey or colour pictures; the projection shortcuts are plain 1x1 convolutions."""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional as F


def stem(in_channels: int) -> nn.Sequential:
    """The first layers of ResNet and DenseNet: C x H x W -> 64 x H/4 x W/4."""
    return nn.Sequential(
        nn.Conv2d(in_channels, 64, kernel_size=7, stride=2, padding=3),
        nn.BatchNorm2d(64),
        nn.ReLU(),
        nn.MaxPool2d(kernel_size=3, stride=2, padding=1),
    )


def small_stem(in_channels: int) -> nn.Sequential:
    """The first layers for pictures of some 32x32, which lose nothing of their size: C x H x W -> 64 x H x W."""
    return nn.Sequential(nn.Conv2d(in_channels, 64, kernel_size=3, padding=1), nn.BatchNorm2d(64), nn.ReLU())


class Residual(nn.Module):
    """A residual block: relu(BN(conv(relu(BN(conv(x))))) + shortcut(x)); in x H x W -> out x H/stride x W/stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, out_channels, kernel_size=3, stride=stride, padding=1)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, kernel_size=3, padding=1)
        self.bn2 = nn.BatchNorm2d(out_channels)
        same = stride == 1 and in_channels == out_channels
        self.shortcut = nn.Identity() if same else nn.Conv2d(in_channels, out_channels, kernel_size=1, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        """N x in x H x W -> N x out x H/stride x W/stride."""
        y = F.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        return F.relu(y + self.shortcut(x))


class ResNet18(nn.Module):
    """ResNet-18: stem, four stages of two residual blocks (64, 128, 256, 512 channels), global average pool, linear."""

    def __init__(self, num_classes: int, in_channels: int, first: nn.Sequential) -> None:
        super().__init__()
        self.stem = first
        self.stage1 = nn.Sequential(Residual(64, 64), Residual(64, 64))
        self.stage2 = nn.Sequential(Residual(64, 128, stride=2), Residual(128, 128))
        self.stage3 = nn.Sequential(Residual(128, 256, stride=2), Residual(256, 256))
        self.stage4 = nn.Sequential(Residual(256, 512, stride=2), Residual(512, 512))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(512, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """N x C x H x W -> logits N x classes."""
        y = self.stage4(self.stage3(self.stage2(self.stage1(self.stem(x)))))
        out: Tensor = self.head(self.pool(y).flatten(1))
        return out


def resnet18(num_classes: int = 10, in_channels: int = 1, *, small_pictures: bool = False) -> ResNet18:
    """ResNet-18; at 1 x 224 x 224 its stages give 64x56x56, 128x28x28, 256x14x14 and 512x7x7.

    With ``small_pictures`` the stem keeps the picture's size: at 1 x 28 x 28 the stages give 64x28x28, 128x14x14, 256x7x7 and
    512x4x4, at 16 times the arithmetic of the usual stem there.
    """
    return ResNet18(num_classes, in_channels, small_stem(in_channels) if small_pictures else stem(in_channels))
