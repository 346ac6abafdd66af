"""``edgekit verify --bisect``: where a bundle departs, and a setup that helps."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import msgspec
import numpy as np

from edgekit.backends import absence, row_of
from edgekit.backends.choose import choose, open_named, recorded_as_written
from edgekit.backends.contract import Inside, Opened
from edgekit.backends.inside import alone, shown
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import Bundle, as_opened
from edgekit.commands.verify import AS_RECORDED, Held, bounded, verify
from edgekit.errors import BundleError, EdgekitError, UsageError
from edgekit.onnx.bodies import Node
from edgekit.parity.bisect import (
    Departure,
    first_alone,
    first_by_halving,
    first_departure,
    from_fingerprints,
    from_values,
    nodes_of,
)
from edgekit.parity.fingerprints import fingerprinted
from edgekit.parity.noise import jittered
from edgekit.progress import SILENT, Progress
from edgekit.reports.bisect import NO_NUMBER, BisectReport, CulpritNode, Trial
from edgekit.reports.verify import VerifyReport
from edgekit.setups import Setup
from edgekit.tensors import Array, Feed, batches_of, fixed_batch
from edgekit.tolerance import Tolerance, ToleranceChange

PLAIN = Setup("ort-cpu", threads=1, options={"optimisation": "off"})
"""The plain reading of a file: every node by itself, on the CPU."""
LEVELS = ("off", "basic", "extended", "all")
CALLS = 20
REFERENCE_ROUNDING = 1e-4
"""Distance of a float64 output's fingerprint from that of the float32 file, of scale, that rounding explains."""
OTHER_NAMES = "the values in the file do not have the names that they had at export, so that no node can be named"
OTHER_SAMPLES = (
    "the file departs by too little, or on golden samples of which no fingerprints were recorded, so that no node can be named"
)


def bisect(
    bundle: Bundle | Path | str,
    setups: Setup | str | Iterable[Setup | str] = (),
    *,
    tolerance: Tolerance | ToleranceChange = AS_RECORDED,
    require: Iterable[str] = (),
    allow: Collection[str] = (),
    progress: Progress = SILENT,
) -> BisectReport:
    """Verify a bundle, and where a setup fails find the first node that departs, from the export or from the file.

    The arguments are those of ``verify``. Raises BundleError for a bundle without fingerprints, MissingError where ONNX Runtime
    is not installed.
    """
    verified = verify(bundle, setups, tolerance=tolerance, require=require, allow=allow, progress=progress)
    root = verified.bundle
    failing = next((parity for parity in verified.parities if not parity.passed), None)
    if failing is None:
        return _of_passing(verified)
    opened = as_opened(bundle)
    plain = choose(opened, msgspec.structs.replace(PLAIN, variant=failing.setup.variant)).setups[0]
    case = Case(opened, _evidence(opened), plain, tolerance, progress)
    asked = case.tried(msgspec.structs.replace(failing.setup, batches=()), as_written=failing.as_written)
    values = case.inside(plain)
    if case.tried(plain, as_written=recorded_as_written(opened, opened.variant(plain.variant))).passed:
        return _runtime(case, asked, values)
    if plain.variant != opened.variant().name:
        note = f"fingerprints are recorded of {opened.variant().name} only, so that no node of {plain.variant} can be named"
        return BisectReport(root, str(asked.setup), "file", None, (asked,), notes=(note,))
    errors = from_fingerprints(values, case.evidence.nodes)
    departed = first_departure(case.nodes, errors)
    if departed is None and errors and case.reference_departs():
        return BisectReport(root, str(asked.setup), "reference", None, (asked,))
    if departed is None or len(errors) < len(case.evidence.nodes) / 2:
        note = OTHER_SAMPLES if errors and departed is None else OTHER_NAMES
        return BisectReport(root, str(asked.setup), "file", None, (asked,), notes=(note,))
    return BisectReport(root, str(asked.setup), "file", case.culprit(departed), (asked,))


def _of_passing(verified: VerifyReport) -> BisectReport:
    """What departs where every setup that ran passed: the manifest, or nothing that ran."""
    everyone = "every backend here"
    contradicted = tuple(check.text for check in verified.checks if check.outcome == "fail")
    if contradicted:
        return BisectReport(verified.bundle, everyone, "manifest", notes=contradicted)
    if verified.not_run:
        why = tuple(f"{row.backend}: {row.absence}" for row in verified.skipped)
        return BisectReport(verified.bundle, everyone, "unknown", notes=why, not_run=verified.not_run)
    return BisectReport(verified.bundle, everyone, "nothing")


def _evidence(bundle: Bundle) -> EvidenceArrays:
    evidence = bundle.evidence()
    if evidence is None or not evidence.nodes:
        fixed = fixed_batch(bundle.manifest.inputs)
        why = "export it again with this edgekit" if fixed is None else f"bisect needs a free batch, and the file takes {fixed}"
        raise BundleError(f"bundle {bundle.root} records no fingerprints of its nodes", why)
    return evidence


class Case:
    """A bundle under investigation; ``plain`` is the setup of the plain reading of its file."""

    def __init__(
        self, bundle: Bundle, evidence: EvidenceArrays, plain: Setup, tolerance: Tolerance | ToleranceChange, progress: Progress
    ) -> None:
        self.bundle, self.evidence, self.plain, self.tolerance, self.progress = bundle, evidence, plain, tolerance, progress
        if bundle.variant(plain.variant).inputs:
            others = [variant.name for variant in bundle.manifest.variants if not variant.inputs]
            raise UsageError(f"{plain.variant} has inputs of its own, of which no nodes are recorded", f"bisect {others[0]}")
        golden = self.golden = bundle.golden()
        self.nodes: list[Node] = nodes_of(bundle.onnx_bytes(plain.variant))
        self.held = Held(bundle, golden, evidence, tolerance, trusting=False)
        self.feed: Feed = fingerprinted(golden.inputs, [part.samples for part in bundle.manifest.golden.parts])

    def files(self, setup: Setup) -> ModelFiles:
        """The files of the setup's variant."""
        return self.bundle.files(setup.variant)

    def bounded(self, setup: Setup) -> AbstractContextManager[None]:
        """The bounds of ``verify``."""
        return bounded(self.bundle, setup)

    @contextmanager
    def opened(self, setup: Setup) -> Iterator[Opened]:
        """A session within the bounds of ``verify``."""
        with self.bounded(setup), open_named(str(setup), setup, self.bundle, self.progress) as ready:
            yield ready

    def alone(self, setup: Setup, values: dict[str, Array], feed: Feed | None = None) -> dict[str, Array]:
        """What each node puts out where it reads ``values``, and ``feed`` instead of the golden inputs."""
        return alone(self.files(setup), setup, values, feed or self.feed, self.progress)

    def reference_departs(self) -> bool:
        """Whether the recorded outputs are not those that fingerprints were taken of."""
        sizes = [part.samples for part in self.bundle.manifest.golden.parts]
        recorded = from_fingerprints(fingerprinted(self.golden.float64, sizes), self.evidence.nodes)
        return max(recorded.values(), default=0.0) > REFERENCE_ROUNDING

    def tried(self, setup: Setup, *, as_written: bool = False) -> Trial:
        """Parity of a setup, and its time for one sample; ``as_written``: it runs the file node by node."""
        manifest, written = self.bundle.manifest, self.held.as_written(setup) if as_written else None
        with self.opened(setup) as ready:
            report = self.held.parity(ready, written)
            sample = next(batches_of(self.golden.inputs, fixed_batch(manifest.inputs) or 1))[0]
            milliseconds = _median_ms(partial(ready.session.run, sample))
        return Trial(setup, max(output.of_limit for output in report.outputs), report.passed, milliseconds)

    def inside(self, setup: Setup) -> dict[str, Array]:
        """Every value that the setup's session shows of the samples that fingerprints are of."""
        with self.opened(setup) as ready:
            assert isinstance(ready.session, Inside)
            return ready.session.inside([value for node in self.nodes for value in node.outputs if value], self.feed)

    def culprit(self, departed: Departure) -> CulpritNode:
        """The departure in the report's words."""
        node, known = departed.node, self.evidence.nodes.get(departed.value)
        module = known.module if known else ""
        return CulpritNode(node.name, node.operator[1], module, departed.value, min(departed.error, NO_NUMBER), departed.before)


def _median_ms(call: Callable[[], object]) -> float:
    times = []
    for _ in range(CALLS):
        began = perf_counter()
        call()
        times.append((perf_counter() - began) * 1e3)
    return statistics.median(times)


def _runtime(case: Case, failing: Trial, plain: dict[str, Array]) -> BisectReport:
    """The runtime departs: the first node, and the fastest setup of the sweep that passes."""
    notes: list[str] = []
    culprit = _culprit_of_runtime(case, failing.setup, plain, notes)
    trials = [failing]
    for setup in sweep(failing.setup):
        if absence(setup, case.bundle.files(setup.variant)) is None:
            try:
                trials.append(case.tried(setup))
            except EdgekitError as problem:
                notes.append(f"{setup} does not run: {problem}")
    helping = sorted((trial for trial in trials[1:] if trial.passed), key=lambda trial: trial.median_ms)
    proposal = helping[0].setup if helping else None
    if proposal is None:
        notes.append("no setup that was tried helps")
    root = str(case.bundle.root)
    return BisectReport(root, str(failing.setup), "runtime", culprit, tuple(trials), proposal, tuple(notes))


def _culprit_of_runtime(case: Case, setup: Setup, plain: dict[str, Array], notes: list[str]) -> CulpritNode | None:
    """The node where a setup leaves the plain reading: the first that is wrong alone, else the first behind which errors jump."""
    local: dict[str, float] = {}
    departed: Departure | None = None
    try:
        with case.bounded(setup):
            local = from_values(case.alone(setup, plain), plain)
            moved = from_values(case.alone(case.plain, jittered(plain), jittered(case.feed)), plain)
            departed = first_alone(case.nodes, local, moved)
    except EdgekitError as problem:
        notes.append(f"the nodes could not be run one by one on {setup.backend}: {problem}")
    try:
        errors = _errors_inside(case, setup, plain)
        departed = departed or first_departure(case.nodes, errors)
    except EdgekitError as problem:
        notes.append(f"{setup.backend} does not show the values inside the graph: {problem}")
    if departed is None:
        notes.append(f"no node of {setup.backend} departs where its values are shown, so that none can be named")
        return None
    return msgspec.structs.replace(case.culprit(departed), alone=local.get(departed.value))


def _errors_inside(case: Case, setup: Setup, plain: dict[str, Array]) -> dict[str, float]:
    """Errors of the values inside a session: of all at once, where showing them changes no output, else found by halving."""
    with case.opened(setup) as ready:
        session = ready.session

        def show(names: Sequence[str]) -> dict[str, Array]:
            if isinstance(session, Inside):
                return session.inside(names, case.feed)
            return shown(case.files(setup), setup, {name: plain[name] for name in names}, case.feed, case.progress)

        values, outputs = show(list(plain)), session.run(dict(case.feed))
        if all(name in values and np.array_equal(values[name], array, equal_nan=True) for name, array in outputs.items()):
            return from_values(values, plain)
        return first_by_halving(case.nodes, lambda name: from_values(show([name]), plain).get(name) if name in plain else None)


def sweep(setup: Setup) -> list[Setup]:
    """Cheap changes of a setup that might help: its backend's own defaults, its optimisation levels, and one thread."""
    fields = row_of(setup.backend).options.__struct_fields__
    levels = LEVELS if "optimisation" in fields else ()
    options = [{**setup.options, "optimisation": level} for level in levels if setup.options.get("optimisation", "all") != level]
    own: list[dict[str, Any]] = [{}] if setup.options else []
    changed = [msgspec.structs.replace(setup, options=each) for each in own + options]
    return [*changed, msgspec.structs.replace(setup, threads=1)] if setup.threads != 1 else changed
