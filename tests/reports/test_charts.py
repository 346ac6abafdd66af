"""Charts as data: what a terminal and Markdown show of them, and what reports draw."""

from __future__ import annotations

import io
import re
import xml.etree.ElementTree as ET

import pytest
from rich.console import Console

from edgekit.reports.bench import BenchReport, LatencyReport
from edgekit.reports.console import draw
from edgekit.reports.evaluate import AccuracyRow, EvaluateReport
from edgekit.reports.markdown import markdown
from edgekit.reports.page import (
    Chart,
    Code,
    Counts,
    Heading,
    Histograms,
    Line,
    Matrix,
    Page,
    Picture,
    Pictures,
    Point,
    Scatter,
    Share,
    Shares,
    Span,
    Tile,
    Tiles,
)
from edgekit.reports.percentile import Percentile
from edgekit.reports.plain import numbers
from edgekit.reports.svg import LARGEST_MATRIX, can_draw, svg
from edgekit.setups import Setup

HISTOGRAMS = Histograms(
    "calls", "ms", (1.0, 2.0, 4.0), (Counts("a", (0, 8, 4, 0), (("median", 1.5),)), Counts("b", (0, 0, 1, 0)))
)
SHARES = Shares("classes", (Share("cat", 0.5, 0.4, 0.6), Share("dog", 0.9, 0.8, 0.95)))
MATRIX = Matrix("confusion", "is", "taken for", ("cat", "dog"), ((5, 2), (0, 7)))
SCATTER = Scatter(
    "choice", "ms", "accuracy", (Point("fast", 1.0, 0.8, True), Point("slow", 2.0, 0.7), Point("sure", 3.0, 0.9, True))
)
CHARTS = (HISTOGRAMS, SHARES, MATRIX, SCATTER)
every_chart = pytest.mark.parametrize("chart", CHARTS, ids=lambda chart: type(chart).__name__)


def printed(page: Page, encoding: str = "utf-8") -> str:
    memory = io.TextIOWrapper(io.BytesIO(), encoding)
    draw(page, Console(file=memory, width=100, emoji=False))
    memory.flush()
    return memory.buffer.getvalue().decode(encoding)


def test_a_terminal_shows_a_histogram_as_levels_and_says_from_where_to_where() -> None:
    lines = [line.split() for line in printed((HISTOGRAMS,)).splitlines() if line.strip()]
    assert lines[0] == ["calls,", "in", "ms"]
    assert lines[1] == ["count", "median", "1", "to", "4"]
    assert lines[3:] == [["a", "12", "1.5", "█▄"], ["b", "1", "-", "█"]]
    printed((HISTOGRAMS,), "ascii")  # a terminal that has no blocks
    assert "@=" in printed((HISTOGRAMS,), "ascii")


def test_every_count_of_a_matrix_is_shown_or_the_largest_off_its_diagonal() -> None:
    assert list(numbers(MATRIX).rows) == [("cat", "5", "2"), ("dog", "0", "7")]
    names = tuple(f"c{index}" for index in range(30))
    large = Matrix("m", "is", "taken for", names, tuple(tuple(row * column % 7 for column in range(30)) for row in range(30)))
    table = numbers(large)
    assert len(table.rows) == 15
    assert all(row[0] != row[1] and row[2] == "6" for row in table.rows)


def test_shares_and_points_are_numbers_with_their_names() -> None:
    assert numbers(SHARES).rows[1] == ("dog", "90.00%", "(80.00% .. 95.00%)")
    assert [row[:3] for row in numbers(SCATTER).rows] == [("fast", "1", "0.8"), ("slow", "2", "0.7"), ("sure", "3", "0.9")]
    assert [row[3] for row in numbers(SCATTER).rows] == [Span("front", "good"), "", Span("front", "good")]


@every_chart
def test_a_drawing_is_well_formed_within_its_frame_and_has_a_name(chart: Chart) -> None:
    root = ET.fromstring(svg(chart))
    assert root.get("aria-label") == chart.title
    _, _, width, height = map(float, root.get("viewBox", "").split())
    for element in root.iter():
        for name, limit in (
            ("x", width),
            ("cx", width),
            ("x1", width),
            ("x2", width),
            ("y", height),
            ("cy", height),
            ("y2", height),
        ):
            assert 0 <= float(element.get(name, "0")) <= limit, ET.tostring(element)


def bars(chart: Histograms) -> list[tuple[float, float]]:
    """The place and the height of each bar."""
    root = ET.fromstring(svg(chart))
    return [(float(bar.get("x", "")), float(bar.get("height", ""))) for bar in root.iter("rect")]


def test_bars_are_as_high_as_their_counts_and_stand_in_order() -> None:
    (first, high), (second, low), (alone, whole) = bars(HISTOGRAMS)
    assert high == pytest.approx(2 * low)
    assert whole == high  # each row by its own most frequent
    assert second > first
    assert alone == second


def test_a_mark_stands_where_its_value_is_on_the_axis() -> None:
    chart = Histograms("t", "ms", (1.0, 10.0, 100.0, 1000.0), (Counts("a", (0, 1, 1, 1, 0), (("m", 10.0), ("p", 100.0))),))
    root = ET.fromstring(svg(chart))
    marks = [float(line.get("x1", "")) for line in root.iter("line") if "mark" in line.get("class", "")]
    places = [place for place, _ in bars(chart)]
    assert marks == pytest.approx(places[1:], abs=0.2)


def test_what_cannot_be_drawn_is_told() -> None:
    assert all(can_draw(chart) for chart in CHARTS)
    names = tuple(map(str, range(LARGEST_MATRIX + 1)))
    counts = tuple((1,) * len(names) for _ in names)
    assert not can_draw(Matrix("m", "is", "for", names, counts))
    assert not can_draw(Shares("s", ()))
    assert not can_draw(Scatter("s", "x", "y", ()))


@pytest.mark.parametrize("values", [(1.0,), (2.0, 2.0), (0.0, 0.0, 0.0), (-1.0, 1e9)])
def test_points_of_any_figures_can_be_drawn(values: tuple[float, ...]) -> None:
    drawn = ET.fromstring(svg(Scatter("s", "x", "y", tuple(Point("p", value, value, True) for value in values))))
    dots = [circle for circle in drawn.iter("circle") if circle.get("class") == "dot"]
    assert len(dots) == len(values)
    assert all(0 < float(dot.get(axis, "nan")) < 1000 for dot in dots for axis in ("cx", "cy"))


@pytest.mark.parametrize("counts", [(0, 0, 0, 0), (5, 0, 0, 0), (0, 0, 0, 5), (1, 1, 1, 1)])
def test_counts_in_any_place_can_be_drawn(counts: tuple[int, ...]) -> None:
    chart = Histograms("t", "ms", (1.0, 2.0, 4.0), (Counts("a", counts, (("m", 1e-9), ("n", 1e9))),))
    drawn = ET.fromstring(svg(chart))
    assert sum("bar" in rect.get("class", "") for rect in drawn.iter("rect")) == sum(map(bool, counts))
    assert numbers(chart).rows[0][1] == str(sum(counts))


def test_markdown_has_headings_code_and_tables_for_charts() -> None:
    tile = Tiles((Tile("parity", Span("FAIL", "bad"), "ort-cpu"),))
    page: Page = (Heading("One"), tile, Line("seen", "verbose"), Line("unseen", "brief"), Code("Run:", "edgekit x\n"), *CHARTS)
    text = markdown((*page, Pictures("p", (Picture(b"", "a", "b"),))), "title")
    assert text.startswith("# title\n\n## One\n")
    assert "| parity | **FAIL** | ort-cpu |" in text
    assert "seen" in text
    assert "unseen" not in text
    assert "```\nedgekit x\n```" in text
    assert "| cat | 5 | 2 |" in text
    for block in text.split("\n\n"):
        if block.startswith("|"):
            assert len({len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}) == 1, block


def latency(backend: str, batch: int, samples: tuple[float, ...]) -> LatencyReport:
    points = (Percentile(90.0, max(samples), 64), Percentile(99.0, None, 662))
    middle = sorted(samples)[len(samples) // 2]
    return LatencyReport(backend, batch, "device", (), (samples,), middle, 0, 1, points, 0.1, "stable", {}, Setup(backend))


def test_every_call_is_in_its_rows_histogram_and_no_bar_is_a_mean() -> None:
    two_speeds = (0.1,) * 40 + (0.4,) * 60
    report = BenchReport(
        "b", "0", {}, 1, 0.1, (latency("a", 1, two_speeds), latency("c", 1, (0.2,)), latency("a", 8, (3.0, 9.0))), (), ()
    )
    one, eight = report.figures()
    assert isinstance(one, Histograms)
    assert isinstance(eight, Histograms)
    assert [(row.name, sum(row.counts)) for row in one.rows] == [("a, device", 100), ("c, device", 1)]
    assert sorted(filter(None, one.rows[0].counts)) == [40, 60]
    assert one.rows[0].marks == (("median", 0.4), ("P90", 0.4))
    assert sum(eight.rows[0].counts) == 2
    assert all(low < high for low, high in zip(one.bounds, one.bounds[1:], strict=False))


def test_calls_that_all_take_the_same_time_can_be_drawn() -> None:
    (chart,) = BenchReport("b", "0", {}, 1, 0.1, (latency("a", 1, (0.5,) * 9),), (), ()).figures()
    assert isinstance(chart, Histograms)
    assert sum(chart.rows[0].counts) == 9
    ET.fromstring(svg(chart))


def test_the_classes_are_in_order_of_their_accuracy_and_one_without_pictures_is_left_out() -> None:
    row = AccuracyRow("ort-cpu", Setup("ort-cpu"), 0.5, None, 0.5, (0.9, None, 0.5), ((9, 0, 1), (0, 0, 0), (5, 0, 5)), None, 1.0)
    *_, shares, matrix = EvaluateReport("b", "d", 20, ("x", "y", "z"), (row,), (), ()).figures()
    assert isinstance(shares, Shares)
    assert [(share.name, share.value) for share in shares.rows] == [("z", 0.5), ("x", 0.9)]
    assert all(share.low < share.value < share.high for share in shares.rows)
    assert isinstance(matrix, Matrix)
    assert matrix.counts == row.confusion
