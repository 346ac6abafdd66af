"""The models that edgekit ships, by name; any other model is named by an import path ``package.module:factory``.

This module is data and imports no framework; ``edgekit.models.factory`` builds the models.
"""

from __future__ import annotations

import msgspec


class ModelInfo(msgspec.Struct, frozen=True):
    """A shipped model: the import path of its factory, its smallest input (C, H, W) and a one-line summary."""

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
        ModelInfo("edgenet", "edgekit.models.edgenet:edgenet", (1, 4, 4), "five 3x3 convolutions, made for int8 and TensorRT"),
        ModelInfo("resnet18", "edgekit.models.resnet:resnet18", (1, 28, 28), "ResNet-18, shortcuts without batch norm"),
        ModelInfo("densenet", "edgekit.models.densenet:densenet", (1, 32, 32), "DenseNet 4x4, growth 32, at least 32x32"),
    )
}
