"""``--arg NAME=VALUE``: arguments of a model's factory, from the command line to the manifest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import main
from edgekit.cli.options.shared import arguments
from edgekit.commands.export import export
from edgekit.commands.inspect import inspect
from edgekit.commands.verify import verify
from edgekit.errors import ModelError, UsageError
from edgekit.setups import Setup
from edgekit.sources import ExportOptions

NETS = """
from torch import nn

def net(num_classes, bias=True, activation="ReLU", scale=1.0):
    assert isinstance(scale, float) and isinstance(bias, bool)
    return nn.Sequential(nn.Flatten(), nn.Linear(16, num_classes, bias=bias), getattr(nn, activation)())
"""


@pytest.fixture
def nets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"nets_{abs(hash(tmp_path))}"
    (tmp_path / f"{name}.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    return f"{name}:net"


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("10", 10), ("-3", -3), ("0.5", 0.5), ("1e-3", 1e-3), ("true", True), ("false", False), ("relu", "relu"),
        ('"10"', "10"), ("a=b", "a=b"), ("", ""), ("null", "null"), ("[1, 2]", "[1, 2]"), ("caf\udce9", "caf\udce9"),
    ],
)  # fmt: skip
def test_a_value_is_read_as_json_or_is_text(word: str, value: Any) -> None:
    (read,) = arguments([f"name={word}"]).values()
    assert (read, type(read)) == (value, type(value))


@pytest.mark.parametrize(
    ("texts", "sentence"),
    [
        (("classes",), "--arg 'classes' is not an argument; write it like num_classes=10"),
        (("=3",), "--arg '=3' is not an argument"),
        (("a-b=3",), "--arg 'a-b=3' is not an argument"),
        (("a=1", "a=2"), "--arg gives 'a' twice; give it once"),
    ],
)
def test_what_is_no_argument_is_refused(texts: tuple[str, ...], sentence: str) -> None:
    with pytest.raises(UsageError) as caught:
        arguments(texts)
    assert str(caught.value).startswith(sentence)


def test_arguments_build_the_model_and_are_recorded(
    nets: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["--arg", "num_classes=7", "--arg", "bias=false", "--arg", "activation=Sigmoid", "--arg", "scale=2.0"]
    for command, more in (("export", ["--output", "b"]), ("inspect", [])):
        monkeypatch.setattr("sys.argv", ["edgekit", command, nets, "--input-shape", "1x16", *words, *more, "--json"])
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0
        report = json.loads(capfd.readouterr().out)
    assert report["parameters"] == 7 * 16
    manifest = open_bundle(Path("b")).manifest
    assert manifest.source.args == {"num_classes": 7, "bias": False, "activation": "Sigmoid", "scale": 2.0}
    assert manifest.outputs[0].shape == ("batch", 7)
    assert verify(Path("b"), (Setup("torch", options={"source": nets}),)).passed  # by the arguments in the manifest


def test_a_shipped_model_takes_arguments_too() -> None:
    assert inspect("resnet18", args={"in_channels": 3, "num_classes": 4}).outputs == {"output": "float32 batch x 4"}


def test_an_argument_that_the_factory_does_not_take_is_its_error(nets: str) -> None:
    with pytest.raises(ModelError, match=r"has no argument 'classes'; use one of num_classes, bias, activation, scale"):
        inspect(nets, input_shapes=("1x16",), args={"num_classes": 2, "classes": 3})


def test_sources_that_know_their_own_arguments_refuse_others(bundle: Path, tmp_path: Path) -> None:
    given = ExportOptions(args={"num_classes": 3})
    recipe = Path(__file__).parents[2] / "recipes" / "lenet.toml"
    with pytest.raises(UsageError, match="--input-shape, --weights and --arg go with an import path"):
        export(str(recipe), tmp_path / "b", given)
    with pytest.raises(UsageError, match="--arg does not go with an ONNX file"):
        export(str(bundle / "model.onnx"), tmp_path / "b", given)
    for target in (bundle, bundle / "model.onnx"):
        with pytest.raises(UsageError, match="--arg is for the factory of a model"):
            inspect(target, args={"num_classes": 3})
