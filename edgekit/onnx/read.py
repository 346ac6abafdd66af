"""Reading ONNX files where the onnx package is installed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx

from edgekit.errors import BundleError, ModelError, first_line
from edgekit.files import read_bytes
from edgekit.onnx.wire import lies_elsewhere
from edgekit.tensors import BATCH, TensorSpec, shape_text


class Node(NamedTuple):
    """An ONNX node, with the tensors that it takes and puts out."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(path: Path) -> tuple[Node, ...]:
    """The main graph's nodes, in their order; one without a name is called after its first output."""
    graph = onnx.load(path, load_external_data=False).graph
    return tuple(
        Node(node.name or (node.output[0] if node.output else ""), node.op_type, tuple(node.input), tuple(node.output))
        for node in graph.node
    )


LARGEST_BYTES = 2**31 - 2**20  # protobuf's limit for one file, less some room for its own fields
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


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


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_BYTES:
        raise ModelError(f"{path} takes {size / 2**30:.1f} GiB, and one ONNX file holds 2; export a smaller model")


def _bytes(tensor: onnx.TensorProto) -> int:
    count = int(np.prod(tensor.dims, dtype=object))
    try:
        return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        return count


def load_onnx(path: Path) -> onnx.ModelProto:
    """A parsed, checked file with inferred shapes; raises BundleError for anything else, and for files beside it."""
    content = read_bytes(path, "ONNX file", BundleError)
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.node and not model.graph.output:
            raise ValueError("it holds no graph")
    except Exception as problem:
        raise BundleError(f"{path} is not an ONNX file: {first_line(problem)}; export it again") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in model.graph.initializer):
        return model  # shapes are in the file, the numbers are beside it
    try:
        onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model)
    except Exception as problem:
        raise BundleError(f"{path} is not valid ONNX: {first_line(problem)}; export it again") from None


NORM = "BatchNormalization"


def batch_norms(proto: onnx.ModelProto) -> int:
    """How many of ONNX's BatchNormalization nodes, also inside the branches of If and Loop and inside functions."""

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(
            (node.op_type == NORM and node.domain in ("", "ai.onnx"))
            + sum(count(graph.node) for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
            for node in nodes
        )

    return count(proto.graph.node) + sum(count(function.node) for function in proto.functions)
