"""The report of labelled pictures."""

from __future__ import annotations

from edgekit.reports.base import Part, Report


class Guess(Part, frozen=True):
    """A label and its softmax probability."""

    label: str
    probability: float


class Prediction(Part, frozen=True):
    """The most probable labels of one picture, best first."""

    image: str
    guesses: tuple[Guess, ...]


class PredictReport(Report, frozen=True):
    """Labels of pictures."""

    bundle: str
    backend: str
    predictions: tuple[Prediction, ...]
