"""The learning curve of a training, drawn; epochs of a training for int8 that followed are dashed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from edgekit.files import replacing
from edgekit.reports.train import Epoch, TrainReport


class Curve(NamedTuple):
    """The epochs of a training, and those for int8 that followed."""

    epochs: Sequence[Epoch]
    int8: Sequence[Epoch] = ()

    @property
    def last(self) -> int:
        """The number of the last epoch, counted on in the training for int8."""
        return len(self.epochs) + len(self.int8)

    def plot(self, axes: Any, value: Callable[[Epoch], float], **style: Any) -> None:
        """A point for each epoch, and a line through them."""
        (line,) = axes.plot([epoch.epoch for epoch in self.epochs], list(map(value, self.epochs)), **{**_POINTS, **style})
        if self.int8:
            numbers = [len(self.epochs) + epoch.epoch for epoch in self.int8]
            same = {**_POINTS, **style, "color": line.get_color(), "linestyle": "--", "label": None}
            axes.plot(numbers, list(map(value, self.int8)), **same)


_POINTS = {"marker": "o", "markersize": 4}


def draw_curve(report: TrainReport, path: Path, name: str) -> None:
    """Loss, learning rate and accuracies over the epochs, as a PNG."""
    figure, left, right = _figure(9, 3.5)
    curve = Curve(report.epochs, report.int8.epochs if report.int8 is not None else ())
    curve.plot(left, lambda epoch: epoch.loss, color="tab:red")
    left.set(xlabel="epoch", ylabel="training loss", title=name)
    rates = left.twinx()
    curve.plot(rates, lambda epoch: epoch.learning_rate, color="tab:gray", linestyle=":", markersize=2)
    rates.set(ylabel="learning rate (grey)", ylim=(0, None))
    last = report.epochs[-1]
    curve.plot(right, lambda epoch: epoch.train_accuracy, label="train")
    curve.plot(right, lambda epoch: epoch.accuracy, label=last.watched)
    if report.test_accuracy != last.test_accuracy:
        right.plot([last.epoch], [report.test_accuracy], marker="*", markersize=9, linestyle="", label="test, in the end")
    title = f"test accuracy {report.test_accuracy:.4f}"
    if report.int8 is not None:
        right.plot([curve.last], [report.int8.trained], marker="P", markersize=8, linestyle="", label="test, in int8")
        title += f", in int8 {report.int8.trained:.4f}"
    right.set(xlabel="epoch", ylabel="accuracy", title=title)
    right.legend()
    _save(figure, (left, right), curve.last, path, "png")


def draw_runs(curves: Mapping[str, Curve], path: Path) -> None:
    """The losses and the accuracies of several trainings over their epochs, as a PNG or, where ``path`` ends so, an SVG."""
    figure, left, right = _figure(10, 4)
    for name, curve in curves.items():
        curve.plot(left, lambda epoch: epoch.loss)
        curve.plot(right, lambda epoch: epoch.accuracy, label=f"{name} ({curve.epochs[-1].watched})")
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="accuracy")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    last = max(curve.last for curve in curves.values())
    _save(figure, (left, right), last, path, path.suffix.lower().removeprefix("."))


def _figure(width: float, height: float) -> tuple[Any, Any, Any]:
    """A figure in inches, with two axes side by side."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(width, height), layout="constrained")
    return figure, left, right


def _save(figure: Any, both: tuple[Any, Any], last: int, path: Path, form: str) -> None:
    """Write the figure, and close it; epochs are whole numbers from 1 to ``last``, with room for the point of a single one."""
    from matplotlib import pyplot

    for axes in both:
        axes.grid(alpha=0.3)
        axes.set_xlim(0.5, last + 0.5)
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=form, dpi=110)
    pyplot.close(figure)
