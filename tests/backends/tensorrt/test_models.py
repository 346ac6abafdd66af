"""Every model becomes an engine, and batch norm is there exactly where it was left."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import onnx
import pytest
import torch
from torch import nn
from torchvision.models import densenet, efficientnet, mobilenetv2, mobilenetv3, resnet, shufflenetv2

from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.bundle.folder import open_bundle
from edgekit.commands.build import build
from edgekit.reports.build import LayerCount
from edgekit.tensors import BatchRange
from tests.backends.tensorrt.builds import RANGE
from tests.networks import file_of, lenet, network, randomise_norms
from tests.onnx_files import image_spec
from tests.ways import building

SIZES = {"lenet": 28, "lenet-scratch": 28, "densenet": 32}


def kinds(layers: Sequence[LayerCount]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for layer in layers:
        counts[layer.kind] += layer.count
    return counts


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("lenet", {"CONVOLUTION": 2, "MATRIX_MULTIPLY": 3, "ACTIVATION": 4, "POOLING": 2}),
        ("lenet-scratch", {"CONVOLUTION": 2, "MATRIX_MULTIPLY": 3, "ACTIVATION": 4, "POOLING": 2}),
        ("densenet", {"CONVOLUTION": 20, "MATRIX_MULTIPLY": 1, "ACTIVATION": 21, "CONCATENATION": 16, "POOLING": 4}),
    ],
)
def test_every_committed_bundle_becomes_an_engine(repository: Path, rtx: TensorRT, name: str, wanted: dict[str, int]) -> None:
    root = repository / "exported" / name
    report = build(root, building(flavour="tensorrt-rtx"))
    operators = kinds(report.layers)
    assert {kind: operators[kind] for kind in wanted} == wanted
    kept = sum(norm.nodes for norm in open_bundle(root).manifest.fold.kept)
    assert operators["SCALE"] == kept
    assert report.passed
    assert report.engine is not None
    plan = Path(report.engine).read_bytes()
    assert hashlib.sha256(plan).hexdigest() == report.engine_sha256
    assert len(plan) == report.engine_bytes > 100_000


@pytest.mark.parametrize(("name", "norms"), [("lenet", 4), ("lenet-scratch", 0), ("densenet", 21)])
def test_without_folding_the_same_parser_meets_every_norm(repository: Path, rtx: TensorRT, name: str, norms: int) -> None:
    """The partner of the test above: a hand-written norm is arithmetic and no SCALE, but it is more layers."""
    unfolded, _ = file_of(network(name), image_spec(1, SIZES[name]), fold_bn=False)
    built = build_plan(rtx, unfolded, RANGE)
    assert kinds(built.network.counts)["SCALE"] == norms
    folded = build(repository / "exported" / name, building(flavour="tensorrt-rtx"))
    assert kinds(built.network.counts).total() > kinds(folded.layers).total()


MBConv, Inverted = efficientnet.MBConvConfig, mobilenetv3.InvertedResidualConfig
ZOO: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
    "densenet": lambda: densenet.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10),
    "shufflenet": lambda: shufflenetv2.ShuffleNetV2([1, 2, 1], [24, 24, 48, 96, 128], num_classes=10),
    "mobilenet_v2": lambda: mobilenetv2.MobileNetV2(10, 0.25, [[1, 16, 1, 1], [6, 24, 2, 2]]),
    "mobilenet_v3": lambda: mobilenetv3.MobileNetV3(
        [Inverted(16, 3, 16, 16, True, "RE", 2, 1, 1), Inverted(16, 5, 48, 24, True, "HS", 1, 1, 1)], 64, num_classes=10
    ),
    "efficientnet": lambda: efficientnet.EfficientNet(
        [MBConv(1, 3, 1, 16, 8, 1, 1.0, 1.0), MBConv(6, 3, 2, 8, 16, 2, 1.0, 1.0)], 0.0, num_classes=10
    ),
}


@pytest.mark.parametrize("name", ZOO)
def test_models_of_torchvision_become_engines_with_as_many_scales_as_norms_were_kept(rtx: TensorRT, name: str) -> None:
    torch.manual_seed(0)
    model, report = file_of(randomise_norms(ZOO[name]()).eval(), image_spec(3, 32))
    built = build_plan(rtx, model, RANGE)
    assert kinds(built.network.counts)["SCALE"] == sum(kept.nodes for kept in report.kept)
    convolutions = sum(node.op_type == "Conv" for node in onnx.load_model_from_string(model.content).graph.node)
    assert kinds(built.network.counts)["CONVOLUTION"] == convolutions > 0
    assert len(built.plan) > 10_000


def test_the_same_file_and_options_give_the_same_plan_and_other_options_another(rtx: TensorRT) -> None:
    model = lenet()
    plans = [build_plan(rtx, model, RANGE).plan for _ in range(2)]
    assert plans[0] == plans[1]
    for other in (msgspec.structs.replace(RANGE, tf32=True), BuildOptions(profiles=(BatchRange(1, 8, 32),))):
        assert build_plan(rtx, model, other).plan != plans[0]


def test_several_batch_ranges_build_one_engine(rtx: TensorRT) -> None:
    model = lenet()
    several = BuildOptions(profiles=(BatchRange(1, 1, 1), BatchRange(2, 8, 16)), workspace_mib=256)
    assert len(build_plan(rtx, model, several).plan) > len(
        build_plan(rtx, model, BuildOptions(profiles=(BatchRange(1, 1, 1),))).plan
    )
