"""Draws charts as SVG. Colours are classes of the page's style sheet; every text is escaped, whoever wrote it."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Iterator, Sequence

from edgekit.errors import printable
from edgekit.reports.page import Chart, Counts, Histograms, Matrix, Scatter, Shares, visible
from edgekit.reports.plain import edge, span_of

WIDTH = 480
"""Units of a chart's width; a phone shows it at three quarters of its size."""
BARS, ROW, TICKS = 40, 68, 34
"""Heights: of a histogram's bars, of a histogram, and of the axis below the last."""
CELL = 28
LETTER, BOLD_LETTER = 6.6, 7.4
"""The width of a letter of the charts' font, about."""
LONGEST, LONGEST_POINT = 24, 34
"""Letters of a name that a chart shows, beside others and beside its point."""
LARGEST_MATRIX = 20
"""Names of a matrix that is drawn; beyond, its cells cannot be read."""


def svg(chart: Chart) -> str:
    """An ``<svg>`` element with a title for those who do not see it."""
    if isinstance(chart, Histograms):
        return _histograms(chart)
    if isinstance(chart, Shares):
        return _shares(chart)
    return _matrix(chart) if isinstance(chart, Matrix) else _scatter(chart)


def can_draw(chart: Chart) -> bool:
    """Whether there is something to draw, and not too much."""
    if isinstance(chart, Matrix):
        return 0 < len(chart.names) <= LARGEST_MATRIX
    return bool(chart.points if isinstance(chart, Scatter) else chart.rows)


def _element(name: str, content: str = "", **attributes: object) -> str:
    pairs = "".join(f' {key.rstrip("_").replace("_", "-")}="{_escaped(_number(value))}"' for key, value in attributes.items())
    return f"<{name}{pairs}>{content}</{name}>"


def _number(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


def _escaped(text: str) -> str:
    return html.escape(visible(printable(text)))


def _short(text: str, longest: int = LONGEST) -> str:
    """A name in a line, without its middle where it is too long: names often differ in their ends."""
    shown = visible(printable(text)).replace("\n", " ")
    end = longest // 3
    return shown if len(shown) <= longest else f"{shown[: longest - end - 1]}…{shown[-end:]}"


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start", **more: object) -> str:
    return _element("text", _escaped(text), x=x, y=y, class_=f"t {kind}".strip(), text_anchor=anchor, **more)


def _title(text: str) -> str:
    return _element("title", _escaped(text))


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return _element("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=kind)


def _drawing(title: str, width: float, height: float, pieces: Sequence[str], kind: str = "") -> str:
    """A drawing of its natural size in pixels, which the style sheet lets shrink."""
    body = _title(title) + "".join(pieces)
    box = f"0 0 {math.ceil(width)} {math.ceil(height)}"
    size = {"width": math.ceil(width), "height": math.ceil(height)}
    return _element("svg", body, role="img", viewBox=box, class_=f"chart {kind}".strip(), aria_label=title, **size)


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers on a logarithmic axis: powers of ten, or 1, 2 and 5 of each where these are few; at most six."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in (
        (1.0,),
        (1.0, 3.0),
        (1.0, 2.0, 5.0),
        tuple(map(float, range(1, 10))),
        tuple(step / 10 for step in range(10, 100)),
    ):
        ticks = [step * 10.0**decade for decade in decades for step in steps]
        ticks = [tick for tick in ticks if low <= tick * 1.000001 and tick <= high * 1.000001]
        if len(ticks) >= 3:
            break
    stride = -(-len(ticks) // 6) or 1
    return ticks[::stride]


def _histograms(chart: Histograms) -> str:
    """Each row's bars under its name, all on one axis; a row's height is its own most frequent size."""
    first, last = span_of(chart.rows)
    first, last = max(0, first - 1), min(len(chart.bounds), last + 1)
    count, left, right = last - first + 1, 4.0, WIDTH - 4.0
    step = (right - left) / count
    low, high = _ends(chart.bounds, first, last)

    def place(value: float) -> float:
        share = (math.log(max(value, low)) - math.log(low)) / (math.log(high) - math.log(low))
        return left + (right - left) * min(max(share, 0.0), 1.0)

    pieces = list[str]()
    for number, row in enumerate(chart.rows):
        top = number * ROW
        pieces += _bars(row, chart, (first, last), (left, step, top))
        pieces += _marks(row, place, top)
    bottom = len(chart.rows) * ROW
    pieces.append(_line(left, bottom, right, bottom, "axis"))
    for tick in _ticks(low, high):
        pieces += [_line(place(tick), bottom, place(tick), bottom + 4, "axis")]
        pieces += [_text(min(max(place(tick), 14), WIDTH - 16), bottom + 16, _short_number(tick), "dim", "middle")]
    pieces.append(_text(WIDTH / 2, bottom + 31, chart.axis, "dim", "middle"))
    return _drawing(chart.title, WIDTH, bottom + TICKS, pieces)


def _short_number(value: float) -> str:
    return f"{value:g}" if 0.001 <= value < 10000 else f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e")


def _ends(bounds: Sequence[float], first: int, last: int) -> tuple[float, float]:
    """What the left and the right end of the axis stand for; the open counts at both ends are as wide as their neighbours."""
    ratio = bounds[1] / bounds[0] if len(bounds) > 1 else 10.0
    return bounds[0] * ratio ** (first - 1), bounds[0] * ratio**last


def _bars(row: Counts, chart: Histograms, span: tuple[int, int], where: tuple[float, float, float]) -> Iterator[str]:
    (first, last), (left, step, top) = span, where
    most = max(row.counts, default=0) or 1
    base = top + ROW - 4
    yield _text(left, top + 14, _short(row.name, int((WIDTH - 20 - LETTER * len(_words(row))) / BOLD_LETTER)), "name")
    yield _line(left, base, left + step * (last - first + 1), base, "base")
    for place in range(first, last + 1):
        count = row.counts[place]
        if count:
            height = max(1.0, BARS * count / most)
            told = f"{row.name}: {count:,} from {edge(chart.bounds, place)} to {edge(chart.bounds, place + 1)}"
            x = left + step * (place - first)
            yield _element("rect", _title(told), x=x, y=base - height, width=max(0.8, step - 1), height=height, class_="bar")


def _marks(row: Counts, place: Callable[[float], float], top: float) -> Iterator[str]:
    for number, (name, value) in enumerate(row.marks):
        x = place(value)
        yield _element(
            "line",
            _title(f"{row.name}: {name} {value:.3g}"),
            x1=x,
            y1=top + ROW - 4 - BARS,
            x2=x,
            y2=top + ROW - 4,
            class_=f"mark m{number}",
        )
    yield _text(WIDTH - 4, top + 14, _words(row), "dim", "end")


def _words(row: Counts) -> str:
    """The marks of a row in words."""
    return ", ".join(f"{name} {value:.3g}" for name, value in row.marks)


def _shares(chart: Shares) -> str:
    """A dot and its interval for each name, on an axis that begins below the lowest."""
    low = max(0.0, math.floor(min(row.low for row in chart.rows) * 10 - 0.5) / 10)
    left, right, height = _room(row.name for row in chart.rows), WIDTH - 62.0, 22

    def place(value: float) -> float:
        return left + (right - left) * (value - low) / (1 - low)

    pieces = []
    bottom = len(chart.rows) * height + 4
    for tick in range(round(low * 10), 11, 1 if low > 0.4 else 2):
        pieces += [_line(place(tick / 10), 0, place(tick / 10), bottom, "grid")]
        pieces += [_text(place(tick / 10), bottom + 14, f"{10 * tick} %", "dim", "middle")]
    for number, row in enumerate(chart.rows):
        y = number * height + height / 2 + 2
        told = _title(f"{row.name}: {row.value:.2%} ({row.low:.2%} to {row.high:.2%})")
        pieces += [_text(left - 8, y + 4, _short(row.name), "", "end"), _line(place(row.low), y, place(row.high), y, "whisker")]
        pieces += [
            _element("circle", told, cx=place(row.value), cy=y, r=4, class_="dot"),
            _text(WIDTH - 4, y + 4, f"{row.value:.2%}", "", "end"),
        ]
    return _drawing(chart.title, WIDTH, bottom + 20, pieces)


def _room(names: Iterator[str]) -> float:
    """The width that the longest of the names takes, and a gap."""
    return max(LETTER * max((len(_short(name)) for name in names), default=0) + 14, 40)


def _matrix(chart: Matrix) -> str:
    """Cells with their counts; the diagonal is what is right, the shade is the share of the row."""
    left = max(_room(iter(chart.names)), 90.0)
    top = left * 0.72 + 20
    size = CELL * len(chart.names)
    pieces = [
        _text(left - 8, top - 24, f"{chart.column} →", "dim", "end"),
        _text(left - 8, top - 8, f"{chart.row} ↓", "dim", "end"),
    ]
    for place, name in enumerate(chart.names):
        x, y = left + CELL * place + CELL / 2, top + CELL * place + CELL / 2 + 4
        turned = f"rotate(-45 {_number(x + 2)} {_number(top - 6)})"
        pieces += [
            _text(left - 8, y, _short(name), "", "end"),
            _text(x + 2, top - 6, _short(name), "", "start", transform=turned),
        ]
    pieces.append(_element("rect", x=left, y=top, width=float(size), height=float(size), class_="empty"))
    for row, counts in enumerate(chart.counts):
        for column, count in enumerate(counts):
            pieces += _cell(chart, (row, column), count / (sum(counts) or 1), (left + CELL * column, top + CELL * row))
    width = left + size + left * 0.72
    return _drawing(chart.title, width, top + size + 4, pieces, "wide" if width > WIDTH else "")


def _cell(chart: Matrix, at: tuple[int, int], share: float, where: tuple[float, float]) -> Iterator[str]:
    (row, column), (x, y) = at, where
    count, right = chart.counts[row][column], row == column
    told = _title(f"{chart.row} {_short(chart.names[row])}, {chart.column} {_short(chart.names[column])}: {count:,}")
    if count:
        strength = 0.12 + 0.88 * share if right else min(1.0, 0.15 + 2.5 * share)
        kind = "right" if right else "wrong"
        yield _element("rect", told, x=x, y=y, width=CELL - 1, height=CELL - 1, class_=kind, fill_opacity=f"{strength:.2f}")
        shown = str(count) if count < 10_000 else f"{count / 1000:.0f}k"
        yield _text(x + CELL / 2 - 0.5, y + CELL / 2 + 3.5, shown, "on cell" if strength > 0.55 else "cell", "middle")


def _scatter(chart: Scatter) -> str:
    """Points on two axes from their least to their largest; those on the front are filled, joined and named."""
    left, right, top, bottom = 52.0, WIDTH - 16.0, 16.0, 300.0
    across, up = (
        _scale([point.x for point in chart.points], left, right),
        _scale([point.y for point in chart.points], bottom, top),
    )
    front = sorted((point for point in chart.points if point.on_front), key=lambda point: point.x)
    path = " ".join(f"{_number(across(point.x))},{_number(up(point.y))}" for point in front)
    pieces = [_line(left, bottom, right, bottom, "axis"), _line(left, top, left, bottom, "axis")]
    pieces += [_element("polyline", points=path, class_="front")]
    for value in _ends_of([point.x for point in chart.points]):
        pieces.append(_text(across(value), bottom + 16, f"{value:.3g}", "dim", "middle"))
    for value in _ends_of([point.y for point in chart.points]):
        pieces.append(_text(left - 6, up(value) + 4, f"{value:.3g}", "dim", "end"))
    for point in sorted(chart.points, key=lambda point: point.on_front):
        x, y = across(point.x), up(point.y)
        told = _title(f"{point.label}: {point.x:.4g} {chart.x_axis}, {point.y:.4g} {chart.y_axis}")
        pieces.append(_element("circle", told, cx=x, cy=y, r=5, class_="dot" if point.on_front else "point"))
        if point.on_front:
            after = x < (left + right) / 2
            pieces.append(
                _text(x + 9 if after else x - 9, y - 7, _short(point.label, LONGEST_POINT), "name", "start" if after else "end")
            )
    pieces += [_text((left + right) / 2, bottom + 32, chart.x_axis, "dim", "middle"), _text(4, 10, chart.y_axis, "dim")]
    return _drawing(chart.title, WIDTH, bottom + 38, pieces)


def _ends_of(values: Sequence[float]) -> list[float]:
    return sorted({min(values), max(values)})


def _scale(values: Sequence[float], start: float, end: float) -> Callable[[float], float]:
    """Values to places on an axis with room at both ends; one value alone stands in the middle."""
    low, high = min(values), max(values)
    if low == high:
        return lambda value: (start + end) / 2
    return lambda value: start + (end - start) * (0.06 + 0.88 * (value - low) / (high - low))
