"""Batch norm against PyTorch's, the shape tables of the issue, building by name and loading weights safely."""

from __future__ import annotations

import copy
import math
import os
import pickle
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.graphs.table import module_table
from edgekit.models import MODELS
from edgekit.models.batchnorm import BatchNorm, batch_norm
from edgekit.models.densenet import SMALLEST, DenseBlock, transition
from edgekit.models.factory import build_module, call_factory, load_weights, weights_bytes
from tests.networks import image_spec, network

SHAPES = [(8, 5), (2, 3), (4, 3, 6, 5), (1, 3, 2, 2), (1, 3, 1, 2)]


def torch_norm(channels: int, rank: int) -> nn.Module:
    return nn.BatchNorm1d(channels) if rank == 2 else nn.BatchNorm2d(channels)


def twins(shape: tuple[int, ...], ours: BatchNorm, dtype: torch.dtype) -> tuple[BatchNorm, nn.Module]:
    """Our layer and PyTorch's, with the same random weight and bias."""
    reference = torch_norm(shape[1], len(shape))
    generator = torch.Generator().manual_seed(1)
    for name in ("weight", "bias"):
        value = torch.randn(shape[1], generator=generator)
        for layer in (ours, reference):
            getattr(layer, name).data.copy_(value)
    return ours.to(dtype), reference.to(dtype)


def difference(left: Tensor, right: Tensor) -> float:
    assert left.shape == right.shape
    left, right = left.detach(), right.detach()
    return float((left - right).abs().max() / right.abs().max().clamp_min(1))


def largest_difference(shape: tuple[int, ...], ours: BatchNorm, dtype: torch.dtype, steps: int = 4) -> dict[str, float]:
    """Train both layers for some steps, then infer; the largest scaled difference of everything they give."""
    ours, reference = twins(shape, ours, dtype)
    generator = torch.Generator().manual_seed(2)
    worst: dict[str, float] = {}

    def note(name: str, left: Tensor, right: Tensor) -> None:
        worst[name] = max(worst.get(name, 0.0), difference(left, right))

    optimisers = [torch.optim.SGD(layer.parameters(), 0.1) for layer in (ours, reference)]
    for _ in range(steps):
        # two values per channel that nearly agree would make any formula ill-conditioned
        pattern = torch.linspace(-1, 1, math.prod(shape)).reshape(shape)
        x = (3 * pattern + 0.3 * torch.randn(shape, generator=generator) + 2).to(dtype)
        upstream = torch.randn(shape, generator=generator).to(dtype)
        inputs = [x.clone().requires_grad_() for _ in range(2)]
        outputs = [layer(each) for layer, each in zip((ours, reference), inputs, strict=True)]
        for optimiser, output in zip(optimisers, outputs, strict=True):
            optimiser.zero_grad()
            (output * upstream).sum().backward()
        note("output", *outputs)
        note("input gradient", inputs[0].grad, inputs[1].grad)
        for name in ("weight", "bias"):
            note(f"{name} gradient", getattr(ours, name).grad, getattr(reference, name).grad)
        for optimiser in optimisers:
            optimiser.step()
        for name in ("running_mean", "running_var"):
            note(name, getattr(ours, name), getattr(reference, name))
    ours.eval(), reference.eval()
    note("inference", ours(x), reference(x))
    assert int(ours.num_batches_tracked) == int(reference.num_batches_tracked) == steps
    return worst


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.float64, 1e-13)])
def test_batch_norm_trains_like_torch(shape: tuple[int, ...], dtype: torch.dtype, bound: float) -> None:
    worst = largest_difference(shape, BatchNorm(shape[1]), dtype)
    assert len(worst) == 7
    assert max(worst.values()) < bound, worst


class Biased(BatchNorm):
    """A tutorial's mistake: the biased variance becomes the running one."""

    def forward(self, x: Tensor) -> Tensor:
        before = self.running_var.clone()
        y = super().forward(x)
        if self.training:
            count = x.numel() // x.shape[1]
            unbiased = (self.running_var - 0.9 * before) / 0.1
            self.running_var.copy_(0.9 * before + 0.1 * unbiased * (count - 1) / count)
        return y


class Scaled(BatchNorm):
    """One weight off by 1 %."""

    def forward(self, x: Tensor) -> Tensor:
        scale = torch.ones(x.shape[1], dtype=x.dtype)
        scale[0] = 1.01
        return super().forward(x) * scale.view(1, -1, *[1] * (x.dim() - 2))


@pytest.mark.parametrize(
    "wrong",
    [lambda: Biased(3), lambda: Scaled(3), lambda: BatchNorm(3, momentum=0.9), lambda: BatchNorm(3, eps=1e-2)],
    ids=["biased variance", "weight x 1.01", "momentum of the tutorial", "another eps"],
)
def test_comparison_with_torch_catches_wrong_batch_norms(wrong: Callable[[], BatchNorm]) -> None:
    assert max(largest_difference((4, 3, 6, 5), wrong(), torch.float64).values()) > 1e-3


@settings(deadline=None, max_examples=40)
@given(
    shape=st.one_of(
        st.tuples(st.integers(2, 6), st.integers(1, 5)),
        st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.integers(2, 5)),
    ),
    seed=st.integers(0, 2**31),
    scale=st.sampled_from([1e-3, 1.0, 1e3]),
    offset=st.sampled_from([-10.0, 0.0, 10.0]),
)
def test_batch_norm_equals_torch_for_any_shape_and_scale(shape: tuple[int, ...], seed: int, scale: float, offset: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = (torch.randn(shape, generator=generator, dtype=torch.float64) + offset) * scale
    ours, reference = twins(shape, BatchNorm(shape[1]), torch.float64)
    assert difference(ours(x), reference(x)) < 1e-8
    for name in ("running_mean", "running_var"):
        assert difference(getattr(ours, name), getattr(reference, name)) < 1e-12
    assert difference(ours.eval()(x), reference.eval()(x)) < 1e-12


def test_function_and_layer_are_the_same_arithmetic() -> None:
    x, layer = torch.randn(4, 3, 5, 5), BatchNorm(3)
    mean, var = torch.zeros(3), torch.ones(3)
    y = batch_norm(x, layer.weight, layer.bias, mean, var, training=True)
    assert torch.equal(y, layer(x))
    assert torch.equal(mean, layer.running_mean)
    assert torch.equal(var, layer.running_var)


def test_running_statistics_start_at_zero_and_one_so_untrained_inference_changes_little() -> None:
    layer, x = BatchNorm(3).eval(), torch.randn(4, 3, 5, 5)
    assert torch.equal(layer.running_mean, torch.zeros(3))
    assert torch.equal(layer.running_var, torch.ones(3))
    torch.testing.assert_close(layer(x), x, rtol=1e-4, atol=1e-5)


def test_inference_leaves_the_statistics_alone() -> None:
    layer = BatchNorm(3)
    layer(torch.randn(4, 3, 5, 5))
    before = copy.deepcopy(layer.state_dict())
    layer.eval()(torch.randn(4, 3, 5, 5) + 7)
    assert all(torch.equal(before[key], value) for key, value in layer.state_dict().items())


def test_statistics_hold_no_autograd_graph_and_the_layer_can_be_copied_after_a_step() -> None:
    layer = BatchNorm(3)
    x = torch.randn(4, 3, 5, 5, requires_grad=True)
    layer(x).sum().backward()
    layer(x)  # a forward whose backward never comes
    assert [name for name, _ in layer.named_buffers()] == ["running_mean", "running_var", "num_batches_tracked"]
    assert all(not buffer.requires_grad and buffer.grad_fn is None for buffer in layer.buffers())
    assert torch.equal(copy.deepcopy(layer).running_var, layer.running_var)


def test_state_survives_saving_and_is_interchangeable_with_torch(tmp_path: Path) -> None:
    trained = BatchNorm(3)
    for _ in range(3):
        trained(torch.randn(4, 3, 5, 5) * 2 + 1)
    trained.weight.data.uniform_(0.5, 2)
    torch.save(trained.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    x = torch.randn(4, 3, 5, 5)
    again, torchs = BatchNorm(3), nn.BatchNorm2d(3)
    again.load_state_dict(state)
    torchs.load_state_dict(state)
    assert torch.equal(again.eval()(x), trained.eval()(x))
    torch.testing.assert_close(torchs.eval()(x), trained(x))
    assert difference(BatchNorm(3).eval()(x), trained(x)) > 0.1  # forgetting the statistics would show
    back = BatchNorm(3)
    back.load_state_dict(torchs.state_dict())
    assert torch.equal(back.running_mean, trained.running_mean)
    assert torch.equal(back.num_batches_tracked, trained.num_batches_tracked)


@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 1, 1), (0, 4), (0, 4, 3, 3)])
def test_too_few_values_per_channel_are_an_error_in_training_only(shape: tuple[int, ...]) -> None:
    layer = BatchNorm(4)
    with pytest.raises(ModelError, match="more than one value per channel in training"):
        layer(torch.ones(shape))
    assert torch.equal(layer.running_var, torch.ones(4))
    assert layer.eval()(torch.ones(shape)).shape == shape


@pytest.mark.parametrize("shape", [(3,), (2, 3, 4), (2, 3, 4, 5, 6)])
def test_other_ranks_are_an_error(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"got {len(shape)} axes"):
        BatchNorm(3)(torch.ones(shape))


class Leaky(BatchNorm):
    """The tutorial's layer: its running mean keeps the graph of every batch."""

    moving: Tensor | float = 0.0

    def forward(self, x: Tensor) -> Tensor:
        self.moving = 0.9 * self.moving + 0.1 * x.mean((0, 2, 3)) ** 2
        return super().forward(x)


class Saved:
    """A tensor that autograd keeps for the backward pass."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def kept_after_steps(model: nn.Module, steps: int = 4) -> list[int]:
    """How many tensors autograd still keeps after each training step."""
    alive: weakref.WeakSet[Saved] = weakref.WeakSet()
    counts = []

    def pack(tensor: Tensor) -> Saved:
        saved = Saved(tensor)
        alive.add(saved)
        return saved

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda saved: saved.tensor):
        for _ in range(steps):
            model(torch.randn(4, 1, 28, 28)).square().sum().backward()
            counts.append(len(alive))
    return counts


def test_memory_stays_flat_while_lenet_scratch_trains() -> None:
    assert kept_after_steps(build_module("lenet-scratch")) == [0, 0, 0, 0]


def test_memory_check_catches_a_batch_norm_that_keeps_its_graph() -> None:
    model = build_module("lenet-scratch")
    model[1] = Leaky(6)
    counts = kept_after_steps(model)
    assert counts[-1] > counts[0] > 0


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
    model, x = network("lenet"), torch.randn(3, 1, 28, 28)
    expected = model(x)
    moved = model.to(memory_format=torch.channels_last)
    torch.testing.assert_close(moved(x.contiguous(memory_format=torch.channels_last)), expected)


@pytest.mark.parametrize("size", [27, 32])
def test_lenet_refuses_other_sizes(size: int) -> None:
    with pytest.raises(ModelError, match=f"LeNet takes pictures of 28x28, got {size}x{size}; set resize = 28"):
        network("lenet")(torch.zeros(1, 1, size, size))


def test_resnet18_has_the_stages_of_its_table() -> None:
    found = shapes("resnet18", 224)
    assert {name: shape for name, shape in found.items() if "." not in name} == {
        "stem": (64, 56, 56),
        "stage1": (64, 56, 56),
        "stage2": (128, 28, 28),
        "stage3": (256, 14, 14),
        "stage4": (512, 7, 7),
        "pool": (512, 1, 1),
        "head": (10,),
    }


def test_resnet18_shortcuts_are_plain_convolutions_where_the_shape_changes() -> None:
    model = build_module("resnet18")
    kinds = [type(block.shortcut) for stage in range(1, 5) for block in getattr(model, f"stage{stage}")]
    assert kinds == [nn.Identity, nn.Identity, *[nn.Conv2d, nn.Identity] * 3]
    assert {model.stage2[0].shortcut.kernel_size, model.stage2[0].shortcut.stride} == {(1, 1), (2, 2)}
    assert module_table("resnet18", model, image_spec()).batch_norms == 17


def test_a_residual_block_adds_its_input() -> None:
    block = build_module("resnet18").eval().stage1[0]
    for parameter in block.parameters():
        parameter.data.zero_()
    x = torch.randn(2, 64, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_a_dense_block_and_a_transition_have_the_shapes_of_the_issue() -> None:
    x = torch.randn(4, 3, 8, 8)
    y = DenseBlock(2, 3, 10)(x)
    assert y.shape == (4, 23, 8, 8)
    assert torch.equal(y[:, :3], x)
    assert transition(23, 10)(y).shape == (4, 10, 4, 4)


def test_densenet_has_the_blocks_of_its_table() -> None:
    found = shapes("densenet", 32)
    assert {name: found[name] for name in found if name.count(".") == 1 and name.startswith("blocks")} == {
        "blocks.dense1": (192, 8, 8),
        "blocks.transition1": (96, 4, 4),
        "blocks.dense2": (224, 4, 4),
        "blocks.transition2": (112, 2, 2),
        "blocks.dense3": (240, 2, 2),
        "blocks.transition3": (120, 1, 1),
        "blocks.dense4": (248, 1, 1),
    }
    assert found["norm"] == found["pool"] == (248, 1, 1)
    assert found["head"] == (10,)
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


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lennet", "no model 'lennet'; use one of lenet, lenet-scratch, resnet18, densenet, or an import path"),
        ("lenet:", "no model 'lenet:'"),
        (":lenet", "no model ':lenet'"),
        ("no_such_package.models:net", "cannot import no_such_package.models"),
        ("edgekit.models.lenet:lennet", "edgekit.models.lenet has no function or class 'lennet'"),
        ("edgekit.models:MODELS", "has no function or class 'MODELS'"),
    ],
)
def test_a_model_that_cannot_be_found_is_named(name: str, message: str) -> None:
    with pytest.raises(ModelError) as caught:
        call_factory(name)
    assert message in str(caught.value)


def test_arguments_a_factory_does_not_take_are_an_error() -> None:
    with pytest.raises(ModelError, match=r"lenet could not be built: TypeError.*depth"):
        call_factory("lenet", {"depth": 3})


def test_a_factory_of_something_else_is_an_error() -> None:
    with pytest.raises(ModelError, match=r"math:sqrt could not be built|returned a float"):
        build_module("math:sqrt")
    with pytest.raises(ModelError, match=r"collections:OrderedDict returned a OrderedDict, not a torch.nn.Module"):
        build_module("collections:OrderedDict")


def test_an_import_path_is_found_from_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_the_user.py").write_text("from torch import nn\ndef net(): return nn.Linear(2, 1)\n")
    monkeypatch.chdir(tmp_path)
    assert isinstance(build_module("nets_of_the_user:net"), nn.Linear)


def test_a_module_that_fails_on_import_is_a_model_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_net_of_the_user.py").write_text("1 / 0\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match="cannot import broken_net_of_the_user: ZeroDivisionError"):
        call_factory("broken_net_of_the_user:net")


def same_state(left: nn.Module, right: nn.Module) -> bool:
    return all(torch.equal(tensor, right.state_dict()[key]) for key, tensor in left.state_dict().items())


def test_weights_go_through_safetensors_and_state_dicts(tmp_path: Path) -> None:
    model = network("lenet-scratch", seed=3)
    (tmp_path / "weights.safetensors").write_bytes(weights_bytes(model))
    torch.save(model.state_dict(), tmp_path / "state.pt")
    torch.save({"state_dict": model.state_dict(), "epoch": torch.tensor(3)}, tmp_path / "lightning.ckpt")
    for path in sorted(tmp_path.iterdir()):
        fresh = network("lenet-scratch", seed=4)
        assert not same_state(fresh, model)
        load_weights(fresh, path)
        assert same_state(fresh, model), path


def test_the_same_weights_give_the_same_bytes() -> None:
    assert weights_bytes(network("lenet")) == weights_bytes(network("lenet").to(memory_format=torch.channels_last))
    assert weights_bytes(network("lenet")) != weights_bytes(network("lenet", seed=1))


def refused(path: Path) -> str:
    """The message with which a file is refused; the model must stay untouched."""
    model = network("lenet")
    with pytest.raises(ModelError) as caught:
        load_weights(model, path)
    assert same_state(model, network("lenet"))
    assert str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_weights_that_do_not_fit_name_the_tensors(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"

    def write(state: dict[str, Tensor]) -> None:
        save_file(state, path) if suffix == "safetensors" else torch.save(state, path)

    state = network("lenet").state_dict()
    write({key: value for key, value in state.items() if key != "1.running_mean"})
    assert "lacks 1.running_mean" in refused(path)
    write({**state, "head.weight": torch.ones(1)})
    assert "has unknown head.weight" in refused(path)
    write({**state, "15.weight": torch.ones(5, 84)})
    assert "15.weight is (5, 84) in the file and (10, 84) in the model" in refused(path)


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("save", [torch.save, lambda bomb, path: path.write_bytes(pickle.dumps(bomb))], ids=["torch", "pickle"])
def test_a_pickle_with_code_is_refused_and_never_run(save: Callable[[object, Path], object], tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    save({"0.weight": Bomb(mark)}, tmp_path / "bomb.pt")
    assert "cannot be loaded safely" in refused(tmp_path / "bomb.pt")
    assert not mark.exists()
    if save is torch.save:  # the trap works: what is refused would have run
        torch.load(tmp_path / "bomb.pt", weights_only=False)
        assert mark.exists()


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(network("lenet"), tmp_path / "whole.pt")
    message = refused(tmp_path / "whole.pt")
    assert "cannot be loaded safely" in message
    assert "save model.state_dict()" in message
    assert "\n" not in message
    assert "\x1b" not in message


def damaged(content: bytes) -> list[bytes]:
    return [b"", content[:7], content[: len(content) // 2], content[:-1], b"\xff" * 64]


@pytest.mark.parametrize("index", range(5))
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_damaged_weights_are_a_clear_error(suffix: str, index: int, tmp_path: Path) -> None:
    path = tmp_path / f"weights.{suffix}"
    torch.save(network("lenet").state_dict(), path)
    content = weights_bytes(network("lenet")) if suffix == "safetensors" else path.read_bytes()
    path.write_bytes(damaged(content)[index])
    message = refused(path)
    assert ("not valid safetensors" if suffix == "safetensors" else "cannot be loaded safely") in message


@pytest.mark.parametrize("content", [[1, 2], {"a": 1}, {0: torch.ones(1)}, torch.ones(3), {"state_dict": {"a": [1]}}])
def test_a_file_without_a_state_dict_is_a_clear_error(content: object, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "weights.pt")
    assert "no state_dict" in refused(tmp_path / "weights.pt")


def test_missing_weights_are_a_clear_error(tmp_path: Path) -> None:
    assert "do not exist" in refused(tmp_path / "none.pt")


class Versioned(nn.Linear):
    """A module that needs to know by which version of itself its weights were saved."""

    _version = 2

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *rest: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


def test_weights_of_a_module_with_a_version_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    saved, loaded = Versioned(2, 2), Versioned(2, 2)
    path.write_bytes(weights_bytes(saved))
    load_weights(loaded, path)
    assert torch.equal(loaded.weight, saved.weight)
