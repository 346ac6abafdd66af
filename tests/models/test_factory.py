"""Building models by name or import path, and loading their weights safely."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.models.factory import build_module, call_factory, load_weights, weights_bytes
from tests.networks import network


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
