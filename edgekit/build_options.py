"""What an engine is built for: part of its identity, so the same options mean the same engine everywhere."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgekit.errors import UsageError

LARGEST_BATCH = 65536
LARGEST_LEVEL = 5
LARGEST_WORKSPACE = 1 << 20  # MiB
DEFAULT_LEVEL = 3


class BatchRange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batch sizes an engine takes, ``min`` to ``max``; it is tuned for ``opt``."""

    min: int
    opt: int
    max: int

    def __post_init__(self) -> None:
        if not 1 <= self.min <= self.opt <= self.max <= LARGEST_BATCH:
            raise ValueError(f"{self} is no range of batch sizes: it takes 1 <= min <= opt <= max <= {LARGEST_BATCH}")

    def __str__(self) -> str:
        return f"{self.min}:{self.opt}:{self.max}"

    @classmethod
    def parse(cls, text: str) -> BatchRange:
        """``1:8:32``, or ``8`` for that size alone; raises UsageError for anything else."""
        sizes = _sizes(text.split(":"))
        if sizes is None or len(sizes) not in (1, 3):
            raise UsageError(
                f"--batch {_shown(text)} is no range of batch sizes; write min:opt:max like 1:8:32, or one size like 8"
            )
        try:
            return cls(sizes[0], sizes[len(sizes) // 2], sizes[-1])
        except ValueError as problem:
            raise UsageError(f"--batch {problem}; write min:opt:max like 1:8:32") from None

    def __contains__(self, batch: int) -> bool:
        return self.min <= batch <= self.max


def batch_sizes(text: str) -> tuple[int, ...]:
    """``1,8,32``, each of them once; raises UsageError for anything else."""
    sizes = _sizes(text.split(","))
    if sizes is None or not all(1 <= size <= LARGEST_BATCH for size in sizes):
        raise UsageError(f"--batch {_shown(text)} is not a list of batch sizes from 1 to {LARGEST_BATCH}; write it like 1,8,32")
    return tuple(dict.fromkeys(sizes))


def _sizes(parts: list[str]) -> list[int] | None:
    """Whole numbers, or None; one that is endless is none, because int() gives up on it."""
    digits = [part.strip() for part in parts]
    return [int(one) for one in digits] if all(one.isdecimal() and len(one) < 20 for one in digits) else None


def _shown(text: str) -> str:
    return repr(text if len(text) <= 60 else f"{text[:50]}...")


DEFAULT_RANGE = BatchRange(1, 8, 32)
"""For a free batch axis where nothing else is asked for: the batch sizes that bench times."""


class BuildOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How to build. ``workspace_mib`` None leaves TensorRT all of the GPU's memory; ``level`` is its optimisation level.

    ``tf32`` is off because it rounds float32 products to 10 bits, which no float32 parity check would survive; ``cuda_graph``:
    whatever would keep its work from being recorded is left out.
    """

    profiles: tuple[BatchRange, ...] = ()
    workspace_mib: Annotated[int, Meta(ge=1, le=LARGEST_WORKSPACE)] | None = None
    level: Annotated[int, Meta(ge=0, le=LARGEST_LEVEL)] = DEFAULT_LEVEL
    hardware_compatible: bool = False
    version_compatible: bool = False
    tf32: bool = False
    cuda_graph: bool = False

    def flags(self) -> list[str]:
        """As ``edgekit build`` takes them; what is usual is left out."""
        switches = ("hardware_compatible", "version_compatible", "tf32", "cuda_graph")
        return [
            *(f"--batch {sizes}" for sizes in self.profiles),
            *([f"--workspace {self.workspace_mib}"] if self.workspace_mib is not None else []),
            *([f"--level {self.level}"] if self.level != DEFAULT_LEVEL else []),
            *(f"--{name.replace('_', '-')}" for name in switches if getattr(self, name)),
        ]
