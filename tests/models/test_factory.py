"""Building models by name or import path."""

from __future__ import annotations

import sys
from functools import wraps
from pathlib import Path

import pytest
import torch
from torch import nn

from edgekit.errors import ModelError
from edgekit.models.factory import build_module, call_factory, rebuild_module


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("lennet", "no model 'lennet'; use one of lenet, lenet-scratch, edgenet, resnet18, densenet, or an import path"),
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
    with pytest.raises(ModelError) as caught:
        call_factory("lenet", {"num_clases": 3})
    assert (
        str(caught.value)
        == "lenet has no argument 'num_clases'; use one of num_classes, in_channels (did you mean 'num_classes'?)"
    )
    with pytest.raises(ModelError, match=r"it takes none: leave them out"):
        call_factory("tests.models.test_factory:bare", {"depth": 3})


def bare() -> nn.Module:
    return nn.Linear(2, 1)


def deep(**settings: int) -> nn.Module:
    return nn.Linear(settings["width"], 1)


@wraps(bare)
def wide(width: int) -> nn.Module:
    return nn.Linear(width, 1)


def test_a_factory_that_takes_any_argument_or_is_wrapped_says_itself_what_it_takes() -> None:
    here = "tests.models.test_factory"
    assert [call_factory(f"{here}:{name}", {"width": 7}).in_features for name in ("deep", "wide")] == [7, 7]
    with pytest.raises(ModelError, match=r"deep could not be built: KeyError"):
        call_factory(f"{here}:deep", {"depth": 3})


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


def test_what_a_factory_or_its_forward_imports_later_is_found_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "late_net_of_the_user.py").write_text(
        "from torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        import late_layers_of_the_user\n"
        "    def forward(self, x):\n"
        "        import late_steps_of_the_user\n"
        "        return x + late_steps_of_the_user.one\n"
    )
    (tmp_path / "late_layers_of_the_user.py").write_text("")
    (tmp_path / "late_steps_of_the_user.py").write_text("one = 1\n")
    monkeypatch.setattr(sys, "path", [place for place in sys.path if place])
    before = list(sys.path)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert build_module("late_net_of_the_user:Net")(torch.zeros(1)) == 1
        assert sys.path == [*before, str(tmp_path)]  # at the end, where it shadows nothing


FACTORIES = """
import random
import numpy as np
import torch
from torch import nn

class Shifted(nn.Linear):
    def __init__(self):
        super().__init__(4, 2)
        drawn = torch.randn(2) + torch.from_numpy(np.random.rand(2)) + random.random()
        self.register_buffer("shift", drawn, persistent=False)

def wide():
    return nn.Linear(4, 2).double()

def short():
    return nn.Linear(4, 2).bfloat16()

def half():
    return nn.Linear(4, 2).half()

def pair():
    return nn.Linear(4, 2).double(), torch.ones(7, 4).double()
"""


@pytest.mark.parametrize(
    ("name", "dtype"), [("wide", torch.float32), ("short", torch.float32), ("half", torch.float16), ("pair", torch.float32)]
)
def test_a_built_module_has_a_dtype_that_runtimes_have(
    name: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dtypes_of_the_user.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    assert build_module(f"dtypes_of_the_user:{name}").weight.dtype == dtype


def test_a_rebuilt_module_draws_the_same_numbers_and_leaves_the_generator_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "drawing_net_of_the_user.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(5)
    shifts = [rebuild_module("drawing_net_of_the_user:Shifted").shift for _ in range(2)]
    after = torch.rand(1)
    assert torch.equal(*shifts)  # type: ignore[arg-type]
    torch.manual_seed(5)
    assert torch.equal(after, torch.rand(1))
