"""The card's page for a file that takes pictures labels them in a real browser as edgekit does."""

from __future__ import annotations

import base64
import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgekit.bundle.folder import open_bundle
from edgekit.commands.predict import predict
from edgekit.commands.quantize import quantize
from edgekit.ship.onnxruntime_web import PACKAGE, VERSION, web_runtime
from tests.reports.browser import CHROMIUM, Browser, browser
from tests.ship.test_web import CACHE, GIVEN, png, served

pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(
        not GIVEN and not (CACHE / "web" / f"{PACKAGE}-{VERSION}.tgz").is_file(),
        reason=f"needs {PACKAGE} {VERSION}: run edgekit web once, or let EDGEKIT_WEB_RUNTIME name its folder dist",
    ),
]
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


def test_the_page_of_the_card_labels_pictures_of_any_size(
    tab: Browser, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(CACHE))
    folder = tmp_path / "bundle"
    quantize(repository / "exported" / "edgenet", "with-preprocessing", output=folder)
    shutil.copytree(folder, tmp_path / "served")
    (page,) = re.findall(r"```html\n(.*?)```", (folder / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    (tmp_path / "served" / "index.html").write_text(page)
    for name, content in web_runtime(Path(GIVEN) if GIVEN else None).files.items():
        (tmp_path / "served" / name).write_bytes(content)
    paths = [folder / picture.file for picture in open_bundle(folder).manifest.golden.pictures]
    transparent = tmp_path / "transparent.png"
    transparent.write_bytes(png(_transparent()))
    labels = []
    with served(tmp_path / "served") as address:
        tab.open(address)
        for path in (*paths, transparent):
            labels.append(tab.value(LABEL.format(content=base64.b64encode(path.read_bytes()).decode())))
        assert tab.problems == []
    expected = predict(folder, [*paths, transparent]).predictions
    assert labels == [prediction.guesses[0].label for prediction in expected]


def _transparent() -> NDArray[np.uint8]:
    """A bright shape, of which all but a part is transparent."""

    pixels = np.full((90, 61, 4), 230, np.uint8)
    pixels[:, :, 3] = 0
    pixels[20:70, 10:50, 3] = 255
    return pixels
