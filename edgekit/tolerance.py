"""How far an output may be from its reference."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output y passes against the reference r when max|y - r| <= atol + rtol * max|r| and top-1 agrees.

    ``top1`` is the least share of samples (outputs of shape N x classes) whose largest value must be at the place of the
    reference's largest value, or at a place whose reference value is within a millionth of max|r| of the largest.
    """

    atol: Annotated[float, Meta(ge=0)] = 1e-6
    rtol: Annotated[float, Meta(ge=0, lt=1)] = 2e-5
    top1: Annotated[float, Meta(ge=0, le=1)] = 1.0

    def of(self, recorded: Tolerance) -> Tolerance:
        """Hold to this tolerance, whatever a bundle has recorded."""
        return self


def half_tolerance(own_error: float, top1: float = 1.0) -> Tolerance:
    """The tolerance of a 16-bit file: rtol is 8 times the original's own error in 16 bits, at least 1e-3 and at most 2e-2."""
    return Tolerance(atol=1e-5, rtol=min(max(8 * own_error, 1e-3), 2e-2), top1=top1)


class ToleranceChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A user's changes to a bundle's tolerance; None leaves the recorded value."""

    atol: float | None = None
    rtol: float | None = None

    def of(self, recorded: Tolerance) -> Tolerance:
        """The recorded tolerance with these changes."""
        changes = {name: value for name, value in (("atol", self.atol), ("rtol", self.rtol)) if value is not None}
        return msgspec.structs.replace(recorded, **changes)
