"""A PyTorch model by any of its names, with its weights and what is known about it.

- a recipe ``*.toml``, trained before into ``runs/<name>/``;
- a run folder;
- a shipped model's name, or an import path ``package.module:factory``, with its input shapes and optional weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import Tensor, nn

from edgekit.decoding import CHANNELS
from edgekit.errors import InputError, ModelError, UsageError
from edgekit.files import check_name, read_bytes, sha256_of
from edgekit.models import MODELS
from edgekit.models.factory import call_factory, load_weights
from edgekit.preprocess import Preprocess
from edgekit.recipe import Recipe, load_recipe
from edgekit.reports.train import TrainReport
from edgekit.sources import NO_ARGS, no_source
from edgekit.spelling import did_you_mean
from edgekit.tensors import BATCH, TensorSpec
from edgekit.training.folder import RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS, RUNS, model_args


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
    runs: Path = RUNS,
    input_shapes: Sequence[str] = (),
    weights: Path | None = None,
    args: Mapping[str, Any] = NO_ARGS,
    trained: bool = True,
) -> ModelSource:
    """Resolve ``source``; raises UsageError for options that do not go with it, ModelError when something is missing.

    With ``trained=False`` a recipe or a shipped model's name is enough, and its weights are random.
    """
    path = Path(source)
    if source in MODELS and not path.exists():
        return _from_name(source, input_shapes, weights, args)
    if path.suffix == ".toml" or path.is_dir():
        if input_shapes or weights or args:
            raise UsageError("--input-shape, --weights and --arg go with an import path", "a recipe and a run know their own")
        return _from_run(path) if path.is_dir() else _from_recipe(path, runs, trained)
    if ":" in source:
        return _from_name(source, input_shapes, weights, args)
    raise no_source(source)


DTYPES = ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")


def parse_shapes(texts: Sequence[str], dtype: str = "float32") -> tuple[TensorSpec, ...]:
    """``1x3x224x224``, ``NAME=1x3x224x224`` or ``NAME=1x16:int64`` -> specs whose first axis is the free batch."""
    specs = []
    for index, text in enumerate(texts):
        name, equals, shape = text.rpartition("=")
        name = name if equals else ("input" if len(texts) == 1 else f"input{index}")
        shape, colon, given = shape.partition(":")
        if colon and given not in DTYPES:
            raise UsageError(
                f"--input-shape {text!r} names no dtype edgekit knows",
                f"use one of {', '.join(DTYPES)}{did_you_mean(given, DTYPES)}",
            )
        parts = shape.lower().split("x")
        if not all(part.isdecimal() and len(part) < 10 and int(part) > 0 for part in parts) or not check_name(name):
            raise UsageError(f"--input-shape {text!r} is not a shape", "write it like 1x3x224x224 or NAME=1x3x224x224")
        specs.append(TensorSpec(name, given or dtype, (BATCH, *map(int, parts[1:]))))
    if len({spec.name for spec in specs}) != len(specs):
        raise UsageError("--input-shape names one input twice", "give each its own name")
    return tuple(specs)


def _from_recipe(path: Path, runs: Path, trained: bool) -> ModelSource:
    """The recipe's run, if it was trained by these settings; its export settings are the recipe's as it now stands."""
    recipe = load_recipe(path)
    run = runs / recipe.name
    if (run / RUN_REPORT).is_file():
        source = _from_run(run)
        same = source.recipe is not None and (source.recipe.data, source.recipe.model, source.recipe.train) == (
            recipe.data, recipe.model, recipe.train,
        )  # fmt: skip
        if same:
            return source._replace(recipe=recipe)
        if trained:
            raise ModelError(f"{run} was trained by other settings than {path}", f"train it again: edgekit train {path}")
    if trained:
        raise ModelError(f"{path} has not been trained: {run / RUN_REPORT} is missing", f"edgekit train {path}")
    return _untrained(recipe)


def _from_run(run: Path) -> ModelSource:
    for name in (RUN_RECIPE, RUN_REPORT, RUN_WEIGHTS):
        if not (run / name).is_file():
            raise ModelError(f"{run} is not a finished run: it has no {name}", "edgekit train RECIPE makes one")
    try:
        recipe = msgspec.json.decode(read_bytes(run / RUN_RECIPE, "recipe"), type=Recipe)
    except (msgspec.DecodeError, ValueError) as problem:
        raise ModelError(f"{run / RUN_RECIPE} is damaged: {problem}", "train the recipe again") from None
    try:
        report = TrainReport.from_json(read_bytes(run / RUN_REPORT, "report"))
    except InputError as problem:
        raise ModelError(f"{run / RUN_REPORT} is damaged: {problem}", "train the recipe again") from None
    if sha256_of(run / RUN_WEIGHTS) != report.weights_sha256:
        raise ModelError(f"{run / RUN_WEIGHTS} is not what {RUN_REPORT} beside it says was trained", "train the recipe again")
    args = model_args(recipe, len(report.labels), CHANNELS[report.preprocess.color])
    module = _module(recipe.model.name, args)[0]
    load_weights(module, run / RUN_WEIGHTS)
    size = (CHANNELS[report.preprocess.color], report.preprocess.height, report.preprocess.width)
    inputs = (TensorSpec("input", "float32", (BATCH, *size)),)
    return ModelSource(recipe.name, recipe.model.name, args, module, inputs, recipe, report, report.preprocess, report.labels)


def _untrained(recipe: Recipe) -> ModelSource:
    if recipe.model.name not in MODELS:
        raise ModelError(f"{recipe.model.name} needs a finished run or --input-shape", "edgekit train the recipe first")
    default = MODELS[recipe.model.name].input_shape
    channels = CHANNELS[recipe.data.color] if recipe.data.color else default[0]
    args = {"in_channels": channels, **recipe.model.args}
    inputs = (TensorSpec("input", "float32", (BATCH, channels, *(recipe.data.size or default[1:]))),)
    return ModelSource(recipe.name, recipe.model.name, args, _module(recipe.model.name, args)[0], inputs, recipe)


def _from_name(source: str, input_shapes: Sequence[str], weights: Path | None, args: Mapping[str, Any]) -> ModelSource:
    torch.manual_seed(0)  # without weights, the same export twice is the same bundle
    module, example = _module(source, dict(args))
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
        channels, *sides = MODELS[source].input_shape
        inputs = (TensorSpec("input", "float32", (BATCH, args.get("in_channels", channels), *sides)),)
    else:
        raise UsageError(f"{source} needs the shape of its input, for example --input-shape 1x3x224x224")
    if weights is not None:
        load_weights(module, weights)
    name = source.rpartition(":")[2] or source
    given = weights is not None
    return ModelSource(name if check_name(name) else "model", source, dict(args), module, inputs, has_weights=given, notes=notes)


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
    first = next((weight for weight in module.parameters() if weight.is_floating_point()), torch.zeros(()))
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
        near = did_you_mean(unknown[0], order)
        raise UsageError(
            f"forward() has no parameter {unknown[0]!r}", f"name the inputs like its parameters: {', '.join(order)}{near}"
        )
    return tuple(sorted(inputs, key=lambda spec: order.index(spec.name)))


def _module(name: str, args: dict[str, Any]) -> tuple[nn.Module, dict[str, tuple[str, tuple[int, ...]]]]:
    """A factory's module, and name, dtype and shape of each example input when it returned ``(module, example_inputs)``."""
    built = call_factory(name, args)
    example: dict[str, tuple[str, tuple[int, ...]]] = {}
    if isinstance(built, tuple) and len(built) == 2:
        built, given = built
        if not isinstance(given, dict):
            tensors = given if isinstance(given, (tuple, list)) else (given,)
            given = {"input" if len(tensors) == 1 else f"input{index}": tensor for index, tensor in enumerate(tensors)}
        if not all(check_name(str(key)) and isinstance(tensor, Tensor) and tensor.dim() for key, tensor in given.items()):
            raise ModelError(
                f"{name} returned example inputs that are not tensors with a batch axis",
                "return (module, tensors), or a dict of tensors by the names of forward()'s parameters",
            )
        example = {key: (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)) for key, tensor in given.items()}
    if not isinstance(built, nn.Module):
        raise ModelError(f"{name} returned a {type(built).__name__}, not a torch.nn.Module", "name a factory of modules")
    return built, example
