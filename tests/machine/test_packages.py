"""What is told to somebody who lacks a package."""

from __future__ import annotations

import importlib.metadata
import re
from pathlib import Path

import msgspec
import pytest

from edgekit.machine.packages import pip_install


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
