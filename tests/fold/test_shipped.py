"""Folding the shipped models."""

from __future__ import annotations

import copy
import functools
from typing import Any, NamedTuple

import pytest
import torch
from torch import fx, nn

from edgekit.fold import fold
from edgekit.reports.export import Fold, FoldReport, Kept
from edgekit.tensors import TensorSpec
from tests.fold.checks import error, fold_exactly, norm_nodes, paths, spec
from tests.networks import network

SINGLE = 2e-5

SHIPPED = {"lenet": (28, 4, 4), "lenet-scratch": (28, 4, 4), "resnet18": (28, 17, 17), "densenet": (32, 1, 21)}


class Shipped(NamedTuple):
    name: str
    model: nn.Module
    inputs: tuple[TensorSpec, ...]
    graph: fx.GraphModule
    report: FoldReport


@functools.cache
def folded_model(name: str) -> Shipped:
    """Not to be changed. In random order, a fixture with parameters would be made anew for almost every test."""
    model, inputs = network(name), spec(1, SHIPPED[name][0], SHIPPED[name][0])
    return Shipped(name, model, inputs, *fold(model, inputs))


@pytest.fixture(params=SHIPPED)
def shipped(request: pytest.FixtureRequest) -> Shipped:
    return folded_model(request.param)


def test_of_a_shipped_model_every_norm_with_a_layer_before_it_folds(shipped: Shipped) -> None:
    _, folded, before = SHIPPED[shipped.name]
    assert (len(shipped.report.folded), shipped.report.before) == (folded, before)
    folds: tuple[Fold | Kept, ...] = (*shipped.report.folded, *shipped.report.kept)
    assert len({item.norm for item in folds}) == before
    assert all(item.reason for item in shipped.report.kept)
    assert norm_nodes(shipped.graph) == sum(item.nodes for item in shipped.report.kept) == before - folded


def test_a_folded_shipped_model_computes_the_same_in_float32(shipped: Shipped) -> None:
    assert error(shipped.graph, shipped.model, shipped.inputs) <= SINGLE


def test_the_float32_tolerance_catches_one_layer_scaled_by_a_percent(shipped: Shipped) -> None:
    damaged = copy.deepcopy(shipped.model)
    with torch.no_grad():
        list(damaged.parameters())[-2].mul_(1.01)
    assert error(shipped.graph, damaged, shipped.inputs) > SINGLE


@pytest.mark.parametrize("name", SHIPPED)
def test_a_folded_shipped_model_computes_the_same_in_float64(name: str) -> None:
    size, folded, before = SHIPPED[name]
    _, report = fold_exactly(network(name), 1, size, size)
    assert (len(report.folded), report.before) == (folded, before)


def test_in_densenet_only_the_norm_of_the_stem_folds() -> None:
    report = folded_model("densenet").report
    assert paths(report) == {"stem.1": "stem.0"}
    assert report.kept[0].norm == "blocks.dense1.layers.0.0"
    assert report.kept[0].reason.startswith("the output of stem.3 is also used by cat in blocks.dense1")


def test_a_folded_shipped_model_holds_no_trace_of_its_norms() -> None:
    for name in ("lenet", "lenet-scratch"):
        state = folded_model(name).graph.state_dict()
        assert not [key for key in state if "running" in key or "tracked" in key]
        assert sorted(state) == sorted(f"{index}.{leaf}" for index in (0, 4, 9, 12, 15) for leaf in ("weight", "bias"))


@pytest.mark.parametrize("fold_bn", [True, False])
def test_the_model_is_left_as_it_was(fold_bn: bool) -> None:
    model: Any = network("lenet").train()
    model[1].eval()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    identities = [id(parameter) for parameter in model.parameters()]
    flags = [module.training for module in model.modules()]
    graph, _ = fold(model, spec(1, 28, 28), fold_bn=fold_bn)
    with torch.no_grad():
        for parameter in graph.parameters():
            parameter.zero_()
    after = model.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert [id(parameter) for parameter in model.parameters()] == identities
    assert [module.training for module in model.modules()] == flags
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_without_folding_every_norm_stays_and_says_so() -> None:
    for name, nodes in (("lenet", 1), ("lenet-scratch", 0)):
        model = network(name)
        graph, report = fold(model, spec(1, 28, 28), fold_bn=False)
        assert report.folded == ()
        assert [item.reason for item in report.kept] == ["folding was not asked for"] * 4
        assert [item.nodes for item in report.kept] == [nodes] * 4
        assert report.error_float64 is None
        assert norm_nodes(graph) == 4 * nodes
        assert error(graph, model, spec(1, 28, 28)) <= SINGLE


def test_a_model_in_training_mode_is_folded_in_inference_mode() -> None:
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Dropout(0.9)).train()
    _, report = fold_exactly(model, 2, 5, 5)
    assert paths(report) == {"1": "0"}
