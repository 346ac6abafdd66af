"""ONNX files from elsewhere: reading them whole, running them without optimisations, and freeing a fixed batch axis."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple, TypeAlias

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
from onnxscript import optimizer

from edgekit.errors import BundleError, ModelError, first_line
from edgekit.onnx_wire import lies_elsewhere
from edgekit.tensors import BATCH, Array, TensorSpec, sample_feed, shape_text

LARGEST_BYTES = 2**31 - 2**20  # protobuf's limit for one file, less some room for its own fields
_ROUNDING = {"float16": 1e-2, "bfloat16": 1e-1, "float64": 1e-9}  # of the scale, between batches of several sizes; else 2e-5
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)
_SIZES = (1, 2, 3)
CERTAIN = 1e-3
"""Of the scale: more than rounding makes of any model that is worth exporting."""
UNOPTIMISED = "ONNX Runtime without optimisations"
Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]


class OnnxSource(NamedTuple):
    """A file: ``original`` as it is, ``model`` with a free batch axis; ``fixed`` is the batch that the original insists on."""

    path: Path
    original: onnx.ModelProto
    model: onnx.ModelProto
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    fixed: int | None

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """The original file's outputs, whatever batch it insists on."""
        return _in_batches(open_unoptimised(self.original, self.path), feed, self.fixed)

    def check_independent(self, feed: Mapping[str, Array]) -> None:
        """Raise ModelError where a sample of ``feed`` gives something else alone than among the others, rounding apart.

        Opening the file has tried only a few: a branch taken by what the whole batch amounts to may be another for these.
        """
        run = open_unoptimised(self.model, self.path)
        limit = max(_rounding(self.original), CERTAIN)
        for name, together in run(feed).items():
            alone = np.concatenate([run(one)[name] for one in _one_by_one(feed)])
            changed = _change(alone, together)
            if not changed <= limit:
                raise ModelError(
                    f"the samples of {self.path} depend on each other{_training(self.original)}: output {name!r} changes by "
                    f"{changed:.1e} of its scale when each is run alone; {_INFERENCE}"
                )


def open_onnx(path: Path) -> OnnxSource:
    """Read, check and run ``path``; raises EdgekitError unless it takes batches, or can be proved to take them once freed."""
    original = load_whole(path)
    inputs, fixed = specs_of(original, path)
    if fixed is not None:
        return _freed(path, original, inputs, fixed)
    outputs = output_specs_of(original, inputs, path)
    run = open_unoptimised(original, path)
    feed = sample_feed(inputs, max(_SIZES))
    reason = _difference(run, feed, run(feed), _rounding(original))
    if reason:
        raise ModelError(f"the samples of {path} depend on each other{_training(original)}: {reason}; {_INFERENCE}")
    return OnnxSource(path, original, original, inputs, outputs, None)


def _freed(path: Path, original: onnx.ModelProto, inputs: tuple[TensorSpec, ...], fixed: int) -> OnnxSource:
    """Free the batch axis, and prove it: batches of other sizes give what the original gives, batch by batch of its own size."""
    feed = sample_feed(inputs, 2 * fixed if fixed > 1 else max(_SIZES))
    wanted = _in_batches(open_unoptimised(original, path), feed, fixed)
    reason = ""
    for constants in (False, True):
        freed = free_batch(original, fixed, constants=constants)
        try:
            outputs = output_specs_of(freed, inputs, path)
            reason = _difference(open_unoptimised(freed, path), feed, wanted, _rounding(original))
        except ModelError as problem:
            reason = _operator(str(problem))
        if not reason:
            return OnnxSource(path, original, freed, inputs, outputs, fixed)
    raise ModelError(
        f"{path} takes batches of {fixed}, and its batch axis cannot be freed{_training(original)}: {reason}; "
        "export the model again with a free first axis"
    )


def _operator(problem: str) -> str:
    """The operator in ONNX Runtime's message, and its complaint without the source lines; otherwise the message."""
    found = re.search(r"while running (\w+) node\. Name:'([^']*)'.*(?:false\. |Status Message: )([^;]*)", problem)
    return f"{found[1]} {found[2]} stands against it ({found[3].strip()})" if found else problem


_INFERENCE = "export the model again in inference mode, with samples that do not see each other"


def load_whole(path: Path) -> onnx.ModelProto:
    """The file with what lies beside it, checked; raises BundleError for anything else, ModelError for one too large."""
    if not path.exists():
        raise BundleError(f"ONNX file {path} does not exist; check the path")
    if not path.is_file():
        raise BundleError(f"{path} is not a regular file; give an ONNX file")
    _check_size(path, path.stat().st_size)
    try:
        model = onnx.load(path, load_external_data=False)
        if not model.graph.node:
            raise ValueError("it holds no graph")
    except Exception as problem:  # protobuf and the operating system raise a dozen kinds
        raise BundleError(f"{path} is not a whole ONNX file: {first_line(problem)}; export it again") from None
    _check_size(path, sum(_bytes(tensor) for tensor in model.graph.initializer))  # before anything beside the file is read
    try:
        onnx.load_external_data_for_model(model, str(path.parent))  # refuses names that leave the folder
        if lies_elsewhere(model.SerializeToString()):
            raise ValueError("a sparse tensor, or one of a function's defaults, lies in another file, where onnx does not look")
        onnx.checker.check_model(model)
    except Exception as problem:
        raise BundleError(f"{path} is not a whole ONNX file: {first_line(problem)}; export it again") from None
    return model


def specs_of(model: onnx.ModelProto, path: Path) -> tuple[tuple[TensorSpec, ...], int | None]:
    """The inputs, their first axis free, and the batch the file insists on; raises ModelError where another axis is free."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    specs, fixed = [], set()
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
        if not value.type.HasField("tensor_type") or not sizes:
            raise ModelError(f"input {value.name!r} of {path} is no tensor with a batch axis; give a file without such inputs")
        if any(size <= 0 for size in sizes[1:]):
            raise ModelError(
                f"input {value.name!r} of {path} is {shape_text([size or 'free' for size in sizes])}; fix every axis behind the "
                "first with python -m onnxruntime.tools.make_dynamic_shape_fixed, or export the model again so"
            )
        fixed |= {sizes[0]} - {0}
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        specs.append(TensorSpec(value.name, str(dtype), (BATCH, *sizes[1:])))
    if not specs or not model.graph.output:
        raise ModelError(f"{path} has no {'outputs' if specs else 'inputs'}; give a file of a network")
    if len(fixed) > 1:
        raise ModelError(f"the inputs of {path} have the batches {sorted(fixed)}; export the model again with a free first axis")
    return tuple(specs), next(iter(fixed), None)


def precision_of(model: onnx.ModelProto) -> str:
    """The float dtype that most of the stored numbers have; without any, that of the first float input, or float32."""
    stored = list(model.graph.initializer)
    stored += [item.t for node in model.graph.node if node.op_type == "Constant" for item in node.attribute if item.HasField("t")]
    sizes: Counter[int] = Counter()
    for tensor in stored:
        sizes[tensor.data_type] += int(np.prod(tensor.dims, dtype=object))
    kinds = [kind for kind, _ in sizes.most_common()] + [value.type.tensor_type.elem_type for value in model.graph.input]
    kind = next((kind for kind in kinds if kind in _FLOATS), onnx.TensorProto.FLOAT)
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind))


def output_specs_of(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], path: Path) -> tuple[TensorSpec, ...]:
    """By running two batches; raises ModelError unless the batch is the first axis of every output."""
    run = open_unoptimised(model, path)
    small, large = (run(sample_feed(inputs, batch)) for batch in (2, 3))
    specs = []
    for name, array in small.items():
        if array.shape[:1] != (2,) or large[name].shape != (3, *array.shape[1:]):
            raise ModelError(
                f"output {name!r} of {path} is {shape_text(array.shape)} for 2 samples and {shape_text(large[name].shape)} "
                "for 3; the batch must be the first axis of every output and no other"
            )
        if not np.isfinite(array.astype(np.float64)).all():
            raise ModelError(f"output {name!r} of {path} is not finite on random inputs; check the weights")
        specs.append(TensorSpec(name, str(array.dtype), (BATCH, *array.shape[1:])))
    return tuple(specs)


def open_unoptimised(model: onnx.ModelProto, path: Path) -> Run:
    """ONNX Runtime on the CPU with graph optimisations off; it and its runs raise ModelError when it refuses the file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4

    def refused(problem: Exception) -> ModelError:
        return ModelError(f"ONNX Runtime refuses {path} on the CPU: {first_line(problem)}; check the file there first")

    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise refused(problem) from None
    names = [value.name for value in session.get_outputs()]

    def run(feed: Mapping[str, Array]) -> dict[str, Array]:
        try:
            found = dict(zip(names, session.run(names, dict(feed)), strict=True))
        except Exception as problem:
            raise refused(problem) from None
        other = next((name for name, array in found.items() if not isinstance(array, np.ndarray)), None)
        if other is not None:
            raise ModelError(f"output {other!r} of {path} is no tensor; give a file all of whose outputs are tensors")
        return found

    return run


def free_batch(model: onnx.ModelProto, fixed: int, *, constants: bool = False) -> onnx.ModelProto:
    """A copy whose inputs and outputs have a free first axis; whether it then computes the same is for the caller to prove.

    With ``constants``, shapes that the file computes from stored numbers are computed first, so that they can be seen.
    """
    known = _first_axes(_with_constants(model) if constants else model)
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
    for node, shape in list(_constant_reshapes(freed, known, fixed)):
        # of a value that is (batch, ...) already: 0 takes that axis over, which is the same number
        name = f"{node.output[0]}_free_shape"
        freed.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, *shape[1:]], np.int64), name))
        node.input[1] = name
    return freed


def _with_constants(model: onnx.ModelProto) -> onnx.ModelProto:
    try:
        folded = onnx_ir.from_proto(model)
        optimizer.fold_constants(folded, onnx_shape_inference=True)
        return onnx_ir.to_proto(folded)
    except Exception:  # nothing is lost: what cannot be seen is not freed
        return model


def _first_axes(model: onnx.ModelProto) -> dict[str, int]:
    try:
        known = onnx.shape_inference.infer_shapes(model, data_prop=True)
    except Exception:  # an operator of somebody's own: nothing is known about shapes
        known = model
    values = (*known.graph.input, *known.graph.value_info)
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


def _in_batches(run: Run, feed: Mapping[str, Array], fixed: int | None) -> dict[str, Array]:
    """Batches of ``fixed``, the last one filled up with its own last sample."""
    if fixed is None:
        return run(feed)
    samples = len(next(iter(feed.values())))
    parts = []
    for start in range(0, samples, fixed):
        index = np.minimum(np.arange(start, start + fixed), samples - 1)
        parts.append(run({name: array[index] for name, array in feed.items()}))
    odd = [name for name, array in parts[0].items() if array.shape[:1] != (fixed,)]
    if odd:
        raise ModelError(f"output {odd[0]!r} is {shape_text(parts[0][odd[0]].shape)} for a batch of {fixed}")
    return {name: np.concatenate([part[name] for part in parts])[:samples] for name in parts[0]}


def _rounding(model: onnx.ModelProto) -> float:
    return _ROUNDING.get(precision_of(model), 2e-5)


def _difference(run: Run, feed: Mapping[str, Array], wanted: Mapping[str, Array], rounding: float) -> str:
    """What differs from ``wanted`` when fewer samples are run at once, or nothing."""
    samples = len(next(iter(feed.values())))
    for size, (name, reference) in itertools.product(sorted({*_SIZES, samples}), wanted.items()):
        if size > samples:
            continue
        found = run({key: array[:size] for key, array in feed.items()})[name]
        if found.shape != reference[:size].shape:
            return f"output {name!r} is {shape_text(found.shape)} for {size} sample(s)"
        changed = _change(found, reference)
        if not changed <= rounding:
            return f"output {name!r} changes by {changed:.1e} of its scale in a batch of {size}"
    return ""


def _change(found: Array, reference: Array) -> float:
    """How far the first samples are off, of the scale of all of them; of nothing's scale any change is endless."""
    scale = float(np.abs(reference.astype(np.float64)).max(initial=0))
    error = float(np.abs(found.astype(np.float64) - reference[: len(found)].astype(np.float64)).max(initial=0))
    if not scale:
        return np.inf if error else 0.0
    return error / scale


def _one_by_one(feed: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    for index in range(len(next(iter(feed.values())))):
        yield {name: array[index : index + 1] for name, array in feed.items()}


def _training(model: onnx.ModelProto) -> str:
    """The first normalisation that uses the statistics of the batch, as part of a sentence."""
    for node in model.graph.node:
        if node.op_type == "BatchNormalization" and (
            sum(map(bool, node.output)) > 1 or any(item.name == "training_mode" and item.i for item in node.attribute)
        ):
            return f", because {node.name or node.output[0]} is a BatchNormalization in training mode"
    return ""


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_BYTES:
        raise ModelError(f"{path} takes {size / 2**30:.1f} GiB, and one ONNX file holds 2; export a smaller model")


def _bytes(tensor: onnx.TensorProto) -> int:
    count = int(np.prod(tensor.dims, dtype=object))
    try:
        return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        return count
