"""The learning curve of a training, drawn."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.files import replacing
from edgekit.reports.train import Epoch


def draw_curve(history: Sequence[Epoch], path: Path, name: str, remeasured: float | None = None) -> None:
    """Loss and accuracies over the epochs, as a PNG.

    ``remeasured`` is the test accuracy after the last epoch once batch norm's statistics were measured anew, where they were.
    """
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    numbers = [epoch.epoch for epoch in history]
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
    left.plot(numbers, [epoch.loss for epoch in history], marker="o", markersize=3, color="tab:red")
    left.set(xlabel="epoch", ylabel="training loss", title=name)
    right.plot(numbers, [epoch.train_accuracy for epoch in history], marker="o", markersize=3, label="train")
    right.plot(numbers, [epoch.test_accuracy for epoch in history], marker="o", markersize=3, label="test")
    if remeasured is not None:
        right.plot(numbers[-1:], [remeasured], marker="*", markersize=9, linestyle="", label="test, statistics remeasured")
    reached = history[-1].test_accuracy if remeasured is None else remeasured
    right.set(xlabel="epoch", ylabel="accuracy", title=f"test accuracy {reached:.4f}")
    right.legend()
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)
