"""The only reader of ONNX files where the onnx package is installed; ``wire.py`` serves boards that lack the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import onnx

from edgekit.errors import BundleError, ModelError, first_line
from edgekit.files import read_bytes
from edgekit.onnx.arithmetic import in_steps
from edgekit.onnx.wire import tensor_elsewhere
from edgekit.tensors import BATCH, TensorSpec, shape_text

LARGEST_BYTES = 2**31 - 2**20  # protobuf's limit for one file, less some room for its own fields
NORM = "BatchNormalization"
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE)


class Strictness(NamedTuple):
    """How strictly an ONNX file is read. A message says that a bad file is not ``called``, or not ``valid``.

    ``beside``: tensors in files beside the ONNX file are loaded, left there, or refused. ``checked``: run ONNX's checker, if all
    tensors are loaded; ``with_shapes``: infer the shapes inside the graph as well. ``outputs_alone``: accept a graph without
    nodes.
    """

    called: str = "an ONNX file"
    valid: str = "valid ONNX"
    beside: Literal["loaded", "left", "refused"] = "left"
    checked: bool = False
    with_shapes: bool = False
    outputs_alone: bool = False


WHOLE = Strictness("a whole ONNX file", "a whole ONNX file", beside="loaded", checked=True)
"""All tensors loaded and checked: for a file that is folded and written anew."""
DESCRIBED = Strictness(checked=True, with_shapes=True, outputs_alone=True)
"""Checked, with a shape for every value: for a table."""
ALONE = Strictness(beside="refused")
"""No tensors in other files: for a runtime that would open the files named inside."""
NAMES = Strictness(outputs_alone=True)
"""Names and operators only: for a file that has been checked before."""


def name_of(node: onnx.NodeProto) -> str:
    """The node's name, or that of its first output if it has none."""
    return str(node.name or next(filter(None, node.output), ""))


def read_onnx(path: Path, strictness: Strictness, content: bytes | None = None) -> onnx.ModelProto:
    """Read the file at ``path``, or its ``content`` if the bytes are in memory already.

    Raises BundleError for a file that fails ``strictness``, ModelError for a file that is too large.
    """
    if content is None and strictness.beside == "loaded" and path.is_file():
        _check_size(path, path.stat().st_size)
    content = read_bytes(path, "ONNX file", BundleError) if content is None else content
    try:
        model = onnx.load_model_from_string(content)
        if not model.graph.node and not (strictness.outputs_alone and model.graph.output):
            raise ValueError("no graph inside")
        outside = tensor_elsewhere(content)
    except Exception as problem:  # protobuf raises a dozen kinds
        raise BundleError(f"{path} is not {strictness.called}: {first_line(problem)}", "export it again") from None
    del content  # gigabytes for a large model
    if outside is not None and strictness.beside == "refused":
        raise BundleError(
            f"{path} keeps {outside or 'a tensor'} in another file, which no checksum covers",
            "export it again with its weights inside",
        )
    if strictness.beside == "loaded":
        _check_size(path, sum(_bytes(tensor) for tensor in model.graph.initializer))  # before anything beside the file is read
    elif outside is not None:  # the numbers are beside the file, and the checker would want them
        return _with_shapes(model) if strictness.with_shapes else model
    return _completed(path, model, strictness)


def _with_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model`` with the shapes that can be inferred without the numbers in other files."""
    try:
        return onnx.shape_inference.infer_shapes(model)
    except Exception:  # a shape that is stored beside the file
        return model


def _completed(path: Path, model: onnx.ModelProto, strictness: Strictness) -> onnx.ModelProto:
    try:
        if strictness.beside == "loaded":
            onnx.load_external_data_for_model(model, str(path.parent))  # refuses names that leave the folder
            if tensor_elsewhere(model.SerializeToString()) is not None:
                raise ValueError(
                    "a sparse tensor, or one of a function's defaults, lies in another file, where onnx does not look"
                )
        if strictness.checked:
            model = _with_output_shapes(model)
            onnx.checker.check_model(model)
        return onnx.shape_inference.infer_shapes(model) if strictness.with_shapes else model
    except Exception as problem:
        raise BundleError(f"{path} is not {strictness.valid}: {first_line(problem)}", "export it again") from None


def _with_output_shapes(model: onnx.ModelProto) -> onnx.ModelProto:
    """``model``, or a copy in which outputs without a shape have the inferred one; ONNX's checker wants a shape."""
    if all(value.type.tensor_type.HasField("shape") for value in model.graph.output if value.type.HasField("tensor_type")):
        return model
    known = {value.name: value for value in onnx.shape_inference.infer_shapes(model).graph.output}
    shaped = onnx.ModelProto()
    shaped.CopyFrom(model)
    for value in shaped.graph.output:
        value.CopyFrom(known[value.name])
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.shape.SetInParent()
    return shaped


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST_BYTES:
        raise ModelError(f"{path} takes {size / 2**30:.1f} GiB, and one ONNX file holds 2", "export a smaller model")


def _bytes(tensor: onnx.TensorProto) -> int:
    count = int(np.prod(tensor.dims, dtype=object))
    try:
        return count * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    except KeyError:
        return count


class Node(NamedTuple):
    """An ONNX node, with the names of its input and output tensors."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def read_nodes(path: Path) -> tuple[Node, ...]:
    """The main graph's nodes, in order; a node without a name is named after its first output."""
    return tuple(
        Node(node.name or (node.output[0] if node.output else ""), node.op_type, tuple(node.input), tuple(node.output))
        for node in read_onnx(path, NAMES).graph.node
    )


def specs_of(model: onnx.ModelProto, path: Path) -> tuple[tuple[TensorSpec, ...], int | None]:
    """The inputs with a free first axis, and the file's fixed batch size or None; raises ModelError if another axis is free."""
    stored = {tensor.name for tensor in model.graph.initializer}
    stored |= {tensor.values.name for tensor in model.graph.sparse_initializer}
    specs, fixed = [], set()
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        sizes = [max(0, dim.dim_value) if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
        if not value.type.HasField("tensor_type") or not sizes:
            raise ModelError(
                f"input {value.name!r} of {path} is not a tensor with a batch axis", "use a file without such inputs"
            )
        if any(size <= 0 for size in sizes[1:]):
            raise ModelError(
                f"input {value.name!r} of {path} is {shape_text([size or 'free' for size in sizes])}",
                "fix every axis behind the first with python -m onnxruntime.tools.make_dynamic_shape_fixed, "
                "or export the model again so",
            )
        fixed |= {sizes[0]} - {0}
        if kind.elem_type == onnx.TensorProto.STRING:
            raise ModelError(
                f"input {value.name!r} of {path} holds texts, and edgekit runs numbers", "use a file without such inputs"
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        specs.append(TensorSpec(value.name, str(dtype), (BATCH, *sizes[1:])))
    if not specs or not model.graph.output:
        raise ModelError(f"{path} has no {'outputs' if specs else 'inputs'}", "use the file of a network")
    names = [value.name for value in model.graph.output]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ModelError(f"{path} names the output {twice!r} twice", "give every output a name of its own")
    if len(fixed) > 1:
        raise ModelError(
            f"the inputs of {path} have the batches {sorted(fixed)}", "export the model again with a free first axis"
        )
    return tuple(specs), next(iter(fixed), None)


def precision_of(model: onnx.ModelProto) -> str:
    """The dtype in which layers compute: that of a convolution's or product's output.

    Without such a layer it is the float dtype of most stored numbers, the first float input's, or float32.
    """
    computed = _layers_dtype(model)
    if computed is not None:
        return computed
    stored = list(model.graph.initializer)
    stored += [item.t for node in model.graph.node if node.op_type == "Constant" for item in node.attribute if item.HasField("t")]
    sizes: Counter[int] = Counter()
    for tensor in stored:
        sizes[tensor.data_type] += int(np.prod(tensor.dims, dtype=object))
    kinds = [kind for kind, _ in sizes.most_common()] + [value.type.tensor_type.elem_type for value in model.graph.input]
    kind = next((kind for kind in kinds if kind in _FLOATS), onnx.TensorProto.FLOAT)
    return str(onnx.helper.tensor_dtype_to_np_dtype(kind))


def _layers_dtype(model: onnx.ModelProto) -> str | None:
    """The float dtype of most layers' outputs, as shape inference finds it; None where it finds none."""
    outputs = {node.output[0] for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm", "MatMul")}
    try:
        inferred = onnx.shape_inference.infer_shapes(model).graph if outputs else onnx.GraphProto()
    except Exception:  # a custom operator, whose types cannot be inferred
        return None
    values = (*inferred.value_info, *inferred.output)
    kinds = Counter(value.type.tensor_type.elem_type for value in values if value.name in outputs)
    kind = next((kind for kind, _ in kinds.most_common() if kind in _FLOATS), None)
    return None if kind is None else str(onnx.helper.tensor_dtype_to_np_dtype(kind))


def quantised(model: onnx.ModelProto) -> str:
    """The first operator of the file that computes in integers of 8 bits or fewer; empty if there is none."""
    nodes = (node for part in (model.graph, *model.functions) for node in part.node)
    return next((node.op_type for node in nodes if in_steps(node.op_type)), "")


def is_standard(domain: str) -> bool:
    """Whether ``domain`` is ONNX's own, in either of its two spellings."""
    return domain in ("", "ai.onnx")


def opset_of(model: onnx.ModelProto) -> int:
    """The opset of ONNX's own operators; 0 for a file that uses none."""
    return next((opset.version for opset in model.opset_import if is_standard(opset.domain)), 0)


def is_norm(node: onnx.NodeProto) -> bool:
    """Whether the node is ONNX's own BatchNormalization."""
    return node.op_type == NORM and is_standard(node.domain)


def batch_norms(proto: onnx.ModelProto) -> int:
    """The number of ONNX's BatchNormalization nodes, including those in branches, loops and functions."""

    def count(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(
            is_norm(node) + sum(count(graph.node) for attribute in node.attribute for graph in (attribute.g, *attribute.graphs))
            for node in nodes
        )

    return count(proto.graph.node) + sum(count(function.node) for function in proto.functions)
