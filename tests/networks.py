"""Small models, their ONNX files and data for tests, with every batch norm tensor far from its trivial default."""

from __future__ import annotations

import functools
from typing import TypeVar

import numpy as np
import torch
from torch import nn

from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.data import Dataset
from edgekit.data.pictures import Pictures
from edgekit.fold import fold
from edgekit.graphs.trace import output_specs
from edgekit.graphs.write import export_onnx
from edgekit.models.batchnorm import BatchNorm
from edgekit.models.factory import build_module
from edgekit.preprocess import Preprocess
from edgekit.reports.export import FoldReport
from edgekit.tensors import TensorSpec
from tests.onnx_files import image_spec, onnx_file

ModuleT = TypeVar("ModuleT", bound=nn.Module)
NORMS = (nn.modules.batchnorm._BatchNorm, BatchNorm)


def randomise_norms(model: ModuleT, seed: int = 0) -> ModuleT:
    """Set all four tensors of every batch norm to values that make a wrong fold visible; gammas have both signs."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, NORMS):
            for tensor, low, high in (
                (module.weight, -1.5, 1.5),
                (module.bias, -1.0, 1.0),
                (module.running_mean, -1.0, 1.0),
                (module.running_var, 0.2, 3.0),
            ):
                if tensor is not None:
                    tensor.data.copy_(torch.rand(tensor.shape, generator=generator) * (high - low) + low)
    return model


def network(name: str, seed: int = 0, **args: object) -> nn.Module:
    """A shipped model with seeded random weights and random batch norms, in inference mode."""
    torch.manual_seed(seed)
    return randomise_norms(build_module(name, args), seed).eval()


def file_of(model: nn.Module, inputs: tuple[TensorSpec, ...], fold_bn: bool = True) -> tuple[OnnxFile, FoldReport]:
    graph, report = fold(model, inputs, fold_bn=fold_bn)
    outputs = output_specs(graph, inputs)
    return onnx_file(export_onnx(graph, report, inputs, outputs), inputs, outputs), report


@functools.cache
def lenet() -> OnnxFile:
    return file_of(network("lenet"), image_spec())[0]


def dataset(samples: int = 96, size: int = 28, classes: int = 10, seed: int = 0) -> Dataset:
    """Learnable grey pictures: each class is bright in its own row band, under noise."""
    rng = np.random.default_rng(seed)
    parts = []
    for count in (samples, samples // 2):
        labels = rng.integers(0, classes, count)
        images = rng.integers(0, 80, (count, 1, size, size))
        for image, label in zip(images, labels, strict=True):
            start = label * size // classes
            image[0, start : start + 2] += 150
        parts.append(Pictures(images.astype(np.uint8), labels.astype(np.int64)))
    names = tuple(f"class {index}" for index in range(classes))
    return Dataset(parts[0], parts[1], names, Preprocess("grey", size, size, (0.25,), (0.3,)))
