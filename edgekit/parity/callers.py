"""The bar that a caller sets, in place of a bundle's own."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.parity.compare import compare_output
from edgekit.parity.converted import FAR
from edgekit.parity.order import in_another_order
from edgekit.tolerance import Bar, Measured, Tolerance


class CallersBar(NamedTuple):
    """A caller's tolerance, ``instead_of`` a bundle's bar: how far numbers may be off, and never whose numbers they are.

    The first ``against`` samples are held to the reference, None: all. ``top1`` is the tolerance's. Of the first ``usual``
    samples, None: of all, no channel and no sample may be off by more than ``least``, of scale, because another one's numbers
    stand there (see ``edgekit.parity.order``). The classes that tie by the bundle's bar tie here too, and an output that it takes
    is in no other order, so that a wider tolerance fails nothing that passes without it.
    """

    tolerance: Tolerance
    top1: float
    least: float
    instead_of: Bar
    usual: int | None = None
    against: int | None = None

    def limits(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """Those of the tolerance."""
        return self.tolerance.limits(reference)

    def blur(self, reference: NDArray[np.float64]) -> NDArray[np.float64]:
        """That of the tolerance, or of the bundle's bar where it is more: what it cannot tell apart a wider one cannot either."""
        return np.maximum(self.tolerance.blur(reference), self.instead_of.blur(reference))

    def held(self, reference: NDArray[np.float64]) -> int:
        """``against``, or all samples."""
        return len(reference) if self.against is None else self.against

    def measured(self, output: NDArray[Any], reference: NDArray[np.float64]) -> Measured:
        """Beyond all bounds where channels or samples are in another order, of an output that the bundle's bar does not take."""
        moved = in_another_order(output[: self.usual], reference[: self.usual], self.least)
        if not moved or compare_output("", output, reference, self.instead_of).within(self.instead_of):
            return Measured()
        return Measured(FAR, moved)
