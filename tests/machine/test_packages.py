"""What is told to somebody who lacks a package."""

from __future__ import annotations

import ast
import importlib.metadata
import re
from pathlib import Path

import msgspec
import pytest

from edgekit.machine.packages import Package, below_floor, pip_install, plain_package
from edgekit.setups import Absence


@pytest.mark.parametrize("extra", ["train", "cpu", "gpu", "trt", "board", "rtx"])
def test_a_remedy_installs_what_the_extra_brings_and_never_the_other_project_called_edgekit(extra: str, repository: Path) -> None:
    project = msgspec.toml.decode((repository / "pyproject.toml").read_bytes())["project"]
    wanted = {re.split(r"[<>=]", line)[0] for line in project["optional-dependencies"][extra]}
    command = pip_install(extra)
    assert command.startswith("pip install ")
    assert set(command.removeprefix("pip install ").split()) == wanted


def test_beside_tensorrt_and_on_a_board_no_onnxruntime_comes_over_the_one_that_is_there(repository: Path) -> None:
    extras = msgspec.toml.decode((repository / "pyproject.toml").read_bytes())["project"]["optional-dependencies"]
    assert set(extras["trt"]) < set(extras["gpu"])
    assert not any(line.startswith("onnxruntime") for name in ("trt", "board", "rtx") for line in extras[name])
    assert not any(line.startswith("tensorrt") for line in extras["board"])


def test_from_a_folder_that_was_never_installed_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> list[str]:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "requires", absent)
    assert pip_install("rtx") == "install edgekit's extra rtx from its repository"


def test_no_message_tells_anybody_to_install_edgekit_from_pypi(repository: Path) -> None:
    files = [path.name for path in (repository / "edgekit").rglob("*.py") if re.search(r"install '?edgekit\[", path.read_text())]
    assert files == []


def test_every_extra_that_a_remedy_names_exists(repository: Path) -> None:
    extras = msgspec.toml.decode((repository / "pyproject.toml").read_bytes())["project"]["optional-dependencies"]
    named = set()
    for path in (repository / "edgekit").rglob("*.py"):
        for call in (node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)):
            words = [keyword.value for keyword in call.keywords if keyword.arg == "extra"]
            words += call.args if getattr(call.func, "id", "") == "pip_install" else []
            named |= {word.value for word in words if isinstance(word, ast.Constant)}
        named |= {
            name for names in re.findall(r"(?:edgekit|\.)\[(\w+(?:,\w+)*)\]'", path.read_text()) for name in names.split(",")
        }
    assert {"train", "cpu", "openvino", "rtx"} <= named <= {*extras, None}


def test_every_package_that_a_remedy_installs_is_one_of_the_extras_or_one_of_theirs(repository: Path) -> None:
    project = msgspec.toml.decode((repository / "pyproject.toml").read_bytes())["project"]
    lines = [*project["dependencies"], *(line for lines in project["optional-dependencies"].values() for line in lines)]
    known = {re.split(r"[<>=;\[]", line)[0] for line in lines} | {"nvidia-cudnn-cu12"}  # what ONNX Runtime's and TensorRT's need
    for path in (repository / "edgekit").rglob("*.py"):
        for word in re.findall(r"pip install (?:--force-reinstall )?(?!the )'?([a-z][\w.-]*\w)", path.read_text()):
            assert word in known, path


def test_a_floor_holds_for_every_package_that_brings_the_runtime_and_for_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    versions = {"onnxruntime-gpu": "1.20.1", "openvino": "2025.3"}
    monkeypatch.setattr("edgekit.machine.packages.version_of", lambda name: versions.get(name, ""))

    def package(name: str, runtime: str = "") -> Package:
        return Package(name, lambda: None, (), plain_package, runtime=runtime)

    packages = [package("onnxruntime"), package("onnxruntime-gpu", "onnxruntime"), package("openvino")]
    assert below_floor(packages, {"onnxruntime": "1.21"}, "int8.onnx") == Absence(
        "int8.onnx needs onnxruntime-gpu 1.21 or newer, and 1.20.1 is installed", "pip install 'onnxruntime-gpu>=1.21'"
    )
    assert below_floor(packages, {"onnxruntime": "1.9"}, "int8.onnx") is None  # a number, not a text
    assert below_floor(packages[2:], {"onnxruntime": "1.21"}, "int8.onnx") is None
    versions.clear()  # installed in a way that pip does not know
    assert below_floor(packages, {"onnxruntime": "1.21"}, "int8.onnx") is None


def test_a_floor_that_is_no_version_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.machine.packages.version_of", lambda name: "1.0")
    absence = below_floor([Package("x", lambda: None, (), plain_package)], {"x": "new; rm"}, "int8.onnx")
    assert absence is not None
    assert "cannot be compared" in absence.reason
