"""ONNX files with a fixed batch: free the batch axis and prove that the freed file computes the same, or leave it fixed."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir
from onnxscript import optimizer

from edgekit.errors import ModelError
from edgekit.onnx.constants import MOST_ELEMENTS
from edgekit.onnx.read import NORM, WHOLE, precision_of, read_onnx, specs_of
from edgekit.onnx.rounding import rounding_limit
from edgekit.onnx.run import Runner, open_unoptimised, run_alone, run_in_batches
from edgekit.onnx.steps import random_node
from edgekit.tensors import BATCH, Array, Feed, TensorSpec, normalised_error, sample_feed, shape_text
from edgekit.tolerance import finite_scale

_SIZES = (1, 2, 3)
_INFERENCE = "export the model again in inference mode, with samples that do not see each other"
CERTAIN = 1e-3
"""An error of scale beyond the rounding of any model worth exporting."""


class OnnxSource(NamedTuple):
    """An ONNX file: ``original`` as read, ``model`` with a free batch axis where that can be had.

    ``fixed``: the original's batch size, or None. ``unfreed`` says why ``model`` takes that size only; empty where it is free.
    """

    path: Path
    original: onnx.ModelProto
    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed: int | None
    unfreed: str = ""

    @property
    def batch(self) -> int | None:
        """The only batch size of ``model``; None if its batch is free."""
        return self.fixed if self.unfreed else None

    def feed(self, samples: int) -> dict[str, Array]:
        """A repeatable feed of ``samples`` samples, rounded up to whole batches."""
        size = self.batch or 1
        return sample_feed([spec.with_free_batch() for spec in self.inputs], math.ceil(samples / size) * size)

    def run(self, feed: Feed) -> dict[str, Array]:
        """The original file's outputs; a fixed batch size is respected by running in batches."""
        return run_in_batches(open_unoptimised(self.original, self.path), feed, self.fixed, self.path)

    def check_independent(self, feed: Feed) -> None:
        """Raise ModelError if a sample of ``feed`` gives another output alone than in a batch, beyond rounding.

        ``open_onnx`` tries a few random samples only; a branch that depends on the whole batch may go another way on ``feed``.
        """
        if self.batch is not None:
            return
        run = open_unoptimised(self.model, self.path)
        limit = max(_rounding(self.original), CERTAIN)
        together, alone = run(feed), run_alone(run, feed)
        for name in together:
            changed = change_of_scale(alone[name], together[name])
            if not changed <= limit:
                raise ModelError(
                    f"the samples of {self.path} depend on each other{_training(self.original)}: output {name!r} changes by "
                    f"{changed:.1e} of its scale when each is run alone",
                    _INFERENCE,
                )


def open_onnx(path: Path) -> OnnxSource:
    """Read, check and run ``path``; raises EdgekitError unless the first axis of every input and output is the batch.

    A fixed batch is freed where the freed file provably computes the same.
    """
    original = _without_negative_sizes(_dense(read_onnx(path, WHOLE), path))
    random = random_node(original)
    if random:
        raise ModelError(
            f"the outputs of {path} depend on random numbers, which {random} draws, so that no comparison proves anything",
            "export the model again in inference mode, or give it the random numbers as an input",
        )
    inputs, fixed = specs_of(original, path)
    if fixed is not None:
        return _freed(path, original, inputs, fixed)
    outputs = output_specs_of(original, inputs, path)
    run = open_unoptimised(original, path)
    feed = sample_feed(inputs, max(_SIZES))
    reason = _difference(run, feed, run(feed), _rounding(original))
    if reason:
        raise ModelError(f"the samples of {path} depend on each other{_training(original)}: {reason}", _INFERENCE)
    return OnnxSource(path, original, original, inputs, outputs, None)


def _freed(path: Path, original: onnx.ModelProto, inputs: tuple[TensorSpec, ...], fixed: int) -> OnnxSource:
    """Free the batch axis, and prove that any batch size gives the outputs of the original run in its own batch size."""
    feed = sample_feed(inputs, 2 * fixed if fixed > 1 else max(_SIZES))
    run = open_unoptimised(original, path)
    references = run_in_batches(run, feed, fixed, path)
    reason = ""
    for constants in (False, True):
        freed = free_batch(original, fixed, constants=constants)
        try:
            outputs = output_specs_of(freed, inputs, path)
            reason = _difference(open_unoptimised(freed, path), feed, references, _rounding(original))
        except ModelError as problem:
            reason = _operator(str(problem))
        if not reason:
            return OnnxSource(path, original, freed, inputs, outputs, fixed)
    fixed_inputs = tuple(TensorSpec(spec.name, spec.dtype, (fixed, *spec.shape[1:])) for spec in inputs)
    outputs = tuple(TensorSpec(name, str(array.dtype), (fixed, *array.shape[1:])) for name, array in references.items())
    source = OnnxSource(path, original, original, fixed_inputs, outputs, fixed, reason)
    _check_fixed(source, run, feed, references, fixed)
    return source


def _check_fixed(source: OnnxSource, run: Runner, feed: Feed, references: Mapping[str, Array], size: int) -> None:
    """Raise ModelError if a sample of a fixed batch depends on the others or on its place among them.

    The first one is run beside those of the next batch, and the first batch in another order. ``run`` runs the original;
    ``references`` are its outputs on ``feed``, two batches of ``size`` or more.
    """
    original = source.original
    mixed = {name: np.concatenate([array[:1], array[size + 1 : 2 * size]]) for name, array in feed.items()}
    for name, array in run(mixed).items():
        if not change_of_scale(array[:1], references[name][:size]) <= _rounding(original):
            spec = source.inputs[0]
            raise ModelError(
                f"the first axis of input {spec.name!r} of {source.path} ({shape_text(spec.shape[1:])} behind {size}) is no "
                f"batch, or its samples depend on each other{_training(original)}: output {name!r} changes with them",
                "export the model again with a batch as the first axis, in inference mode",
            )
    turned = {name: np.roll(array[:size], 1, axis=0) for name, array in feed.items()}
    for name, array in run(turned).items():
        changed = change_of_scale(array, np.roll(references[name][:size], 1, axis=0))
        if not changed <= _rounding(original):
            raise ModelError(
                f"the outputs of {source.path} depend on a sample's place within its batch of {size}: output {name!r} changes by "
                f"{changed:.1e} of its scale when the samples move on by one",
                "export the model again so that what it adds or multiplies is the same for every sample",
            )


def _dense(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    """A copy in which sparse tensors of the main graph are written out, if it has any; raises ModelError for one too large."""
    constants = [
        item for node in model.graph.node for item in node.attribute if node.op_type == "Constant" and item.name == "sparse_value"
    ]
    if not constants and not model.graph.sparse_initializer:
        return model
    dense = onnx.ModelProto()
    dense.CopyFrom(model)
    for node in dense.graph.node:
        for item in node.attribute:
            if node.op_type == "Constant" and item.name == "sparse_value":
                item.CopyFrom(onnx.helper.make_attribute("value", _written_out(item.sparse_tensor, path)))
    dense.graph.initializer.extend(_written_out(tensor, path) for tensor in dense.graph.sparse_initializer)
    del dense.graph.sparse_initializer[:]
    return dense


def _written_out(tensor: onnx.SparseTensorProto, path: Path) -> onnx.TensorProto:
    """The dense form of a sparse tensor, whose indices are linear or one row for each value."""
    values, indices = onnx.numpy_helper.to_array(tensor.values), onnx.numpy_helper.to_array(tensor.indices)
    size = math.prod(tensor.dims)
    if size > MOST_ELEMENTS:
        raise ModelError(f"the sparse tensor {tensor.values.name!r} of {path} has {size:,} elements", "export a smaller model")
    whole = np.zeros(tuple(tensor.dims), values.dtype)
    whole[tuple(indices.T) if indices.ndim == 2 else np.unravel_index(indices, whole.shape)] = values
    return onnx.numpy_helper.from_array(whole, tensor.values.name)


def _without_negative_sizes(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy in which a batch written as -1 or 0 is a named free axis, if there is one; ONNX Runtime takes it for one too."""
    values = [*model.graph.input, *model.graph.output]
    firsts = [value.type.tensor_type.shape.dim[0] for value in values if value.type.tensor_type.shape.dim]
    if not any(dim.HasField("dim_value") and dim.dim_value <= 0 for dim in firsts):
        return model
    named = onnx.ModelProto()
    named.CopyFrom(model)
    del named.graph.value_info[:]
    for value in (*named.graph.input, *named.graph.output):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value <= 0:
                dim.Clear()
                dim.dim_param = BATCH if axis == 0 else ""
    return named


def _operator(problem: str) -> str:
    """The operator and the complaint in ONNX Runtime's message, without source lines; another message is returned whole."""
    match = re.search(r"while running (\w+) node\. Name:'([^']*)'.*(?:false\. |Status Message: )([^;]*)", problem)
    if match is None:
        return problem
    reason = re.sub(r"^\w+\.(?:h|cc):\d+ \S+ ", "", match[3].strip()).removesuffix(":")
    return f"{' '.join(filter(None, (match[1], match[2])))} refuses other batch sizes ({reason})"


def output_specs_of(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], path: Path) -> tuple[TensorSpec, ...]:
    """Specs of the outputs, found by running two batches; raises ModelError unless each output's first axis is the batch."""
    run = open_unoptimised(model, path)
    small, large = (run(sample_feed(inputs, batch)) for batch in (2, 3))
    specs = []
    for name, array in small.items():
        if array.shape[:1] != (2,) or large[name].shape != (3, *array.shape[1:]):
            raise ModelError(
                f"output {name!r} of {path} is {shape_text(array.shape)} for 2 samples and {shape_text(large[name].shape)} for 3",
                "the batch must be the first axis of every output and no other",
            )
        if not np.isfinite(array.astype(np.float64)).all():
            raise ModelError(f"output {name!r} of {path} is not finite on random inputs", "check the weights")
        specs.append(TensorSpec(name, str(array.dtype), (BATCH, *array.shape[1:])))
    return tuple(specs)


def free_batch(model: onnx.ModelProto, fixed: int, *, constants: bool = False) -> onnx.ModelProto:
    """A copy whose inputs and outputs have a free first axis; the caller must prove that the copy computes the same.

    With ``constants``, the shapes that the file computes from stored numbers are replaced by their values first.
    """
    first_axes = _first_axes(_with_constants(model) if constants else model)
    freed = onnx.ModelProto()
    freed.CopyFrom(model)
    stored = {tensor.name for tensor in freed.graph.initializer}
    for value in (*freed.graph.input, *freed.graph.output):
        shape = value.type.tensor_type.shape
        if value.name not in stored and shape.dim:
            shape.dim[0].dim_param = BATCH
    del freed.graph.value_info[:]
    if constants:
        freed = _with_constants(freed)
        del freed.graph.value_info[:]
    for node, shape, first in list(_constant_reshapes(freed, first_axes, fixed)):
        name = f"{node.output[0]}_free_shape"
        freed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([first, *shape[1:]], np.int64), name))
        node.input[1] = name
    return freed


def _with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        folded = onnx_ir.from_proto(model)
        optimizer.fold_constants(folded, onnx_shape_inference=True)
        return onnx_ir.to_proto(folded)
    except Exception:  # a shape that stays hidden is not freed, and the proof then fails
        return model


def _first_axes(model: onnx.ModelProto) -> dict[str, int]:
    try:
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # a custom operator, whose shapes cannot be inferred
        inferred = model
    values = (*inferred.graph.input, *inferred.graph.value_info)
    return {value.name: value.type.tensor_type.shape.dim[0].dim_value for value in values if value.type.tensor_type.shape.dim}


def _constant_reshapes(
    model: onnx.ModelProto, first: Mapping[str, int], fixed: int
) -> Iterator[tuple[onnx.NodeProto, list[int], int]]:
    """Each Reshape to a stored shape, the shape, and what its first size becomes.

    That is 0, which copies the batch of a value (batch, ...), or -1 where the batch and other axes become one, as for attention
    heads: then the rest of the shape decides it.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] in constants:
            shape = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            zero = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
            if zero or not shape or node.input[0] in constants:
                continue
            if shape[0] == fixed and first.get(node.input[0]) == fixed:
                yield node, shape, 0
            elif shape[0] > 0 and min(shape) > 0 and shape[0] % fixed == 0:
                yield node, shape, -1


def _rounding(model: onnx.ModelProto) -> float:
    return rounding_limit(precision_of(model))


def _difference(run: Runner, feed: Feed, references: Mapping[str, Array], rounding: float) -> str:
    """A sentence on the first output that differs from ``references`` in a smaller batch; empty if none differs."""
    samples = len(next(iter(feed.values())))
    for size, (name, reference) in itertools.product(sorted({*_SIZES, samples}), references.items()):
        if size > samples:
            continue
        output = run({key: array[:size] for key, array in feed.items()})[name]
        if output.shape != reference[:size].shape:
            return f"output {name!r} is {shape_text(output.shape)} for {size} sample(s)"
        changed = change_of_scale(output, reference)
        if not changed <= rounding:
            return f"output {name!r} changes by {changed:.1e} of its scale in a batch of {size}"
    return ""


def change_of_scale(outputs: Array, reference: Array) -> float:
    """The error of the first samples, relative to the scale of all samples. Infinite if the reference is all zeros."""
    return normalised_error(outputs, reference[: len(outputs)], scale=finite_scale(reference.astype(np.float64)), of_zero=0)


def _training(model: onnx.ModelProto) -> str:
    """Part of a sentence: names the first node that looks at the whole batch; empty if none does."""
    for node in model.graph.node:
        name = node.name or node.output[0]
        if node.op_type == NORM and (
            sum(map(bool, node.output)) > 1 or any(item.name == "training_mode" and item.i for item in node.attribute)
        ):
            return f", because {name} is a BatchNormalization in training mode"
        if node.op_type == "DynamicQuantizeLinear":
            return f", because {name} is a DynamicQuantizeLinear, whose steps are those of the whole batch"
    return ""
