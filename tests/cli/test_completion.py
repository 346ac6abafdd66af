"""What Tab offers: models, backends, variants of the bundle on the command line, recipes and folders."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from edgekit.backends import table
from edgekit.bundle.folder import open_bundle
from edgekit.bundle.manifest import MANIFEST
from edgekit.cli.app import app
from edgekit.models import MODELS


def offered(*words: str) -> list[str]:
    """What bash is given for Tab behind the last of ``words``."""
    environment = {
        "_EDGEKIT_COMPLETE": "complete_bash",
        "COMP_WORDS": " ".join(("edgekit", *words)),
        "COMP_CWORD": str(len(words)),
    }
    result = CliRunner().invoke(app, [], prog_name="edgekit", env=environment)
    return result.output.split()


def test_models_and_backends() -> None:
    assert offered("export", "le") == ["lenet", "lenet-scratch"]
    assert set(MODELS) <= set(offered("export", ""))
    assert set(MODELS) <= set(offered("inspect", ""))
    assert offered("verify", "b", "--backend", "") == [*table(), "tuned"]
    assert offered("verify", "b", "--backend", "ort-cp") == ["ort-cpu"]
    assert offered("predict", "b", "--backend", "ort-cp") == ["ort-cpu"]
    assert "ort-cpu" not in offered("build", "b", "--backend", "")
    assert offered("verify", "b", "--source", "res") == ["resnet18"]
    assert offered("train", "r.toml", "--device", "c") == ["cpu", "cuda"]
    assert offered("data", "fetch", "") == ["fashion-mnist"]


@pytest.mark.parametrize("command", ["verify", "bench", "build", "inspect", "predict"])
def test_variants_are_those_of_the_bundle_that_was_named(command: str, bundle: Path) -> None:
    names = [variant.name for variant in open_bundle(bundle).manifest.variants]
    assert offered(command, str(bundle), "--variant", "") == names == ["float32"]
    assert offered(command, str(bundle), "--variant", "floa") == ["float32"]
    assert offered(command, str(bundle), "--variant", "x") == []
    assert offered(command, "--json", str(bundle), "--variant", "f") == ["float32"]
    if command != "inspect":
        assert offered(command, "--backend", "ort-cpu", str(bundle), "--variant", "f") == ["float32"]


def test_without_a_bundle_there_are_no_variants(tmp_path: Path) -> None:
    assert offered("verify", "--variant", "") == []
    assert offered("verify", str(tmp_path), "--variant", "") == []
    (tmp_path / MANIFEST).write_text("{")
    assert offered("verify", str(tmp_path), "--variant", "") == []


def test_recipes_and_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipes" / ".hidden").mkdir(parents=True)
    for name in ("lenet.toml", "resnet.toml", "notes.txt"):
        (tmp_path / "recipes" / name).touch()
    (tmp_path / "mine.toml").touch()
    for command in ("run", "train"):
        assert offered(command, "") == ["mine.toml", "recipes/"]
        assert offered(command, "rec") == ["recipes/lenet.toml", "recipes/resnet.toml"]
        assert offered(command, "recipes/") == ["recipes/lenet.toml", "recipes/resnet.toml"]
        assert offered(command, "recipes/l") == ["recipes/lenet.toml"]
        assert offered(command, f"{tmp_path}/recipes/l") == [f"{tmp_path}/recipes/lenet.toml"]
        assert offered(command, "nosuch/") == []
    (tmp_path / "pyproject.toml").touch()
    assert offered("run", "pyp") == []
    (tmp_path / "empty").mkdir()
    assert offered("run", "em") == ["empty/"]
    assert offered("export", "m") == ["mine.toml"]
    assert "recipes/" in offered("export", "")
