"""The report of ``edgekit evaluate``."""

from __future__ import annotations

from typing import ClassVar

from edgekit.accuracy import share_interval
from edgekit.reports.base import Case, Part, Report, Skipped, absent
from edgekit.reports.page import (
    Cell,
    Line,
    Matrix,
    Page,
    Picture,
    Pictures,
    Share,
    Shares,
    Span,
    Table,
    columns,
    note,
    verdict,
)
from edgekit.setups import Setup

SHOWN = 10
LEAST_P = 1e-300
"""A smaller p is as good as none, and has no digits."""


class AccuracyRow(Part, frozen=True):
    """One runtime on the labelled set. Shares are of 1.

    ``per_class`` follows the report's ``labels``, None for a class without pictures. ``confusion`` counts the pictures of each
    class (rows) by what they are taken for (columns). ``flips`` pictures are of another class than the original says, None where
    that is not recorded. ``recorded``: the top-1 that the manifest records on this very set, None if it records none.
    ``not_finite`` pictures have outputs that are no numbers, which are wrong and in no column of ``confusion``.
    """

    backend: str
    setup: Setup
    top1: float
    top5: float | None
    balanced: float
    per_class: tuple[float | None, ...]
    confusion: tuple[tuple[int, ...], ...]
    flips: int | None
    pictures_per_second: float
    recorded: float | None = None
    not_finite: int = 0


class PairedRow(Part, frozen=True):
    """Two runtimes on the same pictures: see ``edgekit.accuracy.Paired``; ``first`` may be ``the original``."""

    first: str
    second: str
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float


class WrongPicture(Part, frozen=True):
    """A picture that the first row gets wrong: its class, what it is taken for, and the probability of that."""

    name: str
    label: str
    predicted: str
    confidence: float


class Thumbnail(Part, frozen=True):
    """A picture as the network saw it, at most 64 pixels wide and high: a PNG or JPEG file; ``right``: by the first row."""

    name: str
    label: str
    predicted: str
    confidence: float
    right: bool
    image: bytes


class EvaluateReport(Report, frozen=True):
    """The accuracy of every runtime on ``pictures`` labelled pictures, and where they differ.

    ``wrong``: the pictures that the first row gets wrong, the most confident first. ``min_accuracy`` and ``max_drop`` are the
    caller's bars, shares of 1: the least top-1 of every row, and the most that a row may lose against the first of ``paired``,
    whose interval must exclude more; None: no bar. ``faults``: sentences about labels or accuracies that are not those recorded
    at export; one of them, or outputs that are not finite, fails the report. ``thumbnails``: the surest wrong pictures, then
    right ones, of as many classes as there are places.
    """

    bundle: str
    data: str
    pictures: int
    labels: tuple[str, ...]
    rows: tuple[AccuracyRow, ...]
    paired: tuple[PairedRow, ...]
    wrong: tuple[WrongPicture, ...]
    skipped: tuple[Skipped, ...] = ()
    notes: tuple[str, ...] = ()
    min_accuracy: float | None = None
    max_drop: float | None = None
    sheet: str | None = None
    faults: tuple[str, ...] = ()
    thumbnails: tuple[Thumbnail, ...] = ()
    kept_as: ClassVar[str] = "evaluate"

    def __post_init__(self) -> None:
        """Raise ValueError for rows of other classes than ``labels``: the report may come from a file."""
        for row in self.rows:
            if {len(row.per_class), len(row.confusion), *map(len, row.confusion)} != {len(self.labels)}:
                raise ValueError(f"the row {row.backend!r} is not of {len(self.labels)} classes")

    @property
    def passed(self) -> bool:
        """Nothing departs from what was recorded, all outputs are finite, and every bar is reached."""
        return not self.faults and not any(row.not_finite for row in self.rows) and self._reached

    @property
    def _reached(self) -> bool:
        """Every bar is reached; a drop that the pictures cannot decide, or that nothing can be compared with, is not."""
        accurate = self.min_accuracy is None or all(row.top1 >= self.min_accuracy for row in self.rows)
        kept = bool(self.paired) and all(pair.low >= -(self.max_drop or 0.0) for pair in self.paired)
        return accurate and (self.max_drop is None or kept)

    def page(self) -> Page:
        """A row for each runtime, how they differ, what is wrong, and at the end what fails."""
        numbers = ("top-1", "recorded", "top-5", "balanced", "flips", "pictures/s")
        title = f"accuracy of {self.bundle} on {self.pictures:,} pictures of {self.data}"
        table = Table(title, columns("backend", *numbers, numbers=numbers), tuple(map(_row, self.rows)))
        pairs = tuple(Line(_pair(pair, self.pictures)) for pair in self.paired)
        notes = tuple(map(note, self.notes))
        return (table, *pairs, *self._confused(), *self._wrong(), *notes, *absent(self.skipped), *self._faults(), *self._bars())

    def figures(self) -> Page:
        """Pictures right and wrong, the accuracy of each class, and what classes are taken for."""
        if not self.rows:
            return ()
        first = self.rows[0]
        shares = tuple(
            _share(name, counts, first.per_class[place])
            for place, (name, counts) in enumerate(zip(self.labels, first.confusion, strict=True))
        )
        known = tuple(sorted(filter(None, shares), key=lambda share: share.value))
        matrix = Matrix(f"confusion, {first.backend}", "is", "taken for", self.labels, first.confusion)
        return (*_gallery(self.thumbnails), Shares(f"accuracy of each class, {first.backend}", known), matrix)

    def cases(self) -> tuple[Case, ...]:
        """What departs from the record, what is not finite, and every bar."""
        faults = [Case(f"as recorded, {place}", False, fault) for place, fault in enumerate(self.faults, 1)]
        finite = [Case(f"finite outputs of {row.backend}", not row.not_finite) for row in self.rows]
        asked = self.min_accuracy is not None or self.max_drop is not None
        return (*(faults or [Case("as recorded", True)]), *finite, *([Case("accuracy bars", self._reached)] if asked else []))

    def _faults(self) -> Page:
        lost = [
            f"{row.backend} gives numbers that are not finite for {row.not_finite:,} of {self.pictures:,} pictures, which are "
            "counted as wrong; run edgekit verify on the bundle"
            for row in self.rows
            if row.not_finite
        ]
        return tuple(Line((Span("FAIL", "bad"), f" {fault}")) for fault in (*lost, *self.faults))

    def _bars(self) -> Page:
        if self.min_accuracy is None and self.max_drop is None:
            return ()
        asked = [f"top-1 of at least {self.min_accuracy:.2%}"] if self.min_accuracy is not None else []
        asked += [f"a drop of at most {100 * self.max_drop:.2f} points"] if self.max_drop is not None else []
        alone = " (there is nothing to compare with)" if self.max_drop is not None and not self.paired else ""
        return (Line((" and ".join(asked), alone, ": ", verdict(self._reached))),)

    def _confused(self) -> Page:
        """The classes of the first row, and what each is taken for most often."""
        if not self.rows:
            return ()
        first = self.rows[0]
        rows = []
        for place, (name, share) in enumerate(zip(self.labels, first.per_class, strict=True)):
            others = [(count, other) for other, count in enumerate(first.confusion[place]) if other != place and count]
            worst = max(others, default=None)
            taken = f"{self.labels[worst[1]]} ({worst[0]:,})" if worst else "-"
            rows.append((name, "-" if share is None else f"{share:.2%}", taken))
        headings = columns("class", "accuracy", "taken most often for", numbers=("accuracy",))
        return (Table(f"classes, {first.backend}", headings, tuple(rows), long=True),)

    def _wrong(self) -> Page:
        if not self.wrong:
            return ()
        rows = tuple(
            (each.name, each.label, each.predicted, f"{each.confidence:.2%}" if each.confidence else "-")
            for each in self.wrong[:SHOWN]
        )
        headings = columns("picture", "is", "is taken for", "sure", numbers=("sure",))
        more = f"; the {SHOWN} surest, --json has all" if len(self.wrong) > SHOWN else ""
        page: Page = (Table(f"{len(self.wrong):,} pictures are wrong{more}", headings, rows),)
        return page if self.sheet is None else (*page, Line(("wrote ", Span(self.sheet, "bold"))))


def _share(name: str, counts: tuple[int, ...], share: float | None) -> Share | None:
    """A class's accuracy with its interval; None for one without pictures."""
    if share is None:
        return None
    low, high = share_interval(share, max(1, sum(counts)))
    return Share(name, share, low, high)


def _gallery(thumbnails: tuple[Thumbnail, ...]) -> Page:
    """The wrong pictures, then the right ones."""
    page: Page = ()
    for title, chosen in (
        ("wrong, the surest first", [each for each in thumbnails if not each.right]),
        ("right", [each for each in thumbnails if each.right]),
    ):
        pictures = tuple(Picture(each.image, each.name, _caption(each)) for each in chosen)
        page += (Pictures(title, pictures),) if pictures else ()
    return page


def _caption(each: Thumbnail) -> Cell:
    if each.right:
        return (Span(each.label, "good"), f" {each.confidence:.1%}")
    return (f"{each.label}: ", Span(f"taken for {each.predicted}", "bad"), f" {each.confidence:.1%}")


def _row(row: AccuracyRow) -> tuple[Cell, ...]:
    return (
        row.backend,
        f"{row.top1:.2%}",
        "-" if row.recorded is None else f"{row.recorded:.2%}",
        "-" if row.top5 is None else f"{row.top5:.2%}",
        f"{row.balanced:.2%}",
        "-" if row.flips is None else f"{row.flips:,}",
        f"{row.pictures_per_second:,.0f}",
    )


def _pair(pair: PairedRow, n: int) -> str:
    points = f"{100 * pair.difference:+.2f} points (95 %: {100 * pair.low:+.2f} .. {100 * pair.high:+.2f})"
    first = "the original's recorded predictions" if pair.first == "the original" else pair.first
    if pair.only_first + pair.only_second == 0:
        most = 100 * max(-pair.low, pair.high)
        return f"{pair.second} gets the same {n:,} pictures right as {first}: within {most:.2g} points (95 %)"
    chance = f"p = {pair.p:.2g}" if pair.p >= LEAST_P else f"p < {LEAST_P:.0e}"
    outcome = chance if pair.p < 0.05 else f"no significant difference with {n:,} pictures ({chance})"
    return f"{pair.second} against {first}: {points}; {outcome}"
