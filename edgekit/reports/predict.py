"""The report of labelled pictures."""

from __future__ import annotations

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Page, Table, columns
from edgekit.setups import Setup


class Guess(Part, frozen=True):
    """A label and its softmax probability."""

    label: str
    probability: float


class Prediction(Part, frozen=True):
    """The most probable labels of one picture, best first."""

    image: str
    guesses: tuple[Guess, ...]


class PredictReport(Report, frozen=True):
    """Labels of pictures; ``backend`` is the setup's."""

    bundle: str
    backend: str
    predictions: tuple[Prediction, ...]
    setup: Setup

    def page(self) -> Page:
        """A row for each label, the picture's name beside its first."""
        rows = tuple(
            ("" if place else prediction.image, guess.label, f"{guess.probability:.1%}")
            for prediction in self.predictions
            for place, guess in enumerate(prediction.guesses)
        )
        headings = columns("picture", "label", "probability", numbers=("probability",))
        return (Table(f"{self.bundle} on {self.backend}", headings, rows),)
