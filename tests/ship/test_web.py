"""``edgekit web`` in a real browser: the proof, its must-fail partners, labels, and texts of a bundle that stay texts."""

from __future__ import annotations

import base64
import functools
import io
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from PIL import Image

from edgekit.bundle.folder import open_bundle
from edgekit.commands.predict import predict
from edgekit.commands.web import web
from edgekit.files import cache_root
from edgekit.preprocess import Preprocess
from edgekit.ship.onnxruntime_web import PACKAGE, VERSION
from tests.bundle.editing import edit
from tests.reports.browser import CHROMIUM, Browser, browser

CACHE = cache_root()
"""The user's own, before a test is given another."""
GIVEN = os.environ.get("EDGEKIT_WEB_RUNTIME")
AXE = Path(__file__).parents[1] / "reports" / "axe" / "axe.min.js"
pytestmark = [
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium"),
    pytest.mark.skipif(
        not GIVEN and not (CACHE / "web" / f"{PACKAGE}-{VERSION}.tgz").is_file(),
        reason=f"needs {PACKAGE} {VERSION}: run edgekit web once, or let EDGEKIT_WEB_RUNTIME name its folder dist",
    ),
]

Page = Callable[..., Path]
Opened = Callable[..., AbstractContextManager[tuple[Browser, str]]]

ENDED = """new Promise((resolve) => {
  const said = document.documentElement.dataset;
  const look = () => said.state ? resolve(said.state) : setTimeout(look, 10);
  look();
})"""
DROP = """(async () => {{
  const bytes = Uint8Array.from(atob("{content}"), (letter) => letter.charCodeAt(0));
  const files = new DataTransfer();
  files.items.add(new File([bytes], {name}, {{type: "image/png"}}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {{dataTransfer: files, bubbles: true, cancelable: true}}));
  const times = document.getElementById("times"), waiting = document.getElementById("waiting");
  while (!times.textContent && waiting.textContent === "No picture yet.") await new Promise((resolve) => setTimeout(resolve, 10));
  const texts = (item) => [...item.children].map((part) => part.textContent).slice(0, 2);
  return [...document.querySelectorAll("#guesses li")].map(texts);
}})()"""
PREPARED = """(async () => {{
  const {{ decoded, prepared }} = await import("./picture.js");
  const bytes = Uint8Array.from(atob("{content}"), (letter) => letter.charCodeAt(0));
  return [...prepared(await decoded(new Blob([bytes], {{type: "image/{kind}"}})), {how}).input];
}})()"""


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Page:
    """Writes the page of a bundle."""
    if not GIVEN:
        monkeypatch.setenv("EDGEKIT_CACHE", str(CACHE))

    def written(bundle: Path, variant: str = "") -> Path:
        folder = tmp_path / "page"
        web(bundle, folder, variant=variant, runtime=GIVEN or None)
        return folder

    return written


class _Silent(SimpleHTTPRequestHandler):
    def log_message(self, *arguments: Any) -> None:
        pass


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """The address of ``folder`` as long as the block runs."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Silent, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    """One browser for all tests here: to start it takes longer than a page."""
    with browser(tmp_path_factory.mktemp("profile")) as tab:
        yield tab


@pytest.fixture
def opened(chromium: Browser) -> Opened:
    """Opens a folder's page, and gives the tab and how the proof has ended; the page may fetch nothing but its own files."""

    @contextmanager
    def shown(folder: Path, **window: Any) -> Iterator[tuple[Browser, str]]:
        chromium.requests.clear()
        chromium.problems.clear()
        with served(folder) as address:
            chromium.open(address, **window)
            yield chromium, str(chromium.value(ENDED))
            assert all(url.startswith((address, "data:", "blob:")) for url in chromium.requests)

    return shown


def scaled_weight(folder: Path) -> None:
    """The first weights 1.01 times as large."""
    model = onnx.load(folder / "model.onnx")
    tensor = next(tensor for tensor in model.graph.initializer if len(tensor.dims) == 4)
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    onnx.save(model, folder / "model.onnx")


def changed_golden_output(folder: Path) -> None:
    """One of the recorded outputs 0.1 % of the scale larger."""
    place = json.loads((folder / "page.json").read_text())["arrays"]["float64.output"]
    content = bytearray((folder / "golden.bin").read_bytes())
    recorded = np.frombuffer(content, "<f8", int(np.prod(place["shape"])), place["offset"])
    recorded[7] += 1e-3 * np.abs(recorded).max()
    (folder / "golden.bin").write_bytes(content)


def changed_picture(folder: Path) -> None:
    """A golden picture that is another one's."""
    (folder / "picture-0.png").write_bytes((folder / "picture-1.png").read_bytes())


def png(pixels: Any, mode: str | None = None) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, "PNG")
    return buffer.getvalue()


def test_the_page_proves_itself_and_then_labels_as_predict_does(
    page: Page, repository: Path, tmp_path: Path, opened: Opened
) -> None:
    bundle = repository / "exported" / "lenet"
    picture = tmp_path / "large.png"
    picture.write_bytes(png(np.random.default_rng(0).integers(0, 256, (61, 47, 3), np.uint8)))
    with opened(page(bundle)) as (tab, state):
        assert state == "pass"
        assert (
            tab.value("[...document.querySelectorAll('#checks td:last-child')].map((cell) => cell.textContent)") == ["pass"] * 3
        )
        content = base64.b64encode(picture.read_bytes()).decode()
        shown = tab.value(DROP.format(content=content, name=json.dumps("large.png")))
        assert tab.value("document.getElementById('times').textContent").startswith(tuple("0123456789"))
        assert tab.problems == []
    expected = predict(bundle, picture, "ort-cpu threads=1", top=5).predictions[0].guesses
    assert [label for label, _ in shown] == [guess.label for guess in expected]
    assert [share for _, share in shown] == [f"{100 * guess.probability:.1f} %" for guess in expected]


@pytest.mark.parametrize("change", [scaled_weight, changed_golden_output, changed_picture])
def test_what_was_changed_fails_and_labels_nothing(
    page: Page, repository: Path, tmp_path: Path, change: Callable[[Path], None], opened: Opened
) -> None:
    folder = page(repository / "exported" / "lenet")
    change(folder)
    with opened(folder) as (tab, state):
        assert state == "fail"
        assert tab.value("document.getElementById('labelling').hidden") is True
        assert "FAIL" in tab.value("document.body.innerText")


@pytest.mark.parametrize("variant", ["int8", "float16"])
def test_a_converted_variant_is_held_to_its_own_bars(
    page: Page, repository: Path, tmp_path: Path, variant: str, opened: Opened
) -> None:
    folder = page(repository / "exported" / "edgenet", variant)
    with opened(folder) as (tab, state):
        assert state == "pass"
        asked = tab.value("[...document.querySelectorAll('#checks td:first-child')].map((cell) => cell.textContent)")
        assert any("SNR" in name for name in asked)
        assert any("steps" in name for name in asked) is (variant == "int8")


def test_a_page_whose_runtime_is_missing_says_so(page: Page, repository: Path, tmp_path: Path, opened: Opened) -> None:
    folder = page(repository / "exported" / "lenet")
    (folder / "model.onnx").unlink()
    with opened(folder) as (tab, state):
        assert state == "error"
        assert "model.onnx is missing from this page's folder" in tab.value("document.getElementById('verdict').textContent")


@pytest.mark.parametrize(
    ("color", "shape"),
    [("grey", (28, 28)), ("grey", (97, 131)), ("rgb", (12, 50, 3)), ("rgb", (64, 20, 3)), ("grey", (200, 30, 3))],
)
def test_the_browser_prepares_a_picture_to_the_last_bit_as_edgekit_does(
    page: Page, bundle: Path, tmp_path: Path, color: Any, shape: tuple[int, ...], opened: Opened
) -> None:
    channels = 1 if color == "grey" else 3
    how = Preprocess(color, 28, 28, (0.286, 0.4, 0.1)[:channels], (0.353, 0.2, 0.7)[:channels])
    picture = tmp_path / "picture.png"
    picture.write_bytes(png(np.random.default_rng(1).integers(0, 256, shape, np.uint8)))
    expected = how.normalise(how.open(picture)[None])
    described = {"color": color, "height": 28, "width": 28, "mean": how.mean, "std": how.std}
    with opened(page(bundle)) as (tab, _):
        content = base64.b64encode(picture.read_bytes()).decode()
        found = tab.value(PREPARED.format(content=content, kind="png", how=json.dumps(described)))
    assert np.array_equal(np.float32(found), expected.ravel())


def test_a_photograph_is_turned_upright_and_transparency_is_black(
    page: Page, bundle: Path, tmp_path: Path, opened: Opened
) -> None:
    how = Preprocess("rgb", 20, 30, (0.0,) * 3, (1 / 255,) * 3)
    described = {"color": "rgb", "height": 20, "width": 30, "mean": how.mean, "std": how.std}
    ramp = np.add.outer(np.arange(80), 2 * np.arange(60)).astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.stack([ramp, ramp[::-1], 255 - ramp], 2)).save(tmp_path / "turned.jpeg", quality=95, exif=exif)
    clear = np.random.default_rng(2).integers(0, 256, (40, 60, 4), np.uint8)
    (tmp_path / "clear.png").write_bytes(png(clear))
    with opened(page(bundle)) as (tab, _):
        for name in ("turned.jpeg", "clear.png"):
            content = base64.b64encode((tmp_path / name).read_bytes()).decode()
            kind = name.rpartition(".")[2]
            found = tab.value(PREPARED.format(content=content, kind=kind, how=json.dumps(described)))
            expected = how.normalise(how.open(tmp_path / name)[None]).ravel()
            assert np.abs(np.float32(found) - expected).max() <= 2, name  # grey levels: decoders and blending round differently


def test_texts_of_a_bundle_are_never_markup(page: Page, bundle: Path, tmp_path: Path, opened: Opened) -> None:
    hostile = "<img src=x onerror='document.title=1'>\u202eevil\x1b"
    edit(bundle, lambda document: document.update(name=hostile, labels=[f"{index}{hostile}" for index in range(10)]))
    with opened(page(bundle)) as (tab, state):
        assert state == "pass"
        assert tab.value("document.getElementById('name').textContent") == r"<img src=x onerror='document.title=1'>\u202eevil\x1b"
        content = base64.b64encode(png(np.zeros((28, 28), np.uint8))).decode()
        shown = tab.value(DROP.format(content=content, name=json.dumps("<b>x</b>.png")))
        assert all(label[1:].startswith("<img src=x") for label, _ in shown)
        assert tab.value("document.querySelectorAll('#guesses img, #caption b').length") == 0
        assert tab.value("document.title").startswith("<img src=x")  # and not 1, which it would make it


def test_what_is_no_picture_is_said_in_one_sentence(page: Page, bundle: Path, tmp_path: Path, opened: Opened) -> None:
    with opened(page(bundle)) as (tab, _):
        content = base64.b64encode(b"no picture").decode()
        assert tab.value(DROP.format(content=content, name=json.dumps("a.txt"))) == []
        expected = "a.txt cannot be decoded by this browser; give a PNG or JPEG file."
        assert tab.value("document.getElementById('waiting').textContent") == expected


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_the_page_fits_a_phone_and_is_readable_in_both_themes(
    page: Page, repository: Path, tmp_path: Path, width: int, dark: bool, opened: Opened
) -> None:
    folder = page(repository / "exported" / "lenet")
    with opened(folder, width=width, dark=dark) as (tab, _):
        content = base64.b64encode((folder / "picture-0.png").read_bytes()).decode()
        assert tab.value(DROP.format(content=content, name=json.dumps("boot.png")))[0][0] == "Ankle boot"
        assert tab.value("document.documentElement.scrollWidth") <= width
        tab.value(AXE.read_text(encoding="utf-8"))
        found = tab.value("axe.run().then(({violations}) => violations.map(({id, nodes}) => [id, nodes.map((n) => n.html)]))")
        assert found == []


def test_opened_from_a_file_the_page_says_how_to_serve_it(page: Page, bundle: Path, chromium: Browser) -> None:
    folder = page(bundle)
    chromium.open(folder / "index.html")
    assert "python3 -m http.server" in chromium.value("document.getElementById('verdict').textContent")


def test_the_arrays_of_the_page_are_the_bundles(page: Page, repository: Path, opened: Opened) -> None:
    bundle = open_bundle(repository / "exported" / "lenet")
    folder = page(bundle.root)
    described = json.loads((folder / "page.json").read_text())["arrays"]
    content = (folder / "golden.bin").read_bytes()
    golden = bundle.golden()
    for name, array in (("input.input", golden.inputs["input"]), ("float64.output", golden.float64["output"])):
        place = described[name]
        found = np.frombuffer(content, place["dtype"], array.size, place["offset"]).reshape(place["shape"])
        assert np.array_equal(found, array)
