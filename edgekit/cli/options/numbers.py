"""Which numbers an option takes: what its help shows, what is checked and what a message says are of one range."""

from __future__ import annotations

import math
from typing import NamedTuple


class Range(NamedTuple):
    """Finite numbers from ``least`` to ``most``, ``above`` one, ``below`` another; ``also`` is a number beside them."""

    least: float | None = None
    most: float | None = None
    above: float | None = None
    below: float | None = None
    also: float | None = None

    def takes(self, number: float) -> bool:
        """Whether a number may be given; neither an infinite one may be nor what is no number."""
        low = -math.inf if self.least is None else self.least
        high = math.inf if self.most is None else self.most
        inside = math.isfinite(number) and low <= number <= high
        inside = inside and (self.above is None or number > self.above) and (self.below is None or number < self.below)
        return inside or number == self.also

    @property
    def text(self) -> str:
        """For help: like ``0<=x<1``, or ``x>=0`` where there is one end."""
        low, over = (self.least, "<=") if self.above is None else (self.above, "<")
        high, under = (self.most, "<=") if self.below is None else (self.below, "<")
        beside = "" if self.also is None else f"{self.also}, "
        if high is None:
            return f"{beside}x{over.replace('<', '>')}{low}"
        return f"{beside}{'' if low is None else f'{low}{over}'}x{under}{high}"

    @property
    def sentence(self) -> str:
        """For messages, behind what kind of number it is: like ``of 0 or more, below 1``."""
        beside = "" if self.also is None else f", or {self.also}"
        if self.least is not None and self.most is not None:
            return f"from {self.least} to {self.most}{beside}"
        ends = (("of {} or more", self.least), ("above {}", self.above), ("up to {}", self.most), ("below {}", self.below))
        return ", ".join(phrase.format(end) for phrase, end in ends if end is not None) + beside


class Numbers(str):
    """A metavar, shown like ``S [0<x<=3600]``, that has the range with it: every release of typer hands it on as it is."""

    taken: Range

    @classmethod
    def of(cls, metavar: str, taken: Range) -> Numbers:
        """The metavar of an option that takes these numbers."""
        numbers = cls(f"{metavar} [{taken.text}]")
        numbers.taken = taken
        return numbers


def range_of(parameter: object) -> Range | None:
    """The numbers that a parameter of a command takes; None for one of other values."""
    metavar = getattr(parameter, "metavar", None)
    return metavar.taken if isinstance(metavar, Numbers) else None
