"""The bar that a caller sets, in place of a bundle's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.converted import FAR
from edgekit.parity.order import in_another_order
from edgekit.tolerance import Measured, Tolerance


class CallersBar(NamedTuple):
    """A caller's tolerance: how far numbers may be off, and never whose numbers they are.

    The first ``against`` samples are held to the reference, None: all. ``top1`` is the tolerance's. Of the first ``usual``
    samples, None: of all, no channel and no sample may be off by more than ``least``, of scale, because another one's numbers
    stand there (see ``edgekit.parity.order``).
    """

    tolerance: Tolerance
    top1: float
    least: float
    usual: int | None = None
    against: int | None = None

    def limits(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """Those of the tolerance."""
        return self.tolerance.limits(reference)

    def blur(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """That of the tolerance."""
        return self.tolerance.blur(reference)

    def held(self, reference: NDArray[np.float64]) -> int:
        """``against``, or all samples."""
        return len(reference) if self.against is None else self.against

    def measured(self, output: NDArray[Any], reference: NDArray[np.float64]) -> Measured:
        """Beyond all bounds where channels or samples are in another order."""
        moved = in_another_order(output[: self.usual], reference[: self.usual], self.least)
        return Measured(FAR, moved) if moved else Measured()
