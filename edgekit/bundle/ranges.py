"""The range table of an int8 file: what each rounded value's codes stand for, and where that comes from."""

from __future__ import annotations

from pathlib import Path

import msgspec

from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Calibration
from edgekit.errors import FETCH_AGAIN, BundleError
from edgekit.files import read_bytes


class TensorRange(msgspec.Struct, frozen=True):
    """The range of one value: ``lowest`` and ``highest`` seen, and the ``limit`` that code 127 of its ``dtype`` stands for."""

    tensor: str
    lowest: float
    highest: float
    limit: float
    dtype: str
    group: str


class RangeTable(msgspec.Struct, frozen=True):
    """All that an int8 file was written from, beside the float32 file: ``int8.json`` of a bundle.

    ``equalised``: convolutions that share out their weights with the next one.
    """

    calibration: Calibration
    bias_correction: bool
    tensors: tuple[TensorRange, ...]
    equalised: tuple[str, ...] = ()


def range_table(bundle: Bundle, variant: str) -> RangeTable | None:
    """The range table of a variant; None for one without. Raises BundleError for a file that is none."""
    conversion = bundle.variant(variant).conversion
    if conversion is None or conversion.ranges is None:
        return None
    file = conversion.ranges

    def read(place: Path) -> RangeTable:
        try:
            return msgspec.json.decode(read_bytes(place / file, "range table", BundleError), type=RangeTable)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise BundleError(f"{place / file} is no range table: {problem}", FETCH_AGAIN) from None

    return bundle.reading(read)
