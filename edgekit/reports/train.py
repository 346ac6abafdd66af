"""The report of a training."""

from __future__ import annotations

from edgekit.preprocess import Preprocess
from edgekit.reports.base import Part, Report
from edgekit.reports.page import Line, Page, Span, verdict


class Epoch(Part, frozen=True):
    """One epoch: mean loss and accuracy over the training batches as trained, accuracy on the whole test set."""

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float
    learning_rate: float


class TrainReport(Report, frozen=True):
    """A finished training. Accuracies are shares of 1; ``seconds`` is training time without loading the data."""

    run: str
    model: str
    parameters: int
    epochs: tuple[Epoch, ...]
    test_accuracy: float
    min_accuracy: float
    seconds: float
    weights_sha256: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    facts: dict[str, str]

    @property
    def passed(self) -> bool:
        """The accuracy bar of the recipe is reached."""
        return self.test_accuracy >= self.min_accuracy

    def page(self) -> Page:
        """The accuracy that was reached, and its bar."""
        return (
            Line(
                (
                    f"{self.run}: {self.model}, {self.parameters:,} parameters, test accuracy ",
                    Span(f"{self.test_accuracy:.4f}", "bold"),
                    f" after {self.seconds:.1f} s (bar {self.min_accuracy:.4f}: ",
                    verdict(self.passed),
                    ")",
                )
            ),
        )
