"""The page of ``edgekit report``: one file, text that stays text, and what a browser makes of it."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64encode
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.data.gallery import thumbnail
from edgekit.reports.bench import BenchReport, LatencyReport
from edgekit.reports.evaluate import AccuracyRow, EvaluateReport, Thumbnail
from edgekit.reports.export import Fold, FoldReport, Kept
from edgekit.reports.html import LARGEST, TOO_LARGE, html
from edgekit.reports.inspect import InspectReport, Layer, VariantRow
from edgekit.reports.page import Code, Heading, Item, Line, Page, Picture, Pictures, Point, Scatter, Table, columns
from edgekit.reports.percentile import Percentile
from edgekit.reports.report import BundleReport, FileRow, Measured, Tensor
from edgekit.reports.verify import ERROR_BOUNDS, OutputDiff, ParityReport, VerifyReport
from edgekit.setups import Setup
from edgekit.tolerance import Tolerance
from tests.reports.browser import CHROMIUM, Browser, browser

AXE = Path(__file__).parent / "axe" / "axe.min.js"
in_a_browser = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: apt-get install chromium")
CHOICE = Scatter(
    "choice", "ms", "accuracy", (Point("ort-cpu", 1.0, 0.9, True), Point("torch", 2.0, 0.8), Point("trt", 0.5, 0.7, True))
)


def example(classes: int = 10, layers: int = 12, mark: str = "") -> BundleReport:
    """A report with every part; ``mark`` stands in every text that comes from a bundle or from a user."""
    numbers = np.random.default_rng(0)
    labels = tuple(f"class {index}{mark}" for index in range(classes))
    confusion = numbers.integers(1, 90, (classes, classes))
    shares = tuple(float(confusion[place, place] / confusion[place].sum()) for place in range(classes))
    row = AccuracyRow(f"ort-cpu{mark}", Setup("ort-cpu"), 0.9, 0.99, 0.9, shares, tuple(map(tuple, confusion.tolist())), 3, 100.0)
    seen = tuple(
        Thumbnail(f"a{mark}.png", labels[0], labels[place % 2], 0.9, place % 2 == 0, picture(place)) for place in range(24)
    )
    evaluate = EvaluateReport(
        f"b{mark}", f"photos{mark}", int(confusion.sum()), labels, (row,), (), (), thumbnails=seen, faults=(f"f{mark}",)
    )
    output = OutputDiff(f"output{mark}", 1e-6, 1e-6, 2e-5, 0.05, 1.0, histogram=tuple(range(len(ERROR_BOUNDS) + 1)))
    parity = ParityReport(f"reference{mark}", f"ort-cpu{mark}", 84, Tolerance(), (output,), {}, Setup("ort-cpu"))
    samples = tuple(tuple(float(ms) for ms in block) for block in numbers.lognormal(-2, 0.3, (5, 60)))
    percentiles = (Percentile(90.0, 0.3, 64), Percentile(99.0, None, 662))
    latencies = tuple(
        LatencyReport(
            f"{name}{mark}", 1, "end-to-end", (), samples, 0.135, 0.13, 0.14, percentiles, 0.1, "stable", {}, Setup(name)
        )
        for name in ("ort-cpu", "torch")
    )
    rows = tuple(Layer(f"layer{index}{mark}", "Conv", ("batch", 6, 24, 24), 156, 86400) for index in range(layers))
    measured = {
        name: Measured("2026-11-28T00:00:00+00:00", {"cpu": f"x{mark}"}, "0.2.0", f"edgekit {name}{mark}")
        for name in ("verify", "evaluate", "bench")
    }
    return BundleReport(
        bundle=f"b{mark}",
        name=f"lenet{mark}",
        manifest_sha256="0" * 64,
        facts={"model": f"lenet(){mark}"},
        origin={"licence": f"MIT{mark}"},
        tensors=(Tensor("input", f"x{mark}", "float32", "batch x 1"),),
        labels=labels,
        notes=(f"a note{mark}",),
        fold=FoldReport((Fold(f"1{mark}", "BatchNorm2d", (f"0{mark}",)),), (Kept("2", "LayerNorm", f"why{mark}"),), 1e-16),
        variants=(VariantRow(f"float32{mark}", "float32", 1000, 0.9, (0.8, 0.95), 1e-6, None, None, None, None, "everywhere"),),
        layers=InspectReport("s", {f"input{mark}": "float32"}, {}, rows, {"Conv": layers}, 156, 86400, 0, {}),
        no_layers="",
        machine={"cpu": f"x{mark}"},
        recipe=f"name = 1{mark}",
        program=f"print(1){mark}",
        files=(FileRow(f"model.onnx{mark}", 1000, "1" * 64),),
        measured=measured,
        verify=VerifyReport(f"b{mark}", "0" * 64, (parity,), (), (f"said{mark}",)),
        evaluate=evaluate,
        bench=BenchReport("b", "0" * 64, {}, 1, 0.5, latencies, (), ()),
    )


def picture(seed: int, side: int = 96) -> bytes:
    content = thumbnail(np.random.default_rng(seed).integers(0, 256, (3, side, side), np.uint8))
    assert content is not None
    return content


def document(report: BundleReport, *more: Item) -> bytes:
    return html((*report.document(), Heading("Choice"), CHOICE, *more), f"{report.name}: report")


class Structure(HTMLParser):
    """The tags of a document with the names of their attributes, and its text."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.tags: list[tuple[str, ...]] = []
        self.text = ""
        self.feed(content.decode())

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, *(name for name, _ in attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_an_accuracy_at_a_glance_is_of_the_first_file_or_names_its_own() -> None:
    report = example()
    assert report.evaluate is not None
    (row,) = report.evaluate.rows
    other = msgspec.structs.replace(row, top1=0.81, setup=Setup("ort-cpu", variant="int8"))
    for rows, told in (((other, row), "90.00%top-1 of ort-cpu on"), ((other,), "81.00%top-1 of ort-cpu, int8 on")):
        evaluate = msgspec.structs.replace(report.evaluate, rows=rows)
        assert told in Structure(document(msgspec.structs.replace(report, evaluate=evaluate))).text


HOSTILE = "</text></td></script><script>window.hit=1</script><img src=x onerror=hit()>\"'><b>&amp;{{7*7}}\x1b[31m\x00\u202e"
"""What would leave an element, an attribute, a style sheet or a template, and what is not seen."""
SEEN = HOSTILE.replace("\x1b", "\\x1b").replace("\x00", "\\x00").replace("\u202e", "\\u202e")


def test_hostile_text_adds_no_element_and_no_attribute_and_is_all_there() -> None:
    benign, hostile = Structure(document(example())), Structure(document(example(mark=HOSTILE)))
    assert hostile.tags == benign.tags
    assert hostile.text.count(SEEN) > 60
    assert not set("\x1b\x00\u202e") & set(hostile.text)
    assert "49" not in re.findall(r"&amp;(.*?)\\x1b", hostile.text)


def test_the_comparison_would_see_text_that_became_an_element() -> None:
    content = document(example())
    leaking = content.replace(b"a note", b"a <b>note</b>")
    assert leaking != content
    assert Structure(leaking).tags != Structure(content).tags


def test_nothing_in_the_file_leads_out_of_it() -> None:
    content = document(example()).decode()
    assert {name for name, *_ in Structure(content.encode()).tags}.isdisjoint(
        {"script", "iframe", "object", "embed", "form", "base"}
    )
    assert all(address.startswith(("data:", "#")) for address in re.findall(r'(?:src|href)="([^"]*)"', content))
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]*)"', content)
    (style,) = re.findall("<style>(.*?)</style>", content, re.DOTALL)
    digest = b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert f"style-src 'sha256-{digest}'" in policy.replace("&#39;", "'")
    assert policy.replace("&#39;", "'").startswith("default-src 'none'; img-src data:;")


def test_a_picture_that_is_none_is_left_out() -> None:
    fine, none = picture(0), b"<svg onload=alert(1)>"
    assert b"data:image/" in html((Pictures("p", (Picture(fine, "a", "b"),)),), "t")
    assert b"data:image/" not in html((Pictures("p", (Picture(none, "a", "b"),)),), "t")
    assert b"data:image/" not in html((Pictures("p", (Picture(fine + bytes(9000), "a", "b"),)),), "t")


def test_a_page_stays_below_its_size_whatever_a_bundle_holds() -> None:
    small = document(example())
    assert len(small) < LARGEST
    assert b"more rows are in the JSON" not in small
    cut = document(example(classes=1000, layers=5000, mark=" and a long name" * 20), *(Line("x" * 5000) for _ in range(2000)))
    assert len(cut) < LARGEST
    assert b"more rows are in the JSON" in cut
    assert b"more lines are in the JSON" in cut
    worst = document(example(classes=20, layers=5000, mark=HOSTILE * 200), *(Code("", HOSTILE * 2000) for _ in range(100)))
    assert len(worst) < LARGEST


def test_a_page_of_too_many_parts_says_that_it_is_larger() -> None:
    tables = tuple(Table(f"table {number}", columns("a", "b"), (("x", "y"),)) for number in range(3000))
    large = html(tables, "t")
    assert len(large) >= LARGEST
    assert TOO_LARGE.encode() in large
    assert TOO_LARGE.encode() not in html(tables[:3], "t")


def test_a_row_that_is_shown_is_whole() -> None:
    rows = tuple((f"row {index}", "v") for index in range(300))
    shown = Structure(html((Table("t", columns("a", "b"), rows),), "t")).text
    assert all(f"row {index}" in shown for index in range(300))


# in a browser


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture
def page(tmp_path: Path) -> Path:
    path = tmp_path / "report.html"
    path.write_bytes(document(example(mark=HOSTILE)))
    return path


def serious(tab: Browser) -> list[tuple[str, str]]:
    """What axe-core finds of serious or critical impact: its rule, and the first element."""
    tab.value(f"{AXE.read_text('utf-8')};0")
    violations = tab.value("axe.run().then(found => found.violations.map(v => [v.impact, v.id, v.nodes[0].html]))")
    return [(rule, element) for impact, rule, element in violations if impact in ("serious", "critical")]


@in_a_browser
@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [400, 1400])
def test_a_browser_has_nothing_to_complain_of(tab: Browser, page: Path, width: int, dark: bool) -> None:
    tab.problems.clear()
    tab.requests.clear()
    tab.open(page, width=width, dark=dark)
    assert tab.problems == []
    assert {address.partition(":")[0] for address in tab.requests} == {"file", "data"}
    assert tab.value("window.hit") is None
    assert tab.value("document.documentElement.scrollWidth <= window.innerWidth")
    background = tab.value("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, re.findall(r"\d+", background))) < 200) == dark
    assert serious(tab) == []


@in_a_browser
@pytest.mark.parametrize(
    ("inside", "sees"),
    [
        ("<script>window.hit = 1</script>", "script-src"),
        ('<img src="https://example.com/x.png" alt="x">', "img-src"),
        ('<p style="color: red">x</p>', "style-src"),
    ],
)
def test_the_policy_forbids_what_a_hole_would_let_in(tab: Browser, page: Path, inside: str, sees: str) -> None:
    page.write_text(page.read_text("utf-8").replace("</main>", f"{inside}</main>"), "utf-8")
    tab.problems.clear()
    tab.open(page)
    assert any("Content Security Policy" in problem and (sees in problem or "default-src" in problem) for problem in tab.problems)
    assert tab.value("window.hit") is None


@in_a_browser
def test_axe_would_find_a_picture_without_words(tab: Browser, page: Path) -> None:
    text = page.read_text("utf-8").replace(' alt="', ' data-alt="').replace(' title="', ' data-title="')
    page.write_text(text, "utf-8")
    tab.open(page)
    assert "image-alt" in {rule for rule, _ in serious(tab)}


@in_a_browser
def test_every_figure_of_the_json_is_on_the_page(tab: Browser, tmp_path: Path) -> None:
    report = example()
    path = tmp_path / "report.html"
    path.write_bytes(document(report))
    tab.open(path)
    numbers = json.loads(report.to_json())
    titles = tab.value("Array.from(document.querySelectorAll('svg :is(rect, circle, line) > title'), t => t.textContent)")
    cells = dict(re.findall(r"^is (class \d+, taken for class \d+): ([\d,]+)$", "\n".join(titles), re.MULTILINE))
    confusion = numbers["evaluate"]["rows"][0]["confusion"]
    assert cells == {
        f"class {row}, taken for class {column}": f"{count:,}"
        for row, counts in enumerate(confusion)
        for column, count in enumerate(counts)
    }
    drawn = Counter[str]()
    for name, count in re.findall(r"^(.*): ([\d,]+) from .* to .*$", "\n".join(titles), re.MULTILINE):
        drawn[name] += int(count.replace(",", ""))
    (output,) = numbers["verify"]["parities"][0]["outputs"]
    assert drawn == {
        "ort-cpu": sum(output["histogram"]),
        **{f"{row['backend']}, end-to-end": sum(map(len, row["samples_ms"])) for row in numbers["bench"]["rows"]},
    }
    assert len(tab.value("Array.from(document.images, i => i.naturalWidth)")) == 24
    assert min(tab.value("Array.from(document.images, i => i.naturalWidth)")) == 64
    assert tab.value("document.querySelectorAll('svg').length") == 5
    text = tab.value("document.body.innerText")
    for figure in ("90.00%", "0.135", "1.00e-06", "1,000", numbers["manifest_sha256"]):
        assert figure in text


@in_a_browser
def test_print_has_all_in_the_width_of_a_sheet_and_no_dark(tab: Browser, page: Path) -> None:
    tab.open(page, width=760, dark=True, medium="print")
    assert tab.value("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    hidden = (
        "Array.from(document.querySelectorAll('.scroll, pre')).filter(e => getComputedStyle(e).overflowX != 'visible').length"
    )
    assert tab.value(hidden) == 0


def test_the_pages_sections_have_the_anchors_that_lead_to_them() -> None:
    content = document(example()).decode()
    anchors = re.findall(r'href="#([^"]*)"', content)
    assert len(anchors) == len(set(anchors)) == 13
    assert all(f'id="{anchor}"' in content for anchor in anchors)


def changed(report: Any, **values: object) -> Any:
    return msgspec.structs.replace(report, **values)


def headings(page: Page) -> list[str]:
    return [item.text for item in page if isinstance(item, Heading)]


def test_a_part_that_was_not_run_has_no_section_and_is_named() -> None:
    report = changed(example(), evaluate=None)
    assert "Accuracy" in headings(example().document())
    assert "Accuracy" not in headings(report.document())
    shown = Structure(html(report.document(), "t")).text
    assert "edgekit evaluate b" in shown
    assert "edgekit verify b\n" not in shown.partition("The model")[0].rpartition("Not run")[2]
