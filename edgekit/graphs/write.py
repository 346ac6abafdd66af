"""Write a traced graph as one self-contained ONNX file; the same graph gives the same bytes.

``torch.onnx.export`` runs without its optimiser, which also folds batch norm in some places. The simplifications below fold no
batch norm, so the file holds exactly what the report of ``edgekit.fold`` says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

import numpy as np
import onnx
import onnx_ir
import torch
from onnx_ir.passes import Sequential, common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules
from torch import fx

from edgekit.errors import ModelError
from edgekit.graphs.quiet import quiet
from edgekit.graphs.trace import TRACED_BATCH, dynamic_shapes, tensors_of
from edgekit.onnx.constants import store
from edgekit.onnx.read import LARGEST_BYTES, batch_norms, opset_of
from edgekit.reports.export import FoldReport
from edgekit.tensors import TensorSpec

_SIMPLIFICATIONS = (
    rules.materialize_reshape_shape_rule,
    rules.squeeze_reshape_1d_rule,
    rules.reshape_reshape_rule,
    rules.no_op_cast_rule,
    rules.no_op_expand_rule,
    rules.no_op_transpose_rule,
    rules.transpose_transpose_rule,
    rules.normalize_pad_format_conv_rule,
    rules.fuse_pad_into_conv_rule,
    rules.remove_optional_bias_from_conv_rule,  # the exporter gives conv3d without bias zeros of shape (channels, 2)
)


def export_onnx(
    graph: fx.GraphModule,
    fold_report: FoldReport,
    inputs: Sequence[TensorSpec],
    outputs: Sequence[TensorSpec],
    *,
    opset: int = 20,
    metadata: Mapping[str, str] | None = None,
) -> bytes:
    """The bytes of an ONNX file of ``graph``, checked by ``onnx.checker`` with full shape inference.

    Raises ModelError if an operator has no ONNX counterpart, the weights exceed 2 GiB, or the file does not hold exactly the
    BatchNormalization nodes that ``fold_report`` lists as kept.
    """
    size = sum(tensor.numel() * tensor.element_size() for tensor in graph.state_dict().values())
    if size > LARGEST_BYTES:
        raise ModelError(f"the weights take {size / 2**30:.1f} GiB, and one ONNX file holds 2", "export a smaller model")
    try:
        with quiet():
            program = torch.onnx.export(
                graph,
                tensors_of(inputs, TRACED_BATCH),
                dynamo=True,
                optimize=False,
                verbose=False,
                opset_version=opset,
                input_names=[spec.name for spec in inputs],
                output_names=[spec.name for spec in outputs],
                dynamic_shapes=dynamic_shapes(inputs),
            )
            assert program is not None
            model = _simplified(program.model)
    except Exception as problem:
        raise ModelError(
            f"torch.onnx.export refused the model at opset {opset}: {_reason(problem)}",
            "try another --opset, or replace the operator named here",
        ) from problem
    proto = onnx_ir.to_proto(model)
    for key, value in sorted((metadata or {}).items()):
        proto.metadata_props.add(key=key, value=value)
    _check_file(proto, fold_report)
    _check_tensor_names(proto, inputs, outputs)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _reason(problem: Exception) -> str:
    """The operator in the exporter's message, or else the line of it that says most."""
    operator = re.search(r"target=torch\.ops\.([\w.]+)", str(problem))
    if operator:
        return f"it has no ONNX for {operator[1]}"
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    line = next((line for line in reversed(lines) if "No ONNX function" in line or "Error" in line), lines[0] if lines else "")
    return f"{type(problem).__name__}: {line}"


def _simplified(model: onnx_ir.Model) -> onnx_ir.Model:
    optimizer.fold_constants(common.InlinePass()(model).model)
    rewriter.rewrite(model, pattern_rewrite_rules=_SIMPLIFICATIONS)
    _fit_scales(model.graph)
    Sequential(
        common.RemoveUnusedNodesPass(),
        common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        common.DeduplicateInitializersPass(),
        common.IdentityEliminationPass(),
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        common.RemoveUnusedOpsetsPass(),
        common.NameFixPass(),
    )(model)
    # the exporter records source lines, with paths of the exporting machine
    for node in model.graph.all_nodes():
        node.metadata_props.clear()
        node.doc_string = None
    for value in (*model.graph.inputs, *model.graph.outputs, *model.graph.initializers.values()):
        value.metadata_props.clear()
    model.metadata_props.clear()
    model.graph.metadata_props.clear()
    return model


def _fit_scales(graph: onnx_ir.Graph) -> None:
    """Raise the scales of a Resize by some units in the last place where rounding to float32 would cost its output a pixel.

    PyTorch takes floor(size * scale) in float64, ONNX in float32: floor(10 * 0.7) is 7 in the one and 6 in the other.
    """
    for node in graph.all_nodes():
        if node.op_type != "Resize" or len(node.inputs) != 3:
            continue
        source, _, scales = node.inputs
        numbers = onnx_ir.convenience.get_const_tensor(scales) if scales is not None else None
        if numbers is None or source is None or source.shape is None or node.outputs[0].shape is None:
            continue
        sizes = list(zip(source.shape, node.outputs[0].shape, numbers.numpy().tolist(), strict=True))
        fitted = [_fitted(before, after, scale) for before, after, scale in sizes]
        if fitted != [scale for _, _, scale in sizes]:
            node.replace_input_with(2, store(graph, f"{node.outputs[0].name}_scales", np.array(fitted, np.float32)))


def _fitted(before: object, after: object, scale: float) -> float:
    """The next float32 from ``scale`` up that takes the size ``before`` to ``after``; ``scale`` where that needs more than 8."""
    number = np.float32(scale)
    for _ in range(8):
        if not isinstance(before, int) or not isinstance(after, int) or np.floor(before * float(number)) >= after:
            return float(number)
        number = np.nextafter(number, np.float32(np.inf))
    return scale


def _check_file(proto: onnx.ModelProto, fold_report: FoldReport) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as problem:
        raise _invalid(str(problem), proto) from problem
    written = batch_norms(proto)
    reported = sum(norm.nodes for norm in fold_report.kept)
    if written != reported:
        raise ModelError(
            f"the exported file has {written} BatchNormalization nodes where the fold report says {reported}",
            "please report this model",
        )


def _invalid(problem: str, proto: onnx.ModelProto) -> ModelError:
    """The error for a file that onnx.checker refuses; a dtype that an operator lacks at this opset is named."""
    lacking = re.search(r"op_type:(\w+), node name: ([^)]*)\).*unsupported type: (tensor\(\w+\))", problem)
    if lacking is None:
        return ModelError(f"the exported file is not valid ONNX: {problem}", "please report this model")
    operator, name, kind = lacking.groups()
    first = next(
        (version for version in range(opset_of(proto), onnx.defs.onnx_opset_version() + 1) if _takes(operator, version, kind)),
        None,
    )
    dtype = kind.removeprefix("tensor(").removesuffix(")")
    newer = f"take --opset {first}, whose {operator} has it, or " if first else ""
    return ModelError(
        f"{operator} {name} computes in {dtype}, which ONNX's opset {opset_of(proto)} does not have for it",
        f"{newer}take the cast to {dtype} (or the autocast) out of forward()",
    )


def _takes(operator: str, opset: int, kind: str) -> bool:
    schema = onnx.defs.get_schema(operator, opset)
    return any(kind in constraint.allowed_type_strs for constraint in schema.type_constraints)


def _check_tensor_names(proto: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise ModelError if the exporter renamed a tensor: an output that is an input, a tensor returned twice, a weight's name."""
    for side, values, specs in (("inputs", proto.graph.input, inputs), ("outputs", proto.graph.output, outputs)):
        written, names = [value.name for value in values], [spec.name for spec in specs]
        if written != names or len(set(written)) != len(written):
            raise ModelError(
                f"the {side} {names} became {written} in the exported file", "give every output a tensor and a name of its own"
            )
