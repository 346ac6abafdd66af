"""The layers of the shipped models have the shapes in the models' definitions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.graphs.table import module_table
from edgekit.models import MODELS
from edgekit.models.densenet import SMALLEST, DenseBlock, transition
from edgekit.models.factory import build_module
from tests.networks import network
from tests.onnx_files import image_spec


def shapes(name: str, size: int = 28) -> dict[str, tuple[int | str, ...]]:
    table = module_table(name, network(name), image_spec(size=size))
    return {layer.name: layer.output_shape[1:] for layer in table.layers}


@pytest.mark.parametrize(("name", "norm2d", "norm1d"), [
    ("lenet", "BatchNorm2d", "BatchNorm1d"),
    ("lenet-scratch", "BatchNorm", "BatchNorm"),
])  # fmt: skip
def test_lenet_has_the_layers_of_its_table(name: str, norm2d: str, norm1d: str) -> None:
    table = module_table(name, network(name), image_spec())
    assert [(layer.op, layer.output_shape) for layer in table.layers] == [
        ("Conv2d", ("batch", 6, 24, 24)),
        (norm2d, ("batch", 6, 24, 24)),
        ("Sigmoid", ("batch", 6, 24, 24)),
        ("MaxPool2d", ("batch", 6, 12, 12)),
        ("Conv2d", ("batch", 16, 8, 8)),
        (norm2d, ("batch", 16, 8, 8)),
        ("Sigmoid", ("batch", 16, 8, 8)),
        ("MaxPool2d", ("batch", 16, 4, 4)),
        ("Flatten", ("batch", 256)),
        ("Linear", ("batch", 120)),
        (norm1d, ("batch", 120)),
        ("Sigmoid", ("batch", 120)),
        ("Linear", ("batch", 84)),
        (norm1d, ("batch", 84)),
        ("Sigmoid", ("batch", 84)),
        ("Linear", ("batch", 10)),
    ]
    assert table.batch_norms == 4
    assert table.inputs == {"input": "float32 batch x 1 x 28 x 28"}
    assert table.outputs == {"output": "float32 batch x 10"}
    assert table.parameters == sum(layer.parameters for layer in table.layers)
    assert table.parameters == 156 + 12 + 2416 + 32 + 30840 + 240 + 10164 + 168 + 850
    assert table.macs == 25 * 6 * 24 * 24 + 150 * 16 * 8 * 8 + 256 * 120 + 120 * 84 + 84 * 10


def test_both_lenets_compute_the_same_from_the_same_weights() -> None:
    x, ours = torch.randn(3, 1, 28, 28), build_module("lenet-scratch").eval()
    ours.load_state_dict(network("lenet").state_dict())
    torch.testing.assert_close(ours(x), network("lenet")(x))


def test_lenet_takes_channels_last() -> None:
    model: Any = network("lenet")
    x = torch.randn(3, 1, 28, 28)
    expected = model(x)
    moved = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("size", [27, 32])
def test_lenet_refuses_other_sizes(size: int) -> None:
    with pytest.raises(ModelError, match=f"LeNet takes pictures of 28x28, got {size}x{size}; set resize = 28"):
        network("lenet")(torch.zeros(1, 1, size, size))


def test_resnet18_for_small_pictures_keeps_their_size_in_its_first_stage() -> None:
    model = build_module("resnet18", {"small_pictures": True}).eval()
    sizes = {}
    for name, module in model.named_children():
        module.register_forward_hook(lambda module, inputs, output, name=name: sizes.update({name: tuple(output.shape[1:])}))
    model(torch.zeros(1, 1, 28, 28))
    assert [sizes[name] for name in ("stem", "stage1", "stage4")] == [(64, 28, 28), (64, 28, 28), (512, 4, 4)]
    usual = build_module("resnet18")
    assert len(list(usual.parameters())) == len(list(model.parameters()))


def test_resnet18_has_the_stages_of_its_table() -> None:
    outputs = shapes("resnet18", 224)
    assert {name: shape for name, shape in outputs.items() if "." not in name} == {
        "stem": (64, 56, 56),
        "stage1": (64, 56, 56),
        "stage2": (128, 28, 28),
        "stage3": (256, 14, 14),
        "stage4": (512, 7, 7),
        "pool": (512, 1, 1),
        "head": (10,),
    }


def test_resnet18_shortcuts_are_plain_convolutions_where_the_shape_changes() -> None:
    model: Any = build_module("resnet18")
    kinds = [type(block.shortcut) for stage in range(1, 5) for block in getattr(model, f"stage{stage}")]
    assert kinds == [nn.Identity, nn.Identity, *[nn.Conv2d, nn.Identity] * 3]
    assert {model.stage2[0].shortcut.kernel_size, model.stage2[0].shortcut.stride} == {(1, 1), (2, 2)}
    assert module_table("resnet18", model, image_spec()).batch_norms == 17


def test_a_residual_block_adds_its_input() -> None:
    model: Any = build_module("resnet18").eval()
    block = model.stage1[0]
    for parameter in block.parameters():
        parameter.data.zero_()
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_a_dense_block_and_a_transition_have_the_shapes_of_their_definitions() -> None:
    x = torch.randn(4, 3, 8, 8)
    y = DenseBlock(2, 3, 10)(x)
    assert y.shape == (4, 23, 8, 8)
    assert torch.equal(y[:, :3], x)
    assert transition(23, 10)(y).shape == (4, 10, 4, 4)


def test_densenet_has_the_blocks_of_its_table() -> None:
    outputs = shapes("densenet", 32)
    assert {name: outputs[name] for name in outputs if name.count(".") == 1 and name.startswith("blocks")} == {
        "blocks.dense1": (192, 8, 8),
        "blocks.transition1": (96, 4, 4),
        "blocks.dense2": (224, 4, 4),
        "blocks.transition2": (112, 2, 2),
        "blocks.dense3": (240, 2, 2),
        "blocks.transition3": (120, 1, 1),
        "blocks.dense4": (248, 1, 1),
    }
    assert outputs["norm"] == outputs["pool"] == (248, 1, 1)
    assert outputs["head"] == (10,)
    assert build_module("densenet").features == 248


@pytest.mark.parametrize("size", [(28, 28), (31, 40), (40, 31)])
def test_densenet_refuses_small_pictures_and_says_the_least_size(size: tuple[int, int]) -> None:
    with pytest.raises(ModelError, match=f"at least {SMALLEST}x{SMALLEST}, got {size[0]}x{size[1]}; set resize"):
        network("densenet")(torch.zeros(1, 1, *size))


def test_the_table_names_the_input_a_model_does_not_take() -> None:
    with pytest.raises(ModelError, match="2x3x28x28"):
        module_table("resnet18", network("resnet18"), image_spec(channels=3))


def test_the_table_leaves_the_model_as_it_was() -> None:
    model = network("lenet").train()
    module_table("lenet", model, image_spec())
    assert model.training
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("name", MODELS)
def test_every_shipped_model_takes_its_smallest_input_any_channels_and_any_classes(name: str) -> None:
    _, height, width = MODELS[name].input_shape
    model = build_module(name, {"num_classes": 3, "in_channels": 3}).eval()
    assert model(torch.zeros(2, 3, height, width)).shape == (2, 3)
