"""Loading weights safely, and the checkpoints that training scripts write."""

from __future__ import annotations

import argparse
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.factory import build_module
from edgekit.models.weights import load_checkpoint, load_weights, weights_bytes
from tests.networks import network


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
    model: Any = network("lenet")
    assert weights_bytes(network("lenet")) == weights_bytes(model.to(memory_format=torch.channels_last))
    assert weights_bytes(network("lenet")) != weights_bytes(network("lenet", seed=1))


def refused(path: Path) -> str:
    """The message that refuses a weights file; the model must stay untouched."""
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
    if save is torch.save:  # the trap works: an unsafe load runs the code
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
    """A module whose state must carry the version of the module that saved it."""

    _version = 2

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, metadata: dict[str, Any], *arguments: Any) -> None:
        if metadata.get("version") != 2:
            raise ValueError("version should be 2")
        super()._load_from_state_dict(state, prefix, metadata, *arguments)


def test_weights_of_a_module_with_a_version_can_be_loaded(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    saved, loaded = Versioned(2, 2), Versioned(2, 2)
    path.write_bytes(weights_bytes(saved))
    load_weights(loaded, path)
    assert torch.equal(loaded.weight, saved.weight)


def test_weights_in_a_folder_whose_name_is_not_utf8_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "caf\udce9"
    folder.mkdir()
    model = network("lenet")
    (folder / "w.safetensors").write_bytes(weights_bytes(model))
    other = build_module("lenet")
    load_weights(other, folder / "w.safetensors")
    assert weights_bytes(other) == weights_bytes(model)


State = dict[str, Tensor]


def net(seed: int = 0) -> nn.Sequential:
    """A network of a convolution and a batch norm."""
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


def prefixed(state: State, prefix: str) -> State:
    return {prefix + key: value for key, value in state.items()}


def floats(state: State, change: Callable[[Tensor], Tensor]) -> State:
    return {key: change(value) if value.is_floating_point() else value for key, value in state.items()}


CHECKPOINTS: dict[str, tuple[Callable[[State], object], str]] = {
    "DataParallel": (lambda state: prefixed(state, "module."), "the prefix 'module.' was cut"),
    "compiled": (lambda state: prefixed(state, "_orig_mod."), "the wrapper's name _orig_mod was cut"),
    "compiled inside": (
        lambda state: {key.replace("0.", "0._orig_mod.", 1): value for key, value in state.items()},
        "the wrapper's name _orig_mod was cut",
    ),
    "both": (lambda state: prefixed(state, "module._orig_mod."), "the prefix 'module.' was cut"),
    "any prefix": (lambda state: prefixed(state, "net.encoder."), "the prefix 'net.encoder.' was cut"),
    "Lightning": (lambda state: {"state_dict": prefixed(state, "model."), "epoch": 1}, "the weights are 'state_dict' of"),
    "Lightning with a loss": (
        lambda state: {"state_dict": {**prefixed(state, "model."), "loss.weight": torch.ones(2)}},
        "1 of the file's tensors are not of this model: loss.weight",
    ),
    "averaged": (
        lambda state: {**prefixed(state, "module."), "n_averaged": torch.tensor(3)},
        "1 of the file's tensors are not of this model: n_averaged",
    ),
    "model beside an optimizer": (
        lambda state: {"model": state, "optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}, "param_groups": [{"lr": 0.1}]}},
        "the weights are 'model' of",
    ),
    "model_state_dict": (lambda state: {"model_state_dict": state, "epoch": 1}, "the weights are 'model_state_dict' of"),
    "nested twice": (lambda state: {"ckpt": {"network": state}}, "the weights are 'ckpt.network' of"),
    "a name of its own": (lambda state: {"my weights": state}, "the weights are 'my weights' of"),
    "arguments beside": (
        lambda state: {"model": state, "args": argparse.Namespace(lr=0.1, out=Path("x")), "best": np.float64(0.9)},
        "the weights are 'model' of",
    ),
    "without counters": (
        lambda state: {key: value for key, value in state.items() if "num_batches" not in key},
        "1 num_batches_tracked are not in the weights",
    ),
    "half precision": (lambda state: floats(state, Tensor.half), "float16 became float32"),
    "bfloat16": (lambda state: floats(state, Tensor.bfloat16), "bfloat16 became float32"),
    "double precision": (lambda state: floats(state, Tensor.double), "float64 became float32"),
}


@pytest.mark.parametrize("name", CHECKPOINTS)
def test_checkpoints_are_taken_as_they_are_and_every_step_is_noted(name: str, tmp_path: Path) -> None:
    make, note = CHECKPOINTS[name]
    path, model = tmp_path / "weights.pth", net(1)
    torch.save(make(model.state_dict()), path)
    loaded = net(2)
    notes = load_checkpoint(loaded, str(path))
    assert any(note in text for text in notes), notes
    exact = {"half precision": Tensor.half, "bfloat16": Tensor.bfloat16}.get(name, lambda value: value)
    for key, value in floats(model.state_dict(), exact).items():
        assert torch.equal(loaded.state_dict()[key], value.to(loaded.state_dict()[key].dtype)), key


def test_plain_weights_need_no_note(tmp_path: Path) -> None:
    torch.save(net(1).state_dict(), tmp_path / "weights.pth")
    assert load_checkpoint(net(2), str(tmp_path / "weights.pth")) == ()


def test_a_counter_that_the_model_lacks_does_no_harm(tmp_path: Path) -> None:
    torch.save({**net(1).state_dict(), "2.num_batches_tracked": torch.tensor(3)}, tmp_path / "weights.pth")
    assert load_checkpoint(net(2), str(tmp_path / "weights.pth")) == ()


@pytest.mark.parametrize(
    ("make", "keys"),
    [
        (lambda one, two: {"state_dict": one, "state_dict_ema": two}, ("state_dict", "state_dict_ema")),
        (
            lambda one, two: {"state_dict": {**prefixed(one, "model."), **prefixed(two, "ema.")}},
            ("state_dict.model", "state_dict.ema"),
        ),
        (lambda one, two: {**prefixed(one, "student."), **prefixed(two, "teacher.")}, ("student", "teacher")),
    ],
    ids=["two dicts", "two prefixes in one dict", "two prefixes at the top"],
)
def test_several_fitting_weights_are_refused_until_one_is_named(
    make: Callable[[State, State], object], keys: tuple[str, str], tmp_path: Path
) -> None:
    path = tmp_path / "both.pth"
    torch.save(make(net(1).state_dict(), net(2).state_dict()), path)
    with pytest.raises(ModelError, match="hold 2 sets that fit the model") as caught:
        load_checkpoint(net(3), str(path))
    assert all(key in str(caught.value) for key in keys)
    for seed, key in enumerate(keys, 1):
        loaded = net(3)
        load_checkpoint(loaded, f"{path}:{key}")
        assert same_state(loaded, net(seed))


def test_only_the_weights_that_fit_are_taken(tmp_path: Path) -> None:
    path = tmp_path / "gan.pth"
    torch.save({"generator": nn.Linear(7, 3).state_dict(), "discriminator": net(1).state_dict()}, path)
    loaded = net(2)
    load_checkpoint(loaded, str(path))
    assert same_state(loaded, net(1))


def test_a_key_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "both.pth"
    torch.save({"model": net(1).state_dict(), "ema": net(2).state_dict()}, path)
    with pytest.raises(ModelError, match=r"hold no 'emma'; they hold model, ema; check the key"):
        load_checkpoint(net(3), f"{path}:emma")


def test_a_colon_may_be_part_of_the_file_name(tmp_path: Path) -> None:
    path = tmp_path / "run:3.pth"
    torch.save(net(1).state_dict(), path)
    assert load_checkpoint(net(2), str(path)) == ()


def test_a_deeper_network_of_the_same_names_does_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "deep.pth"
    deeper = {**net(1).state_dict(), "3.weight": torch.ones(2, 2)}
    for prefix in ("", "module."):
        torch.save(prefixed(deeper, prefix), path)
        with pytest.raises(ModelError, match=r"the file has unknown 3\.weight"):
            load_checkpoint(net(2), str(path))


def test_integer_weights_do_not_become_floats(tmp_path: Path) -> None:
    path = tmp_path / "int8.pth"
    torch.save({**net(1).state_dict(), "0.weight": torch.ones(4, 3, 3, 3, dtype=torch.int8)}, path)
    with pytest.raises(ModelError, match=r"0\.weight is int8 in the file and float32 in the model"):
        load_checkpoint(net(2), str(path))


@pytest.mark.parametrize("kind", ["TorchScript", "torch.export", "module", "zip", "text"])
def test_other_files_get_our_own_sentence(kind: str, tmp_path: Path) -> None:
    path, model = tmp_path / "other.pth", nn.Sequential(nn.Linear(3, 2)).eval()
    match kind:
        case "TorchScript":
            with pytest.warns(DeprecationWarning, match="torch.jit"):
                torch.jit.save(torch.jit.trace(model, torch.ones(1, 3)), path)  # type: ignore[no-untyped-call]
            expected = r"are a TorchScript archive, not a state_dict; take them out: torch.save\(torch.jit.load"
        case "torch.export":
            torch.export.save(torch.export.export(model, (torch.ones(1, 3),)), tmp_path / "other.pt2")
            path = tmp_path / "other.pt2"
            expected = "are an archive of torch.export, not a state_dict; take them out"
        case "module":
            torch.save(model, path)
            expected = r"cannot be loaded safely: the file holds pickled objects besides tensors \(.*torch.nn.modules"
        case "zip":
            np.savez(tmp_path / "other.npz", a=np.ones(3))
            path = tmp_path / "other.npz"
            expected = "are a zip archive, not a state_dict"
        case _:
            path.write_text("hello")
            expected = "cannot be loaded safely: the file is damaged, or no file of torch.save"
    with pytest.raises(ModelError, match=expected) as caught:
        load_checkpoint(net(), str(path))
    assert "weights_only=False" not in str(caught.value)
    assert "\n" not in str(caught.value)


# what lies beside the weights


def small() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def momentum() -> dict[str, Any]:
    return {key: torch.zeros_like(value, dtype=torch.float32) for key, value in small().state_dict().items()}


@pytest.mark.parametrize("beside", [{"_extra_state": None}, {"epoch": 3}, {7: "x"}, {"extra": {"x": torch.ones(2)}}])
def test_an_optimizers_tensors_are_never_the_weights(tmp_path: Path, beside: dict[Any, Any]) -> None:
    trained = small()
    state = {key: value + 1 for key, value in trained.state_dict().items()}
    torch.save({"model": {**state, **beside}, "optim": {"exp_avg": momentum()}, "exp_avg_sq": momentum()}, tmp_path / "w.pth")
    fresh = small()
    load_checkpoint(fresh, str(tmp_path / "w.pth"))
    assert all(torch.equal(value, state[key]) for key, value in fresh.state_dict().items())


def test_two_tensors_that_are_one_once_wrappers_are_cut_are_refused(tmp_path: Path) -> None:
    state = small().state_dict()
    torch.save({**state, "_orig_mod.0.weight": state["0.weight"] * 2}, tmp_path / "w.pth")
    fresh = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 1))
    with pytest.raises(ModelError, match=r"'_orig_mod\.0\.weight' and '0\.weight', which are one tensor"):
        load_checkpoint(fresh, str(tmp_path / "w.pth"))


def test_weights_of_the_models_own_names_beside_an_average_are_two_sets(tmp_path: Path) -> None:
    state = {key: value + 1 for key, value in small().state_dict().items()}
    torch.save({**state, **{f"ema.{key}": value * 2 for key, value in state.items()}}, tmp_path / "w.pth")
    with pytest.raises(ModelError, match="hold 2 sets that fit the model: ema, the file itself"):
        load_checkpoint(small(), str(tmp_path / "w.pth"))


@pytest.mark.parametrize("key", ["1.running_var", "0.weight"])
def test_weights_that_are_not_finite_are_refused_by_name(tmp_path: Path, key: str) -> None:
    state = {**small().state_dict()}
    state[key] = state[key] * float("inf")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ModelError, match=f"{key.replace('.', '[.]')} is not finite"):
        load_checkpoint(small(), str(tmp_path / "w.pth"))
