"""What ``SOURCE`` on the command line may be, turned into a model ready for export.

- a recipe ``*.toml``, trained before into ``runs/<name>/``;
- a run directory;
- an import path ``package.module:factory``, with its input shapes and optional weights.
"""

from __future__ import annotations

import importlib.util
import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import onnx
import torch
from torch import Tensor, fx, nn

import edgekit
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import MODEL, Variant
from edgekit.errors import InputError, ModelError, UsageError
from edgekit.files import check_name, read_bytes, sha256_of
from edgekit.fold import fold
from edgekit.graphs.golden import random_inputs
from edgekit.graphs.trace import as_arrays, output_specs, run, tensors_of_feed
from edgekit.graphs.write import export_onnx
from edgekit.models import MODELS
from edgekit.models.factory import build, load_weights
from edgekit.parity.compare import normalised_error
from edgekit.preprocess import CHANNELS, Preprocess
from edgekit.recipe import ExportRecipe, Recipe
from edgekit.recipe import load as load_recipe
from edgekit.reports.export import FoldReport
from edgekit.reports.train import TrainReport
from edgekit.tensors import BATCH, Array, TensorSpec, shape_text
from edgekit.tolerance import Tolerance
from edgekit.training.folder import RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS, model_args

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


def exported_file(
    found: ModelSource, traced: fx.GraphModule, settings: ExportRecipe, golden: GoldenArrays, metadata: dict[str, str]
) -> Exported:
    graph, report = fold(found.module, found.inputs, fold_bn=settings.fold_bn, traced=traced)
    specs = output_specs(graph, found.inputs)
    content = export_onnx(graph, report, found.inputs, specs, opset=settings.opset, metadata=metadata)
    outputs, measured_in = _outputs(content, graph, golden)
    error = worst_error(outputs, golden.float64)
    return Exported(content, specs, msgspec.structs.replace(report, error_exported=error), error, measured_in)


def _outputs(content: bytes, graph: fx.GraphModule, golden: GoldenArrays) -> tuple[dict[str, Array], str]:
    """The file's outputs on the golden inputs, or the graph's where no runtime is installed that could run the file."""
    if importlib.util.find_spec("onnxruntime") is None:
        outputs = as_arrays(run(graph, tensors_of_feed(golden.inputs)))
        return outputs, "PyTorch, because ONNX Runtime is not installed; edgekit verify runs the file"
    from edgekit.onnx.run import UNOPTIMISED, open_unoptimised

    try:
        return open_unoptimised(onnx.load_from_string(content), Path(MODEL))(golden.inputs), UNOPTIMISED
    except ModelError as problem:  # a dtype without kernels on the CPU
        return as_arrays(run(graph, tensors_of_feed(golden.inputs))), f"PyTorch: {problem}"


def check_error(exported: Exported, variant: Variant, original: float) -> None:
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


def check_labels(labels: tuple[str, ...], outputs: tuple[TensorSpec, ...]) -> None:
    shape = outputs[0].shape
    if labels and (len(shape) != 2 or shape[1] != len(labels)):
        raise UsageError(f"--labels has {len(labels)} line(s) for an output of {shape_text(shape)}; give one line per class")


def worst_error(outputs: dict[str, Array], references: dict[str, Array]) -> float:
    return max(normalised_error(outputs[name], reference) for name, reference in references.items())


def export_settings(recipe: Recipe | None, options: ExportOptions) -> ExportRecipe:
    settings = recipe.export if recipe else ExportRecipe()
    changes: dict[str, Any] = {}
    if options.fold_bn is not None:
        changes["fold_bn"] = options.fold_bn
    if options.opset is not None:
        changes["opset"] = options.opset
    return msgspec.structs.replace(settings, **changes)


def described_by(found: ModelSource, options: ExportOptions) -> tuple[Preprocess | None, tuple[str, ...]]:
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


def golden_inputs(found: ModelSource, count: int) -> tuple[dict[str, Array], Array | None]:
    if found.recipe is None or found.preprocess is None:
        return random_inputs(found.inputs), None
    from edgekit import data

    pictures = data.golden_pictures(found.recipe.data, found.preprocess, count)
    return {found.inputs[0].name: found.preprocess.normalise(pictures.images)}, pictures.labels


def metadata_of(found: ModelSource, preprocess: Preprocess | None, labels: tuple[str, ...], weights: str) -> dict[str, str]:
    document = {
        "edgekit.version": edgekit.__version__,
        "edgekit.sources.module": found.factory,
        "edgekit.weights_sha256": weights,
        "edgekit.labels": msgspec.json.encode(labels).decode() if labels else "",
        "edgekit.preprocess": msgspec.json.encode(preprocess).decode() if preprocess else "",
    }
    return {key: value for key, value in document.items() if value}


def portable(recipe: Recipe | None) -> dict[str, Any] | None:
    """The recipe as data, without the path of the pictures on this machine and without how it is timed."""
    if recipe is None:
        return None
    document: dict[str, Any] = msgspec.to_builtins(recipe)
    document["data"]["path"] = None
    del document["bench"]
    return document


def variant_of(found: ModelSource, outputs: tuple[TensorSpec, ...], error: float) -> Variant:
    """Float16 is held to 8 times the error that the original makes in it, within a thousandth and two hundredths."""
    if found.recipe is None and any(spec.dtype == "float16" for spec in outputs):
        return Variant("fp16", MODEL, "float16", Tolerance(atol=1e-5, rtol=min(max(8 * error, 1e-3), 2e-2)))
    return Variant("fp32", MODEL, "float32", found.recipe.verify if found.recipe else Tolerance())


def notes_on(found: ModelSource, fold: FoldReport) -> tuple[str, ...]:
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


class ModelSource(NamedTuple):
    """A module with its weights, and what is known about it; ``recipe`` and the fields beside it are None for import paths."""

    name: str
    factory: str
    args: dict[str, Any]
    module: nn.Module
    inputs: tuple[TensorSpec, ...]
    recipe: Recipe | None = None
    report: TrainReport | None = None
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    has_weights: bool = True
    notes: tuple[str, ...] = ()


def load_source(
    source: str,
    *,
    runs: Path = Path("runs"),
    input_shapes: Sequence[str] = (),
    weights: Path | None = None,
    trained: bool = True,
) -> ModelSource:
    """Resolve ``source``; raises UsageError for options that do not go with it, ModelError when something is missing.

    With ``trained=False`` a recipe or a shipped model's name is enough, and its weights are random.
    """
    path = Path(source)
    if source in MODELS and not path.exists():
        return _from_name(source, input_shapes, weights)
    if path.suffix == ".toml" or path.is_dir():
        if input_shapes or weights:
            raise UsageError("--input-shape and --weights go with an import path; a recipe and a run know their own")
        if path.is_dir():
            return _from_run(path)
        recipe = load_recipe(path)
        run = runs / recipe.name
        if (run / RUN_REPORT).is_file():
            found = _from_run(run)
            same = found.recipe is not None and (found.recipe.data, found.recipe.model, found.recipe.train) == (
                recipe.data, recipe.model, recipe.train,
            )  # fmt: skip
            if not same and trained:
                raise ModelError(f"{run} was trained by other settings than {path}; train it again: edgekit train {path}")
            if same:
                return found._replace(recipe=recipe)
        if trained:
            raise ModelError(f"{path} has not been trained: {run / RUN_REPORT} is missing; edgekit train {path}")
        return _untrained(recipe)
    if ":" in source:
        return _from_name(source, input_shapes, weights)
    known = ", ".join(MODELS)
    raise UsageError(
        f"{source!r} is neither a recipe (*.toml), an ONNX file (*.onnx), a run directory, a model ({known}) nor an import path "
        "package.module:factory; check the spelling"
    )


DTYPES = ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")


def parse_shapes(texts: Sequence[str], dtype: str = "float32") -> tuple[TensorSpec, ...]:
    """``1x3x224x224``, ``NAME=1x3x224x224`` or ``NAME=1x16:int64`` -> specs whose first axis is the free batch."""
    specs = []
    for index, text in enumerate(texts):
        name, equals, shape = text.rpartition("=")
        name = name if equals else ("input" if len(texts) == 1 else f"input{index}")
        shape, colon, given = shape.partition(":")
        if colon and given not in DTYPES:
            raise UsageError(f"--input-shape {text!r} names no dtype edgekit knows; use one of {', '.join(DTYPES)}")
        parts = shape.lower().split("x")
        if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts) or not check_name(name):
            raise UsageError(f"--input-shape {text!r} is not a shape; write it like 1x3x224x224 or NAME=1x3x224x224")
        specs.append(TensorSpec(name, given or dtype, (BATCH, *map(int, parts[1:]))))
    if len({spec.name for spec in specs}) != len(specs):
        raise UsageError("--input-shape names one input twice; give each its own name")
    return tuple(specs)


def _from_run(run: Path) -> ModelSource:
    for name in (RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS):
        if not (run / name).is_file():
            raise ModelError(f"{run} is not a finished run: it has no {name}; edgekit train RECIPE makes one")
    try:
        recipe = msgspec.json.decode(read_bytes(run / RUN_RECIPE, "recipe"), type=Recipe)
    except (msgspec.DecodeError, ValueError) as problem:
        raise ModelError(f"{run / RUN_RECIPE} is damaged: {problem}; train the recipe again") from None
    try:
        report = TrainReport.from_json(read_bytes(run / RUN_REPORT, "report"))
    except InputError as problem:
        raise ModelError(f"{run / RUN_REPORT} is damaged: {problem}; train the recipe again") from None
    if sha256_of(run / RUN_WEIGHTS) != report.weights_sha256:
        raise ModelError(f"{run / RUN_WEIGHTS} is not what {RUN_REPORT} beside it says was trained; train the recipe again")
    args = model_args(recipe, len(report.labels), CHANNELS[report.preprocess.color])
    module = _module(recipe.model.name, args)[0]
    load_weights(module, run / RUN_WEIGHTS)
    size = (CHANNELS[report.preprocess.color], report.preprocess.height, report.preprocess.width)
    inputs = (TensorSpec("input", "float32", (BATCH, *size)),)
    return ModelSource(recipe.name, recipe.model.name, args, module, inputs, recipe, report, report.preprocess, report.labels)


def _untrained(recipe: Recipe) -> ModelSource:
    if recipe.model.name not in MODELS:
        raise ModelError(f"{recipe.model.name} needs a finished run or --input-shape; edgekit train the recipe first")
    default = MODELS[recipe.model.name].input_shape
    channels = CHANNELS[recipe.data.color] if recipe.data.color else default[0]
    args = {"in_channels": channels, **recipe.model.args}
    inputs = (TensorSpec("input", "float32", (BATCH, channels, *(recipe.data.size or default[1:]))),)
    return ModelSource(recipe.name, recipe.model.name, args, _module(recipe.model.name, args)[0], inputs, recipe)


def _from_name(source: str, input_shapes: Sequence[str], weights: Path | None) -> ModelSource:
    torch.manual_seed(0)  # without weights, the same export twice is the same bundle
    module, example = _module(source, {})
    module, notes = _runnable(module)
    if input_shapes:
        inputs = _ordered(parse_shapes(input_shapes, _dtype(module)), module)
    elif example:
        inputs = tuple(
            TensorSpec(name, dtype if dtype in DTYPES else "float32", (BATCH, *shape[1:]))
            for name, (dtype, shape) in example.items()
        )
        if notes:
            inputs = tuple(msgspec.structs.replace(spec, dtype="float32") if "float" in spec.dtype else spec for spec in inputs)
        inputs = _ordered(inputs, module)
    elif source in MODELS:
        inputs = (TensorSpec("input", "float32", (BATCH, *MODELS[source].input_shape)),)
    else:
        raise UsageError(f"{source} needs the shape of its input, for example --input-shape 1x3x224x224")
    if weights is not None:
        load_weights(module, weights)
    name = source.rpartition(":")[2] or source
    given = weights is not None
    return ModelSource(name if check_name(name) else "model", source, {}, module, inputs, has_weights=given, notes=notes)


def _runnable(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """A float32 copy of a model in bfloat16 or float64, in which no runtime on a CPU computes a convolution, and a note on it."""
    dtypes = {tensor.dtype for tensor in module.state_dict().values() if tensor.is_floating_point()}
    unusual = sorted(str(dtype).removeprefix("torch.") for dtype in dtypes & {torch.bfloat16, torch.float64})
    if not unusual:
        return module, ()
    note = f"the model's {' and '.join(unusual)} was exported as float32, because runtimes lack it for convolutions on CPUs"
    return module.float(), (note,)


def _dtype(module: nn.Module) -> str:
    """That of the first parameter, which inputs usually share."""
    first = next((one for one in module.parameters() if one.is_floating_point()), torch.zeros(()))
    return str(first.dtype).removeprefix("torch.")


def _ordered(inputs: tuple[TensorSpec, ...], module: nn.Module) -> tuple[TensorSpec, ...]:
    """Inputs that bear the names of forward()'s parameters, in its order; others as they came."""
    order = list(inspect.signature(module.forward).parameters)
    names = {spec.name for spec in inputs}
    numbered = all(name == f"input{index}" for index, name in enumerate(sorted(names)))
    if len(inputs) < 2 or numbered or not names & set(order):
        return inputs
    unknown = sorted(names - set(order))
    if unknown:
        raise UsageError(f"forward() has no parameter {unknown[0]!r}; name the inputs like its parameters: {', '.join(order)}")
    return tuple(sorted(inputs, key=lambda spec: order.index(spec.name)))


def _module(name: str, args: dict[str, Any]) -> tuple[nn.Module, dict[str, tuple[str, tuple[int, ...]]]]:
    """A factory's module, and name, dtype and shape of each example input when it returned ``(module, example_inputs)``."""
    built = build(name, args)
    example: dict[str, tuple[str, tuple[int, ...]]] = {}
    if isinstance(built, tuple) and len(built) == 2:
        built, given = built
        if not isinstance(given, dict):
            tensors = given if isinstance(given, (tuple, list)) else (given,)
            given = {"input" if len(tensors) == 1 else f"input{index}": tensor for index, tensor in enumerate(tensors)}
        if not all(check_name(str(key)) and isinstance(tensor, Tensor) and tensor.dim() for key, tensor in given.items()):
            raise ModelError(
                f"{name} returned example inputs that are not tensors with a batch axis; return (module, tensors), "
                "or a dict of tensors by the names of forward()'s parameters"
            )
        example = {key: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for key, tensor in given.items()}
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} returned a {type(built).__name__}, not a torch.nn.Module; name a factory of modules")
    return built, example
