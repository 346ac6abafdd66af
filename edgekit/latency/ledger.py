"""What is known of every way to run a bundle: a row each, and why some are out."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import msgspec

from edgekit.budgets import QUANTITIES, Budget
from edgekit.bundle.folder import Bundle
from edgekit.latency.front import front
from edgekit.latency.search_space import of_file
from edgekit.reports.tune import AccuracyDifference, Metric, Standing, TuneRow
from edgekit.setups import Setup, labels

RUNNING: Standing = "not reached"
"""Where nothing has spoken against a way yet."""


class Ledger:
    """The rows of the setups that are tried, and the budgets by their keys."""

    def __init__(self, bundle: Bundle, setups: Sequence[Setup], budgets: Iterable[Budget]) -> None:
        self.budgets = {budget.key: budget for budget in budgets}
        sizes = {variant.name: bundle.manifest.files[variant.file].size for variant in bundle.manifest.variants}
        self.rows = {
            setup: TuneRow(setup, name, RUNNING, size_bytes=sizes[setup.variant])
            for setup, name in zip(setups, labels(setups), strict=True)
        }

    def running(self) -> tuple[Setup, ...]:
        """The ways that nothing speaks against so far."""
        return tuple(setup for setup, row in self.rows.items() if row.standing == RUNNING)

    def of(self, file: Setup) -> tuple[Setup, ...]:
        """Those of them with the file, runtime and options of ``file``."""
        return tuple(setup for setup in self.running() if of_file(setup) == file)

    def add(self, setup: Setup, **fields: Any) -> None:
        """Note what was found out about a way; ``fields`` are those of its row."""
        self.rows[setup] = msgspec.structs.replace(self.rows[setup], **fields)

    def out(self, setup: Setup, standing: Standing, reason: str, figure: str = "") -> None:
        """Take a way out for a reason, and with the way's own figure."""
        self.add(setup, standing=standing, reason=reason, figure=figure)

    def hold(self, key: str, read: Callable[[TuneRow], float | None], setups: Iterable[Setup] | None = None) -> None:
        """Take out what is over the budget of ``key``, and what it cannot be told of; of ``setups``, or of all still running."""
        budget = self.budgets.get(key)
        if budget is None:
            return
        for setup in set(self.running()) & set(self.running() if setups is None else setups):
            value = read(self.rows[setup])
            if value is None:
                self.out(setup, "over budget", f"{budget.text} cannot be told here")
            elif not budget.holds(value):
                self.out(setup, "over budget", budget.text, _told(budget, value))

    def undecided_accuracies(self) -> Iterator[str]:
        """A sentence for each file and runtime within the budget of accuracy whose interval reaches beyond it."""
        budget = self.budgets.get("accuracy")
        told = set[Setup]()
        for setup in self.running() if budget else ():
            accuracy, file = self.rows[setup].accuracy, of_file(setup)
            assert budget is not None
            if accuracy is None or file in told or -100 * accuracy.low <= budget.limit:
                continue
            told.add(file)
            lost = f"loses {-100 * accuracy.difference:.2f} points, at most {-100 * accuracy.low:.2f}"
            yield f"{file} {lost}; {_pictures(budget, accuracy)}"

    def ranked(self, metric: Metric) -> tuple[TuneRow, ...]:
        """All rows: the chosen one first, then by the metric; those that were not timed last. The front is marked."""
        best = self._front(metric)
        rows = (msgspec.structs.replace(row, on_front=setup in best) for setup, row in self.rows.items())
        return tuple(sorted(rows, key=lambda row: (row.standing != "chosen", _cost(row, metric))))

    def _front(self, metric: Metric) -> frozenset[Setup]:
        """Of what passes parity and was timed."""
        timed = {setup: row for setup, row in self.rows.items() if row.parity and math.isfinite(_cost(row, metric))}
        return front({
            setup: (
                _cost(row, metric),
                0.0 if row.accuracy is None else -row.accuracy.difference,
                float(row.memory_peak_bytes or 0),
            )
            for setup, row in timed.items()
        })  # fmt: skip


def _cost(row: TuneRow, metric: Metric) -> float:
    """Milliseconds, less is better: by the metric, or by the median where that was not measured; infinite without either."""
    value = row.median_ms if metric == "median" else row.of(metric)
    return next((float(each) for each in (value, row.median_ms) if each is not None), math.inf)


def _pictures(budget: Budget, accuracy: AccuracyDifference) -> str:
    """How many pictures would shrink the interval to the budget: its width falls with the root of their number."""
    room = accuracy.difference + budget.limit / 100
    if room <= 0:
        return f"no number of pictures decides whether that is within {budget.text}"
    needed = math.ceil(accuracy.pictures * ((accuracy.difference - accuracy.low) / room) ** 2)
    return f"about {needed:,} pictures would decide whether that is within {budget.text}, {accuracy.pictures:,} were seen"


_UNITS = {"accuracy": "{:.2f} points lost", "throughput": "{:.4g}/s", "memory": "{:.4g} MB", "size": "{:.4g} MB"}


def _told(budget: Budget, value: float) -> str:
    """``value`` in the unit of a budget's limit, for a reader."""
    in_bytes = "MB" in QUANTITIES[budget.key].units
    return _UNITS.get(budget.key, "{:.4g} ms").format(value / 1e6 if in_bytes else value)
