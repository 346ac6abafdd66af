"""The report of ``edgekit report``: what a bundle is, and all that was found out about it on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated

from msgspec import Meta, field

from edgekit.reports.base import Case, Part, Report
from edgekit.reports.bench import BenchReport
from edgekit.reports.evaluate import AccuracyRow, EvaluateReport
from edgekit.reports.export import FoldReport
from edgekit.reports.inspect import VARIANT_COLUMNS, InspectReport, VariantRow
from edgekit.reports.page import Code, Heading, Line, Page, Span, Table, Tile, Tiles, columns, facts_table, note
from edgekit.reports.quantize import kept_table
from edgekit.reports.tune import TuneReport
from edgekit.reports.verify import VerifyReport
from edgekit.setups import Setup

KINDS: dict[str, type[Report]] = {
    "verify": VerifyReport,
    "evaluate": EvaluateReport,
    "bench": BenchReport,
    "tune": TuneReport,
}
"""Command -> the report that it leaves in the state folder (``Report.kept_as``), which BundleReport has a field for.

A further command is a row here and in ``ABOUT``, and a field; its charts are what its report gives as ``figures``.
"""
ABOUT = {
    "evaluate": "Accuracy",
    "verify": "Parity with the reference",
    "bench": "Latency",
    "tune": "Which way to ship",
}
"""Command -> the heading of what it found out, in the order of the page."""


class Measured(Part, frozen=True):
    """What a part was measured by: when (UTC), on which machine, by which edgekit and which words of the command line.

    ``host`` is the machine's name where it is another of the same kind than the one that made the report; else empty.
    """

    when: str
    machine: dict[str, str]
    edgekit: str
    words: str
    host: str = ""

    def line(self) -> Line:
        """Where a part comes from, in one line."""
        host = f" (another machine of this kind, {self.host})" if self.host else ""
        when = self.when[:16].replace("T", " ")
        return Line(
            Span(f"measured {when} UTC on {described(self.machine)}{host}, by edgekit {self.edgekit}: {self.words}", "dim")
        )


class Elsewhere(Part, frozen=True):
    """A command that was run for this bundle on another kind of machine, whose figures are not shown."""

    command: str
    when: str
    machine: dict[str, str]


class Tensor(Part, frozen=True):
    """An input or an output: ``side`` says which."""

    side: str
    name: str
    dtype: str
    shape: str


class FileRow(Part, frozen=True):
    """A file of the bundle."""

    name: str
    bytes: int
    sha256: str


class BundleReport(Report, frozen=True):
    """What a bundle is, and the last report of each command that was run for it on this machine.

    ``facts`` are of the model, and ``origin`` says where it comes from, in words. ``layers`` is None, for the reason
    ``no_layers``, where they cannot be read here. ``recipe`` is TOML, empty where none is recorded; ``program`` calls the
    network. ``measured``: command -> where its part comes from; a command that is not in it was not run. ``unreadable``:
    sentences about records that cannot be read. ``written``: the file of the page, empty where none was written.
    """

    bundle: str
    name: str
    manifest_sha256: str
    facts: dict[str, str]
    tensors: tuple[Tensor, ...]
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    fold: FoldReport
    variants: Annotated[tuple[VariantRow, ...], Meta(min_length=1)]
    layers: InspectReport | None
    no_layers: str
    machine: dict[str, str]
    recipe: str
    program: str
    files: tuple[FileRow, ...]
    measured: dict[str, Measured] = field(default_factory=dict)
    verify: VerifyReport | None = None
    evaluate: EvaluateReport | None = None
    bench: BenchReport | None = None
    tune: TuneReport | None = None
    unreadable: tuple[str, ...] = ()
    elsewhere: tuple[Elsewhere, ...] = ()
    written: str = ""
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def parts(self) -> Mapping[str, Report]:
        """Command -> its report, of those that were run."""
        named = {name: getattr(self, name) for name in ABOUT}
        return {name: part for name, part in named.items() if part is not None}

    @property
    def passed(self) -> bool:
        """No check of a part has failed."""
        return all(part.passed for part in self.parts.values())

    def suites(self) -> dict[str, tuple[Case, ...]]:
        """Command -> its checks; one that was not run is a check that was not made."""
        missing = {name: (Case("run", None, f"not run on this machine: edgekit {name} {self.bundle}"),) for name in ABOUT}
        return missing | {name: part.cases() for name, part in self.parts.items()}

    def page(self) -> Page:
        """In a terminal: where the page is, the figures read first, and what has not been run."""
        wrote = (Line(("wrote ", Span(self.written, "bold"))),) if self.written else ()
        return (Tiles(tuple(self._tiles())), *self._not_run(), *map(note, self.unreadable), *self._elsewhere(), *wrote)

    def document(self) -> Page:
        """The whole page."""
        sections: tuple[tuple[str, Page], ...] = (
            ("At a glance", (Tiles(tuple(self._tiles())), *self._not_run(), *map(note, self.unreadable), *self._elsewhere())),
            ("The model", self._model()),
            ("Where it comes from", (facts_table("", self.origin),)),
            *((ABOUT[name], (self.measured[name].line(), *_with_figures(part))) for name, part in self.parts.items()),
            ("Batch norm", self.fold.page() or (Line("The network has no normalisations."),)),
            ("Variants", self._variants()),
            ("Layers", self._layers()),
            ("This machine", (facts_table("what the report was made on", self.machine),)),
            ("How to reproduce", tuple(self._reproduce())),
            ("Files", self._files()),
        )
        return tuple(item for heading, page in sections for item in (Heading(heading), *page))

    def _tiles(self) -> Iterator[Tile]:
        yield _parity(self.verify)
        if self.evaluate is not None and self.evaluate.rows:
            first, tone = self._of_first_file(self.evaluate.rows), "good" if self.evaluate.passed else "bad"
            about = f"top-1 of {first.backend}{self._file(first.setup)} on {self.evaluate.pictures:,} pictures"
            yield Tile("accuracy", Span(f"{first.top1:.2%}", "bold" if tone == "good" else "bad"), about)
        else:
            recorded = next((row.accuracy for row in self.variants if row.accuracy is not None), None)
            if recorded is not None:
                yield Tile("accuracy", Span(f"{recorded:.2%}", "bold"), "recorded at export, not measured here")
        yield self._latency()
        size = self.variants[0].bytes
        yield Tile("size", Span(f"{size / 1e6:.2f} MB", "bold"), f"the {self.variants[0].name} file")
        if self.layers is not None:
            yield Tile(
                "parameters", Span(_metric(self.layers.parameters), "bold"), f"{_metric(self.layers.macs)} multiply-adds a sample"
            )

    def _latency(self) -> Tile:
        rows = self.bench.rows if self.bench is not None else ()
        fitting = [row for row in rows if row.batch == rows[0].batch and row.boundary == "end-to-end"]
        if self.bench is None or not fitting:
            return Tile("latency", Span("not measured", "warn"), "edgekit bench measures it")
        fastest = min(fitting, key=lambda row: row.median_ms)
        figure = Span(f"{fastest.median_ms:.3g} ms", "bold" if self.bench.passed else "bad")
        about = f"median of {fastest.backend}{self._file(fastest.setup)}, batch {fastest.batch}, end to end"
        return Tile("latency", figure, about)

    def _of_first_file(self, rows: Sequence[AccuracyRow]) -> AccuracyRow:
        """The first row of the bundle's first file, or the first of all: figures that stand side by side are of one file."""
        return next((row for row in rows if not self._file(row.setup)), rows[0])

    def _file(self, setup: Setup) -> str:
        """What is told of a figure that is of another file than the first."""
        return "" if setup.variant in ("", self.variants[0].name) else f", {setup.variant}"

    def _not_run(self) -> Page:
        missing = [name for name in ABOUT if name not in self.parts]
        if not missing:
            return ()
        commands = "\n".join(f"edgekit {name} {self.bundle}" for name in missing)
        return (Code("Not run on this machine yet:", commands),)

    def _elsewhere(self) -> Page:
        return tuple(
            note(f"{each.command} was also run elsewhere, which is not shown: {described(each.machine)}, {each.when[:10]}")
            for each in self.elsewhere
        )

    def _model(self) -> Page:
        tensors = tuple((row.side, row.name, row.dtype, row.shape) for row in self.tensors)
        labels = (Line(("labels: ", ", ".join(self.labels))),) if self.labels else ()
        table = Table("inputs and outputs", columns("", "name", "dtype", "shape"), tensors)
        return (facts_table("", self.facts), table, *labels, *map(note, self.notes))

    def _variants(self) -> Page:
        headings = columns(*VARIANT_COLUMNS, numbers=VARIANT_COLUMNS[1:5], prose=("pays on",))
        table = Table("files of the network", headings, tuple(row.cells() for row in self.variants))
        return (table, *(note(row.speed) for row in self.variants if row.speed), *self._in_float())

    def _in_float(self) -> Page:
        """The layers of each variant that stayed in float, and why."""
        return tuple(kept_table(f"{row.name}: ", row.in_float, row.converted or 0) for row in self.variants if row.in_float)

    def _layers(self) -> Page:
        if self.layers is None:
            return (note(self.no_layers),)
        return tuple(
            Table("", item.columns, item.rows, long=True) if isinstance(item, Table) else item for item in self.layers.page()
        )

    def _reproduce(self) -> Iterator[Code]:
        commands = [part.words for part in self.measured.values()] or [f"edgekit {name} {self.bundle}" for name in ABOUT]
        yield Code("Measure it again:", "\n".join([*commands, f"edgekit report {self.bundle}"]))
        if self.recipe:
            yield Code("The recipe that trained it, as the bundle records it; edgekit run trains it again:", self.recipe)
        yield Code("Call the network, in the bundle's folder:", self.program)

    def _files(self) -> Page:
        rows = tuple((row.name, f"{row.bytes:,}", row.sha256) for row in self.files)
        manifest = Line(("sha256 of manifest.json, which lists all others: ", Span(self.manifest_sha256, "bold")))
        return (manifest, Table("", columns("file", "bytes", "sha256", numbers=("bytes",)), rows))


def _with_figures(part: Report) -> Page:
    """A part's page with its charts behind the first table and what explains it."""
    page = part.page()
    tables = [place for place, item in enumerate(page) if isinstance(item, Table)]
    lead = tables[1] if len(tables) > 1 else len(page)
    return (*page[:lead], *part.figures(), *page[lead:])


def described(machine: Mapping[str, str]) -> str:
    """A machine in a few words."""
    cores = f"{machine['cores']} core(s)" if "cores" in machine else ""
    return ", ".join(filter(None, (machine.get("gpu", ""), machine.get("cpu", "unknown CPU"), cores, machine.get("system", ""))))


def _parity(report: VerifyReport | None) -> Tile:
    if report is None:
        return Tile("parity", Span("not checked", "warn"), "edgekit verify checks it")
    failing = [row.backend for row in report.parities if not row.passed]
    broken = sum(check.outcome == "fail" for check in report.checks)
    if report.passed:
        backends = dict.fromkeys(row.setup.backend for row in report.parities)
        return Tile("parity", Span("pass", "good"), f"{', '.join(backends)}; {len(report.parities)} comparison(s)")
    about = [f"fails: {', '.join(failing)}"] if failing else []
    about += [f"{broken} claim(s) of the manifest do not hold"] if broken else []
    return Tile("parity", Span("FAIL", "bad"), "; ".join(about) or "nothing was checked")


def _metric(count: int) -> str:
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
