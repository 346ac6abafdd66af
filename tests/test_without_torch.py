"""On the target there is no torch, and ``--help`` needs nothing heavy."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.machine.packages import pip_install

# a Python in which the packages of argv[1] are not installed; argv[2:] is the command line
WITHOUT = """
import importlib.util, sys
blocked = set(sys.argv[1].split(","))

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r} (blocked)", name=name)

found = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name.partition(".")[0] in blocked else found(name, package)
sys.meta_path.insert(0, Finder())
sys.argv = ["edgekit", *sys.argv[2:]]
from edgekit.cli.app import main
"""
TRAINING_ONLY = "torch,torchvision,onnxscript,onnx_ir,tensorrt,matplotlib,safetensors"
HEAVY = f"{TRAINING_ONLY},tensorrt_rtx,onnx,onnxruntime,PIL,numpy,msgspec"

# runs --help of every command, then prints which of the blocked packages were loaded all the same
EVERY_HELP = f"""{WITHOUT}
import contextlib, io, json, typer.main
from edgekit.cli.app import app

def commands(group, path=()):
    for name, command in group.commands.items():
        yield (*path, name)
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))

codes = {{}}
for path in [(), *commands(typer.main.get_command(app))]:
    sys.argv = ["edgekit", *path, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        try:
            main()
        except SystemExit as done:
            codes[" ".join(path)] = [done.code, "Usage:" in out.getvalue()]
loaded = sorted(blocked & {{name.partition(".")[0] for name in sys.modules}})
print(json.dumps({{"codes": codes, "loaded": loaded}}))
"""


def without(
    packages: str, *args: str, environment: dict[str, str], program: str = WITHOUT + "main()"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program, packages, *args],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=1800,
    )


def test_every_help_works_and_loads_nothing_heavy(environment: dict[str, str]) -> None:
    done = without(HEAVY, environment=environment, program=EVERY_HELP)
    assert done.returncode == 0, done.stderr
    find_spec = json.loads(done.stdout)
    assert {
        "",
        "run",
        "train",
        "export",
        "verify",
        "bench",
        "evaluate",
        "tune",
        "web",
        "quantize",
        "build",
        "inspect",
        "predict",
        "pack",
        "unpack",
        "models",
        "runs",
        "data",
        "data cache",
        "data fetch",
        "diff",
        "report",
        "doctor",
    } == set(find_spec["codes"])
    assert all(result == [0, True] for result in find_spec["codes"].values()), find_spec
    assert find_spec["loaded"] == []


def test_help_loads_nothing_heavy_where_it_is_installed(environment: dict[str, str]) -> None:
    program = EVERY_HELP.replace("sys.meta_path.insert", "(lambda *_: None)")
    find_spec = json.loads(without(HEAVY, environment=environment, program=program).stdout)
    assert find_spec["loaded"] == []


def test_the_packages_are_really_blocked(environment: dict[str, str]) -> None:
    """The partner of the tests here: a command that needs torch fails, and says what to install."""
    done = without(TRAINING_ONLY, "export", "lenet", "--json", environment=environment)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    error = json.loads(done.stdout)["error"]
    assert error["kind"] == "MissingError"
    assert "torch" in error["message"]
    assert pip_install("train") in error["message"]


def test_a_file_that_takes_pictures_cannot_be_made_without_torch_and_it_says_so(
    bundle: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    words = ("quantize", str(bundle), "--to", "with-preprocessing", "--output", str(tmp_path / "new"))
    done = without(TRAINING_ONLY, *words, environment=environment)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "this needs torch, which is not installed" in done.stderr
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("command", ["verify", "bench", "build", "evaluate", "inspect", "predict", "report"])
def test_a_bundle_can_be_used_without_torch(command: str, bundle: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    if command == "build":
        pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    picture = tmp_path / "picture.png"
    Image.fromarray(np.arange(784, dtype=np.uint16).reshape(28, 28).astype(np.uint8)).save(picture)
    for label in ("class 0", "class 7"):
        (tmp_path / "photos" / label).mkdir(parents=True)
        shutil.copy(picture, tmp_path / "photos" / label)
    more = {
        "bench": ["--seconds", "0.05", "--batch", "1"],
        "predict": [str(picture)],
        "evaluate": ["--data", str(tmp_path / "photos")],
        "report": ["--output", str(tmp_path / "report.html")],
    }.get(command, [])
    done = without(TRAINING_ONLY, command, str(bundle), *more, "--json", environment=environment)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    if command in ("verify", "bench"):
        skipped = {absence["backend"]: absence["reason"] for absence in report["skipped"]}
        assert "PyTorch is not installed" in skipped["torch"]
    if command == "verify":
        assert "ort-cpu" in [parity["backend"] for parity in report["parities"]]


def test_asking_for_torch_where_it_is_not_says_how_to_install_it(bundle: Path, environment: dict[str, str]) -> None:
    done = without(TRAINING_ONLY, "verify", str(bundle), "--backend", "torch", environment=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert pip_install("train") in done.stderr


def test_what_a_gpu_shows_of_a_targets_runtimes_can_be_tested_without_torch(
    repository: Path, environment: dict[str, str]
) -> None:
    program = f"{WITHOUT}import pytest\nsys.exit(pytest.main(sys.argv[1:]))"
    tests = str(repository / "tests" / "test_gpu.py")
    done = without(TRAINING_ONLY, "-q", "--collect-only", tests, environment=environment, program=program)
    assert done.returncode == 0, done.stdout


def test_a_bundle_is_handed_on_with_no_runtime_at_all(bundle: Path, tmp_path: Path, environment: dict[str, str]) -> None:
    blocked = f"{TRAINING_ONLY},tensorrt_rtx,onnx,onnxruntime,PIL,openvino"
    out = tmp_path / "out"
    for words in (
        ("export", str(bundle), "--triton", str(out / "models"), "--golden-raw", str(out / "raw")),
        ("pack", str(bundle), "--output", str(out / "lenet.zip")),
        ("unpack", str(out / "lenet.zip"), "--output", str(out / "lenet")),
    ):
        done = without(blocked, *words, environment=environment)
        assert done.returncode == 0, done.stderr
    assert (out / "lenet" / "manifest.json").read_bytes() == (bundle / "manifest.json").read_bytes()
