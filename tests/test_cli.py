"""The command line: exit codes, one JSON document on stdout, one sentence on stderr, and nothing of the user's lost."""

from __future__ import annotations

import errno
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
import rich.text
import torch
import typer.main
from PIL import Image

import edgekit
from edgekit.bundle.folder import open_bundle
from edgekit.cli import outcome
from edgekit.cli.app import app, main
from edgekit.machine.gpu import cuda_absence
from edgekit.machine.packages import version_of
from edgekit.setups import Absence

RECIPE = """
name = "tiny"

[data]
dataset = "image-folder"
path = "{data}"
resize = 28
color = "grey"

[model]
name = "lenet"

[train]
epochs = {epochs}
batch_size = 16
learning_rate = 0.01
min_accuracy = {bar}

[bench]
batch = [1]
seconds = {seconds}
threads = 1
"""


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def document(self) -> dict[str, Any]:
        """What is on stdout, which must be one JSON document and nothing else."""
        found: dict[str, Any] = json.loads(self.out)
        return found


Command = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path) -> Command:
    """``edgekit ARGS`` in this process, in an empty folder; everything that reaches the file descriptors is seen."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("NO_COLOR", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["edgekit", *map(str, args)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as done:
            main()
        captured = capfd.readouterr()
        return Result(int(done.value.code or 0), captured.out, captured.err)

    return call


def process(*args: object, environment: dict[str, str], folder: Path) -> subprocess.CompletedProcess[str]:
    """``edgekit ARGS`` in a process of its own."""
    command = [sys.executable, "-m", "edgekit", *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, check=False, timeout=300)


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name)


COMMANDS = list(commands(typer.main.get_command(app)))


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every path below ``folder``, hidden ones too, with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else None for path in sorted(folder.rglob("*"))}


def test_the_commands_are_those_of_the_documentation() -> None:
    names = {" ".join(path) for path in COMMANDS}
    assert names == {
        "run", "train", "export", "verify", "bench", "build", "inspect", "predict", "models", "data fetch", "doctor",
    }  # fmt: skip


@pytest.mark.parametrize("path", COMMANDS, ids=" ".join)
def test_help_shows_a_description_an_example_and_the_common_options(run: Command, path: tuple[str, ...]) -> None:
    result = run(*path, "--help")
    assert result.code == 0
    assert f"Example: edgekit {' '.join(path)}" in result.out
    assert not re.search(r"\w \.", result.out)  # rich swallows what stands in square brackets
    assert "--json" in result.out
    assert "--debug" in result.out
    assert result.err == ""


def test_help_of_the_whole_names_every_command(run: Command) -> None:
    result = run("--help")
    assert result.code == 0
    assert all(path[0] in result.out for path in COMMANDS)
    assert run("-h").out == result.out


def test_the_version_is_printed_alone(run: Command) -> None:
    assert run("--version") == (0, f"{edgekit.__version__}\n", "")


@pytest.mark.parametrize("options", [(), ("--json",)], ids=["console", "json"])
@pytest.mark.parametrize(
    "args",
    [
        ("frobnicate",),
        ("verify",),
        ("verify", "bundle", "--frobnicate"),
        ("verify", "bundle", "--atol", "much"),
        ("verify", "bundle", "--atol", "-1"),
        ("bench", "bundle", "--threads", "0"),
        ("export", "lenet", "--opset", "9"),
        ("predict", "bundle"),
        ("data", "frobnicate"),
    ],
    ids=" ".join,
)
def test_wrong_usage_is_exit_2_and_under_json_a_document(run: Command, args: tuple[str, ...], options: tuple[str, ...]) -> None:
    result = run(*args, *options)
    assert result.code == 2
    assert "Usage: edgekit" in result.err
    assert "Traceback" not in result.err
    if options:
        assert result.document["error"]["kind"] == "UsageError"
        assert result.document["error"]["message"]
    else:
        assert result.out == ""


def test_a_group_without_a_command_shows_its_help_and_fails(run: Command) -> None:
    for args in ((), ("data",)):
        result = run(*args)
        assert result.code == 2
        assert "Usage: edgekit" in result.err + result.out


def damaged(bundle: Path, name: str, change: Callable[[bytes], bytes]) -> Path:
    (bundle / name).write_bytes(change((bundle / name).read_bytes()))
    return bundle


def flipped(content: bytes) -> bytes:
    return content[:-1] + bytes([content[-1] ^ 1])


def written(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def pickled_module(path: Path) -> Path:
    torch.save(torch.nn.Linear(2, 2), path)
    return path


def picture(path: Path, size: int = 28) -> Path:
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (size, size), np.uint8)).save(path)
    return path


def recipe_text(data: Path | str = "pictures", epochs: int = 2, bar: float = 0.0, seconds: float = 0.05) -> str:
    return RECIPE.format(data=data, epochs=epochs, bar=bar, seconds=seconds)


ENDLESS = "x" * 5000

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
    "file missing": lambda here, bundle: ((bundle / "golden.npz").unlink() or ("verify", bundle), "lacks golden.npz"),
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
    "picture is text": lambda here, bundle: (("predict", bundle, written(here / "t.png", "hello")), "t.png is not a picture"),
    "picture truncated": lambda here, bundle: (
        ("predict", bundle, written(here / "c.png", picture(here / "p.png", 90).read_bytes()[:-2000])),
        "c.png cannot be decoded",
    ),
    "recipe missing": lambda here, bundle: (("run", here / "none.toml"), "none.toml does not exist"),
    "recipe is a folder": lambda here, bundle: (("train", here), "is not a regular file"),
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
    "mean without std": lambda here, bundle: (("export", "lenet", "--mean", "0.5"), "--mean and --std go together"),
    "mean of another size": lambda here, bundle: (("export", "lenet", "--mean", "1,2", "--std", "1,2"), "do not fit the input"),
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
    "rtol lets anything pass": lambda here, bundle: (("verify", bundle, "--rtol", 1), "would let anything pass"),
    "atol lets anything pass": lambda here, bundle: (("verify", bundle, "--atol", "inf"), "would let anything pass"),
    "batch unreadable": lambda here, bundle: (("bench", bundle, "--batch", "1,many"), "'1,many' is not a list of batch sizes"),
    "batch endless": lambda here, bundle: (("bench", bundle, "--batch", "9" * 5000), "is not a list of batch sizes from 1 to"),
    "batch range endless": lambda here, bundle: (("build", bundle, "--batch", "9" * 5000), "9...' is no range of batch sizes"),
    "batch zero": lambda here, bundle: (("bench", bundle, "--batch", "0"), "'0' is not a list of batch sizes"),
    "no time to measure": lambda here, bundle: (("bench", bundle, "--seconds", 0), "--seconds 0"),
    "no time at all": lambda here, bundle: (("bench", bundle, "--seconds", "nan"), "--seconds nan"),
    "time without end": lambda here, bundle: (("bench", bundle, "--seconds", "inf"), "--seconds inf"),
    "budget that is none": lambda here, bundle: (("bench", bundle, "--budget-ms", "nan"), "--budget-ms nan"),
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


def test_without_json_an_error_leaves_stdout_empty_and_debug_shows_where_it_came_from(run: Command, tmp_path: Path) -> None:
    plain, debug = (run("verify", tmp_path / "nowhere", *more) for more in ((), ("--debug",)))
    assert (plain.code, plain.out) == (debug.code, debug.out) == (2, "")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)


def test_an_error_nobody_foresaw_is_one_sentence_that_asks_for_a_report(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("edgekit.commands.verify.verify", fail)
    result = run("verify", bundle)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: unexpected ZeroDivisionError: first line second line; run again with --debug and report it\n"


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped\n"),
        (MemoryError(), 2, "memory is not enough"),
        (PermissionError(errno.EACCES, "Permission denied", "/etc/x"), 2, "/etc/x: Permission denied; check"),
        (edgekit.errors.ModelError("it says\nthree\nlines"), 2, "error: it says three lines\n"),
        (edgekit.errors.Interrupted("training stopped"), 130, "error: training stopped\n"),
        (SystemExit(0), 2, "error: something that was imported ended the program (0); edgekit doctor says which package"),
    ],
    ids=["ctrl-c", "memory", "permission", "several lines", "interrupted", "exit"],
)
def test_what_stops_a_command_has_its_own_code_and_sentence(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException, code: int, said: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise problem

    monkeypatch.setattr("edgekit.commands.verify.verify", fail)
    result = run("verify", bundle)
    assert result.code == code
    assert said in result.err
    assert result.err.count("\n") == 1


def test_a_failed_check_is_exit_1_and_a_passed_one_exit_0(run: Command, bundle: Path) -> None:
    passed = run("verify", bundle, "--backend", "ort-cpu", "--json")
    assert (passed.code, passed.document["passed"]) == (0, True)
    failed = run("verify", bundle, "--backend", "ort-cpu", "--atol", "0", "--rtol", "0", "--json")
    assert (failed.code, failed.document["passed"]) == (1, False)
    assert failed.document["parities"][0]["tolerance"]["rtol"] == 0
    timed = ("bench", bundle, "--backend", "ort-cpu", "--batch", "1", "--seconds", "0.01", "--json")
    assert run(*timed, "--budget-ms", "1e9").code == 0
    assert run(*timed, "--budget-ms", "1e-9").code == 1


def test_tables_go_to_stdout_and_carry_the_verdict(run: Command, bundle: Path, tmp_path: Path) -> None:
    found = {
        "verify": run("verify", bundle, "-v"),
        "bench": run("bench", bundle, "--batch", "1", "--seconds", "0.01"),
        "inspect": run("inspect", bundle),
        "predict": run("predict", bundle, picture(tmp_path / "p.png")),
        "models": run("models"),
    }
    assert {name: (result.code, result.err) for name, result in found.items()} == dict.fromkeys(found, (0, ""))
    assert "pass" in found["verify"].out
    if cuda_absence():
        told = [line for line in found["verify"].out.splitlines() if line.startswith("not present: ")]
        assert told == [f"not present: torch-cuda, ort-cuda, ort-tensorrt, tensorrt: {cuda_absence()}"]
    assert "- (662)" in found["bench"].out
    assert "end-to-end" in found["bench"].out
    assert "0 batch norm(s)" in found["inspect"].out
    assert "class " in found["predict"].out
    assert "densenet" in found["models"].out
    failed = run("verify", bundle, "--atol", "0", "--rtol", "0")
    assert (failed.code, failed.err) == (1, "")
    assert "FAIL" in failed.out


def test_a_reader_of_a_table_that_goes_away_is_no_error(bundle: Path, environment: dict[str, str]) -> None:
    """As in ``edgekit inspect BUNDLE | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgekit", "inspect", str(bundle)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    "args", [("models",), ("models", "--json"), ("--help",), ("verify", "--help"), ("--version",), ("data",)], ids=" ".join
)
def test_what_is_printed_onto_a_full_disk_is_one_sentence(args: tuple[str, ...], environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgekit", *args]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (2, "error: stdout cannot be written: No space left on device; send it elsewhere\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("args", [("verify", "nowhere"), ("frobnicate",)], ids=" ".join)
def test_an_error_that_stderr_does_not_take_is_still_exit_2(args: tuple[str, ...], environment: dict[str, str]) -> None:
    """1 would say that a check failed."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "edgekit", *args], stderr=full, env=environment, check=False)
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_wrong_usage_whose_document_finds_a_full_disk_is_no_traceback(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgekit", "frobnicate", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: stdout cannot be written: No space left on device; send it elsewhere\nUsage: ")
    assert "Traceback" not in done.stderr


def test_a_terminal_without_unicode_gets_a_table_all_the_same(bundle: Path, environment: dict[str, str]) -> None:
    plain = environment | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "edgekit", "inspect", str(bundle)], capture_output=True, env=plain, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"44,426 parameters" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize("name", ["x\xe9".encode("latin-1"), b"\xff\xfe"])
def test_a_name_that_is_no_valid_text_is_written_out(run: Command, bundle: Path, name: bytes) -> None:
    copy = Path(os.fsdecode(name))
    shutil.copytree(bundle, copy)
    shown = os.fsencode(copy).decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode()
    result = run("verify", copy, "--backend", "ort-cpu", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["bundle"] == shown
    assert run("verify", copy, "--backend", "ort-cpu").code == 0


def test_a_report_that_cannot_be_printed_is_one_sentence(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(report: object) -> bytes:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("edgekit.reports.models.ModelsReport.to_json", fail)
    result = run("models", "--json")
    assert result.code == 2
    assert result.document["error"]["kind"] == "ZeroDivisionError"
    assert result.err.count("\n") == 1


def test_control_characters_in_names_are_shown_and_not_obeyed(run: Command, bundle: Path, tmp_path: Path) -> None:
    """Somebody else's bundle must not move the cursor, rename the window, or turn a line around."""
    name = "red\x1b[31m\x9b2J\x07\u202eeol"
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    manifest["labels"] = [name] * 10
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    told = run("predict", bundle, picture(tmp_path / "p.png", 90))
    assert told.code == 0
    assert r"red\x1b[31m\x9b2J" in told.out
    assert r"\u202eeol" in told.out
    assert not set("\x1b\x9b\u202e") & set(told.out)
    missing = run("verify", tmp_path / name)
    assert missing.code == 2
    assert r"red\x1b[31m" in missing.err
    assert "\x1b" not in missing.err
    memory = io.StringIO()
    outcome._console(file=memory).print(rich.text.Text(name))  # as progress bars do
    assert "\x1b" not in memory.getvalue()


def test_names_with_brackets_are_shown_as_they_are(run: Command, bundle: Path, tmp_path: Path) -> None:
    odd = bundle.rename(tmp_path / "my [red]bundle[bold] [x]")
    assert "my[red]bundle[bold][x]" in "".join(run("verify", odd, "--backend", "ort-cpu").out.split())
    assert "[/nope]" in run("verify", tmp_path / "[/nope]").err


def test_the_whole_path_speaks_json(run: Command, bundle: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "labels.txt", "\n".join("abcdefghij"))
    root = tmp_path / "out" / "lenet"
    weights = ("--weights", bundle / "weights.safetensors")
    exported = run(
        "export", "lenet", *weights, "--output", root, "--mean", "0.286", "--std", "0.353", "--labels", labels, "--json"
    )
    assert exported.code == 0, exported.err
    assert exported.document["bundle"] == str(root)
    assert len(exported.document["fold"]["folded"]) == 4

    verified = run("verify", root, "--json")
    assert verified.code == 0
    assert verified.document["onnx_sha256"] == exported.document["onnx_sha256"]
    assert {"torch", "ort-cpu"} <= {parity["backend"] for parity in verified.document["parities"]}

    benched = run("bench", root, "--batch", "1,2", "--threads", "1", "--seconds", "0.01", "--json")
    assert benched.code == 0
    assert benched.document["onnx_sha256"] == exported.document["onnx_sha256"]
    assert {(row["batch"], row["boundary"]) for row in benched.document["rows"]} == {
        (batch, boundary) for batch in (1, 2) for boundary in ("device", "end-to-end")
    }
    assert all(len(row["samples_ms"]) == 5 and min(map(min, row["samples_ms"])) > 0 for row in benched.document["rows"])

    predicted = run("predict", root, picture(tmp_path / "p.png"), "--top", "10", "--json")
    assert predicted.code == 0
    (prediction,) = predicted.document["predictions"]
    assert {guess["label"] for guess in prediction["guesses"]} == set("abcdefghij")
    assert sum(guess["probability"] for guess in prediction["guesses"]) == pytest.approx(1)

    inspected = run("inspect", root, "--json")
    assert inspected.code == 0
    assert (inspected.document["batch_norms"], inspected.document["macs"]) == (0, 281_640)
    assert [result.err for result in (exported, verified, benched, predicted, inspected)] == [""] * 5


def test_a_real_process_prints_one_document_and_its_code(bundle: Path, environment: dict[str, str], tmp_path: Path) -> None:
    good = process("verify", bundle, "--json", environment=environment, folder=tmp_path)
    assert (good.returncode, json.loads(good.stdout)["passed"], good.stderr) == (0, True, "")
    bad = process("verify", tmp_path / "nowhere", "--json", environment=environment, folder=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert json.loads(bad.stdout)["error"]["kind"] == "BundleError"


@pytest.mark.parametrize(("content", "told"), [("import sys; sys.exit(0)", "it ends the program"), ("", "has no attribute")])
def test_a_broken_runtime_is_skipped_by_name(
    bundle: Path, environment: dict[str, str], tmp_path: Path, content: str, told: str
) -> None:
    """Its own exit with 0 must not look like a bundle that was verified."""
    (tmp_path / "onnxruntime").mkdir()
    written(tmp_path / "onnxruntime" / "__init__.py", content)
    environment = environment | {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])}
    alone = process("verify", bundle, "--backend", "ort-cpu", "--json", environment=environment, folder=tmp_path)
    assert alone.returncode == 2
    assert told in json.loads(alone.stdout)["error"]["message"]
    others = process("verify", bundle, "--json", environment=environment, folder=tmp_path)
    report = json.loads(others.stdout)
    assert (others.returncode, others.stderr) == (0, "")
    assert "torch" in [one["backend"] for one in report["parities"]]
    assert told in next(one["reason"] for one in report["skipped"] if one["backend"] == "ort-cpu")


def test_an_export_in_a_real_process_keeps_stdout_for_the_document(environment: dict[str, str], tmp_path: Path) -> None:
    done = process("export", "lenet", "--no-fold-bn", "--json", environment=environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == "exported/lenet"
    assert done.stderr == ""
    assert len(json.loads(done.stdout)["fold"]["kept"]) == 4
    assert open_bundle(tmp_path / "exported" / "lenet").manifest.name == "lenet"


def test_a_reader_that_goes_away_is_no_error(environment: dict[str, str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "edgekit", "models", "--json"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, check=False, timeout=300)
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_export_refuses_a_folder_with_the_users_files_and_loses_nothing(run: Command, bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    written(mine / "thesis.txt", "ten years of work")
    written(bundle / "notes.txt", "measured on Tuesday")
    for folder, name in ((mine, "thesis.txt"), (bundle, "notes.txt")):
        before = contents(folder)
        result = run("export", "lenet", "--output", folder)
        assert (result.code, result.out) == (2, "")
        assert name in result.err
        assert "--output" in result.err
        assert contents(folder) == before


def test_export_replaces_an_older_bundle(run: Command, bundle: Path) -> None:
    before = open_bundle(bundle).sha256_of()
    assert run("export", "lenet", "--output", bundle, "--no-fold-bn").code == 0
    assert open_bundle(bundle).sha256_of() != before
    assert list(bundle.parent.glob(".*")) == []


@pytest.mark.parametrize("name", ["golden.npz", "manifest.json"])
def test_a_full_disk_leaves_the_older_bundle_and_no_litter(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    before = contents(bundle.parent)
    real = Path.write_bytes

    def full(path: Path, content: bytes) -> int:
        if path.name == name:
            real(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        return real(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    result = run("export", "lenet", "--output", bundle)
    assert (result.code, result.err.count("\n")) == (2, 1)
    assert "No space left on device; free some disk space" in result.err
    monkeypatch.undo()
    assert contents(bundle.parent) == before


def test_models_are_listed_with_their_inputs(run: Command) -> None:
    rows = run("models", "--json").document["models"]
    assert {row["name"]: row["input"] for row in rows} == {
        "lenet": "1x28x28", "lenet-scratch": "1x28x28", "resnet18": "1x28x28", "densenet": "1x32x32",
    }  # fmt: skip


def test_the_doctor_speaks_json_and_judges_by_what_is_broken(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"version": "1", "cuda": False, "built": None, "providers": [], "absence": None}
    answers: list[dict[str, object] | Absence] = [facts]
    monkeypatch.setattr("edgekit.commands.doctor.ask", lambda command, key: answers[0])
    well = run("doctor", "--json")
    assert (well.code, well.document["passed"]) == (0, True)
    answers[0] = Absence("importing it crashes with signal 11", "", broken=True)
    ill = run("doctor", "--json")
    assert (ill.code, ill.document["passed"]) == (1, False)
    assert "BROKEN" in run("doctor").out


@pytest.mark.parametrize("command", [("build",), ("inspect",), ("bench", "--layers", "--backend", "ort-cpu")])
def test_where_only_onnx_is_missing_the_remedy_brings_nothing_else(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """An extra would put another ONNX Runtime or TensorRT over the one that is there."""
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, package=None: None if name == "onnx" else real(name, package))
    result = run(*command, str(bundle), "--json")
    assert result.code == 2
    assert result.document["error"]["message"] == "this needs onnx, which is not installed; pip install onnx"


def test_where_nothing_works_it_is_not_said_that_nothing_is_installed(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a board whose TensorRT lacks CUDA's Python: the doctor knows, pip alone does not."""
    monkeypatch.setattr("edgekit.backends.choose.absence", lambda setup, files: Absence("no CUDA", "install it"))
    message = run("verify", str(bundle), "--json").document["error"]["message"]
    assert message.startswith("no backend works here; see edgekit doctor, or pip install ")


def test_this_machine_is_healthy_by_the_real_doctor(environment: dict[str, str], tmp_path: Path) -> None:
    done = process("doctor", "--json", environment=environment, folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    found = {finding["name"]: finding for finding in json.loads(done.stdout)["findings"]}
    assert (found["torch"]["status"], found["torch"]["version"]) == ("ok", torch.__version__.partition("+")[0])


# --output of verify and bench


CHECKS: dict[str, tuple[str, ...]] = {
    "verify": ("--backend", "ort-cpu"),
    "bench": ("--backend", "ort-cpu threads=1", "--batch", "1", "--seconds", "0.01"),
}
FAILING: dict[str, tuple[str, ...]] = {"verify": ("--atol", "0", "--rtol", "0"), "bench": ("--budget-ms", "0.000001")}
checks = pytest.mark.parametrize("command", CHECKS)


@checks
@pytest.mark.parametrize("fails", [False, True])
def test_output_is_the_json_document_whether_or_not_a_check_fails(run: Command, bundle: Path, command: str, fails: bool) -> None:
    words = (command, bundle, *CHECKS[command], *(FAILING[command] if fails else ()), "--output", "new/report.json")
    result = run(*words, "--json")
    assert (result.code, result.document["passed"]) == (int(fails), not fails)
    assert Path("new/report.json").read_text() == result.out
    drawn = run(*words)  # what was there is replaced
    assert drawn.code == int(fails)
    assert "ort-cpu" in drawn.out
    assert not drawn.out.startswith("{")
    again = json.loads(Path("new/report.json").read_text())
    assert again.keys() == result.document.keys()
    assert command == "bench" or again == result.document  # bench measures anew


def never(*args: object, **options: object) -> None:
    raise AssertionError("the work was begun")


@checks
@pytest.mark.parametrize(
    ("where", "told"),
    [
        ("-", "--output takes a file's name, and - is none; use --json"),
        ("folder", "cannot write folder: a folder of that name is there; choose another name"),
        ("plain/report.json", "cannot write "),
        (ENDLESS, "choose a shorter name"),
        ("{bundle}/report.json", "cannot write {bundle}/report.json: it lies in {bundle}, and a bundle is immutable; choose"),
        ("{bundle}/reports/report.json", "and a bundle is immutable; choose a place outside of it"),
        ("{bundle}/manifest.json", "and a bundle is immutable; choose a place outside of it"),
        ("linked folder/report.json", "and a bundle is immutable; choose a place outside of it"),
        ("linked file", "and a bundle is immutable; choose a place outside of it"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(
    run: Command, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, where: str, told: str
) -> None:
    monkeypatch.setattr(f"edgekit.commands.{command}.{command}", never)
    Path("folder").mkdir()
    Path("linked folder").symlink_to(bundle)
    Path("linked file").symlink_to(bundle / "report.json")
    written(Path("plain"), "mine")
    before = contents(tmp_path)
    result = run(command, bundle, *CHECKS[command], "--output", where.format(bundle=bundle), "--json")
    assert (result.code, result.document["error"]["kind"]) == (2, "OutputError")
    assert told.format(bundle=bundle) in result.document["error"]["message"]
    assert result.err.count("\n") == 1
    assert contents(tmp_path) == before


@checks
def test_an_output_beside_the_bundle_or_named_from_within_it_is_told_apart(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    assert run(command, bundle, *CHECKS[command], "--output", f"{bundle}.json").code == 0
    monkeypatch.chdir(bundle)
    assert run(command, ".", *CHECKS[command], "--output", "../beside.json").code == 0
    inside = run(command, ".", *CHECKS[command], "--output", "report.json")
    assert (inside.code, "a bundle is immutable" in inside.err) == (2, True)


@checks
def test_an_error_writes_no_output_and_an_older_one_stays(run: Command, bundle: Path, command: str) -> None:
    written(Path("older.json"), "of yesterday")
    damaged(bundle, "golden.npz", flipped)
    for name in ("older.json", "none.json"):
        result = run(command, bundle, *CHECKS[command], "--output", name, "--json")
        assert (result.code, result.document["error"]["kind"]) == (2, "BundleError")
    assert Path("older.json").read_text() == "of yesterday"
    assert not Path("none.json").exists()


# edgekit run


@pytest.fixture(scope="module")
def _finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and with what ``edgekit run`` made of them."""
    folder = tmp_path_factory.mktemp("tiny")
    rng = np.random.default_rng(0)
    for name, rows in (("high", slice(0, 9)), ("low", slice(19, 28))):
        (folder / "pictures" / name).mkdir(parents=True)
        for index in range(40):
            pixels = rng.integers(0, 80, (28, 28))
            pixels[rows] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / "pictures" / name / f"{index}.png")
    recipe = written(folder / "tiny.toml", recipe_text(folder / "pictures"))
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = process("run", recipe, "--json", environment=environment, folder=folder)
    assert done.returncode == 0, done.stderr
    written(folder / "first.json", done.stdout)
    return folder


@pytest.fixture
def finished(_finished: Path, run: Command) -> Path:
    """The finished run, copied into the current folder."""
    for name in ("runs", "exported"):
        shutil.copytree(_finished / name, name)
    shutil.copy(_finished / "tiny.toml", "tiny.toml")
    return _finished


def steps(result: Result) -> dict[str, str]:
    return {step["step"]: step["status"] for step in result.document["steps"]}


def test_run_does_every_step_and_leaves_a_run_and_a_bundle(finished: Path, run: Command) -> None:
    first = json.loads((finished / "first.json").read_text())
    assert [(step["step"], step["status"], step["ok"]) for step in first["steps"]] == [
        (name, "done", True) for name in ("train", "export", "verify", "bench")
    ]
    assert first["bundle"] == "exported/tiny"
    assert {"train.json", "weights.safetensors", "metrics.jsonl", "curve.png", "verify.json", "bench.json"} <= {
        path.name for path in Path("runs/tiny").iterdir()
    }
    manifest = open_bundle(Path("exported/tiny")).manifest
    assert manifest.labels == ("high", "low")
    assert manifest.golden.kind == "test-set"
    pictures = sorted((finished / "pictures").rglob("1.png"))
    guessed = run("predict", "exported/tiny", *pictures, "--json").document["predictions"]
    assert [Path(one["image"]).parent.name for one in guessed] == ["high", "low"]
    assert run("verify", "exported/tiny", "--json").code == 0


def test_a_second_run_skips_every_step_and_says_so(finished: Path, run: Command) -> None:
    before = contents(Path("exported"))
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert steps(result) == dict.fromkeys(("train", "export", "verify", "bench"), "skipped")
    assert contents(Path("exported")) == before
    told = run("run", "tiny.toml")
    assert told.code == 0
    assert told.err.count("skipped, unchanged") == 4
    assert told.out.count("unchanged: ") == 4


def test_another_bench_setting_only_times_again(finished: Path, run: Command) -> None:
    written(Path("tiny.toml"), recipe_text(finished / "pictures", seconds=0.06))
    result = run("run", "tiny.toml", "--json")
    assert steps(result) == {
        "train": "skipped", "export": "skipped", "verify": "skipped", "bench": "done",
    }  # fmt: skip
    assert result.document["steps"][-1]["detail"].startswith("again, since the recipe changed: batch 1 ")


def test_where_another_runtime_was_installed_it_is_said_why_steps_are_done_again(
    finished: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.commands.run.absence", lambda kind: f"no {kind} any more")
    result = run("run", "tiny.toml", "--json")
    assert steps(result) == {"train": "skipped", "export": "skipped", "verify": "done", "bench": "done"}
    for step in result.document["steps"][2:]:
        assert step["detail"].startswith("again, since the backends here changed: ")
    assert all("again" not in step["detail"] for step in run("run", "tiny.toml", "--json").document["steps"])


class Entry(NamedTuple):
    """An entry point of a distribution."""

    dist: Any


class Distribution(NamedTuple):
    """What pip knows of a package that brings a backend."""

    name: str
    version: str


@pytest.mark.parametrize("name", ["tensorrt", "cuda-bindings", "edgekit-echo"])
def test_another_version_of_what_a_backend_needs_is_verified_and_timed_again(
    finished: Path, run: Command, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """Of TensorRT, of CUDA's Python, and of a package that brings a backend."""
    if name == "edgekit-echo":
        monkeypatch.setattr("edgekit.commands.run.entry_points", lambda group: (Entry(Distribution(name, "99")),))
    else:
        monkeypatch.setattr(
            "edgekit.machine.packages.version_of", lambda package: "99" if package == name else version_of(package)
        )
    result = run("run", "tiny.toml", "--json")
    assert steps(result) == {"train": "skipped", "export": "skipped", "verify": "done", "bench": "done"}
    for step in result.document["steps"][2:]:
        assert step["detail"].startswith("again, since versions of packages changed: ")


def test_what_an_earlier_edgekit_recorded_is_done_again_and_said(finished: Path, run: Command) -> None:
    record = json.loads(Path("runs/tiny/steps.json").read_text())
    record["verify"]["key"] = "one hash of everything"
    written(Path("runs/tiny/steps.json"), json.dumps(record))
    result = run("run", "tiny.toml", "--json")
    assert steps(result)["verify"] == "done"
    assert "again, since an earlier edgekit did it: " in result.document["steps"][2]["detail"]


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "weights.safetensors", "README.md"])
def test_a_file_lost_from_the_bundle_is_exported_again(finished: Path, run: Command, name: str) -> None:
    before = (Path("exported/tiny") / name).read_bytes()
    (Path("exported/tiny") / name).unlink()
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert (steps(result)["train"], steps(result)["export"]) == ("skipped", "done")
    assert result.document["steps"][1]["detail"].startswith("again, since what it left was changed or lost: ")
    assert (Path("exported/tiny") / name).read_bytes() == before


def test_an_accuracy_below_the_bar_is_exit_1_and_stops_there_each_time(finished: Path, run: Command) -> None:
    text = recipe_text(finished / "pictures", epochs=1, bar=1.0).replace('name = "tiny"', 'name = "other"')
    written(Path("tiny.toml"), text.replace("learning_rate = 0.01", "learning_rate = 1e-9"))
    for status in ("done", "skipped"):
        result = run("run", "tiny.toml", "--json")
        assert (result.code, result.document["passed"]) == (1, False)
        assert steps(result) == {"train": status}
        assert "below the bar of 1.0000" in result.document["steps"][0]["detail"]
    assert not Path("exported/other").exists()


def test_a_damaged_record_of_steps_only_means_that_they_are_done_again(finished: Path, run: Command) -> None:
    written(Path("runs/tiny/steps.json"), "{")
    result = run("run", "tiny.toml", "--json")
    assert result.code == 0
    assert steps(result)["verify"] == "done"
    assert msgspec.json.decode(Path("runs/tiny/steps.json").read_bytes()).keys() == {"train", "export", "verify", "bench"}


def test_run_refuses_to_write_over_the_users_files_before_it_trains(finished: Path, run: Command) -> None:
    written(Path("exported/tiny/thesis.txt"), "ten years of work")
    shutil.rmtree("runs")
    result = run("run", "tiny.toml", "--json")
    assert result.code == 2
    assert "thesis.txt" in result.document["error"]["message"]
    assert not Path("runs").exists()
    assert Path("exported/tiny/thesis.txt").read_text() == "ten years of work"


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
    for arguments in (("train", "pipe.toml"), ("inspect", "pipe.onnx"), ("predict", str(bundle), "pipe.png")):
        result = run(*arguments, "--json")
        assert result.code == 2
        assert "is not a regular file" in result.document["error"]["message"]


def test_the_readmes_python_lines_run_as_they_stand(repository: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True", "17 ()"], done.stderr


@pytest.mark.parametrize("name", ["lenet", "lenet-scratch", "densenet"])
def test_a_committed_bundle_verifies_on_every_runtime_here(repository: Path, run: Command, name: str) -> None:
    result = run("verify", str(repository / "exported" / name), "--json")
    assert result.code == 0
    assert [parity["backend"] for parity in result.document["parities"]][:2] == ["torch", "ort-cpu"]
    assert {parity["samples"] for parity in result.document["parities"]} == {64}


@pytest.mark.parametrize(
    ("package", "content", "arguments", "told"),
    [
        ("onnx", "raise OSError('lib\\nbroken')", ["inspect", "exported/lenet"], "onnx is installed but cannot be imported: lib"),
        ("onnx", "raise RuntimeError", ["build", "exported/lenet"], "onnx is installed but cannot be imported: RuntimeError"),
        ("onnx", "", ["inspect", "exported/lenet"], "onnx is installed but cannot be imported: "),
        (
            "onnxruntime",
            "__version__ = '1'",
            ["verify", "exported/lenet", "--backend", "ort-cpu"],
            "ONNX Runtime is installed but",
        ),
    ],
)
def test_a_package_that_is_broken_is_named_and_the_file_is_not_blamed(
    tmp_path: Path, repository: Path, package: str, content: str, arguments: list[str], told: str
) -> None:
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", "edgekit", *arguments],
        cwd=repository,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(repository)])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert told in " ".join(done.stderr.split())
    assert "unexpected" not in done.stderr
