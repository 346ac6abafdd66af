"""What a training reports: accuracies with their bars, and the pictures of each class."""

from __future__ import annotations

import msgspec
import pytest

from edgekit.preprocess import Preprocess
from edgekit.reports.page import Line, Table, spans
from edgekit.reports.train import ClassCount, DataReport, LeftOut, TrainReport

DATA = DataReport(
    (ClassCount("ok", 150, 40), ClassCount("defect", 8, 2)), (LeftOut("hidden", 3, "ok/.a.png"),), 0.9524, ("dark",)
)
REPORT = TrainReport(
    run="runs/parts", model="lenet", parameters=10, epochs=(), test_accuracy=0.9524, min_accuracy=0.9, seconds=3.0,
    weights_sha256="0", labels=("ok", "defect"), preprocess=Preprocess("grey", 28, 28, (0.5,), (0.5,)), facts={},
    balanced_accuracy=0.5, min_balanced_accuracy=0.8, class_accuracy=(1.0, None), data=DATA,
)  # fmt: skip


def text_of(report: TrainReport) -> str:
    lines = [item for item in report.page() if isinstance(item, Line)]
    return "\n".join("".join(span.text for span in spans(line.content)) for line in lines)


@pytest.mark.parametrize(
    ("accuracy", "balanced", "passed"), [(0.95, 0.5, False), (0.95, 0.8, True), (0.8, 0.9, False), (0.95, None, False)]
)
def test_a_bar_can_be_on_either_accuracy(accuracy: float, balanced: float | None, passed: bool) -> None:
    report = msgspec.structs.replace(REPORT, test_accuracy=accuracy, balanced_accuracy=balanced)
    assert report.passed == passed


def test_a_network_that_always_says_the_same_shows_it() -> None:
    text = text_of(REPORT)
    assert "test accuracy 0.9524 (bar 0.9000: pass)" in text
    assert "balanced accuracy 0.5000 (bar 0.8000: FAIL)" in text
    assert "always naming the most frequent class: 0.9524" in text
    assert "left out: 3 x hidden, like ok/.a.png" in text
    assert "note: dark" in text
    assert "note: always naming the most frequent class is right as often as this network" in text
    assert "is right as often" not in text_of(msgspec.structs.replace(REPORT, test_accuracy=0.97))


def test_there_is_a_row_for_each_class() -> None:
    (table,) = (item for item in REPORT.page() if isinstance(item, Table))
    assert table.rows == (("ok", "150", "40", "1.0000"), ("defect", "8", "2", "-"))


def test_a_report_of_an_earlier_version_is_read_and_shown() -> None:
    document = msgspec.json.decode(REPORT.to_json())
    for name in ("balanced_accuracy", "min_balanced_accuracy", "class_accuracy", "data"):
        del document[name]
    report = TrainReport.from_json(msgspec.json.encode(document))
    assert report.passed
    assert report.data is None
    assert "test accuracy 0.9524" in text_of(report)


def test_of_many_classes_the_first_are_told_and_the_rest_in_sum() -> None:
    classes = tuple(ClassCount(f"c{number}", 2, 1) for number in range(25))
    first = DataReport(classes, (), 0.04).lines()[0]
    assert "c19 2 + 1, and 5 more classes 10 + 5;" in first
    assert "c20" not in first


def test_a_repetition_is_told_and_is_no_note_on_the_weights() -> None:
    """The notes on the weights go into bundles, which are the same whether a run was repeated or not."""
    repeated = msgspec.structs.replace(REPORT, repetition="the weights are the same bytes")
    assert "note: the weights are the same bytes" in text_of(repeated)
    assert (repeated.notes, repeated.all_notes) == (REPORT.notes, REPORT.all_notes)
    assert "the same bytes" not in text_of(REPORT)
