"""The report of a training."""

from __future__ import annotations

from edgekit.preprocess import Preprocess
from edgekit.reports.base import Part, Report
from edgekit.reports.page import Line, Page, Span, Table, columns, note, verdict


class Epoch(Part, frozen=True):
    """One epoch: mean loss and accuracy over the training batches as trained, accuracy on the held-out pictures.

    Without held-out pictures it is that on the whole test set. ``learning_rate`` is that of the epoch's last step.
    """

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float | None
    seconds: float
    learning_rate: float
    holdout_accuracy: float | None = None

    @property
    def watched(self) -> str:
        """The pictures of which the epoch gives the accuracy."""
        return "test" if self.holdout_accuracy is None else "held out"

    @property
    def accuracy(self) -> float:
        """The accuracy on the pictures ``watched``."""
        return (self.test_accuracy if self.holdout_accuracy is None else self.holdout_accuracy) or 0.0


class ClassCount(Part, frozen=True):
    """How many pictures of a class are trained on, tested, and held out."""

    name: str
    training: int
    test: int
    held_out: int = 0


class LeftOut(Part, frozen=True):
    """How many files were left out for one reason, and the first of them."""

    reason: str
    count: int
    example: str


class DataReport(Part, frozen=True):
    """The pictures of a training: how many of each class, and what was left out.

    ``majority`` is the accuracy on the test set of always naming its most frequent class; ``notes`` are sentences about the
    whole set.
    """

    classes: tuple[ClassCount, ...]
    left_out: tuple[LeftOut, ...]
    majority: float
    notes: tuple[str, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """The report in lines of text, for those who wait for the training to begin."""
        shown, others = self.classes[:MOST_CLASSES], self.classes[MOST_CLASSES:]
        text = ", ".join(f"{row.name} {row.training} + {row.test}" for row in shown)
        held_out = sum(row.held_out for row in self.classes)
        if others:
            text += f", and {len(others)} more classes {sum(row.training for row in others)} + {sum(row.test for row in others)}"
        left_out = tuple(f"left out: {row.count} x {row.reason}, like {row.example}" for row in self.left_out)
        if held_out:
            text += f"; {held_out} more are held out to watch the training"
        majority = f"the most frequent class is {self.majority:.1%} of the test pictures"
        return (f"pictures (training + test): {text}; {majority}", *left_out, *(f"note: {text}" for text in self.notes))


class StatisticsReport(Part, frozen=True):
    """Whether batch norm's running statistics fit the weights: accuracies on the same training pictures.

    ``training_mode`` normalises by each batch, ``inference_mode`` by the running statistics as training left them, ``remeasured``
    by those measured anew; None where training's were kept. ``averaged``: the weights are the moving average of training's.
    """

    training_mode: float
    inference_mode: float
    remeasured: float | None = None
    averaged: bool = False

    def notes(self) -> tuple[str, ...]:
        """Sentences for a reader, where the modes differ noticeably."""
        if self.remeasured is not None and self.averaged:
            return ()
        if self.remeasured is not None:
            return (
                "batch norm's running statistics did not fit the weights and were measured anew over the training pictures: "
                f"accuracy on them {self.inference_mode:.4f} before, {self.remeasured:.4f} now, "
                f"{self.training_mode:.4f} in training mode",
            )
        if self.inference_mode < self.training_mode - NOTICEABLE:
            return (
                f"accuracy on training pictures is {self.training_mode:.4f} in training mode and {self.inference_mode:.4f} in "
                "inference mode, and measuring batch norm's statistics anew does not help; train for more steps",
            )
        return ()


class Session(Part, frozen=True):
    """A process that has trained: its versions and machine, when it began, and ``until`` when it kept what it had done.

    Times are UTC, as ISO 8601. ``commit`` is that of the git repository around the current folder, empty where there is none;
    ``changed``: tracked files differ from it.
    """

    versions: dict[str, str]
    machine: dict[str, str]
    commit: str = ""
    changed: bool = False
    began: str = ""
    until: str = ""


class Provenance(Part, frozen=True):
    """What a training depends on beside its recipe: the seed, hashes of the pictures and of the weights at the start, versions.

    Versions, machine, commit and times are as in ``Session``, of the process that took the last steps; ``earlier`` are those
    that stopped before, in their order.
    """

    seed: int
    data_sha256: str
    initial_sha256: str
    versions: dict[str, str]
    machine: dict[str, str]
    commit: str = ""
    changed: bool = False
    began: str = ""
    until: str = ""
    earlier: tuple[Session, ...] = ()

    @property
    def sessions(self) -> tuple[Session, ...]:
        """All processes that have trained, in their order."""
        last = Session(self.versions, self.machine, self.commit, self.changed, self.began, self.until)
        return (*self.earlier, last)


NOTICEABLE = 0.02
"""By as much accuracy inference mode may be worse than training mode; after long trainings the modes differ by less."""
MOST_CLASSES = 20
"""The most classes that the lines of a report name one by one."""


class Int8Report(Part, frozen=True):
    """A training for int8, which followed. Accuracies are shares of 1 on the test set.

    ``before`` and ``after`` are of the float network, ``calibrated`` of an int8 file of the network before, whose ranges and bias
    correction calibration has chosen, and ``trained`` of the int8 file now. ``gained`` and ``lost`` pictures are right in one of
    these two files alone; ``low`` to ``high`` is the 95 % interval of ``trained`` less ``calibrated``. ``snr_db`` is what the
    int8 file leaves of the float network's signal; an export asks for ``least_db``. ``apart`` is how far the int8 file in ONNX
    Runtime is from the trained network in PyTorch, in steps of 1/127 of the outputs' scale. ``sessions``: the
    processes that trained.
    """

    epochs: tuple[Epoch, ...]
    before: float
    after: float
    calibrated: float
    trained: float
    pictures: int
    gained: int
    lost: int
    low: float
    high: float
    method: str
    bias_correction: bool
    snr_db: float
    least_db: float
    apart: float
    seconds: float
    weights_sha256: str
    ranges_sha256: str
    sessions: tuple[Session, ...] = ()

    def lines(self) -> tuple[str, ...]:
        """What it brought, and a sentence where that is nothing."""
        points = 100 * (self.trained - self.calibrated)
        interval = f"{points:+.2f} points, 95 % interval {100 * self.low:+.2f} to {100 * self.high:+.2f}"
        first = (
            f"trained for int8 in {len(self.epochs)} epochs: int8 {self.trained:.4f}, calibrated it was {self.calibrated:.4f} "
            f"({interval}); float32 {self.after:.4f}, before {self.before:.4f}"
        )
        return tuple(text for text in (first, self._nothing_won(), self._further(), self._weak()) if text)

    def _nothing_won(self) -> str:
        if self.low <= 0 <= self.high:
            return f"{self.pictures} pictures do not tell that from calibration: training for int8 wins nothing here"
        return "training for int8 has lost accuracy: train it longer, or at a lower rate" if self.high < 0 else ""

    def _further(self) -> str:
        """What the float network has won too is not due to int8."""
        if self.low <= 0 or self.after <= self.before:
            return ""
        return (
            f"the float network gains {100 * (self.after - self.before):.2f} points by the same epochs: that is further training"
        )

    def _weak(self) -> str:
        """The float network computes something else than the int8 file that it was trained for."""
        if self.snr_db >= self.least_db:
            return ""
        return (
            f"int8 leaves {self.snr_db:.1f} dB of the float network's signal, and the export asks for {self.least_db:g}: "
            "lower train.int8.learning_rate"
        )


class TrainReport(Report, frozen=True):
    """A finished training. Accuracies are shares of 1; ``seconds`` is training time without loading the data.

    ``class_accuracy`` follows ``labels``, with None for a class without test pictures; ``balanced_accuracy`` is its mean. They,
    ``data`` and ``statistics`` are absent from reports of earlier versions. ``notes`` are on the weights that it started from.
    ``repetition`` says whether a run that was trained again gave the same bytes; empty where none was.
    """

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
    balanced_accuracy: float | None = None
    min_balanced_accuracy: float = 0.0
    class_accuracy: tuple[float | None, ...] = ()
    data: DataReport | None = None
    statistics: StatisticsReport | None = None
    notes: tuple[str, ...] = ()
    holdout_accuracy: float | None = None
    provenance: Provenance | None = None
    int8: Int8Report | None = None
    repetition: str = ""

    @property
    def digests(self) -> tuple[str, ...]:
        """The sha256 of each file of weights, and of learned ranges."""
        return (self.weights_sha256, *((self.int8.weights_sha256, self.int8.ranges_sha256) if self.int8 is not None else ()))

    @property
    def passed(self) -> bool:
        """Both bars of the recipe are reached, that of the accuracy in int8 too."""
        least = self.test_accuracy if self.int8 is None else min(self.test_accuracy, self.int8.trained)
        return least >= self.min_accuracy and (self.balanced_accuracy or 0.0) >= self.min_balanced_accuracy

    @property
    def outcome_notes(self) -> tuple[str, ...]:
        """Sentences about what came out: of batch norm's statistics, and of a network that has learnt nothing."""
        majority = self.data is not None and self.test_accuracy <= self.data.majority
        learnt_nothing = ("always naming the most frequent class is right as often as this network",) if majority else ()
        return (*(self.statistics.notes() if self.statistics else ()), *learnt_nothing)

    @property
    def all_notes(self) -> tuple[str, ...]:
        """Sentences about the weights that it started from, about the pictures, and about what came out."""
        return (*self.notes, *(self.data.notes if self.data else ()), *self.outcome_notes)

    def page(self) -> Page:
        """The accuracy that was reached and its bars, then a row for each class."""
        first = f"{self.run}: {self.model}, {self.parameters:,} parameters, after {self.seconds:.1f} s"
        lines = [Line((f"{first}: test accuracy ", *_against("", self.test_accuracy, self.min_accuracy)))]
        if self.balanced_accuracy is not None:
            lines.append(Line(_against("balanced accuracy ", self.balanced_accuracy, self.min_balanced_accuracy)))
        lines += map(Line, self.int8.lines()) if self.int8 is not None else ()
        lines += map(note, (*self.notes, *filter(None, [self.repetition])))
        if self.data is None:
            return tuple(lines)
        return (*lines, *self._classes(self.data), *map(note, (*self.data.notes, *self.outcome_notes)))

    def _classes(self, data: DataReport) -> Page:
        accuracies = ("-" if share is None else f"{share:.4f}" for share in self.class_accuracy)
        rows = tuple(
            (row.name, str(row.training), str(row.test), accuracy)
            for row, accuracy in zip(data.classes, accuracies, strict=False)
        )
        headings = columns("class", "training", "test", "accuracy", numbers=("training", "test", "accuracy"))
        table = Table("", headings, rows, long=True)
        majority = Line(Span(f"always naming the most frequent class: {data.majority:.4f}", "dim"))
        left_out = (Line(Span(f"left out: {row.count} x {row.reason}, like {row.example}", "dim")) for row in data.left_out)
        return (table, majority, *left_out)


def _against(name: str, accuracy: float, bar: float) -> tuple[str | Span, ...]:
    """An accuracy, and its bar where there is one."""
    reached = (name, Span(f"{accuracy:.4f}", "bold"))
    return (*reached, f" (bar {bar:.4f}: ", verdict(accuracy >= bar), ")") if bar else reached
