"""What is said where a package is missing or broken."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from edgekit.setups import Absence
from tests.command_line import Command, process, written


@pytest.mark.parametrize(("content", "expected"), [("import sys; sys.exit(0)", "it ends the program"), ("", "has no attribute")])
def test_a_broken_runtime_is_skipped_by_name(
    bundle: Path, environment: dict[str, str], tmp_path: Path, content: str, expected: str
) -> None:
    """Its own exit with 0 must not look like a bundle that was verified."""
    (tmp_path / "onnxruntime").mkdir()
    written(tmp_path / "onnxruntime" / "__init__.py", content)
    environment = environment | {"PYTHONPATH": os.pathsep.join([str(tmp_path), environment.get("PYTHONPATH", "")])}
    alone = process("verify", bundle, "--backend", "ort-cpu", "--json", environment=environment, folder=tmp_path)
    assert alone.returncode == 2
    assert expected in json.loads(alone.stdout)["error"]["message"]
    others = process("verify", bundle, "--json", environment=environment, folder=tmp_path)
    report = json.loads(others.stdout)
    assert (others.returncode, others.stderr) == (0, "")
    assert "torch" in [parity["backend"] for parity in report["parities"]]
    assert expected in next(absence["reason"] for absence in report["skipped"] if absence["backend"] == "ort-cpu")


def test_the_doctor_speaks_json_and_judges_by_what_is_broken(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    facts = {"version": "1", "cuda": False, "built": None, "providers": [], "absence": None}
    facts |= {"devices": ["CPU"], "capabilities": ["FP32"]}
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


# runs ``edgekit`` with its words; the doctor gives a probe as long as a busy machine takes to import a runtime
PATIENT = """
from edgekit.commands import doctor
doctor.LIMITS = doctor.LIMITS._replace(seconds=3600)
from edgekit.cli.process import run_process
run_process()
"""


def test_this_machine_is_healthy_by_the_real_doctor(environment: dict[str, str], tmp_path: Path) -> None:
    command = [sys.executable, "-c", PATIENT, "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "error" not in done.stderr  # on a busy machine it tells how far it is
    report = json.loads(done.stdout)
    findings = {finding["name"]: finding for finding in report["findings"]}
    assert (findings["torch"]["status"], findings["torch"]["version"]) == ("ok", torch.__version__.partition("+")[0])
    assert all(findings[name]["version"] for name in ("torchvision", "onnx"))
    assert report["backends"]["torch"] is None


@pytest.mark.parametrize(
    ("package", "content", "arguments", "expected"),
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
    tmp_path: Path, repository: Path, package: str, content: str, arguments: list[str], expected: str
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
    assert expected in " ".join(done.stderr.split())
    assert "unexpected" not in done.stderr
