"""TensorRT's own options: how an engine is run, and how it is built."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeAlias, get_args

import msgspec

from edgekit.backends.contract import Options
from edgekit.bundle.files import ModelFiles
from edgekit.setups import Absence
from edgekit.tensors import BatchRange, TensorSpec

FlavourName: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
NAMES: tuple[FlavourName, ...] = get_args(FlavourName)
"""Flavours in the order in which they are tried; the first that works here is the default."""

LARGEST_LEVEL = 5
LARGEST_WORKSPACE = 1 << 20  # MiB
DEFAULT_LEVEL = 3


def free_side_absence(files: ModelFiles | None) -> Absence | None:
    """Why TensorRT cannot run a file whose pictures are of any size: its engines have ranges of batch sizes alone."""
    if files is None or not files.free_side:
        return None
    reason = f"TensorRT's engines have ranges of the batch alone, and {files.onnx.name} leaves its {files.free_side} free"
    return Absence(reason, "use ort-cuda for it, or tensorrt for another variant")


DEFAULT_RANGE = BatchRange(1, 8, 32)
"""The batch sizes of a free batch axis by default: those that bench times."""


class RunOptions(Options, frozen=True):
    """How to run an engine. ``cuda_graph``: record its work once and replay it as a CUDA graph.

    ``flavour``: tensorrt or tensorrt-rtx, where both are installed. ``engine``: the path of a plan that ``edgekit build`` wrote,
    which is run as it is or refused; without one, the usual engine is found or built.
    """

    cuda_graph: bool = False
    flavour: FlavourName | None = None
    engine: str | None = None


class BuildOptions(Options, frozen=True):
    """How to build an engine: part of its identity, so the same options mean the same engine everywhere.

    ``workspace_mib`` None leaves TensorRT all of the GPU's memory; ``level`` is its optimisation level.

    ``tf32`` is off because it rounds float32 products to 10 bits, which no float32 parity check would survive; ``cuda_graph``:
    whatever would keep its work from being recorded is left out.
    """

    profiles: tuple[BatchRange, ...] = ()
    workspace_mib: int | None = None
    level: int = DEFAULT_LEVEL
    hardware_compatible: bool = False
    version_compatible: bool = False
    tf32: bool = False
    cuda_graph: bool = False

    def flags(self) -> list[str]:
        """The options in the form of ``edgekit build``, without those at their defaults."""
        switches = ("hardware_compatible", "version_compatible", "tf32", "cuda_graph")
        return [
            *(f"--batch {sizes}" for sizes in self.profiles),
            *([f"--workspace {self.workspace_mib}"] if self.workspace_mib is not None else []),
            *([f"--level {self.level}"] if self.level != DEFAULT_LEVEL else []),
            *(f"--{name.replace('_', '-')}" for name in switches if getattr(self, name)),
        ]


class BuildSettings(BuildOptions, frozen=True):
    """The options of ``edgekit build``: those of the build, ranges as text (``1:8:32``), and the flavour."""

    profiles: tuple[str, ...] = ()  # type: ignore[assignment]
    flavour: FlavourName | None = None

    def of_the_engine(self) -> BuildOptions:
        """Without the flavour, which an engine's key names by itself; raises UsageError for a text that is no range."""
        own = {name: getattr(self, name) for name in BuildOptions.__struct_fields__}
        return BuildOptions(**{**own, "profiles": tuple(dict.fromkeys(map(BatchRange.parse, self.profiles)))})


def with_default_range(inputs: Sequence[TensorSpec], options: BuildOptions, batches: Sequence[int] = ()) -> BuildOptions:
    """The options with sizes for the batch, where it is free and none are given: the usual ones, and up to ``batches``."""
    free = any(spec.free for spec in inputs)
    if not free or options.profiles:
        return options
    largest = max((DEFAULT_RANGE.max, *batches))
    return msgspec.structs.replace(options, profiles=(BatchRange(DEFAULT_RANGE.min, DEFAULT_RANGE.opt, largest),))
