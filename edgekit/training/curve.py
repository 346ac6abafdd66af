"""The learning curve of a training, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.files import replacing
from edgekit.reports.train import Epoch


def draw_curve(history: Sequence[Epoch], path: Path, name: str) -> None:
    """Loss and accuracies over the epochs, as a PNG."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    numbers = [epoch.epoch for epoch in history]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(numbers, [epoch.loss for epoch in history], marker="o", markersize=3, color="tab:red")
    left.set(xlabel="epoch", ylabel="training loss", title=name)
    right.plot(numbers, [epoch.train_accuracy for epoch in history], marker="o", markersize=3, label="train")
    right.plot(numbers, [epoch.test_accuracy for epoch in history], marker="o", markersize=3, label="test")
    right.set(xlabel="epoch", ylabel="accuracy", title=f"test accuracy {history[-1].test_accuracy:.4f}")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)
