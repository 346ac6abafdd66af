"""Every report: a frozen struct that goes to JSON and back. ``passed`` is what the exit code says."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import msgspec

from edgekit.build_options import BuildOptions
from edgekit.errors import InputError, printable
from edgekit.preprocess import Preprocess
from edgekit.recipe import Tolerance

Kind = TypeVar("Kind", bound="Report")


class Part(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A piece of a report."""


class Report(Part, frozen=True):
    """What a verb found."""

    @property
    def passed(self) -> bool:
        """False when a check failed: exit code 1."""
        return True

    def to_json(self) -> bytes:
        """One indented JSON document."""
        document = msgspec.to_builtins(self)
        document["passed"] = self.passed
        try:
            content = msgspec.json.encode(document)
        except UnicodeEncodeError:  # a path in it is no valid text
            content = msgspec.json.encode(_printable(document))
        return msgspec.json.format(content, indent=2)

    @classmethod
    def from_json(cls: type[Kind], content: bytes) -> Kind:
        """The inverse of ``to_json``; raises InputError for anything else."""
        try:
            document: dict[str, Any] = msgspec.json.decode(content, type=dict[str, Any])
            document.pop("passed", None)
            return msgspec.convert(document, cls)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as problem:
            raise InputError(f"not a {cls.__name__}: {problem}; make the report again") from None


def _printable(value: Any) -> Any:
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, (list, tuple)):
        return [_printable(one) for one in value]
    return {printable(name): _printable(one) for name, one in value.items()} if isinstance(value, dict) else value


class Epoch(Part, frozen=True):
    """One epoch: mean loss and accuracy over the training batches as trained, accuracy on the whole test set."""

    epoch: int
    loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float
    learning_rate: float


class TrainReport(Report, frozen=True):
    """A finished training. Accuracies are shares of 1; ``seconds`` is training time without loading the data."""

    run: str
    model: str
    parameters: int
    epochs: tuple[Epoch, ...]
    test_accuracy: float
    min_accuracy: float
    seconds: float
    weights_sha256: str
    labels: tuple[str, ...]
    preprocess: Preprocess
    facts: dict[str, str]

    @property
    def passed(self) -> bool:
        """The accuracy bar of the recipe is reached."""
        return self.test_accuracy >= self.min_accuracy


class Obstacle(Part, frozen=True):
    """One thing that stands against a fold.

    ``side``: ``before`` or ``after`` the normalisation, or it ``itself``; ``code`` for programs; ``at`` the operator's name in
    the graph; ``why`` for people.
    """

    side: Literal["before", "after", "itself"]
    code: str
    at: str
    why: str


class Fold(Part, frozen=True):
    """A normalisation that is gone: ``norm`` was folded into the layers ``into`` (module paths).

    They are ``before`` it, ``after`` it, or ``beside`` it: convolutions of the same value that are added to it.

    ``nodes`` is how many BatchNormalization nodes it would have been in an ONNX file: 0 for one that was written out.
    """

    norm: str
    kind: str
    into: tuple[str, ...]
    side: Literal["before", "after", "beside"] = "before"
    nodes: int = 1


class Kept(Part, frozen=True):
    """A normalisation that stays, and why. ``nodes`` is how many BatchNormalization nodes it leaves in an ONNX file."""

    norm: str
    kind: str
    reason: str
    nodes: int = 1
    obstacles: tuple[Obstacle, ...] = ()


class FoldReport(Report, frozen=True):
    """Every normalisation of a model, folded or kept.

    ``error_float64`` is the scale-normalised difference between the folded and the unfolded model, both in float64;
    ``error_exported`` that between what was exported, in its own dtype, and the original in float64 on the golden inputs.
    """

    folded: tuple[Fold, ...]
    kept: tuple[Kept, ...]
    error_float64: float | None = None
    error_exported: float | None = None

    @property
    def before(self) -> int:
        """How many normalisations there were."""
        return len(self.folded) + len(self.kept)


class ExportReport(Report, frozen=True):
    """A bundle that was written.

    Errors are scale-normalised, against the original model in float64 on the golden inputs: ``float32_error`` of the
    original in its own dtype, ``exported_error`` of the file, measured in ``measured_in``. For an ONNX file that cannot be run in
    float64 there is no ``float32_error``; ``exported_error`` is then against the original.
    """

    bundle: str
    opset: int
    fold: FoldReport
    float32_error: float | None
    exported_error: float
    golden: str
    notes: tuple[str, ...]
    onnx_sha256: str
    onnx_bytes: int
    measured_in: str


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


class Skipped(Part, frozen=True):
    """A runtime that did not take part, and why."""

    backend: str
    reason: str


class OutputDiff(Part, frozen=True):
    """One output against its float64 reference.

    ``max_abs`` = max|y - r|, ``normalised`` = max|y - r| / max|r|, ``limit`` = atol + rtol max|r|; ``top1`` is the share
    of samples whose largest value is at the same place, or None where the output is not samples x classes.
    """

    name: str
    max_abs: float
    normalised: float
    limit: float
    top1: float | None
    problem: str = ""

    def within(self, tolerance: Tolerance) -> bool:
        """Whether the tolerance holds; a NaN holds nowhere."""
        return not self.problem and self.max_abs <= self.limit and (self.top1 is None or self.top1 >= tolerance.top1)


class ParityReport(Report, frozen=True):
    """A candidate against a reference, over ``samples`` golden inputs."""

    reference: str
    candidate: str
    samples: int
    tolerance: Tolerance
    outputs: tuple[OutputDiff, ...]
    facts: dict[str, str]

    @property
    def passed(self) -> bool:
        """Every output is within the tolerance."""
        return bool(self.outputs) and all(output.within(self.tolerance) for output in self.outputs)


class VerifyReport(Report, frozen=True):
    """Every runtime present against the bundle's golden outputs."""

    bundle: str
    onnx_sha256: str
    parities: tuple[ParityReport, ...]
    skipped: tuple[Skipped, ...]

    @property
    def passed(self) -> bool:
        """At least one runtime was checked and every one passed."""
        return bool(self.parities) and all(parity.passed for parity in self.parities)


class Percentile(Part, frozen=True):
    """A percentile of the samples in milliseconds; None with the number of samples it takes when there are fewer."""

    percent: float
    ms: float | None
    samples_needed: int


class LatencyReport(Report, frozen=True):
    """One runtime, batch and boundary. ``samples_ms`` holds every recorded call, one tuple per block of the interleaving.

    Boundary ``device``: inputs resident, work complete. Boundary ``end-to-end``: host array in, host array out.
    ``device_ms`` is what the GPU's own clock says of further calls, made after these; empty where a runtime does not ask it.
    ``launch_bound``: the host queued those calls no faster than the GPU ran them, so that they show at most what the GPU takes.
    """

    backend: str
    batch: int
    boundary: str
    warmups_ms: tuple[float, ...]
    samples_ms: tuple[tuple[float, ...], ...]
    median_ms: float
    median_low_ms: float
    median_high_ms: float
    percentiles: tuple[Percentile, ...]
    cov: float
    noise: str
    facts: dict[str, str]
    device_ms: tuple[float, ...] = ()
    launch_bound: bool = False

    @property
    def count(self) -> int:
        """How many calls were recorded."""
        return sum(map(len, self.samples_ms))


class Comparison(Part, frozen=True):
    """Time of ``baseline`` over time of ``backend``, per round: the median of the ratios and its 95 % bootstrap interval."""

    backend: str
    baseline: str
    batch: int
    boundary: str
    speedup: float
    low: float
    high: float


class LayerLatency(Part, frozen=True):
    """A layer as the runtime runs it, in its own words; ``nodes`` are the ONNX nodes that it computes.

    No ``nodes``: the runtime has added it, or does not say. ``share`` is of the sum of all layers' medians.
    """

    name: str
    operator: str
    nodes: tuple[str, ...]
    median_ms: float
    share: float


class LayersReport(Part, frozen=True):
    """What each layer takes, in the order of execution, by the runtime's own profiler in ``calls`` calls of its own.

    ``total_ms`` is the median sum of a call. Profiling slows calls down: the time of a whole call is in the rows.
    """

    backend: str
    batch: int
    calls: int
    total_ms: float
    layers: tuple[LayerLatency, ...]


class BenchReport(Report, frozen=True):
    """Latencies of every runtime present, measured interleaved; ``layers`` where they were asked for."""

    bundle: str
    onnx_sha256: str
    machine: dict[str, str]
    threads: int
    overhead_us: float
    rows: tuple[LatencyReport, ...]
    comparisons: tuple[Comparison, ...]
    skipped: tuple[Skipped, ...]
    budget_ms: float | None = None
    layers: tuple[LayersReport, ...] = ()

    @property
    def passed(self) -> bool:
        """Something was measured, and no end-to-end median of the first batch is over the budget."""
        if not self.rows or self.budget_ms is None:
            return bool(self.rows)
        first = self.rows[0].batch
        return all(row.median_ms <= self.budget_ms for row in self.rows if row.batch == first and row.boundary == "end-to-end")


class Layer(Part, frozen=True):
    """One layer: shapes with the batch axis in front, parameters as a count of numbers, multiply-accumulates per sample."""

    name: str
    op: str
    output_shape: tuple[int | str, ...]
    parameters: int
    macs: int


class InspectReport(Report, frozen=True):
    """What a model is made of; ``batch_norms`` counts normalisations that are still there."""

    source: str
    inputs: dict[str, str]
    outputs: dict[str, str]
    layers: tuple[Layer, ...]
    ops: dict[str, int]
    parameters: int
    macs: int
    batch_norms: int
    facts: dict[str, str]


class Guess(Part, frozen=True):
    """A label and its softmax probability."""

    label: str
    probability: float


class Prediction(Part, frozen=True):
    """The most probable labels of one picture, best first."""

    image: str
    guesses: tuple[Guess, ...]


class PredictReport(Report, frozen=True):
    """Labels of pictures."""

    bundle: str
    backend: str
    predictions: tuple[Prediction, ...]


class StepReport(Part, frozen=True):
    """One step of ``edgekit run``: ``done`` or ``skipped``; ``ok`` is its check."""

    step: str
    status: str
    ok: bool
    seconds: float
    detail: str


class RunReport(Report, frozen=True):
    """All steps of a recipe."""

    recipe: str
    bundle: str
    steps: tuple[StepReport, ...]

    @property
    def passed(self) -> bool:
        """Every step's check holds."""
        return all(step.ok for step in self.steps)


class ModelRow(Part, frozen=True):
    """A shipped model."""

    name: str
    input: str
    summary: str


class ModelsReport(Report, frozen=True):
    """The shipped models."""

    models: tuple[ModelRow, ...]


class DataReport(Report, frozen=True):
    """A dataset that is on this machine."""

    dataset: str
    folder: str
    train: int
    test: int
    classes: tuple[str, ...]


class Finding(Part, frozen=True):
    """One runtime on this machine: ``status`` is ``ok``, ``absent`` or ``broken``; ``remedy`` is a command or nothing."""

    name: str
    status: str
    version: str
    runs_on: str
    problem: str
    remedy: str


class DoctorReport(Report, frozen=True):
    """What works on this machine; something absent is no fault, something broken is.

    ``backends``: of each that ``--backend`` takes, why it is absent here, or nothing.
    """

    machine: dict[str, str]
    findings: tuple[Finding, ...]
    backends: dict[str, str] = {}

    @property
    def passed(self) -> bool:
        """Nothing is broken; what is absent is no fault."""
        return all(finding.status != "broken" for finding in self.findings)
