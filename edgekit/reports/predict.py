"""The report of labelled pictures."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from typing import Literal

import msgspec

from edgekit.errors import printable
from edgekit.reports.base import Part, Report
from edgekit.reports.page import Cell, Line, Page, Span, Table, columns
from edgekit.reports.train import LeftOut
from edgekit.setups import Setup

Numbers = Literal["softmax of the output", "the model's own probabilities", "the model's own scores"]
"""Where probabilities come from: a model may give them itself, as shares that sum to 1 or as a score for each label."""

CSV_COLUMNS = ("picture", "rank", "label", "probability", "problem")


class Guess(Part, frozen=True):
    """A label and its probability, in 0..1."""

    label: str
    probability: float


class Prediction(Part, frozen=True):
    """The most probable labels of one picture, best first; ``problem`` says why a picture has none."""

    image: str
    guesses: tuple[Guess, ...]
    problem: str = ""


def csv_head() -> bytes:
    """The first line of what ``PredictReport.to_csv`` gives."""
    return ",".join(CSV_COLUMNS).encode()


class PredictReport(Report, frozen=True):
    """Labels of pictures; ``backend`` is the setup's. A model's own scores need not sum to 1.

    ``left_out``: what folders and patterns hold besides, by the reason why it is no picture. ``notes``: on how they are read.
    """

    bundle: str
    backend: str
    predictions: tuple[Prediction, ...]
    setup: Setup
    probabilities: Numbers = "softmax of the output"
    left_out: tuple[LeftOut, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every picture was labelled."""
        return not self.unlabelled

    @property
    def unlabelled(self) -> tuple[Prediction, ...]:
        """The pictures that have no label."""
        return tuple(prediction for prediction in self.predictions if prediction.problem)

    def page(self) -> Page:
        """A row for each label, the picture's name beside its first; then how many pictures have none."""
        headings = ("picture", "label", "probability") + (("problem",) if self.unlabelled else ())
        rows = tuple(row[: len(headings)] for prediction in self.predictions for row in _rows(prediction))
        title = f"{self.bundle} on {self.backend}"
        if self.probabilities != "softmax of the output":
            title += f", probabilities of {self.probabilities}"
        table = Table(title, columns(*headings, numbers=("probability",), prose=("problem",)), rows, long=True)
        return (table, *self._summary())

    def _summary(self) -> Page:
        if not self.unlabelled:
            return ()
        shown = ", ".join(prediction.image for prediction in self.unlabelled[:3])
        more = len(self.unlabelled) - 3
        names = f"{shown} and {more} more" if more > 0 else shown
        text = f"{len(self.unlabelled)} of {len(self.predictions)} pictures could not be labelled: {names}"
        return (Line(Span(text, "bad")),)

    def to_csv(self) -> str:
        """A row for each label, as ``CSV_COLUMNS`` say; a picture without labels has one row with its problem."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        for prediction in self.predictions:
            image = printable(prediction.image)
            for rank, guess in enumerate(prediction.guesses, 1):
                writer.writerow((image, rank, guess.label, repr(guess.probability), ""))
            if prediction.problem:
                writer.writerow((image, "", "", "", printable(prediction.problem)))
        return text.getvalue()

    def to_jsonl(self) -> bytes:
        """A line of JSON for each picture: ``image``, ``guesses``, ``problem``."""
        return b"".join(msgspec.json.encode(_as_text(prediction)) + b"\n" for prediction in self.predictions)


def _rows(prediction: Prediction) -> Iterator[tuple[Cell, ...]]:
    if prediction.problem:
        yield (prediction.image, Span("not labelled", "bad"), "", prediction.problem)
    for place, guess in enumerate(prediction.guesses):
        yield ("" if place else prediction.image, guess.label, f"{guess.probability:.1%}", "")


def _as_text(prediction: Prediction) -> Prediction:
    """The prediction with names that can be encoded: a path may be no valid text."""
    return msgspec.structs.replace(prediction, image=printable(prediction.image), problem=printable(prediction.problem))
