"""Bad input is exit code 2 with one sentence that names it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.command_line import ENDLESS, Command, contents, damaged, flipped, picture, recipe_text, written


def pickled_module(path: Path) -> Path:
    torch.save(torch.nn.Linear(2, 2), path)
    return path


def damaged_labels(path: Path) -> Path:
    path.write_bytes("tea\ncaf\u00e9\n".encode("latin-1"))
    return path


def without(bundle: Path, name: str) -> Path:
    (bundle / name).unlink()
    return bundle


# (folder for files, a sound bundle) -> the command line, and what its sentence must name
Wrong = Callable[[Path, Path], "tuple[tuple[object, ...], str]"]
WRONG: dict[str, Wrong] = {
    "bundle missing": lambda here, bundle: (("verify", here / "nowhere"), "nowhere does not exist"),
    "bundle is a folder of something else": lambda here, bundle: (("verify", here), "is not a bundle"),
    "bundle is a file": lambda here, bundle: (("bench", bundle / "model.onnx"), "is not a bundle"),
    "bundle of an endless name": lambda here, bundle: (("verify", here / ENDLESS), ENDLESS),
    "picture of an endless name": lambda here, bundle: (("predict", bundle, here / ENDLESS), ENDLESS),
    "source of an endless name": lambda here, bundle: (("export", ENDLESS), ENDLESS),
    "weights of an endless name": lambda here, bundle: (("export", "lenet", "--weights", here / ENDLESS), ENDLESS),
    "output of an endless name": lambda here, bundle: (("export", "lenet", "--output", here / ENDLESS), "a shorter name"),
    "target of an endless name": lambda here, bundle: (("inspect", here / f"{ENDLESS}.onnx"), ENDLESS),
    "recipe of an endless name": lambda here, bundle: (("run", here / f"{ENDLESS}.toml"), ENDLESS),
    "file missing": lambda here, bundle: (("verify", without(bundle, "golden.npz")), "lacks golden.npz"),
    "file truncated": lambda here, bundle: (("verify", damaged(bundle, "model.onnx", lambda c: c[:-9])), "model.onnx has "),
    "checksum wrong": lambda here, bundle: (("verify", damaged(bundle, "golden.npz", flipped)), "golden.npz does not have"),
    "manifest damaged": lambda here, bundle: (("bench", damaged(bundle, "manifest.json", lambda c: c[:99])), "manifest.json is"),
    "manifest with an unknown key": lambda here, bundle: (
        ("verify", damaged(bundle, "manifest.json", lambda c: c.replace(b'"opset"', b'"opsett"', 1))),
        "manifest.json is damaged",
    ),
    "onnx missing": lambda here, bundle: (("inspect", here / "none.onnx"), "none.onnx does not exist"),
    "onnx empty": lambda here, bundle: (("inspect", written(here / "e.onnx", b"")), "e.onnx is not an ONNX file"),
    "onnx is text": lambda here, bundle: (("inspect", written(here / "t.onnx", "hello\n" * 50)), "t.onnx is not an ONNX file"),
    "onnx truncated": lambda here, bundle: (
        ("inspect", written(here / "c.onnx", (bundle / "model.onnx").read_bytes()[:-99])),
        "c.onnx is not an ONNX file",
    ),
    "picture missing": lambda here, bundle: (("predict", bundle, here / "none.png"), "none.png does not exist"),
    "folder without pictures": lambda here, bundle: (("predict", bundle, bundle.parent / "*.gif"), "*.gif has no pictures"),
    "two forms on stdout": lambda here, bundle: (
        ("predict", bundle, picture(here / "p.png"), "--jsonl"),
        "--json and --jsonl both say",
    ),
    "csv on stdout": lambda here, bundle: (
        ("predict", bundle, picture(here / "p.png"), "--csv", "-"),
        "--csv takes a file's name",
    ),
    "csv in the bundle": lambda here, bundle: (
        ("predict", bundle, picture(here / "p.png"), "--csv", bundle / "labels.csv"),
        "labels.csv",
    ),
    "recipe missing": lambda here, bundle: (("run", here / "none.toml"), "none.toml does not exist"),
    "recipe is a folder": lambda here, bundle: (("run", here), "is not a regular file"),
    "recipe is not TOML": lambda here, bundle: (("run", written(here / "r.toml", "name =")), "r.toml"),
    "recipe is not text": lambda here, bundle: (("run", written(here / "r.toml", b"\xff\xfe\x00")), "r.toml"),
    "recipe with an unknown key": lambda here, bundle: (
        ("run", written(here / "r.toml", recipe_text().replace("epochs", "epoch"))),
        "unknown key 'epoch' in [train]",
    ),
    "recipe with an impossible value": lambda here, bundle: (
        ("train", written(here / "r.toml", recipe_text(epochs=0))), "train.epochs",
    ),
    "pictures missing": lambda here, bundle: (("run", written(here / "r.toml", recipe_text(here / "gone"))), "does not exist"),
    "recipe not trained yet": lambda here, bundle: (("export", written(here / "r.toml", recipe_text())), "has not been trained"),
    "source unknown": lambda here, bundle: (("export", "lennet"), "'lennet' is neither"),
    "source without a shape": lambda here, bundle: (("export", "torch.nn:Flatten"), "--input-shape 1x3x224x224"),
    "module unknown": lambda here, bundle: (("inspect", "no_such_pkg:net", "--input-shape", "1x3"), "cannot import no_such_pkg"),
    "factory unknown": lambda here, bundle: (("inspect", "torch.nn:Netz", "--input-shape", "1x3"), "no function or class 'Netz'"),
    "shape unreadable": lambda here, bundle: (("export", "lenet", "--input-shape", "1xAx3"), "'1xAx3' is not a shape"),
    "shape endless": lambda here, bundle: (("export", "lenet", "--input-shape", f"1x{'9' * 5000}"), "9' is not a shape"),
    "shape wrong": lambda here, bundle: (("export", "lenet", "--input-shape", "1x1x32x32"), "32x32"),
    "weights missing": lambda here, bundle: (("export", "lenet", "--weights", here / "none.pt"), "none.pt do not exist"),
    "weights are a pickled module": lambda here, bundle: (
        ("export", "lenet", "--weights", pickled_module(here / "m.pt")), "m.pt cannot be loaded safely",
    ),
    "weights of another model": lambda here, bundle: (
        ("export", "resnet18", "--weights", bundle / "weights.safetensors"), "do not fit the model",
    ),
    "mean unreadable": lambda here, bundle: (("export", "lenet", "--mean", "x", "--std", "1"), "--mean 'x'"),
    "labels in latin-1": lambda here, bundle: (
        ("export", "lenet", "--labels", damaged_labels(here / "l.txt")),
        "l.txt is not UTF-8: byte 0xe9 in line 2",
    ),
    "fewer labels than outputs": lambda here, bundle: (
        ("export", "lenet", "--labels", written(here / "l.txt", "a\nb\nc\n")),
        "--labels has 3 label(s) for an output of",
    ),
    "mean without std": lambda here, bundle: (("export", "lenet", "--mean", "0.5"), "--mean and --std go together"),
    "mean of another size": lambda here, bundle: (("export", "lenet", "--mean", "1,2", "--std", "1,2"), "do not fit the input"),
    "mean of bytes": lambda here, bundle: (
        ("export", "torchvision.models:resnet18", "--input-shape", "1x3x64x64", "--mean", "123.675,116.28,103.53",
         "--std", "58.395,57.12,57.375"),
        "divide by 255: --mean 0.485,0.456,0.406 --std 0.229,0.224,0.225",
    ),
    "std of bytes": lambda here, bundle: (
        ("export", "lenet", "--mean", "0.5", "--std", "127.5"),
        "--std 127.5 is for pixels in 0..255, and pixels are in 0..1 here; divide by 255: --mean 0.5 --std 0.5",
    ),
    "std of bytes in a recipe": lambda here, bundle: (
        ("train", written(here / "r.toml", recipe_text().replace("[model]", "mean = [0.5]\nstd = [127.5]\n[model]"))),
        "data.std is for pixels in 0..255, and pixels are in 0..1 here; divide by 255: mean = [0.5], std = [0.5]",
    ),
    "a label left empty": lambda here, bundle: (
        ("export", "lenet", "--labels", written(here / "l.txt", "a\n\nb\n")),
        "l.txt: line 2 is empty; give each class a line, or remove the line",
    ),
    "shape without a batch": lambda here, bundle: (
        ("inspect", "torchvision.models:resnet18", "--input-shape", "3x32x32"),
        "check --input-shape: its first axis is the batch, so pictures are 1xCxHxW",
    ),
    "mean of bytes in a recipe": lambda here, bundle: (
        ("train", written(here / "r.toml", recipe_text().replace("[model]", "mean = [73]\nstd = [90]\n[model]"))),
        "divide by 255: mean = [0.2863], std = [0.3529]",
    ),
    "backend unknown": lambda here, bundle: (("verify", bundle, "--backend", "tpu"), "no backend 'tpu'"),
    "flavour unknown to verify": lambda here, bundle: (("verify", bundle, "--flavour", "foo"), "no flavour 'foo'"),
    "flavour unknown to bench": lambda here, bundle: (("bench", bundle, "--flavour", "foo"), "use one of tensorrt, tensorrt-rtx"),
    "flavour unknown to predict": lambda here, bundle: (
        ("predict", bundle, "none.png", "--flavour", "foo"), "no flavour 'foo'",
    ),
    "flavour unknown to the runtime named": lambda here, bundle: (
        ("verify", bundle, "--backend", "tensorrt", "--flavour", "foo"), "no flavour 'foo'",
    ),
    "source without weights": lambda here, bundle: (("verify", bundle, "--source", "resnet18"), "do not fit the model"),
    "rtol lets anything pass": lambda here, bundle: (("verify", bundle, "--rtol", 1), "--rtol: give a number of 0 or more"),
    "atol lets anything pass": lambda here, bundle: (("verify", bundle, "--atol", "inf"), "--atol: give a number of 0 or more"),
    "batch unreadable": lambda here, bundle: (("bench", bundle, "--batch", "1,many"), "'1,many' is not a list of batch sizes"),
    "batch endless": lambda here, bundle: (("bench", bundle, "--batch", "9" * 5000), "is not a list of batch sizes from 1 to"),
    "batch range endless": lambda here, bundle: (("build", bundle, "--batch", "9" * 5000), "9...' is not a range of batch sizes"),
    "batch zero": lambda here, bundle: (("bench", bundle, "--batch", "0"), "'0' is not a list of batch sizes"),
    "no time to measure": lambda here, bundle: (("bench", bundle, "--seconds", 0), "--seconds: give a number above 0"),
    "no time at all": lambda here, bundle: (("bench", bundle, "--seconds", "nan"), "--seconds: give a number above 0"),
    "time without end": lambda here, bundle: (("bench", bundle, "--seconds", "inf"), "--seconds: give a number above 0, up to"),
    "budget that is none": lambda here, bundle: (("bench", bundle, "--budget-ms", "nan"), "--budget-ms: give a number above 0"),
    "budget without end": lambda here, bundle: (("bench", bundle, "--budget-ms", "inf"), "--budget-ms: give a number above 0"),
    "dataset unknown": lambda here, bundle: (("data", "fetch", "mnist-1998"), "no dataset 'mnist-1998'"),
    "output below a file": lambda here, bundle: (
        ("export", "lenet", "--output", written(here / "plain", "x") / "bundle"), "cannot write",
    ),
    "output is a file": lambda here, bundle: (("export", "lenet", "--output", written(here / "plain", "x")), "cannot write"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_bad_input_is_exit_2_with_one_sentence_that_names_it(run: Command, tmp_path: Path, bundle: Path, name: str) -> None:
    args, needle = WRONG[name](tmp_path, bundle)
    before = contents(tmp_path)
    result = run(*args, "--json")
    assert result.code == 2
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    assert needle in result.err
    assert "unexpected" not in result.err
    assert any(hint in result.err for hint in ("; ", "for example", "need ")), "it does not say what to do"
    assert "Traceback" not in result.err
    assert set(result.document) == {"error"}
    assert result.document["error"]["message"] == result.err.removeprefix("error: ").rstrip("\n")
    assert contents(tmp_path) == before


def test_a_model_that_prints_leaves_stdout_to_the_document_and_one_that_exits_is_an_error(tmp_path: Path, run: Command) -> None:
    written(Path("chatty.py"), "import sys, torch\ndef net():\n    print('hello')\n    return torch.nn.Linear(4, 2)\n")
    result = run("inspect", "chatty:net", "--input-shape", "1x4", "--json")
    assert result.code == 0
    assert result.document["parameters"] == 10
    written(Path("leaving.py"), "import sys\ndef net():\n    sys.exit(3)\n")
    result = run("inspect", "leaving:net", "--input-shape", "1x4", "--json")
    assert result.code == 2
    assert "could not be built: SystemExit" in result.document["error"]["message"]


def test_a_pipe_instead_of_a_file_is_an_error_and_not_a_wait(tmp_path: Path, run: Command, bundle: Path) -> None:
    os.mkfifo("pipe.toml")
    os.mkfifo("pipe.png")
    os.mkfifo("pipe.onnx")
    for arguments in (("train", "pipe.toml"), ("inspect", "pipe.onnx")):
        result = run(*arguments, "--json")
        assert result.code == 2
        assert "is not a regular file" in result.document["error"]["message"]
    result = run("predict", str(bundle), "pipe.png", "--json")
    assert result.code == 1
    assert "is not a regular file" in result.document["predictions"][0]["problem"]


@pytest.mark.parametrize("words", [("verify",), ("bench",), ("quantize", "--to", "float16", "--output", "halved")])
def test_a_pipe_in_place_of_a_manifest_is_an_error_and_not_a_wait(run: Command, bundle: Path, words: tuple[str, ...]) -> None:
    shutil.copytree(bundle, "piped")
    Path("piped/manifest.json").unlink()
    os.mkfifo("piped/manifest.json")
    result = run(words[0], "piped", *words[1:], "--json")
    assert result.code == 2
    assert "piped is not a bundle: its manifest.json is a pipe in place of a file" in result.document["error"]["message"]
