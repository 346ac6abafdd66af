"""The learning curve of a training, drawn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from edgekit.files import replacing
from edgekit.reports.train import Epoch


def draw_curve(history: Sequence[Epoch], path: Path, name: str, reached: float) -> None:
    """Loss, learning rate and accuracies over the epochs, as a PNG; ``reached`` is the final weights' test accuracy."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    numbers, watched = [epoch.epoch for epoch in history], history[-1].watched
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(numbers, [epoch.loss for epoch in history], marker="o", markersize=3, color="tab:red")
    left.set(xlabel="epoch", ylabel="training loss", title=name)
    rates = left.twinx()
    rates.plot(numbers, [epoch.learning_rate for epoch in history], color="tab:gray", linestyle=":")
    rates.set(ylabel="learning rate (dotted)", ylim=(0, None))
    right.plot(numbers, [epoch.train_accuracy for epoch in history], marker="o", markersize=3, label="train")
    right.plot(numbers, [epoch.accuracy for epoch in history], marker="o", markersize=3, label=watched)
    if reached != history[-1].test_accuracy:
        right.plot(numbers[-1:], [reached], marker="*", markersize=9, linestyle="", label="test, in the end")
    right.set(xlabel="epoch", ylabel="accuracy", title=f"test accuracy {reached:.4f}")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def draw_runs(histories: Mapping[str, Sequence[Epoch]], path: Path) -> None:
    """The losses and the accuracies of several trainings over their epochs, as a PNG or, where ``path`` ends so, an SVG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, history in histories.items():
        numbers = [epoch.epoch for epoch in history]
        left.plot(numbers, [epoch.loss for epoch in history], marker="o", markersize=3)
        label = f"{name} ({history[-1].watched})"
        right.plot(numbers, [epoch.accuracy for epoch in history], marker="o", markersize=3, label=label)
    left.set(xlabel="epoch", ylabel="training loss")
    right.set(xlabel="epoch", ylabel="accuracy")
    figure.legend(loc="outside lower center", ncols=3, fontsize="small")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format=path.suffix.lower().removeprefix("."), dpi=110)
    pyplot.close(figure)
