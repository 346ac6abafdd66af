"""From a PyTorch model to a Draft: trace, record golden outputs, fold, write ONNX, measure the file's error."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import msgspec
import numpy as np
import onnx

from edgekit.bundle.draft import Draft, exported_variant
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import MODEL, WEIGHTS, Source, Variant
from edgekit.errors import ModelError, UsageError
from edgekit.fold import fold
from edgekit.graphs.blame import differing_operator, module_paths
from edgekit.graphs.repeat import check_repeatable
from edgekit.graphs.trace import as_arrays, output_specs, run_module, tensors_of_feed, trace
from edgekit.graphs.write import export_onnx
from edgekit.models.weights import weights_bytes
from edgekit.onnx.arithmetic import precision_of_file
from edgekit.onnx.run import UNOPTIMISED, open_unoptimised
from edgekit.parity.allowances import HALVES
from edgekit.parity.compare import compare_output
from edgekit.parity.inputs import Recorded, check_telling
from edgekit.parity.noise import noise_of_scale
from edgekit.preprocess import Preprocess
from edgekit.progress import Advance
from edgekit.recipe import ExportRecipe, Recipe
from edgekit.reports.export import FoldReport
from edgekit.sources import ExportOptions
from edgekit.sources.description import by_options, check_labels, metadata
from edgekit.sources.measuring import Measured, noise_of_module, not_reached, with_predictions
from edgekit.sources.module import ModelSource, load_source
from edgekit.sources.narrow import NarrowFile, Rounding, note_of_steps, tolerance_in_steps, with_noise, with_rounding
from edgekit.sources.provenance import provenance_of
from edgekit.sources.recording import as_files, picture_files, recorded_of
from edgekit.sources.selfcheck import check_draft
from edgekit.sources.testing import UNTESTED, Tested, tested
from edgekit.sources.trained_int8 import NOTE
from edgekit.tensors import Array, TensorSpec, worst_error
from edgekit.tolerance import Tolerance, half_tolerance

if TYPE_CHECKING:
    from torch import fx

REFERENCE = "PyTorch float64, unfolded (recorded)"
TRAINED = "PyTorch float64, folded and trained for int8 (recorded)"
MOST_ROUNDING, PLAUSIBLE = 16, 5e-2
FAR = 50  # times its tolerance that a file's noise may be before its samples are said to depend on each other
ROOM = 4  # times its own error that a model which amplifies rounding is allowed
_REMEDIES = {
    "Resize": "resize to a size instead of by a factor, to a whole multiple, or with mode='bilinear': at a pixel's border the "
    "runtimes take different neighbours",
}


class ModuleOrigin(NamedTuple):
    """A PyTorch model to export, with the options."""

    model: ModelSource
    options: ExportOptions

    @property
    def name(self) -> str:
        """The recipe's name, or the factory's."""
        return self.model.name

    def draft(self, advance: Advance) -> Draft:
        """Trace, record, fold and write; raises ModelError if the file's error is more than rounding explains."""
        model, options = self
        settings = _settings(model.recipe, options)
        provenance = provenance_of(options, model.recipe, model.report)
        preprocess, labels = _described(model, options)
        advance(1, "tracing, golden outputs")
        folded = None if model.learned is None else model.learned.network(model.module, model.inputs, settings)
        if folded is not None:
            model = model._replace(module=folded[0])
        seen = check_repeatable(model.module, model.inputs)
        traced = trace(model.module, model.inputs) if folded is None else folded[0]
        files = picture_files(model, preprocess) if options.golden_pictures else {}
        recorded = recorded_of(model, traced, preprocess, settings.golden, files)
        pictures = as_files(recorded, files)
        golden = recorded.arrays
        original_error = recorded.error(golden.original)
        _check_original(original_error)
        check_telling(golden)
        advance(1, "folding and writing ONNX")
        weights = weights_bytes(model.module)
        digest = hashlib.sha256(weights).hexdigest()
        folded = folded or fold(model.module, model.inputs, fold_bn=settings.fold_bn, traced=traced)
        entries = metadata(model.factory, digest, preprocess, labels, provenance)
        file = _written(model, folded, settings, recorded, entries)
        check_labels(labels, file.outputs)
        narrow = NarrowFile(file.onnx, model.factory, recorded)
        variant = _variant(model, file, narrow, original_error)
        _check_file(file, traced, recorded, variant, original_error)
        advance(1, "measuring rounding noise")
        runnable = file.onnx if file.in_runtime else None
        test = tested(model, preprocess, runnable)
        reach = not_reached(runnable, recorded) if runnable else ()
        rounding = Rounding(narrow, variant.precision)
        paths = module_paths(file.graph, [spec.name for spec in file.outputs])
        noise = noise_of_module(model.module, runnable, recorded, paths, rounding)
        variant = with_rounding(variant, rounding, recorded, noise.arrays)
        if _own_tolerance(model) is None:
            variant = with_noise(variant, recorded, noise.arrays)
        _check_independent(noise, recorded, max(variant.allowance.tolerance.rtol, original_error), file.fold)
        described, arrays = noise if test is None else with_predictions(noise, test)
        extra = {WEIGHTS: weights} if options.keep_weights and model.learned is None else {}
        draft = Draft(
            name=model.name,
            inputs=model.inputs,
            outputs=file.outputs,
            source=Source(model.factory, model.args, _portable(model.recipe), digest, next(iter(extra), None)),
            opset=settings.opset,
            fold=file.fold,
            golden=golden,
            golden_kind="test-set" if model.recipe else "random",
            reference=REFERENCE if model.learned is None else TRAINED,
            original_error=original_error,
            variants=(variant,),
            files={MODEL: file.onnx, **pictures.contents, **extra},
            measured_in=file.measured_in,
            preprocess=preprocess,
            labels=labels,
            test_accuracy=test.accuracy if test else None,
            notes=(*seen, *_notes(model, file.fold), *_widened(variant, file.onnx), *_untested(test), *reach),
            parts=recorded.parts,
            pictures=pictures.described,
            evidence=described,
            measured=arrays,
            learned=None if model.learned is None else model.learned.table,
            data=model.recipe.data if model.recipe is not None else None,
            provenance=provenance,
        )
        if file.in_runtime:
            check_draft(draft, model.factory)
        return draft


def origin_of_module(source: str, options: ExportOptions, runs: Path) -> ModuleOrigin:
    """Load the model that ``source`` names; raises EdgekitError as ``load_source`` does."""
    model = load_source(source, runs=runs, input_shapes=options.input_shapes, weights=options.weights, args=options.args)
    return ModuleOrigin(model, options)


class _File(NamedTuple):
    """A written ONNX file and the ``graph`` that it was written from.

    ``values`` are its outputs on the golden inputs, ``error`` is their error of scale, ``measured_in`` names the runtime.
    """

    onnx: bytes
    graph: fx.GraphModule
    values: dict[str, Array]
    outputs: tuple[TensorSpec, ...]
    fold: FoldReport
    error: float
    measured_in: str
    in_runtime: bool


def _written(
    model: ModelSource,
    folded: tuple[fx.GraphModule, FoldReport],
    settings: ExportRecipe,
    recorded: Recorded,
    metadata: dict[str, str],
) -> _File:
    graph, report = folded
    specs = output_specs(graph, model.inputs)
    content = export_onnx(graph, report, model.inputs, specs, opset=settings.opset, metadata=metadata)
    outputs, measured_in, in_runtime = _outputs(content, graph, recorded.arrays)
    error = recorded.error(outputs)
    report = msgspec.structs.replace(report, error_exported=error)
    return _File(content, graph, outputs, specs, report, error, measured_in, in_runtime)


def _outputs(content: bytes, graph: fx.GraphModule, golden: GoldenArrays) -> tuple[dict[str, Array], str, bool]:
    """The file's outputs on the golden inputs, by what they were computed, and whether that was ONNX Runtime.

    They are the graph's outputs if ONNX Runtime cannot run the file.
    """
    try:
        return open_unoptimised(onnx.load_from_string(content), Path(MODEL))(golden.inputs), UNOPTIMISED, True
    except ModelError as problem:  # a dtype without kernels on the CPU
        return as_arrays(run_module(graph, tensors_of_feed(golden.inputs))), f"PyTorch: {problem}", False


def _check_original(original: float) -> None:
    """Raise ModelError if the original's own error is more than rounding explains."""
    if not original <= PLAUSIBLE:
        raise ModelError(
            f"the model's outputs differ by {original:.1e} of their scale from its traced graph in float64: the weights amplify "
            "rounding, or the outputs depend on something that a trace does not see",
            "check that the weights are trained",
        )


def _check_file(file: _File, traced: fx.GraphModule, recorded: Recorded, variant: Variant, original: float) -> None:
    """Raise ModelError that names the cause if the file is outside of its own tolerance, so that verify would fail."""
    tolerance = variant.allowance.tolerance
    golden = recorded.arrays
    diffs = [
        compare_output(name, file.values[name], expected, recorded.bar(name, tolerance.rtol))
        for name, expected in golden.float64.items()
    ]
    if all(diff.within(tolerance) for diff in diffs):
        return
    worst = max(diffs, key=lambda diff: diff.normalised)
    off = f"{worst.normalised:.1e} of its scale, and {tolerance.rtol:.1e} are allowed"
    fault = f"output {worst.name!r} of the exported file is off by {off}"
    limit = max(tolerance.rtol, MOST_ROUNDING * original)
    if worst_error(as_arrays(run_module(file.graph, tensors_of_feed(golden.inputs))), golden.float64) <= limit:
        culprit = differing_operator(file.onnx, file.graph, golden.inputs, original)
        if culprit is not None:
            remedy = _REMEDIES.get(culprit.operator, "try another --opset, or compute this part with other operators")
            raise ModelError(f"{fault}: {culprit} computes something else in ONNX Runtime than in PyTorch", remedy)
    elif worst_error(as_arrays(run_module(traced, tensors_of_feed(golden.inputs))), golden.float64) <= limit:
        raise ModelError(f"{fault} after folding, and not before", "try --no-fold-bn, and report this model")
    raise ModelError(f"{fault}; the original itself is off by {original:.1e}", "please report this model")


def _check_independent(noise: Measured, recorded: Recorded, rtol: float, fold: FoldReport) -> None:
    """Raise ModelError if other batch sizes change float outputs by far more than rounding: then the samples see each other."""
    golden = recorded.arrays
    floats = [name for name, array in golden.original.items() if np.issubdtype(array.dtype, np.floating)]
    shares = [noise_of_scale(noise.arrays.floors[name], golden.float64[name], recorded.sizes) for name in floats]
    worst = max(shares, default=0.0)
    if worst <= FAR * rtol:
        return
    codes = ("training", "no-statistics")
    norms = [norm.norm for norm in fold.kept for obstacle in norm.obstacles if obstacle.code in codes]
    cause = f": {', '.join(norms)} uses the statistics of the batch" if norms else ""
    raise ModelError(
        f"the outputs change by {worst:.1e} of their scale with the size of the batch, or with the order of sums{cause}",
        "let each sample's outputs depend on that sample alone",
    )


def _settings(recipe: Recipe | None, options: ExportOptions) -> ExportRecipe:
    settings = recipe.export if recipe else ExportRecipe()
    changes: dict[str, Any] = {}
    if options.fold_bn is not None:
        changes["fold_bn"] = options.fold_bn
    if options.opset is not None:
        changes["opset"] = options.opset
    return msgspec.structs.replace(settings, **changes)


def _described(model: ModelSource, options: ExportOptions) -> tuple[Preprocess | None, tuple[str, ...]]:
    """Preprocessing and labels: the run's own; for an import path, the command line's."""
    if model.recipe is None:
        described = by_options(options, model.inputs)
        return described.preprocess, described.labels
    if options.mean is not None or options.std is not None or options.labels is not None:
        raise UsageError("--mean, --std and --labels go with an import path", "a recipe or a run has its own: leave them out")
    return model.preprocess, model.labels


def _portable(recipe: Recipe | None) -> dict[str, Any] | None:
    """The recipe as data, without the path of the pictures on this machine and without the timing settings."""
    if recipe is None:
        return None
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    document["data"]["path"] = document["model"]["weights"] = None
    del document["bench"]
    return document


def _variant(model: ModelSource, file: _File, narrow: NarrowFile, original: float) -> Variant:
    """The variant of the precision that the file is of, and its tolerance: the recipe's, or what the precision needs.

    In steps it is by what fused kernels change, in 16 bits and in full precision by the original's own error.
    """
    precision, tolerance = precision_of_file(file.onnx), _own_tolerance(model)
    if tolerance is None:
        if precision == "int8" and file.in_runtime:
            tolerance = tolerance_in_steps(narrow, file.values)
        elif precision in HALVES:
            tolerance = half_tolerance(original)
        else:
            tolerance = Tolerance(rtol=max(Tolerance().rtol, ROOM * original))
    return exported_variant(precision, tolerance, file.error, "" if model.learned is None else "int8")


def _own_tolerance(model: ModelSource) -> Tolerance | None:
    """The tolerance that the recipe chooses; None where it leaves that to the precision."""
    return model.recipe.verify if model.recipe is not None and model.recipe.verify != Tolerance() else None


def _widened(variant: Variant, content: bytes) -> tuple[str, ...]:
    tolerance = variant.allowance.tolerance
    if variant.precision == "int8":
        return (note_of_steps(content, tolerance),)
    if variant.precision != "float32" or tolerance.rtol <= Tolerance().rtol:
        return ()
    return (
        f"the model amplifies rounding: its tolerance is {tolerance.rtol:.1e}, {ROOM} times its own error, which edgekit verify "
        "takes only with --allow tolerance",
    )


def _untested(test: Tested | None) -> tuple[str, ...]:
    return (UNTESTED,) if test is not None and test.accuracy is None else ()


def _notes(model: ModelSource, fold: FoldReport) -> tuple[str, ...]:
    notes = [*model.notes, *([NOTE] if model.learned is not None else [])]
    if model.recipe is None and any(module.training for module in model.module.modules()):
        notes.append("the model was in training mode; a copy in inference mode was exported")
    if model.recipe is None and not model.has_weights:
        notes.append("without --weights: the weights are the factory's own, with torch's seed 0")
    if model.recipe is None:
        notes.append("the golden inputs are made up, because the model's data is not known")
    return tuple(notes)
