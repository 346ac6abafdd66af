"""How far an output may be from its reference."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta


class Tolerance(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An output y passes against the reference r when max|y - r| <= atol + rtol * max|r| and top-1 agrees.

    ``top1`` is the least share of samples whose largest value must be at the same place, or at one whose reference value
    ties with it to a millionth of max|r| (outputs of shape N x classes).
    """

    atol: Annotated[float, Meta(ge=0)] = 1e-6
    rtol: Annotated[float, Meta(ge=0, lt=1)] = 2e-5
    top1: Annotated[float, Meta(ge=0, le=1)] = 1.0
