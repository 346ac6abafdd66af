"""The report of a build."""

from __future__ import annotations

from typing import Literal

from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.reports.base import Part, Report


class LayerCount(Part, frozen=True):
    """How many layers of a kind (TensorRT's word for it) compute in a precision."""

    kind: str
    precision: str
    count: int


class EngineLayer(Part, frozen=True):
    """A layer of a built engine, in its own words; what it does not say is empty.

    ``precisions``: what it computes in; more than one where the engine leaves open which of them it is. ``tactic`` names its
    kernel; ``onnx_nodes`` are what it was made of; ``computes``: its precision costs time and accuracy.
    """

    name: str
    computes: bool = False
    precisions: tuple[str, ...] = ()
    tactic: str = ""
    kind: str = ""
    onnx_nodes: tuple[str, ...] = ()


class PrecisionReport(Part, frozen=True):
    """In what an engine computes. ``found`` holds the precisions of its layers that multiply.

    They are read from the ``engine`` itself, or, where no GPU can load it, from the ``network`` that it was built of, or from
    ``both`` where the engine does not tell it of all its layers; ``note`` says why. ``problems`` are differences from what was
    ``asked`` for; ``engine`` is all that the engine said.
    """

    asked: str
    typing: str
    read_from: Literal["engine", "both", "network"]
    found: tuple[str, ...]
    problems: tuple[str, ...] = ()
    note: str = ""
    engine: tuple[EngineLayer, ...] = ()


class BuildReport(Report, frozen=True):
    """An engine that was built, or found whole and fitting in the cache.

    ``engine`` is None when a check failed: such an engine is not kept. ``seconds`` is the build's own time; ``cold_seconds`` what
    the same build took without an earlier one's measurements, where that is known.
    """

    bundle: str
    onnx_sha256: str
    flavour: str
    version: str
    engine: str | None
    engine_sha256: str
    engine_bytes: int
    cached: bool
    seconds: float
    cold_seconds: float | None
    timing_cache: str
    options: BuildOptions
    layers: tuple[LayerCount, ...]
    precision: PrecisionReport
    facts: dict[str, str]

    @property
    def passed(self) -> bool:
        """The engine computes in the precision that was asked for."""
        return not self.precision.problems
