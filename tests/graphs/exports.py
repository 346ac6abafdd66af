"""Exported models for several test files: the model, its report and its ONNX file."""

from __future__ import annotations

import functools
from collections import Counter
from typing import NamedTuple

import onnx
import torch
from torch import nn

from edgekit.fold import fold
from edgekit.graphs.trace import output_specs
from edgekit.graphs.write import export_onnx
from edgekit.reports.export import FoldReport
from edgekit.tensors import TensorSpec
from tests.networks import network, randomise_norms
from tests.onnx_files import image_spec

SIZES = {"lenet": 28, "lenet-scratch": 28, "resnet18": 28, "densenet": 32}
METADATA = {"edgekit.source": "a model", "edgekit.labels": '["ä", "b"]'}


class Exported(NamedTuple):
    model: nn.Module
    inputs: tuple[TensorSpec, ...]
    report: FoldReport
    content: bytes

    @property
    def proto(self) -> onnx.ModelProto:
        return onnx.load_from_string(self.content)

    @property
    def ops(self) -> Counter[str]:
        return Counter(node.op_type for node in self.proto.graph.node)


def export(model: nn.Module, inputs: tuple[TensorSpec, ...], *, fold_bn: bool = True, opset: int = 20) -> Exported:
    graph, report = fold(model, inputs, fold_bn=fold_bn)
    outputs = output_specs(graph, inputs)
    return Exported(model, inputs, report, export_onnx(graph, report, inputs, outputs, opset=opset, metadata=METADATA))


@functools.cache
def exported(name: str, fold_bn: bool) -> Exported:
    return export(network(name), image_spec(1, SIZES[name]), fold_bn=fold_bn)


def small() -> nn.Module:
    torch.manual_seed(0)
    return randomise_norms(nn.Sequential(nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.BatchNorm2d(3))).eval()
