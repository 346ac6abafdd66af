"""What an engine is built for: part of its identity, so the same options mean the same engine everywhere."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from edgekit.tensors import BatchRange

LARGEST_LEVEL = 5
LARGEST_WORKSPACE = 1 << 20  # MiB
DEFAULT_LEVEL = 3


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
