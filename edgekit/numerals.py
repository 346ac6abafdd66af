"""Numbers in a user's words, read in one way wherever one is given: ASCII digits, as every document and report writes them."""

from __future__ import annotations

import re

_WHOLE = re.compile(r"[0-9]+")
_DECIMAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?")
MOST_DIGITS = 19
"""Of a whole number; ``int`` refuses very long ones."""


def whole(text: str, most_digits: int = MOST_DIGITS) -> int | None:
    """The whole number of 0 or more that ``text`` is, blanks around it aside.

    None for anything else: a sign, an underscore, digits of another script, or more than ``most_digits``.
    """
    word = text.strip()
    return int(word) if len(word) <= most_digits and _WHOLE.fullmatch(word) else None


def decimal(text: str) -> float | None:
    """The number that ``text`` is, like ``-0.3`` or ``1e-5``, blanks around it aside; infinite where it is too large.

    None for anything else: an underscore, digits of another script, ``inf`` and ``nan``.
    """
    word = text.strip()
    return float(word) if _DECIMAL.fullmatch(word) else None
