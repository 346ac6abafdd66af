"""The models edgekit ships, and how a model is found: by its name here, or by an import path ``package.module:factory``.

This file is data and imports no framework; ``edgekit.models.build`` makes the modules.
"""

from __future__ import annotations

import msgspec


class ModelInfo(msgspec.Struct, frozen=True):
    """A shipped model: where its factory is, the smallest input it takes (C, H, W) and a line about it."""

    name: str
    factory: str
    input_shape: tuple[int, int, int]
    summary: str


MODELS: dict[str, ModelInfo] = {
    info.name: info
    for info in (
        ModelInfo("lenet", "edgekit.models.lenet:lenet", (1, 28, 28), "LeNet with nn.BatchNorm, exactly 28x28"),
        ModelInfo(
            "lenet-scratch",
            "edgekit.models.lenet:lenet_scratch",
            (1, 28, 28),
            "the same net on a batch norm written out from its formulas",
        ),
        ModelInfo("resnet18", "edgekit.models.resnet:resnet18", (1, 28, 28), "ResNet-18, shortcuts without batch norm"),
        ModelInfo("densenet", "edgekit.models.densenet:densenet", (1, 32, 32), "DenseNet 4x4, growth 32, at least 32x32"),
    )
}
