"""``edgekit verify``: compare every backend present with the recorded float64 outputs."""

from __future__ import annotations

import math
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edgekit.backends import row_of
from edgekit.backends.choose import choose, open_named
from edgekit.backends.contract import Opened
from edgekit.backends.inside import opened_copy
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.folder import Bundle, as_opened
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Manifest
from edgekit.bundle.signed import signatures_of
from edgekit.bundle.variants import own_outputs
from edgekit.errors import BundleError
from edgekit.files import as_path
from edgekit.machine.bounds import granted_seconds, memory_bound, stacks, time_bound, too_large
from edgekit.machine.cpu import cores
from edgekit.onnx.arithmetic import fixed_values, node_of_each
from edgekit.onnx.rewire import alone
from edgekit.onnx.scales import scales_unknown
from edgekit.parity.bars import bars_as_written, bars_of
from edgekit.parity.inputs import recorded_in
from edgekit.parity.inside import in_chunks, measured_inside
from edgekit.parity.manifest import TOLERANCE, check_codes, check_manifest
from edgekit.parity.other_cpu import measured_elsewhere
from edgekit.parity.rounding import Support, recorded_support, support_of, trusts
from edgekit.parity.run import AT_ONCE, BATCHES, outputs_of, parity
from edgekit.progress import SILENT, Progress
from edgekit.reports.verify import ParityReport, VerifyReport
from edgekit.setups import Setup, as_setups, labels, taking
from edgekit.tensors import Array, Feed, TensorSpec, fixed_batch
from edgekit.tolerance import Measured, Tolerance, ToleranceChange, widest_rtol

AS_RECORDED = ToleranceChange()
AT_ONCE_INSIDE = 1 << 24
"""Elements of stored numbers that are computed at once: 64 MiB of float32."""


def verify(
    bundle: Bundle | Path | str,
    setups: Setup | str | Iterable[Setup | str] = (),
    *,
    tolerance: Tolerance | ToleranceChange = AS_RECORDED,
    require: Iterable[str] = (),
    allow: Collection[str] = (),
    progress: Progress = SILENT,
) -> VerifyReport:
    """Check a bundle against its recorded float64 outputs, on every backend present or by ``setups``.

    The bundle may be open already, as ``edgekit.bundle.signature.open_signed`` does. A setup may be text in the form of
    ``--backend``. Each variant is held to the noise that was measured at export (see ``edgekit.parity.bars``), unless
    ``tolerance`` is the caller's own. ``require``: setups that must take part beside the others. ``allow``: codes of checks whose
    failing the caller accepts; a tolerance of the caller's accepts any that the bundle records.

    Raises BundleError for a damaged bundle, MissingError for a setup that cannot run on this machine, and UsageError for a code
    that no check has.
    """
    check_codes(allow)
    root = bundle.place if isinstance(bundle, Bundle) else as_path(bundle, "bundle", BundleError)
    with reading(root):
        opened = as_opened(bundle)
        golden, evidence = opened.golden(), opened.evidence()
    choice = choose(opened, (*as_setups(setups), *map(Setup.parse, require)), all_variants=True, progress=progress)
    held = Held(opened, golden, evidence, tolerance, trusting=TOLERANCE in allow)
    setups_run = (*(setup for setup in choice.setups if setup not in choice.as_written), *choice.as_written)
    parities = []
    with progress.task("verifying", len(setups_run)) as advance:
        for name, setup in zip(labels(setups_run), setups_run, strict=True):
            ready_for = _taking(setup, opened.manifest)
            written = held.as_written(ready_for) if setup in choice.as_written else None
            with bounded(opened, setup), open_named(name, ready_for, opened, progress) as ready:
                parities.append(held.parity(ready, written))
            advance(1, name)
    variants = {setup.variant: opened.sha256_of(setup.variant) for setup in setups_run}
    with reading(root):
        checks = check_manifest(opened, golden, evidence, allow if tolerance == AS_RECORDED else (*allow, TOLERANCE))
    return VerifyReport(
        str(opened.root),
        opened.sha256_of(choice.setups[0].variant),
        tuple(parities),
        choice.skipped,
        (*opened.notes, *_notes(opened, tolerance), *filter(None, map(measured_elsewhere, map(opened.variant, variants)))),
        checks,
        variants,
        choice.not_run,
    )


class AsWritten(NamedTuple):
    """Of a file that runs node by node: what supports the rounding of its outputs, and how far off its stored numbers are."""

    support: Support
    inside: Measured


class StoredNumbers(NamedTuple):
    """What a file says of numbers: scales that cannot be moved, values that no input changes, and each value's node in words.

    ``fixed``: value -> its elements.
    """

    unknown: Collection[str]
    fixed: Mapping[str, int]
    nodes: Mapping[str, str]

    @classmethod
    def of(cls, content: bytes) -> StoredNumbers:
        """Read from the file's bytes; raises ValueError for what is no ONNX file."""
        return cls(scales_unknown(content), fixed_values(content), node_of_each(content))


class Held:
    """What sessions of a bundle's variants are held to; each variant's recorded outputs are read once.

    ``tolerance`` and ``trusting`` are those of ``edgekit.parity.bars.bars_of``.
    """

    def __init__(
        self,
        bundle: Bundle,
        golden: GoldenArrays,
        evidence: EvidenceArrays | None,
        tolerance: Tolerance | ToleranceChange,
        *,
        trusting: bool,
    ) -> None:
        self.bundle, self.golden, self.evidence, self.tolerance, self.trusting = bundle, golden, evidence, tolerance, trusting
        self._own: dict[str, dict[str, Array] | None] = {}
        self._written: dict[Setup, AsWritten] = {}

    def parity(self, ready: Opened, written: AsWritten | None = None) -> ParityReport:
        """A session against what was recorded; with ``written`` it runs the file node by node, and only rounding may differ."""
        manifest, setup = self.bundle.manifest, ready.setup
        variant, own = manifest.variant(setup.variant), self._own_of(setup.variant)
        golden, reference = self._golden_of(setup.variant), manifest.golden_of(setup.variant).reference
        if written is None:
            by_runtime = bars_of(manifest, variant, self.evidence, self.tolerance, trusting=self.trusting, own=own)
            return parity(ready, golden, by_runtime.on(setup.backend, ready.session.facts), reference)
        own, trusting = own or self.golden.original, self.trusting
        bars = bars_as_written(manifest, variant, self.tolerance, trusting=trusting, own=own, support=written.support)
        return parity(ready, golden, bars, reference, written.inside)

    def as_written(self, setup: Setup) -> AsWritten:
        """What a setup is held to that runs a file node by node, as it was recorded; a setup is measured once."""
        if setup not in self._written:
            self._written[setup] = self._as_written(setup)
        return self._written[setup]

    def _as_written(self, setup: Setup) -> AsWritten:
        variant, recorded = self.bundle.variant(setup.variant), recorded_in(self.bundle, self.golden)
        if variant.conversion is not None:
            return AsWritten(recorded_support(variant.precision, recorded, self.evidence), Measured())
        content, numbers = self.bundle.read_of(variant.name, lambda content: (content, StoredNumbers.of(content)))
        support = (
            recorded_support(variant.precision, recorded, self.evidence)  # no bar reads what would be measured
            if trusts(variant.allowance, trusting=self.trusting)
            else support_of(variant, recorded, self.evidence, content, numbers.unknown, partial(self._read, setup))
        )
        return AsWritten(support, self._measured_inside(setup, content, numbers))

    def _read(self, setup: Setup, content: bytes, feed: Feed) -> dict[str, Array]:
        """What a copy of the setup's file with other numbers puts out."""
        with bounded(self.bundle, setup), opened_copy(content, self.bundle.files(setup.variant), setup) as session:
            return outputs_of(session, feed)

    def _measured_inside(self, setup: Setup, content: bytes, numbers: StoredNumbers) -> Measured:
        """How far the numbers that a file stores are off their fingerprints; a bar of the caller's own leaves them out."""
        if self.evidence is None or self.tolerance != AS_RECORDED:
            return Measured()
        from edgekit.onnx.run import open_unoptimised

        known, path = self.evidence.nodes, self.bundle.onnx_of(setup.variant)

        def values() -> Iterator[tuple[str, Array]]:
            for names in in_chunks({name: size for name, size in numbers.fixed.items() if name in known}, AT_ONCE_INSIDE):
                yield from open_unoptimised(alone(content, names), path)({}).items()

        with bounded(self.bundle, setup):
            return measured_inside(known, numbers.nodes, values())

    def _golden_of(self, variant: str) -> GoldenArrays:
        if not self.bundle.variant(variant).golden:
            return self.golden
        with reading(self.bundle.place):
            return self.bundle.golden(variant)

    def _own_of(self, variant: str) -> dict[str, Array] | None:
        if variant not in self._own:
            with reading(self.bundle.place):
                self._own[variant] = own_outputs(self.bundle, variant)
        return self._own[variant]


@contextmanager
def reading(root: Path) -> Iterator[None]:
    """Let what reads a bundle take the memory and the time that its files explain."""
    size = _bytes_in(root)
    try:
        with memory_bound(ROOM + COPIES * size), time_bound(granted_seconds(READING_SECONDS + size / READING_PACE)):
            yield
    except MemoryError:
        raise too_large(f"reading bundle {root}", "size explains") from None


def _bytes_in(folder: Path) -> int:
    """The size of the files of a folder; 0 where it cannot be read, which opening it says better."""
    try:
        return sum(path.stat().st_size for path in folder.iterdir())
    except OSError:
        return 0


@contextmanager
def bounded(bundle: Bundle, setup: Setup) -> Iterator[None]:
    """Let what runs a variant take the memory and the time that its files explain; raises TooLargeError beyond the memory."""
    try:
        with (
            memory_bound(_room(bundle, setup)) if row_of(setup.backend).in_memory else nullcontext(),
            time_bound(_seconds(bundle, setup)),
        ):
            yield
    except MemoryError:
        raise too_large(f"running {bundle.onnx_of(setup.variant)}") from None


def _notes(bundle: Bundle, tolerance: Tolerance | ToleranceChange) -> tuple[str, ...]:
    variant, notes = bundle.manifest.variants[0], [bundle.signed] if bundle.signed else []
    if not bundle.signed and (signatures := signatures_of(bundle)):
        notes.append(f"it has a signature ({', '.join(signatures)}) that was not checked: --public-key FILE checks by whom it is")
    if bundle.manifest.evidence is None:
        notes.append("the bundle records no rounding noise, so that the bar is wider than it need be; export it again")
    if tolerance != AS_RECORDED and tolerance.of(variant.allowance.tolerance).rtol >= widest_rtol(variant.precision):
        notes.append("the bar is your own, and looser than the bundle's: without --atol and --rtol the measured noise is the bar")
    return tuple(notes)


ROOM = 1 << 30
"""Bytes that running a bundle may take beyond its file and its tensors."""
COPIES = 4


def _room(bundle: Bundle, setup: Setup) -> int:
    """The memory for running a variant: copies of its weights and of its golden arrays, and its threads' stacks.

    ONNX Runtime holds a large file up to four times while it opens it.
    """
    files, manifest = bundle.manifest.files, bundle.manifest
    samples = manifest.golden_of(setup.variant).samples
    arrays = sum(8 * math.prod(spec.of_samples(samples)) for spec in _tensors(manifest, setup))
    file = files[bundle.variant(setup.variant).file].size
    return ROOM + COPIES * file + 2 * arrays + stacks(setup.threads or cores())


READING_SECONDS, READING_PACE = 12.0, 5e6
"""Seconds that reading any bundle may take, and bytes a second that a slow board reads."""
BASE_SECONDS, PACE = 40.0, 2e9
"""Seconds that any bundle may take, and multiply-adds a second that a slow board does."""
WORK_PER_BYTE, WORK_PER_ELEMENT = 200, 2e5
"""Multiply-adds that a byte of a file, and an element of a sample's tensors, explain: several times what networks need."""


def _seconds(bundle: Bundle, setup: Setup) -> float:
    """The time for running a variant on its golden samples twice, by the size of its file and its tensors."""
    manifest = bundle.manifest
    file = manifest.files[bundle.variant(setup.variant).file].size
    elements = sum(math.prod(spec.of_samples(1)) for spec in _tensors(manifest, setup))
    work = WORK_PER_BYTE * file + WORK_PER_ELEMENT * elements
    samples = manifest.golden_of(setup.variant).samples
    return granted_seconds(min(BASE_SECONDS + 2 * samples * work / PACE, threading.TIMEOUT_MAX))


def _tensors(manifest: Manifest, setup: Setup) -> Iterator[TensorSpec]:
    """The inputs and outputs of the setup's variant, with the sizes that the golden samples have."""
    axes = manifest.golden_of(setup.variant).axes or {}
    yield from (spec.sized(axes) for spec in (*manifest.inputs_of(setup.variant), *manifest.outputs))


def _taking(setup: Setup, manifest: Manifest) -> Setup:
    """The setup with verification's batch sizes; a backend with ranges keeps its own, so that the shipped engine is verified."""
    fixed = fixed_batch(manifest.inputs_of(setup.variant))
    sizes = (*BATCHES, min(manifest.golden_of(setup.variant).samples, AT_ONCE)) if fixed is None else (fixed,)
    return setup if row_of(setup.backend).in_ranges else taking(setup, sizes)
