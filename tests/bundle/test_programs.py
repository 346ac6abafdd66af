"""The card's programs for a file that takes pictures, built in C++ and in a real browser, label them as edgekit does."""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from edgekit.bundle.folder import open_bundle
from edgekit.commands.predict import predict
from edgekit.commands.quantize import quantize
from edgekit.ship.onnxruntime_web import PACKAGE, VERSION, web_runtime
from tests.examples.test_cpp import HEADERS, MISSING
from tests.reports.browser import CHROMIUM, Browser, browser
from tests.ship.test_web import CACHE, GIVEN, png, served

LABEL = """(async () => {{
  const bytes = Uint8Array.from(atob("{content}"), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], "a.png", {{type: "image/png"}}));
  const input = document.querySelector("input"), output = document.querySelector("output");
  output.value = "";
  input.files = files.files;
  while (!input.onchange) await new Promise((resolve) => setTimeout(resolve, 10));
  await input.onchange({{target: input}});
  return output.value;
}})()"""


@pytest.fixture
def tab(tmp_path: Path) -> Iterator[Browser]:
    with browser(tmp_path / "profile") as opened:
        yield opened


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with a file that takes pictures."""
    folder = tmp_path_factory.mktemp("made") / "bundle"
    quantize(Path(__file__).parents[2] / "exported" / "edgenet", "with-preprocessing", output=folder)
    return folder


def pictures_of(folder: Path, place: Path) -> list[Path]:
    """The golden pictures, and one of which a part is transparent."""
    transparent = place / "transparent.png"
    transparent.write_bytes(png(_transparent()))
    return [*(folder / picture.file for picture in open_bundle(folder).manifest.golden.pictures), transparent]


def labels_of(folder: Path, paths: list[Path]) -> list[str]:
    return [prediction.guesses[0].label for prediction in predict(folder, paths).predictions]


def program_of(folder: Path, kind: str) -> str:
    (text,) = re.findall(rf"```{kind}\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    return str(text)


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
@pytest.mark.skipif(
    not GIVEN and not (CACHE / "web" / f"{PACKAGE}-{VERSION}.tgz").is_file(),
    reason=f"needs {PACKAGE} {VERSION}: run edgekit web once, or let EDGEKIT_WEB_RUNTIME name its folder dist",
)
def test_the_page_labels_pictures_of_any_size(made: Path, tab: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(CACHE))
    shutil.copytree(made, tmp_path / "served")
    (tmp_path / "served" / "index.html").write_text(program_of(made, "html"))
    for name, content in web_runtime(Path(GIVEN) if GIVEN else None).files.items():
        (tmp_path / "served" / name).write_bytes(content)
    paths = pictures_of(made, tmp_path)
    with served(tmp_path / "served") as address:
        tab.open(address)
        labels = [tab.value(LABEL.format(content=base64.b64encode(path.read_bytes()).decode())) for path in paths]
        assert tab.problems == []
    assert labels == labels_of(made, paths)


@pytest.mark.skipif(bool(MISSING), reason=f"needs {', '.join(MISSING)}")
def test_the_program_in_cpp_labels_pictures_of_any_size(made: Path, tmp_path: Path) -> None:
    library = next((Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*"))
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    (tmp_path / "label.cpp").write_text(program_of(made, "cpp"))
    words = ["-Wall", "-Wextra", "-Werror", "-isystem", str(HEADERS), "label.cpp", "-L.", "-lonnxruntime", "-o", "label"]
    built = subprocess.run(["c++", "-std=c++17", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    environment = {**os.environ, "LD_LIBRARY_PATH": str(tmp_path)}
    paths = pictures_of(made, tmp_path)

    def labelled(path: Path) -> subprocess.CompletedProcess[str]:
        command = [str(tmp_path / "label"), str(path)]
        return subprocess.run(command, cwd=made, env=environment, capture_output=True, text=True, check=False)

    assert [labelled(path).stdout.strip() for path in paths] == labels_of(made, paths)
    missing = labelled(tmp_path / "nowhere.png")
    assert missing.returncode == 2
    assert "nowhere.png" in missing.stderr


def _transparent() -> NDArray[np.uint8]:
    """A bright shape, of which all but a part is transparent."""

    pixels = np.full((90, 61, 4), 230, np.uint8)
    pixels[:, :, 3] = 0
    pixels[20:70, 10:50, 3] = 255
    return pixels
