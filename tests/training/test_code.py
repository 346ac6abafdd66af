"""The files that define a model: what it imports of its own project, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.training.code import source_files


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder with a package, as the current folder."""
    files = {
        "mine/__init__.py": "",
        "mine/net.py": "import torch\nfrom . import blocks\nfrom mine.deep.parts import Part\nimport shared as s\n",
        "mine/blocks.py": "import mine.net\nfrom .more import *\n",
        "mine/more.py": "def late():\n    from mine import later\n",
        "mine/later.py": "",
        "mine/deep/__init__.py": "from ..up import x\n",
        "mine/deep/parts.py": "",
        "mine/up.py": "x = 1\n",
        "mine/unrelated.py": "",
        "shared.py": "",
        "other.py": "",
        "torch_helpers.py": "",
    }
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def names(model: str, root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in source_files(model)}


def test_imports_are_followed_through_packages_functions_and_circles(project: Path) -> None:
    assert names("mine.net:make", project) == {
        "mine/__init__.py", "mine/net.py", "mine/blocks.py", "mine/more.py", "mine/later.py", "mine/deep/__init__.py",
        "mine/deep/parts.py", "mine/up.py", "shared.py",
    }  # fmt: skip


def test_a_file_beside_the_model_that_it_does_not_import_does_not_count(project: Path) -> None:
    assert names("shared:make", project) == {"shared.py"}


def test_a_shipped_models_files_are_edgekits_own() -> None:
    assert {path.name for path in source_files("lenet")} >= {"lenet.py", "batchnorm.py"}


def test_an_installed_package_is_followed_inside_itself() -> None:
    files = source_files("torchvision.models:resnet18")
    assert any(path.name == "resnet.py" for path in files)
    assert all("torchvision" in path.parts for path in files)


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize("name", ["nowhere.net:make", "", ":make", "mine.nowhere:make"])
def test_a_model_that_is_nowhere_has_no_files(name: str) -> None:
    assert source_files(name) == ()


def test_a_module_that_is_no_python_has_no_imports(project: Path) -> None:
    (project / "other.py").write_text("import (")
    assert names("other:make", project) == {"other.py"}


def test_imports_are_followed_to_other_places_of_the_search_path(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere, installed = project / "elsewhere", project / "lib" / "site-packages"
    for place in (elsewhere, elsewhere / "layers" / "inner", installed):
        place.mkdir(parents=True)
    (project / "other.py").write_text("import helpers, layers.inner.deep, packaged, json, edgekit.files\n")
    (elsewhere / "helpers.py").write_text("import shared\n")
    (elsewhere / "layers" / "inner" / "deep.py").write_text("from . import near\n")  # of packages without an __init__.py
    (elsewhere / "layers" / "inner" / "near.py").write_text("")
    (installed / "packaged.py").write_text("")
    for place in (elsewhere, installed):
        monkeypatch.syspath_prepend(place)
    assert names("other:make", project) == {
        "other.py", "elsewhere/helpers.py", "shared.py", "elsewhere/layers/inner/deep.py", "elsewhere/layers/inner/near.py",
    }  # fmt: skip


def test_the_order_of_the_files_is_that_of_their_modules_wherever_they_lie(
    project: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    (project / "other.py").write_text("import helpers, zebra\n")
    place = tmp_path_factory.mktemp("a")
    for name in ("helpers", "zebra"):
        (place / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(place)
    assert [path.stem for path in source_files("other:make")] == ["helpers", "other", "zebra"]


def test_nothing_is_run(project: Path) -> None:
    (project / "mine" / "__init__.py").write_text("raise SystemExit\n")
    assert "mine/net.py" in names("mine.net:make", project)


@pytest.mark.parametrize(
    ("statement", "more"),
    [
        ('importlib.import_module("other")', {"other.py"}),
        ('__import__("mine.up")', {"mine/up.py"}),
        ('import_module(".up", __package__)', {"mine/up.py"}),
        ('import_module(f"mine.deep.{kind}")', {"mine/deep/__init__.py", "mine/deep/parts.py", "mine/up.py"}),
        ('import_module("mine.deep." + kind)', {"mine/deep/__init__.py", "mine/deep/parts.py", "mine/up.py"}),
        ("import_module(kind)", set()),
        ('import_module(f"{kind}.up")', set()),
        ('print("other")', set()),
    ],
)
def test_modules_that_are_imported_by_a_text_are_followed_as_far_as_it_tells(
    project: Path, statement: str, more: set[str]
) -> None:
    (project / "mine" / "net.py").write_text(statement)
    assert names("mine.net:make", project) == {"mine/__init__.py", "mine/net.py", *more}
