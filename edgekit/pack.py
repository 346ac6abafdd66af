"""From a source to a bundle: trace, fold, write ONNX, record golden outputs, and put all of it into one folder."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnx
from torch import fx

import edgekit
from edgekit.bundle import (
    CARD,
    GOLDEN,
    MODEL,
    SCHEMA,
    WEIGHTS,
    Golden,
    GoldenArrays,
    Manifest,
    Source,
    Variant,
    check_replaceable,
    write_bundle,
)
from edgekit.card import model_card
from edgekit.errors import ModelError, UsageError
from edgekit.export import export_onnx
from edgekit.files import check_writable, read_bytes
from edgekit.fold import fold
from edgekit.golden import random_inputs, record
from edgekit.machine import tool_versions
from edgekit.models.build import weights_bytes
from edgekit.models.trace import as_arrays, output_specs, run, tensors_of_feed, trace
from edgekit.pack_onnx import export_onnx_file
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import ExportRecipe, Recipe, Tolerance, check_name
from edgekit.reports import ExportReport, FoldReport
from edgekit.source import ModelSource, load_source
from edgekit.tensors import Array, TensorSpec, shape_text
from edgekit.verify import normalised_error

EXPORTED = Path("exported")
MOST_ROUNDING, PLAUSIBLE = 16, 5e-2


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


class Exported(NamedTuple):
    """An ONNX file with what is known about it; ``error`` is its own, scale-normalised, in the runtime ``measured_in``."""

    onnx: bytes
    outputs: tuple[TensorSpec, ...]
    fold: FoldReport
    error: float
    measured_in: str


def export_source(source: str, options: ExportOptions, *, runs: Path = Path("runs"), progress: Progress = SILENT) -> ExportReport:
    """Export what ``source`` names into a bundle; raises EdgekitError and leaves an older bundle as it was on failure."""
    if Path(source).suffix.lower() == ".onnx":
        return _export_file(Path(source), options, progress)
    with progress.task("exporting", 4) as advance:
        found = load_source(source, runs=runs, input_shapes=options.input_shapes, weights=options.weights)
        settings = _export_settings(found.recipe, options)
        root = options.output or EXPORTED / found.name
        check_replaceable(root)
        check_writable(root.parent)
        preprocess, labels = _described(found, options)
        advance(1, "tracing, golden outputs")
        traced = trace(found.module, found.inputs)
        golden = record(found.module, traced, *_golden_inputs(found, settings.golden))
        advance(1, "folding and writing ONNX")
        weights = weights_bytes(found.module)
        metadata = _metadata(found, preprocess, labels, hashlib.sha256(weights).hexdigest())
        exported = _exported(found, traced, settings, golden, metadata)
        _check_labels(labels, exported.outputs)
        original = _worst(golden.float32, golden.float64)
        variant = _variant(found, exported.outputs, original)
        _check_error(exported, variant, original)
        advance(1, "writing the bundle")
        manifest = _manifest(found, settings, options, exported, variant, golden, weights)
        manifest = msgspec.structs.replace(manifest, preprocess=preprocess, labels=labels)
        contents = {MODEL: exported.onnx, GOLDEN: golden.to_npz(), CARD: model_card(manifest).encode()}
        bundle = write_bundle(root, manifest, {**contents, WEIGHTS: weights} if options.keep_weights else contents)
        advance(1, "")
    return ExportReport(
        bundle=str(root),
        opset=settings.opset,
        fold=exported.fold,
        float32_error=manifest.golden.float32_error,
        exported_error=exported.error,
        golden=f"{manifest.golden.samples} {'test pictures' if found.recipe else 'random inputs'}",
        notes=manifest.notes,
        onnx_sha256=bundle.onnx_sha256,
        onnx_bytes=len(exported.onnx),
        measured_in=exported.measured_in,
    )


def _export_file(path: Path, options: ExportOptions, progress: Progress) -> ExportReport:
    """An ONNX file knows its shapes, weights and opset itself."""
    given = {
        "--input-shape": bool(options.input_shapes), "--weights": options.weights, "--opset": options.opset,
        "--mean": options.mean, "--std": options.std, "--labels": options.labels,
    }  # fmt: skip
    wrong = [name for name, value in given.items() if value]
    if wrong:
        raise UsageError(f"{wrong[0]} does not go with an ONNX file, which is taken as it is; leave it out")
    output = options.output or EXPORTED / (path.stem if check_name(path.stem) else "model")
    return export_onnx_file(path, output, fold_bn=options.fold_bn is not False, progress=progress)


def _exported(
    found: ModelSource, traced: fx.GraphModule, settings: ExportRecipe, golden: GoldenArrays, metadata: dict[str, str]
) -> Exported:
    graph, report = fold(found.module, found.inputs, fold_bn=settings.fold_bn, traced=traced)
    specs = output_specs(graph, found.inputs)
    content = export_onnx(graph, report, found.inputs, specs, opset=settings.opset, metadata=metadata)
    outputs, measured_in = _outputs(content, graph, golden)
    error = _worst(outputs, golden.float64)
    return Exported(content, specs, msgspec.structs.replace(report, error_exported=error), error, measured_in)


def _outputs(content: bytes, graph: fx.GraphModule, golden: GoldenArrays) -> tuple[dict[str, Array], str]:
    """The file's outputs on the golden inputs, or the graph's where no runtime is installed that could run the file."""
    if importlib.util.find_spec("onnxruntime") is None:
        outputs = as_arrays(run(graph, tensors_of_feed(golden.inputs)))
        return outputs, "PyTorch, because ONNX Runtime is not installed; edgekit verify runs the file"
    from edgekit.onnx_file import UNOPTIMISED, open_unoptimised

    try:
        return open_unoptimised(onnx.load_from_string(content), Path(MODEL))(golden.inputs), UNOPTIMISED
    except ModelError as problem:  # a dtype without kernels on the CPU
        return as_arrays(run(graph, tensors_of_feed(golden.inputs))), f"PyTorch: {problem}"


def _check_error(exported: Exported, variant: Variant, original: float) -> None:
    """Folding and exporting may round otherwise than the original does, not compute something else."""
    if not original <= PLAUSIBLE:
        raise ModelError(
            f"the model's outputs differ by {original:.1e} of their scale from its traced graph in float64; what it computes "
            "depends on something that a trace does not see, or its weights leave no digit to rounding (are they trained?)"
        )
    if not exported.error <= max(variant.tolerance.rtol, MOST_ROUNDING * original):
        raise ModelError(
            f"the exported file is off by {exported.error:.1e} of its scale where the original is off by {original:.1e}; "
            "try --no-fold-bn, and report this model"
        )


def _check_labels(labels: tuple[str, ...], outputs: tuple[TensorSpec, ...]) -> None:
    shape = outputs[0].shape
    if labels and (len(shape) != 2 or shape[1] != len(labels)):
        raise UsageError(f"--labels has {len(labels)} line(s) for an output of {shape_text(shape)}; give one line per class")


def _manifest(
    found: ModelSource,
    settings: ExportRecipe,
    options: ExportOptions,
    exported: Exported,
    variant: Variant,
    golden: GoldenArrays,
    weights: bytes,
) -> Manifest:
    samples = len(next(iter(golden.inputs.values())))
    digest = hashlib.sha256(weights).hexdigest()
    kept = WEIGHTS if options.keep_weights else None
    return Manifest(
        schema=SCHEMA,
        name=found.name,
        inputs=found.inputs,
        outputs=exported.outputs,
        preprocess=None,
        labels=(),
        source=Source(found.factory, found.args, _portable(found.recipe), digest, kept),
        opset=settings.opset,
        fold=exported.fold,
        test_accuracy=found.report.test_accuracy if found.report else None,
        golden=Golden(GOLDEN, samples, "test-set" if found.recipe else "random", 0, _worst(golden.float32, golden.float64)),
        variants=(variant,),
        tools=tool_versions(),
        notes=_notes(found, exported.fold),
        files={},
    )


def _worst(outputs: dict[str, Array], references: dict[str, Array]) -> float:
    return max(normalised_error(outputs[name], reference) for name, reference in references.items())


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
    """The recipe as data, without the path of the pictures on this machine and without how it is timed."""
    if recipe is None:
        return None
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    document["data"]["path"] = None
    del document["bench"]
    return document


def _variant(found: ModelSource, outputs: tuple[TensorSpec, ...], error: float) -> Variant:
    """Float16 is held to 8 times the error that the original makes in it, within a thousandth and two hundredths."""
    if found.recipe is None and any(spec.dtype == "float16" for spec in outputs):
        return Variant("fp16", MODEL, "float16", Tolerance(atol=1e-5, rtol=min(max(8 * error, 1e-3), 2e-2)))
    return Variant("fp32", MODEL, "float32", found.recipe.verify if found.recipe else Tolerance())


def _notes(found: ModelSource, fold: FoldReport) -> tuple[str, ...]:
    notes = list(found.notes)
    if found.recipe is None and any(module.training for module in found.module.modules()):
        notes.append("the model came in training mode; it was exported in inference mode, from a copy")
    batch = [kept.norm for kept in fold.kept for one in kept.obstacles if one.code in ("training", "no-statistics")]
    if batch:
        notes.append(f"outputs depend on the other samples of a batch: {', '.join(batch)} uses the statistics of the batch")
    if found.recipe is None and not found.has_weights:
        notes.append("no --weights were given: the weights are what the factory made with torch's seed 0")
    if found.recipe is None:
        notes.append("the golden inputs are random numbers, because the model's data is not known")
    return tuple(notes)
