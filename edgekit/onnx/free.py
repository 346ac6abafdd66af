"""ONNX files with a fixed batch: free the batch axis, and prove that the freed file computes the same."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import onnx_ir
from onnxscript import optimizer

from edgekit.errors import ModelError
from edgekit.onnx.read import NORM, WHOLE, precision_of, read_onnx, specs_of
from edgekit.onnx.run import Runner, open_unoptimised, run_alone, run_in_batches
from edgekit.tensors import BATCH, Array, Feed, TensorSpec, largest, normalised_error, sample_feed, shape_text

_ROUNDING = {"float16": 1e-2, "bfloat16": 1e-1, "float64": 1e-9}  # error of scale between batch sizes; other dtypes: 2e-5
_SIZES = (1, 2, 3)
_INFERENCE = "export the model again in inference mode, with samples that do not see each other"
CERTAIN = 1e-3
"""An error of scale beyond the rounding of any model worth exporting."""


class OnnxSource(NamedTuple):
    """An ONNX file: ``original`` as read, ``model`` with a free batch axis; ``fixed``: the original's batch size, or None."""

    path: Path
    original: onnx.ModelProto
    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed: int | None

    def run(self, feed: Feed) -> dict[str, Array]:
        """The original file's outputs; a fixed batch size is respected by running in batches."""
        return run_in_batches(open_unoptimised(self.original, self.path), feed, self.fixed)

    def check_independent(self, feed: Feed) -> None:
        """Raise ModelError if a sample of ``feed`` gives another output alone than in a batch, beyond rounding.

        ``open_onnx`` tries a few random samples only; a branch that depends on the whole batch may go another way on ``feed``.
        """
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
    """Read, check and run ``path``; raises EdgekitError unless the file takes batches, or provably takes them once freed."""
    original = read_onnx(path, WHOLE)
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
    references = run_in_batches(open_unoptimised(original, path), feed, fixed)
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
    raise ModelError(
        f"{path} takes batches of {fixed}, and its batch axis cannot be freed{_training(original)}: {reason}",
        "export the model again with a free first axis",
    )


def _operator(problem: str) -> str:
    """The operator and the complaint in ONNX Runtime's message, without source lines; another message is returned whole."""
    match = re.search(r"while running (\w+) node\. Name:'([^']*)'.*(?:false\. |Status Message: )([^;]*)", problem)
    return f"{match[1]} {match[2]} refuses other batch sizes ({match[3].strip()})" if match else problem


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
    for node, shape in list(_constant_reshapes(freed, first_axes, fixed)):
        # the reshaped value is (batch, ...), and 0 in a shape copies that axis
        name = f"{node.output[0]}_free_shape"
        freed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name))
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
) -> Iterator[tuple[onnx.NodeProto, list[int]]]:
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    for node in model.graph.node:
        if node.op_type == "Reshape" and len(node.input) > 1 and node.input[1] in constants:
            shape = onnx.numpy_helper.to_array(constants[node.input[1]]).tolist()
            zero = any(attribute.name == "allowzero" and attribute.i for attribute in node.attribute)
            if shape and shape[0] == fixed and first.get(node.input[0]) == fixed and not zero:
                yield node, shape


def _rounding(model: onnx.ModelProto) -> float:
    return _ROUNDING.get(precision_of(model), 2e-5)


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
    return normalised_error(outputs, reference[: len(outputs)], scale=largest(reference), of_zero=0)


def _training(model: onnx.ModelProto) -> str:
    """Part of a sentence: names the first normalisation that uses the statistics of the batch; empty if there is none."""
    for node in model.graph.node:
        if node.op_type == NORM and (
            sum(map(bool, node.output)) > 1 or any(item.name == "training_mode" and item.i for item in node.attribute)
        ):
            return f", because {node.name or node.output[0]} is a BatchNormalization in training mode"
    return ""
