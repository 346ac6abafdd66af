"""Accuracy that was measured on one kind of CPU says little about another: 8-bit products are added in another way there."""

from __future__ import annotations

import re
from collections.abc import Sequence

from edgekit.bundle.manifest import Variant
from edgekit.machine.cpu import instruction_sets, with_vnni

_BY_VNNI = frozenset({"int8"})
"""Precisions whose results depend on it."""


def measured_elsewhere(variant: Variant) -> str:
    """A sentence if the variant's accuracy was measured on a CPU with VNNI and this one has none, or the other way round."""
    conversion = variant.conversion
    if conversion is None or not conversion.cpu or variant.accuracy is None or variant.precision not in _BY_VNNI:
        return ""
    names = (tuple(filter(None, re.split(r"[,\s]+", conversion.cpu))), instruction_sets())
    there, here = map(with_vnni, names)
    if not all(map(_of_x86, names)) or bool(there) == bool(here):
        return ""
    return (
        f"the {variant.name} accuracy was measured on a CPU {_kind(there)}; this one {_own(here)}: measure it here with "
        f"edgekit evaluate --variant {variant.name}"
    )


def _of_x86(names: Sequence[str]) -> bool:
    """Whether these are instruction sets of x86: ARM's 8-bit products are added in 32 bits in all of them."""
    return any(name.startswith(("avx", "amx")) for name in names)


def _kind(names: tuple[str, ...]) -> str:
    return f"with {' and '.join(names)}" if names else "without VNNI"


def _own(names: tuple[str, ...]) -> str:
    return f"has {' and '.join(names)}" if names else "has none"
