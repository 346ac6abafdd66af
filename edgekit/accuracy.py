"""How often predictions are right: over all pictures, per class, and as the mean over the classes."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Accuracy(NamedTuple):
    """Shares of 1. ``per_class`` has a place for each class, None where no picture is of it.

    ``balanced`` is the mean of ``per_class`` over the classes that occur (macro-averaged recall): 1/K for a network that always
    says the same of K classes, however many pictures each has.
    """

    overall: float
    balanced: float
    per_class: tuple[float | None, ...]


def accuracy_of(predictions: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> Accuracy:
    """Compare ``predictions`` with ``labels``, both int64 N of class numbers below ``classes``; N is at least 1."""
    counts = np.bincount(labels, minlength=classes)
    correct = np.bincount(labels[predictions == labels], minlength=classes)
    per_class = tuple(float(right / count) if count else None for right, count in zip(correct, counts, strict=True))
    shares = [share for share in per_class if share is not None]
    return Accuracy(float(correct.sum() / len(labels)), float(np.mean(shares)), per_class)


CONFIDENCE = 1.959963984540054
"""Standard deviations of a normal distribution on either side of its mean that hold 95 %."""


def share_interval(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of the probability of which a ``share`` of ``n`` trials came true (Wilson 1927).

    (p + z^2/2n -+ z sqrt(p(1 - p)/n + z^2/4n^2)) / (1 + z^2/n) with p = ``share``, z = ``CONFIDENCE``; n is at least 1.
    """
    spread = CONFIDENCE**2 / n
    half = CONFIDENCE * math.sqrt(share * (1 - share) / n + spread / (4 * n))
    return (share + spread / 2 - half) / (1 + spread), (share + spread / 2 + half) / (1 + spread)


class Paired(NamedTuple):
    """Two networks or runtimes on the same n pictures: ``only_first`` and ``only_second`` are right where the other is wrong.

    ``difference`` is the second's accuracy less the first's, with its 95 % interval ``low`` to ``high``; ``p`` is McNemar's exact
    two-sided probability of so uneven a split by chance.
    """

    n: int
    only_first: int
    only_second: int
    difference: float
    low: float
    high: float
    p: float

    @property
    def decided(self) -> bool:
        """Whether the difference is told from chance at 5 %."""
        return self.p < 0.05


def paired(first: NDArray[np.bool_], second: NDArray[np.bool_]) -> Paired:
    """Compare which pictures two networks, or runtimes, have right, bool N each.

    With b = ``only_first`` and c = ``only_second`` the difference is (c - b) / n. Its interval is ``paired_interval``, and
    p = min(1, 2 P(X <= min(b, c))) with X of Binomial(b + c, 1/2) (McNemar 1947, exact).
    """
    b, c = int((first & ~second).sum()), int((second & ~first).sum())
    both, neither = int((first & second).sum()), int((~(first | second)).sum())
    low, high = paired_interval(both, c, b, neither)
    return Paired(len(first), b, c, (c - b) / len(first), low, high, exact_p(b, c))


def paired_interval(both: int, first: int, second: int, neither: int) -> tuple[float, float]:
    """The 95 % interval of the first share less the second, of n trials that came true in ``both``, in one alone, in ``neither``.

    Newcombe 1998, Statistics in Medicine 17, 2635-2650, method 10. The distances of p1 and p2 from the ends of their intervals
    (``share_interval``) are added as two legs of a triangle, for what the trials have in common with their correlation phi:

        low = p1 - p2 - sqrt((p1 - l1)^2 - 2 phi (p1 - l1)(u2 - p2) + (u2 - p2)^2)
        high = p1 - p2 + sqrt((u1 - p1)^2 - 2 phi (u1 - p1)(p2 - l2) + (p2 - l2)^2)

    It has a width also where no trial came true in one alone: among n others there may be some. At least one trial is needed.
    """
    n = both + first + second + neither
    p1, p2 = (both + first) / n, (both + second) / n
    (l1, u1), (l2, u2) = share_interval(p1, n), share_interval(p2, n)
    phi = _correlation(both, first, second, neither)
    below = math.sqrt((p1 - l1) ** 2 - 2 * phi * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    above = math.sqrt((u1 - p1) ** 2 - 2 * phi * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return max(-1.0, p1 - p2 - below), min(1.0, p1 - p2 + above)


def _correlation(both: int, first: int, second: int, neither: int) -> float:
    """Newcombe's phi: a positive ad - bc is taken n / 2 smaller, but not below 0; 0 where a share is 0 or 1."""
    scale = (both + first) * (second + neither) * (both + second) * (first + neither)
    if scale == 0:
        return 0.0
    product = both * neither - first * second
    corrected = max(product - (both + first + second + neither) / 2, 0.0) if product > 0 else product
    return corrected / math.sqrt(scale)


def exact_p(b: int, c: int) -> float:
    """McNemar's exact two-sided p of ``b`` against ``c`` discordant pictures; 1 where there are none."""
    total, few = b + c, min(b, c)
    logs = [math.lgamma(total + 1) - math.lgamma(k + 1) - math.lgamma(total - k + 1) for k in range(few + 1)]
    return min(1.0, 2 * math.fsum(math.exp(each - total * math.log(2)) for each in logs))


def majority_share(labels: NDArray[np.int64]) -> float:
    """The accuracy of always naming the most frequent class of ``labels``, int64 N with N of at least 1."""
    return float(np.bincount(labels).max() / len(labels))
