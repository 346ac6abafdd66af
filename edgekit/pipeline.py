"""The order of the steps: the only file that knows how the verbs fit together."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec

import edgekit
from edgekit.backends import KINDS, Backend, ModelFiles, absence, open_backend, present
from edgekit.bundle import (
    CARD,
    GOLDEN,
    MODEL,
    SCHEMA,
    WEIGHTS,
    Bundle,
    Golden,
    Manifest,
    Source,
    Variant,
    check_replaceable,
    open_bundle,
    write_bundle,
)
from edgekit.errors import BundleError, MissingError, UsageError
from edgekit.files import sha256_of, write_bytes
from edgekit.machine import cores, machine_facts
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import ExportRecipe, Recipe, Tolerance
from edgekit.recipe import load as load_recipe
from edgekit.reports import (
    BenchReport,
    DataReport,
    ExportReport,
    InspectReport,
    PredictReport,
    Report,
    RunReport,
    Skipped,
    StepReport,
    TrainReport,
    VerifyReport,
)

if TYPE_CHECKING:
    from edgekit.source import ModelSource
    from edgekit.tensors import Array

RUNS, EXPORTED = Path("runs"), Path("exported")
STEPS = "steps.json"


def train_recipe(
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    restart: bool = False,
    progress: Progress = SILENT,
) -> TrainReport:
    """Load the data and train into ``run``."""
    needs("torch", "torchvision", extra="train")
    from edgekit import data
    from edgekit.train import train

    return train(recipe, data.load(recipe.data, progress), run, device=device, resume=resume, restart=restart, progress=progress)


class ExportOptions(NamedTuple):
    """What ``edgekit export`` may add to what its source says; None leaves the source's own."""

    output: Path | None = None
    fold_bn: bool | None = None
    opset: int | None = None
    input_shapes: tuple[str, ...] = ()
    weights: Path | None = None
    keep_weights: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None


def export_source(source: str, options: ExportOptions, *, runs: Path = RUNS, progress: Progress = SILENT) -> ExportReport:
    """Trace, fold, write ONNX, record golden outputs, and put all of it into a bundle."""
    needs("torch", "onnx", "onnxscript", extra="train")
    from edgekit.export import export_onnx
    from edgekit.fold import fold
    from edgekit.golden import record
    from edgekit.models.build import weights_bytes
    from edgekit.models.trace import as_arrays, output_specs, run, tensors_of_feed
    from edgekit.source import load_source
    from edgekit.verify import normalised_error

    with progress.task("exporting", 5) as advance:
        found = load_source(source, runs=runs, input_shapes=options.input_shapes, weights=options.weights)
        settings = _export_settings(found.recipe, options)
        root = options.output or EXPORTED / found.name
        check_replaceable(root)
        preprocess, labels = _described(found, options)
        advance(1, "golden outputs")
        golden = record(found.module, *_golden_inputs(found, settings.golden))
        advance(1, "tracing and folding")
        graph, fold_report = fold(found.module, found.inputs, fold_bn=settings.fold_bn)
        outputs = run(graph, tensors_of_feed(golden.inputs))
        exported = as_arrays(outputs)
        specs = output_specs(outputs)
        advance(1, "writing ONNX")
        weights = weights_bytes(found.module)
        metadata = _metadata(found, preprocess, labels, hashlib.sha256(weights).hexdigest())
        onnx = export_onnx(graph, fold_report, found.inputs, specs, opset=settings.opset, metadata=metadata)
        advance(1, "writing the bundle")
        samples = len(next(iter(golden.inputs.values())))
        float32_error = max(normalised_error(golden.float32[name], golden.float64[name]) for name in golden.float64)
        manifest = Manifest(
            schema=SCHEMA,
            name=found.name,
            inputs=found.inputs,
            outputs=specs,
            preprocess=preprocess,
            labels=labels,
            source=Source(
                found.factory,
                found.args,
                _portable(found.recipe),
                hashlib.sha256(weights).hexdigest(),
                WEIGHTS if options.keep_weights else None,
            ),
            opset=settings.opset,
            fold=fold_report,
            test_accuracy=found.report.test_accuracy if found.report else None,
            golden=Golden(GOLDEN, samples, "test-set" if found.recipe else "random", 0, float32_error),
            variants=(Variant("fp32", MODEL, "float32", found.recipe.verify if found.recipe else Tolerance()),),
            tools=_tools(),
            notes=_notes(found),
            files={},
        )
        bundle = _write(root, manifest, {MODEL: onnx, GOLDEN: golden.to_npz(), WEIGHTS: weights}, options.keep_weights)
        advance(1, "")
    return ExportReport(
        bundle=str(root),
        opset=settings.opset,
        fold=fold_report,
        float32_error=float32_error,
        exported_error=max(normalised_error(exported[name], golden.float64[name]) for name in golden.float64),
        golden=f"{samples} {'test pictures' if found.recipe else 'random inputs'}",
        notes=manifest.notes,
        onnx_sha256=bundle.onnx_sha256,
        onnx_bytes=len(onnx),
    )


def verify_bundle(
    root: Path,
    *,
    backends: Sequence[str] = (),
    tolerance: Tolerance | None = None,
    source: str | None = None,
    runs: Path = RUNS,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Every runtime present, or just ``backends``, against the golden outputs; ``source`` names the PyTorch side."""
    from edgekit.verify import verify

    bundle = open_bundle(root)
    files = _model_files(bundle, source, runs)
    kinds, skipped = _choose(files, backends)
    return verify(bundle, lambda kind: open_backend(kind, files), kinds, skipped, tolerance=tolerance, progress=progress)


def bench_bundle(
    root: Path,
    *,
    backends: Sequence[str] = (),
    batches: Sequence[int] = (1, 8, 32),
    threads: int | None = None,
    seconds: float = 1.0,
    budget_ms: float | None = None,
    source: str | None = None,
    runs: Path = RUNS,
    progress: Progress = SILENT,
) -> BenchReport:
    """Latency of every runtime present, or just ``backends``, interleaved."""
    from contextlib import ExitStack

    from edgekit.bench import bench, overhead_us

    bundle = open_bundle(root)
    files = _model_files(bundle, source, runs)
    kinds, skipped = _choose(files, backends)
    count = threads or cores()
    overhead = overhead_us()
    facts = machine_facts()
    with ExitStack() as stack:
        opened: list[Backend] = [stack.enter_context(open_backend(kind, files, threads=count)) for kind in kinds]
        rows, comparisons = bench(opened, batches, seconds=seconds, progress=progress)
    return BenchReport(str(root), bundle.onnx_sha256, facts, count, overhead, rows, comparisons, tuple(skipped), budget_ms)


def inspect_target(
    target: str, *, input_shapes: Sequence[str] = (), weights: Path | None = None, runs: Path = RUNS
) -> InspectReport:
    """A bundle, an ONNX file, or any source."""
    path = Path(target)
    is_bundle = (path / "manifest.json").is_file()
    if is_bundle or path.suffix == ".onnx":
        needs("onnx", extra="cpu")
        from edgekit.inspect import onnx_table

        return onnx_table(open_bundle(path).onnx if is_bundle else path)
    if path.is_dir() and not (path / "recipe.json").is_file():
        open_bundle(path)  # raises: neither a bundle nor a run
    needs("torch", extra="train")
    from edgekit.models.layers import module_table
    from edgekit.source import load_source

    found = load_source(target, runs=runs, input_shapes=input_shapes, weights=weights, trained=False)
    return module_table(target, found.module, found.inputs)


def predict_images(root: Path, images: Sequence[Path], *, backend: str | None = None, top: int = 3) -> PredictReport:
    """Labels through ONNX Runtime on the CPU, or the runtime named."""
    from edgekit.predict import predict

    bundle = open_bundle(root)
    with open_backend(backend or "ort-cpu", bundle.model_files()) as opened:
        return predict(bundle, opened, images, top)


def fetch_data(name: str, progress: Progress = SILENT) -> DataReport:
    """Find or fetch a dataset, and check all of it."""
    from edgekit.data import fashion_mnist

    if name != "fashion-mnist":
        raise UsageError(f"no dataset {name!r} to fetch; there is fashion-mnist")
    folder = fashion_mnist.locate(progress=progress)
    train, test = fashion_mnist.load(folder)
    return DataReport(name, str(folder), len(train), len(test), fashion_mnist.CLASSES)


class Step(NamedTuple):
    """One step of a recipe: ``key`` is everything its result depends on, ``outputs`` what it leaves behind."""

    name: str
    key: Callable[[], Any]
    action: Callable[[], tuple[Report, str]]
    outputs: tuple[Path, ...]


def run_recipe(
    path: Path, *, runs: Path = RUNS, output: Path | None = None, device: str = "auto", progress: Progress = SILENT
) -> RunReport:
    """Train, export, verify, bench; a step whose inputs and outputs are as it left them is skipped."""
    recipe = load_recipe(path)
    run, root = runs / recipe.name, output or EXPORTED / recipe.name
    check_replaceable(root)
    record = _read_steps(run / STEPS)
    reports: list[StepReport] = []
    for step in _steps(recipe, path, run, root, runs, device, progress):
        key = hashlib.sha256(msgspec.json.encode([edgekit.__version__, step.key()], order="deterministic")).hexdigest()
        old = record.get(step.name)
        if old and old["key"] == key and old["outputs"] == _fingerprints(step.outputs):
            report = StepReport(step.name, "skipped", old["ok"], 0.0, f"unchanged: {old['detail']}")
        else:
            started = time.perf_counter()
            result, detail = step.action()
            report = StepReport(step.name, "done", result.passed, round(time.perf_counter() - started, 1), detail)
            record[step.name] = {"key": key, "outputs": _fingerprints(step.outputs), "ok": report.ok, "detail": detail}
            write_bytes(run / STEPS, msgspec.json.format(msgspec.json.encode(record), indent=2))
        progress.say(f"{report.step}: {report.status}{'' if report.ok else ' FAILED'}, {report.detail}")
        reports.append(report)
        if not report.ok:
            break
    return RunReport(str(path), str(root), tuple(reports))


def _steps(recipe: Recipe, path: Path, run: Path, root: Path, runs: Path, device: str, progress: Progress) -> tuple[Step, ...]:
    from edgekit import data

    def do_train() -> tuple[Report, str]:
        from edgekit.train import resumable

        report = train_recipe(recipe, run, device=device, resume=resumable(recipe, run), restart=True, progress=progress)
        bar = f", below the bar of {report.min_accuracy:.4f}" if not report.passed else ""
        return report, f"test accuracy {report.test_accuracy:.4f}{bar} after {report.seconds:.0f} s of training"

    def do_export() -> tuple[Report, str]:
        report = export_source(str(path), ExportOptions(output=root), runs=runs, progress=progress)
        return report, f"{len(report.fold.folded)} of {report.fold.before} batch norms folded, {root}"

    def do_verify() -> tuple[Report, str]:
        report = verify_bundle(root, tolerance=recipe.verify, progress=progress)
        write_bytes(run / "verify.json", report.to_json())
        worst = max(diff.normalised for parity in report.parities for diff in parity.outputs)
        names = ", ".join(parity.candidate for parity in report.parities)
        return report, f"{names} {'agree' if report.passed else 'DO NOT agree'}, worst error {worst:.1e} of the scale"

    def do_bench() -> tuple[Report, str]:
        settings = recipe.bench
        report = bench_bundle(
            root,
            batches=settings.batch,
            threads=settings.threads,
            seconds=settings.seconds,
            budget_ms=settings.budget_ms,
            progress=progress,
        )
        write_bytes(run / "bench.json", report.to_json())
        first = [row for row in report.rows if row.batch == report.rows[0].batch and row.boundary == "end-to-end"]
        return report, f"batch {report.rows[0].batch} end-to-end: " + ", ".join(
            f"{row.backend} {row.median_ms:.3g} ms" for row in first
        )

    manifest, weights = root / "manifest.json", run / "weights.safetensors"
    tools = functools.cache(_tools)

    def training_inputs() -> Any:
        return [recipe.data, recipe.model, recipe.train, data.fingerprint(recipe.data), device]

    def bundle_inputs(settings: msgspec.Struct) -> Any:
        return [settings, tools(), [absence(kind) for kind in KINDS], _fingerprints((manifest,))]

    return (
        Step("train", training_inputs, do_train, (weights, run / "train.json")),
        Step("export", lambda: [recipe, tools(), _fingerprints((weights,))], do_export, (manifest, root / MODEL, root / GOLDEN)),
        Step("verify", lambda: bundle_inputs(recipe.verify), do_verify, (run / "verify.json",)),
        Step("bench", lambda: bundle_inputs(recipe.bench), do_bench, (run / "bench.json",)),
    )


def needs(*packages: str, extra: str) -> None:
    """Raise MissingError naming the extra unless every package is installed."""
    import importlib.util

    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise MissingError(f"this needs {', '.join(missing)}, which is not installed; pip install 'edgekit[{extra}]'")


def _export_settings(recipe: Recipe | None, options: ExportOptions) -> ExportRecipe:
    settings = recipe.export if recipe else ExportRecipe()
    changes: dict[str, Any] = {}
    if options.fold_bn is not None:
        changes["fold_bn"] = options.fold_bn
    if options.opset is not None:
        changes["opset"] = options.opset
    return msgspec.structs.replace(settings, **changes)


def _described(found: ModelSource, options: ExportOptions) -> tuple[Preprocess | None, tuple[str, ...]]:
    """Preprocessing and labels: the run's own, or the command line's for an import path."""
    given = options.mean is not None or options.std is not None or options.labels is not None
    if found.recipe is not None:
        if given:
            raise UsageError("--mean, --std and --labels go with an import path; a recipe and a run know their own")
        return found.preprocess, found.labels
    if (options.mean is None) != (options.std is None):
        raise UsageError("--mean and --std go together; give both or neither")
    labels: tuple[str, ...] = ()
    if options.labels is not None:
        from edgekit.files import read_bytes

        lines = read_bytes(options.labels, "labels file").decode(errors="replace").splitlines()
        labels = tuple(line.strip() for line in lines if line.strip())
    if options.mean is None or options.std is None:
        return None, labels
    shape = found.inputs[0].shape
    if len(found.inputs) != 1 or len(shape) != 4 or shape[1] not in (1, 3):
        raise UsageError("--mean and --std describe one picture input of shape 1x1xHxW or 1x3xHxW; this model takes another")
    try:
        return Preprocess("grey" if shape[1] == 1 else "rgb", int(shape[2]), int(shape[3]), options.mean, options.std), labels
    except ValueError as problem:
        raise UsageError(f"--mean and --std do not fit the input: {problem}") from None


def _golden_inputs(found: ModelSource, count: int) -> tuple[dict[str, Array], Array | None]:
    from edgekit.golden import random_inputs

    if found.recipe is None or found.preprocess is None:
        return random_inputs(found.inputs), None
    from edgekit import data

    pictures = data.golden_pictures(found.recipe.data, found.preprocess, count)
    return {found.inputs[0].name: found.preprocess.normalise(pictures.images)}, pictures.labels


def _metadata(found: ModelSource, preprocess: Preprocess | None, labels: tuple[str, ...], weights: str) -> dict[str, str]:
    document = {
        "edgekit.version": edgekit.__version__,
        "edgekit.source": found.factory,
        "edgekit.weights_sha256": weights,
        "edgekit.labels": msgspec.json.encode(labels).decode() if labels else "",
        "edgekit.preprocess": msgspec.json.encode(preprocess).decode() if preprocess else "",
    }
    return {key: value for key, value in document.items() if value}


def _portable(recipe: Recipe | None) -> dict[str, Any] | None:
    """The recipe as data, without the path of the pictures on this machine."""
    if recipe is None:
        return None
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    document["data"]["path"] = None
    return document


def _notes(found: ModelSource) -> tuple[str, ...]:
    notes = []
    if found.module.training and found.recipe is None:
        notes.append("the model came in training mode; it was exported in inference mode, from a copy")
    if found.recipe is None:
        notes.append("the golden inputs are random numbers, because the model's data is not known")
    return tuple(notes)


def _write(root: Path, manifest: Manifest, contents: dict[str, bytes], keep_weights: bool) -> Bundle:
    from edgekit.card import model_card

    if not keep_weights:
        contents.pop(WEIGHTS)
    return write_bundle(root, manifest, {**contents, CARD: model_card(manifest).encode()})


def _tools() -> dict[str, str]:
    found = {"edgekit": edgekit.__version__}
    for name in ("torch", "onnx", "onnxscript", "numpy", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _model_files(bundle: Bundle, source: str | None, runs: Path) -> ModelFiles:
    """The bundle's files; with ``source`` the PyTorch model is built by it, and filled with the bundle's weights."""
    files = bundle.model_files()
    if source is None:
        return files
    if bundle.weights is None:
        raise BundleError(f"bundle {bundle.root} holds no PyTorch weights; export it again without --no-keep-weights")
    return files._replace(torch_model=source, torch_args=bundle.manifest.source.args, torch_weights=bundle.weights)


def _choose(files: ModelFiles, backends: Sequence[str]) -> tuple[list[str], tuple[Skipped, ...]]:
    """Runtimes asked for must be present; where none is asked for, those that are not present are named."""
    if backends:
        for kind in backends:
            problem = absence(kind, files)
            if problem:
                raise MissingError(f"{kind} cannot run here: {problem}")
        return list(dict.fromkeys(backends)), ()
    kinds, reasons = present(files)
    if not kinds:
        raise MissingError("no runtime is installed; pip install 'edgekit[cpu]', or see edgekit doctor")
    return kinds, tuple(Skipped(kind, reason) for kind, reason in reasons.items())


def _read_steps(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs did; a damaged record only means that everything is done again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except (OSError, msgspec.DecodeError):
        return {}


def _fingerprints(paths: Sequence[Path]) -> list[str]:
    return [sha256_of(path) if path.is_file() else "" for path in paths]
