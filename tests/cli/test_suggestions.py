"""A mistyped name is refused with the nearest one that there is, and before anything heavy is imported."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgekit.backends import checked
from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import app, main
from edgekit.commands.data import fetch
from edgekit.errors import EdgekitError, RecipeError
from edgekit.recipe import load_recipe
from edgekit.setups import Setup
from edgekit.sources import check_name_of_module, origin_of
from edgekit.sources.module import parse_shapes
from edgekit.spelling import LONGEST, did_you_mean, literals
from edgekit.training.device import pick_device

RECIPE = """
name = "x"
[data]
dataset = "fashion-mnist"
[model]
name = "lenet"
[train]
epochs = 1
"""


def test_the_nearest_name_is_suggested_whatever_its_case() -> None:
    names = ("lenet", "lenet-scratch", "resnet18")
    assert did_you_mean("lennet", names) == " (did you mean 'lenet'?)"
    assert did_you_mean("ResNet-18", names) == " (did you mean 'resnet18'?)"
    assert did_you_mean("LENET", ("LeNet",)) == " (did you mean 'LeNet'?)"


def test_nothing_is_suggested_where_nothing_is_near() -> None:
    assert did_you_mean("mobilenet_v3_large", ("resnet18",)) == ""
    assert did_you_mean("x", ()) == ""
    assert did_you_mean("a" * LONGEST, ("a" * LONGEST,))
    assert did_you_mean("a" * (LONGEST + 1), ("a" * LONGEST,)) == ""


def test_words_of_a_type_are_found_in_unions_too() -> None:
    from typing import Literal, Optional

    assert literals(Optional[Literal["a", "b"]]) == ("a", "b")
    assert literals(int) == ()


@pytest.mark.parametrize(
    ("old", "new", "end"),
    [
        ("epochs = 1", "epoch = 1", "unknown key 'epoch' in [train]; remove it or correct its spelling (did you mean 'epochs'?)"),
        ("[train]", "[trian]", "unknown key 'trian' in the top level; remove it or correct its spelling (did you mean 'train'?)"),
        (
            "epochs = 1", "optimizer = 'adma'",
            "r.toml: 'adma' is not allowed at key 'train.optimizer'; use one of adam, sgd, muon (did you mean 'adam'?)",
        ),
        ("epochs = 1", "optimizer = 'x'", "r.toml: 'x' is not allowed at key 'train.optimizer'; use one of adam, sgd, muon"),
        (
            "fashion-mnist", "fashion_mnist",
            "'data.dataset'; use one of fashion-mnist, image-folder (did you mean 'fashion-mnist'?)",
        ),
        ("[train]", "[zzz]", "unknown key 'zzz' in the top level; remove it or correct its spelling"),
        ("name = \"lenet\"", "name = 3", "at key 'model.name'; correct it"),
    ],
)  # fmt: skip
def test_a_mistyped_word_of_a_recipe(tmp_path: Path, old: str, new: str, end: str) -> None:
    path = tmp_path / "r.toml"
    path.write_text(RECIPE.replace(old, new))
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert str(caught.value).endswith(end)


def test_mistyped_names_everywhere(bundle: Path) -> None:
    attempts: dict[str, Callable[[], object]] = {
        "'ort-cpu'": lambda: checked(Setup("ort-cp")),
        "'every'": lambda: checked(Setup("evry")),
        "'cuda-graph'": lambda: checked(Setup("tensorrt", options={"cuda_grph": True})),
        "'threads'": lambda: checked(Setup.parse("ort-cpu threds=4")),
        "'tensorrt-rtx'": lambda: checked(Setup("tensorrt", options={"flavour": "tensorrt-rt"})),
        "'float32'": lambda: open_bundle(bundle).manifest.variant("flaot32"),
        "'fashion-mnist'": lambda: fetch("fashion-mist"),
        "'lenet'": lambda: origin_of("lennet"),
        "'cuda'": lambda: pick_device("cuad"),
        "'float16'": lambda: parse_shapes(("1x3:flaot16",)),
    }
    for near, attempt in attempts.items():
        with pytest.raises(EdgekitError) as caught:
            attempt()
        assert str(caught.value).endswith(f"(did you mean {near}?)")


def test_a_mistyped_option_for_every_backend(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["edgekit", "verify", str(bundle), "--backend", "every cuda-grph", "--json"])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    message = json.loads(capfd.readouterr().out)["error"]["message"]
    assert message == "no backend has the option 'cuda-grph'; check the spelling (did you mean 'cuda-graph'?)"


def test_a_mistyped_command_and_option() -> None:
    command, option = CliRunner().invoke(app, ["verfy"]), CliRunner().invoke(app, ["verify", "b", "--bakend", "x"])
    assert (command.exit_code, option.exit_code) == (2, 2)
    assert "Did you mean 'verify'?" in command.output
    assert "--backend" in option.output


# before torch

PROGRAM = """
import sys
from edgekit.cli.app import main
sys.argv = ["edgekit", *sys.argv[1:]]
try:
    main()
finally:
    print([name for name in ("torch", "onnx", "onnxruntime") if name in sys.modules], file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("command", "words"),
    [
        (("export", "nosuch"), "'nosuch' is neither a recipe"),
        (("export", "nosuch.toml"), "nosuch.toml"),
        (("export", "nosuch.onnx"), "ONNX file nosuch.onnx does not exist; check the path"),
        (("export", "nosuch.nets:net"), "cannot import nosuch.nets: ModuleNotFoundError: No module named 'nosuch'"),
        (("inspect", "lennet"), "did you mean 'lenet'?"),
        (("inspect", "nosuch:net"), "nosuch:net: cannot import nosuch"),
    ],
)  # fmt: skip
def test_what_is_not_there_is_refused_before_torch_is_imported(command: tuple[str, ...], words: str, tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM, *command], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.endswith("[]\n")


def test_a_package_in_the_current_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets_of_mine.py").write_text("raise SystemExit")
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    check_name_of_module("nets_of_mine:net")
    check_name_of_module("lenet")
    assert sys.path == before
    assert "nets_of_mine" not in sys.modules
