"""Budgets: what a file, or a way to run it, may cost, as ``KEY=VALUE`` on every command line and in recipes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from math import isinf
from typing import NamedTuple

from edgekit.errors import UsageError
from edgekit.spelling import did_you_mean


class Quantity(NamedTuple):
    """What a budget bounds: an example of its text, its units with what each multiplies by, and whether more is better."""

    example: str
    units: Mapping[str, float]
    more_is_better: bool = False
    sign: str = ""


_TIME = {"us": 1e-3, "ms": 1.0, "s": 1e3}
_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30}
QUANTITIES: Mapping[str, Quantity] = {
    "accuracy": Quantity("accuracy=-0.3pt", {"pt": 1.0}, sign="-"),
    "snr": Quantity("snr=30dB", {"dB": 1.0}, more_is_better=True),
    "median": Quantity("median=5ms", _TIME),
    "p90": Quantity("p90=5ms", _TIME),
    "p99": Quantity("p99=5ms", _TIME),
    "first": Quantity("first=500ms", _TIME),
    "throughput": Quantity("throughput=200/s", {"/s": 1.0}, more_is_better=True),
    "memory": Quantity("memory=200MB", _BYTES),
    "size": Quantity("size=5MB", _BYTES),
}
"""By key. A budget's ``limit`` is in points of accuracy lost, dB, milliseconds, samples a second or bytes."""
LOSSES = ("accuracy", "snr")
"""What ``edgekit quantize`` is given: a file's loss."""
_NUMBER = r"[0-9]+(?:\.[0-9]+)?"


class Budget(NamedTuple):
    """At most ``limit`` of what ``key`` names in ``QUANTITIES``, or at least that much where more is better."""

    key: str
    limit: float
    text: str

    @property
    def points(self) -> float | None:
        """The points of accuracy that may be lost; None for a budget of something else."""
        return self.limit if self.key == "accuracy" else None

    @property
    def snr_db(self) -> float | None:
        """The least signal-to-noise ratio; None for a budget of something else."""
        return self.limit if self.key == "snr" else None

    def holds(self, value: float) -> bool:
        """Whether ``value``, in the unit of ``limit``, is within the budget; NaN is not."""
        return value >= self.limit if QUANTITIES[self.key].more_is_better else value <= self.limit


def parse_budget(text: str, keys: Iterable[str]) -> Budget:
    """Read ``KEY=VALUE`` with one of ``keys``, like ``p99=5ms``, in any case; raises UsageError for anything else."""
    known = {key: QUANTITIES[key] for key in keys}
    examples = " or ".join(quantity.example for quantity in known.values())
    word, _, value = (part.strip() for part in text.partition("="))
    quantity = known.get(word.lower())
    if quantity is None:
        raise UsageError(f"--budget {text!r} is no budget", f"write it like {examples}{did_you_mean(word.lower(), tuple(known))}")
    units = {unit.lower(): scale for unit, scale in quantity.units.items()}
    form = re.fullmatch(rf"{re.escape(quantity.sign)}({_NUMBER})\s*({'|'.join(map(re.escape, units))})", value, re.I | re.A)
    if form is None or isinf(float(form[1])):
        raise UsageError(f"--budget {text!r} is no budget", f"write it like {quantity.example}")
    return Budget(word.lower(), float(form[1]) * units[form[2].lower()], text.strip())


def parse_budgets(texts: Iterable[str], keys: Iterable[str]) -> tuple[Budget, ...]:
    """Read several budgets; raises UsageError for two of one key."""
    budgets: dict[str, Budget] = {}
    keys = tuple(keys)
    for text in texts:
        budget = parse_budget(text, keys)
        if budget.key in budgets:
            raise UsageError(f"--budget {budgets[budget.key].text} and {budget.text} bound the same", "give one of them")
        budgets[budget.key] = budget
    return tuple(budgets.values())
