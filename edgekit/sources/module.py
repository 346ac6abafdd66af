"""Load a PyTorch model, its weights and its data's description from a source.

A source is one of:

- a recipe ``*.toml`` that has been trained into ``runs/<name>/``;
- a run folder;
- a shipped model's name, or an import path ``package.module:factory``, with input shapes and optional weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import torch
from torch import nn

from edgekit.decoding import CHANNELS
from edgekit.errors import ModelError, UsageError
from edgekit.files import check_name, sha256_of
from edgekit.models import MODELS
from edgekit.models.factory import SEED, build, build_module, seeded
from edgekit.models.weights import load_checkpoint
from edgekit.numerals import whole
from edgekit.preprocess import Preprocess
from edgekit.recipe import Recipe, load_recipe
from edgekit.reports.train import TrainReport
from edgekit.sources import NO_ARGS, no_source
from edgekit.sources.trained_int8 import Learned, learned_of
from edgekit.spelling import did_you_mean
from edgekit.tensors import BATCH, TensorSpec
from edgekit.training.folder import RUN_REPORT, RUN_WEIGHTS, RUNS, run_recipe, run_report
from edgekit.training.trained import trained


class ModelSource(NamedTuple):
    """A module with its weights; ``recipe``, ``report`` and ``preprocess`` are None for an import path.

    ``learned``: what a training for int8 has made of its folded copy, which is then exported in its place.
    """

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
    learned: Learned | None = None
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
    """Load the model that ``source`` names; raises UsageError for options that do not apply, ModelError for missing files.

    With ``trained=False`` an untrained recipe will do, and the weights are then random.
    """
    path = Path(source)
    if source in MODELS and not path.exists():
        return _from_name(source, input_shapes, weights, args)
    if path.suffix == ".toml" or path.is_dir():
        if input_shapes or weights or args:
            raise UsageError(
                "--input-shape, --weights and --arg go with an import path", "a recipe or a run has its own: leave them out"
            )
        return _from_run(path) if path.is_dir() else _from_recipe(path, runs, trained)
    if ":" in source:
        return _from_name(source, input_shapes, weights, args)
    raise no_source(source)


DTYPES = ("float32", "float16", "float64", "int64", "int32", "uint8", "bool")


def parse_shapes(texts: Sequence[str], dtype: str = "float32") -> tuple[TensorSpec, ...]:
    """Specs, with a free batch axis, from texts like ``1x3x224x224``, ``NAME=1x3x224x224`` or ``NAME=1x16:int64``."""
    specs = []
    for index, text in enumerate(texts):
        name, equals, shape = text.rpartition("=")
        name = name if equals else ("input" if len(texts) == 1 else f"input{index}")
        shape, colon, own_dtype = shape.partition(":")
        if colon and own_dtype not in DTYPES:
            raise UsageError(
                f"--input-shape {text!r} has an unknown dtype",
                f"use one of {', '.join(DTYPES)}{did_you_mean(own_dtype, DTYPES)}",
            )
        parts = shape.lower().split("x")
        sizes = [size for part in parts if (size := whole(part, 9))]
        if len(sizes) != len(parts) or not check_name(name):
            raise UsageError(f"--input-shape {text!r} is not a shape", "write it like 1x3x224x224 or NAME=1x3x224x224")
        specs.append(TensorSpec(name, own_dtype or dtype, (BATCH, *sizes[1:])))
    if len({spec.name for spec in specs}) != len(specs):
        raise UsageError("--input-shape names an input twice", "give each input a name of its own")
    return tuple(specs)


def _from_recipe(path: Path, runs: Path, trained: bool) -> ModelSource:
    """The run of a recipe, if it was trained with the settings that weights depend on; all others come from the recipe."""
    recipe = load_recipe(path)
    run = runs / recipe.name
    if (run / RUN_REPORT).is_file():
        source = _from_run(run)
        before, now = (_trained_by(each) for each in (source.recipe or recipe, recipe))
        changed = [key for key, value in now.items() if before[key] != value]
        if not changed:
            return source._replace(recipe=recipe)
        if trained:
            other = ", ".join(changed)
            raise ModelError(f"{run} was trained with other settings than {path}: {other}", f"train again: edgekit train {path}")
    if trained:
        raise ModelError(f"{path} has not been trained: {run / RUN_REPORT} is missing", f"edgekit train {path}")
    return _untrained(recipe)


def _trained_by(recipe: Recipe) -> dict[str, Any]:
    """The settings that trained weights depend on, by their keys; files count by their names, wherever they lie.

    Another spelling of the same size or colour is the same setting.
    """
    data = msgspec.structs.replace(recipe.data.without_place(), resize=recipe.data.size, color=recipe.data.pixel_color)
    start = recipe.model.weights and Path(recipe.model.weights).name
    tables = {
        "data": data,
        "model": msgspec.structs.replace(recipe.model, weights=start),
        "train": recipe.train.without_bars(),
    }
    return {
        f"{table}.{key}": value for table, settings in tables.items() for key, value in msgspec.structs.asdict(settings).items()
    }


def _from_run(run: Path) -> ModelSource:
    recipe, report = run_recipe(run), run_report(run)
    if sha256_of(run / RUN_WEIGHTS) != report.weights_sha256:
        raise ModelError(
            f"{run / RUN_WEIGHTS} does not have the checksum that {RUN_REPORT} beside it recorded", "train the recipe again"
        )
    network = trained(run, recipe, report)
    return ModelSource(
        recipe.name,
        recipe.model.name,
        network.args,
        network.module,
        network.inputs,
        recipe,
        report,
        report.preprocess,
        report.labels,
        learned=learned_of(run, recipe, report),
        notes=report.all_notes,
    )


def _untrained(recipe: Recipe) -> ModelSource:
    if recipe.model.name not in MODELS:
        raise ModelError(f"{recipe.model.name} needs a finished run or --input-shape", "edgekit train the recipe first")
    default = MODELS[recipe.model.name].input_shape
    channels = CHANNELS[recipe.data.color] if recipe.data.color else default[0]
    args = {"in_channels": channels, **recipe.model.args}
    inputs = (TensorSpec("input", "float32", (BATCH, channels, *(recipe.data.size or default[1:]))),)
    return ModelSource(recipe.name, recipe.model.name, args, build_module(recipe.model.name, args), inputs, recipe)


def _from_name(source: str, input_shapes: Sequence[str], weights: Path | None, args: Mapping[str, Any]) -> ModelSource:
    torch.manual_seed(SEED)
    with seeded():
        module, example, notes, widened = build(source, args)
    if input_shapes:
        inputs = _ordered(parse_shapes(input_shapes, _dtype(module)), module)
    elif example:
        inputs = tuple(
            TensorSpec(name, dtype if dtype in DTYPES else "float32", (BATCH, *shape[1:]))
            for name, (dtype, shape) in example.items()
        )
        if widened:
            inputs = tuple(msgspec.structs.replace(spec, dtype="float32") if "float" in spec.dtype else spec for spec in inputs)
        inputs = _ordered(inputs, module)
    elif source in MODELS:
        channels, *sides = MODELS[source].input_shape
        inputs = (TensorSpec("input", "float32", (BATCH, args.get("in_channels", channels), *sides)),)
    else:
        raise UsageError(f"{source} needs the shape of its input, for example --input-shape 1x3x224x224")
    _check_inputs(module, inputs)
    if weights is not None:
        notes += load_checkpoint(module, str(weights))
    name = source.rpartition(":")[2] or source
    name = name if check_name(name) else "model"
    return ModelSource(name, source, dict(args), module, inputs, has_weights=weights is not None, notes=notes)


def _dtype(module: nn.Module) -> str:
    """The dtype of the first float parameter, which inputs usually share."""
    first = next((weight for weight in module.parameters() if weight.is_floating_point()), torch.zeros(()))
    return str(first.dtype).removeprefix("torch.")


def _check_inputs(module: nn.Module, inputs: tuple[TensorSpec, ...]) -> None:
    """Raise ModelError or UsageError unless ``forward`` takes as many inputs by position."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # code that does not tell is left to itself
        return
    try:
        signature.bind(*inputs)
    except TypeError:
        needed = [name for name, parameter in signature.parameters.items() if parameter.default is parameter.empty]
        by_keyword = [name for name in needed if signature.parameters[name].kind is inspect.Parameter.KEYWORD_ONLY]
        if by_keyword:
            raise ModelError(
                f"forward() takes {', '.join(by_keyword)} by keyword only, and runtimes give inputs by position",
                "take the * out of its parameters, or wrap the model in a module whose forward() passes them on",
            ) from None
        names = [name for name, parameter in signature.parameters.items() if parameter.kind in _BY_POSITION]
        raise UsageError(
            f"forward() takes the inputs {', '.join(names) or 'none'}, and {len(inputs)} were given",
            "give each its own --input-shape NAME=SHAPE",
        ) from None


_BY_POSITION = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def _ordered(inputs: tuple[TensorSpec, ...], module: nn.Module) -> tuple[TensorSpec, ...]:
    """Inputs sorted like forward()'s parameters if they bear the parameters' names; otherwise unchanged."""
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
