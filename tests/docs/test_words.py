"""README.md and the pages in docs/ match the code, and the code and commands that they print work."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import command_pages
import msgspec
import numpy as np
import pytest
import torch
import tour
from PIL import Image
from torch import nn
from typer.main import get_command

from edgekit.bundle.folder import open_bundle
from edgekit.cli.app import app
from edgekit.fold import fold, rules
from edgekit.fold.affine import compact
from edgekit.tensors import TensorSpec
from tests.networks import randomise_norms


def test_the_readmes_python_lines_run_as_they_stand(repository: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (repository / "README.md").read_text(), re.DOTALL)
    done = subprocess.run([sys.executable, "-c", block], cwd=repository, capture_output=True, text=True, check=False)
    assert done.stdout.splitlines() == ["True", "17 ()"], done.stderr


PAGE = Path(__file__).parents[2] / "docs" / "folding.md"
INPUT = (TensorSpec("input", "float32", ("batch", 3, 6, 6)),)


class Upscale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.upscale, self.norm = nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.upscale(self.conv(x)))


def test_the_rule_of_the_page_folds_what_the_page_says_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomise_norms(Upscale())
    _, report = fold(model, INPUT)
    assert report.kept[0].obstacles[0].why in PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    names: dict[str, Any] = {**vars(rules), "compact": compact}
    exec(code, names)
    table = {**rules.PASSAGES, torch.ops.aten.pixel_shuffle.default: names["_PIXEL_SHUFFLE"]}
    monkeypatch.setattr(rules, "PASSAGES", table)
    _, report = fold(model, INPUT)
    assert [item.into for item in report.folded] == [("conv",)]
    assert report.error_float64 is not None
    assert report.error_float64 <= 1e-12


@pytest.fixture(scope="module")
def readme() -> str:
    return (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")


def test_the_readme_knows_every_extra_and_no_other(readme: str, repository: Path) -> None:
    extras = msgspec.toml.decode((repository / "pyproject.toml").read_bytes())["project"]["optional-dependencies"]
    table = (repository / "docs" / "install.md").read_text(encoding="utf-8")
    named = {name for names in re.findall(r"'\.\[([\w,]+)\]'", readme + table) for name in names.split(",")}
    assert set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", table, re.MULTILINE)) == set(extras)
    assert set(re.findall(r"^\| `(\w+)` \| .* \| .* \|$", readme, re.MULTILINE)) <= set(extras)
    assert named <= set(extras)


def test_the_readme_knows_every_command_and_no_other(readme: str) -> None:
    pages = re.findall(r"^\| \[`edgekit ([a-z ]+[a-z])[^`]*`\]\(docs/commands/([\w-]+)\.md\)", readme, re.MULTILINE)
    assert [name for name, _ in pages] == [page.replace("-", " ") for _, page in pages]
    assert {name for name, _ in pages} == set(command_pages.commands())


@pytest.mark.parametrize("name", command_pages.commands())
def test_a_commands_page_lists_every_option(repository: Path, name: str) -> None:
    command: Any = get_command(app)
    for word in name.split():
        command = command.commands[word]
    options = {param.opts[0] for param in command.params if param.param_type_name == "option" and not param.hidden}
    page = (repository / "docs" / "commands" / command_pages.file_of(name)).read_text(encoding="utf-8")
    assert options <= set(re.findall(r"--[\w-]+", page))


def test_the_tours_page_has_the_sentences_of_its_script() -> None:
    page = tour.PAGE.read_text(encoding="utf-8")
    for about, _ in tour.STEPS:
        assert f"\n{about}\n" in page


def test_the_tours_picture_is_the_first_golden_input(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "exported").symlink_to(repository / "exported")
    subprocess.run([sys.executable, "-c", tour.BOOT], cwd=tmp_path, check=True)
    preprocess = open_bundle(tmp_path / "exported" / "lenet").manifest.preprocess
    assert preprocess is not None
    golden = np.load(tmp_path / "exported" / "lenet" / "golden.npz")["input.input"][0, 0]
    small = np.asarray(Image.open(tmp_path / "boot.png").resize(golden.shape[::-1])) / 255
    assert np.abs((small - preprocess.mean[0]) / preprocess.std[0] - golden).mean() < 0.2


@pytest.mark.parametrize(("read_from", "code"), [("engine", 0), ("both", 0), ("network", 1)])
def test_the_line_for_ci_tells_an_engine_that_was_read_from_one_that_was_not(
    repository: Path, tmp_path: Path, read_from: str, code: int
) -> None:
    page = (repository / "docs" / "ci.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"^python -c \"(import json; .*)\"$", page, re.MULTILINE)
    (tmp_path / "build.json").write_text(json.dumps({"precision": {"read_from": read_from}}))
    done = subprocess.run([sys.executable, "-c", line], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == code
