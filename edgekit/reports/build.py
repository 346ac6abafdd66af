"""The report of a build."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from edgekit.reports.base import Part, Report
from edgekit.reports.page import Line, Page, Span, Table, columns, note, verdict
from edgekit.setups import Setup, shared_variant
from edgekit.tensors import BatchRange


class LayerCount(Part, frozen=True):
    """How many layers of a kind (the runtime's word for it) compute in a precision."""

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

    ``in_network`` and ``in_engine`` count layers that multiply by precision, those of the engine as far as it tells; of
    ``untold`` more it does not. TensorRT may make several layers of one, or one of several.
    """

    asked: str
    typing: str
    read_from: Literal["engine", "both", "network"]
    found: tuple[str, ...]
    problems: tuple[str, ...] = ()
    note: str = ""
    engine: tuple[EngineLayer, ...] = ()
    in_network: dict[str, int] = msgspec.field(default_factory=dict)
    in_engine: dict[str, int] = msgspec.field(default_factory=dict)
    untold: int = 0


class BuildReport(Report, frozen=True):
    """What a backend built ahead, an engine for example, or found whole and fitting.

    ``engine`` is the file; None when a check failed: such a file is not kept. ``seconds`` is the build's own time. What a builder
    does not have is left out: ``flavour`` and ``version`` are what built it; ``cold_seconds`` is what the same build took without
    an earlier one's measurements, which are in the ``timing_cache``; ``options`` are the backend's own, in whole; ``ranges`` are
    the batch sizes that the file takes, none where the batch is fixed; ``notes`` say what the builder reads otherwise than ONNX
    has it.
    """

    bundle: str
    onnx_sha256: str
    setup: Setup
    engine: str | None
    engine_sha256: str
    engine_bytes: int
    cached: bool
    seconds: float
    flavour: str = ""
    version: str = ""
    cold_seconds: float | None = None
    timing_cache: str = ""
    options: dict[str, Any] = msgspec.field(default_factory=dict)
    ranges: tuple[BatchRange, ...] | None = None
    layers: tuple[LayerCount, ...] = ()
    precision: PrecisionReport | None = None
    facts: dict[str, str] = msgspec.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """The file was kept, and computes in the precision that was asked for."""
        return self.engine is not None and not (self.precision and self.precision.problems)

    def page(self) -> Page:
        """In what its layers compute, how long it took, and where it is."""
        rows = tuple((layer.kind, layer.precision, str(layer.count)) for layer in self.layers)
        builder = f"{self.flavour or self.setup.backend} {self.version}".rstrip()
        return (
            Line(Span(f"{self.bundle}{shared_variant((self.setup,))} in {builder}", "bold")),
            *((Table("", columns("layer", "precision", "count", numbers=("count",)), rows),) if rows else ()),
            *(self._precision(self.precision) if self.precision else ()),
            *map(note, self.notes),
            Line(self._time()),
            Line(self._place()),
        )

    def _precision(self, precision: PrecisionReport) -> Page:
        tf32 = f", TF32 {self.facts['TF32']}" if "TF32" in self.facts else ""
        found_in = f"{', '.join(precision.found) or 'none'} found in the {precision.read_from}"
        words = f"precision: {precision.asked} asked for, {found_in}{tf32}: "
        return (
            *self._totals(precision),
            Line((words, verdict(not precision.problems), f" ({precision.typing})")),
            *((note(precision.note),) if precision.note else ()),
            *(Line(Span(problem, "bad")) for problem in precision.problems),
        )

    def _totals(self, precision: PrecisionReport) -> Page:
        """How many layers that multiply compute in what."""
        names = dict.fromkeys((*precision.in_network, *precision.in_engine))
        rows = [(name, str(precision.in_network.get(name, 0)), self._of_engine(precision, name)) for name in names]
        rows += [("not told", "", str(precision.untold))] if precision.untold else []
        headings = ("layers that multiply", "in the network", "in the engine")
        return (Table("", columns(*headings, numbers=headings[1:]), tuple(rows)),) if rows else ()

    def _of_engine(self, precision: PrecisionReport, name: str) -> str:
        return str(precision.in_engine.get(name, 0)) if precision.in_engine else "not told"

    def _time(self) -> str:
        took = f"{'its' if self.cached else 'the'} build took {self.seconds:.2f} s"
        warm = self.cold_seconds is not None and self.timing_cache == "reused"
        cold = f", {self.cold_seconds:.2f} s without it" if warm else ""
        timing = f"; timing cache: {self.timing_cache.replace(': ', ', ')}{cold}" if self.timing_cache else ""
        return took + timing

    def _place(self) -> str:
        place = f"{'found' if self.cached else 'wrote'} {self.engine}" if self.engine else "nothing was kept"
        sizes = "" if self.ranges is None else f"batch {', '.join(map(str, self.ranges)) or 'fixed'}, "
        return f"{place}: {sizes}{self.engine_bytes / 1e6:.2f} MB"
