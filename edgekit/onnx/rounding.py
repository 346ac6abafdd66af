"""What rounding to a dtype may change, by the dtype's name."""

from __future__ import annotations

_LIMITS = {"float16": 1e-2, "bfloat16": 1e-1, "float64": 1e-9}
_UNITS = {"float16": 2.0**-10, "bfloat16": 2.0**-7, "float64": 2.0**-52}  # numpy lacks bfloat16


def rounding_limit(dtype: str) -> float:
    """An error of scale that rounding in ``dtype`` explains, between two runtimes or two batch sizes."""
    return _LIMITS.get(dtype, 2e-5)


def rounding_unit(dtype: str) -> float:
    """The distance from 1 to the next number of ``dtype``."""
    return _UNITS.get(dtype, 2.0**-23)
