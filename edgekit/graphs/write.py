"""Write a traced graph as one self-contained ONNX file; the same graph gives the same bytes.

``torch.onnx.export`` runs without its optimiser, which also folds batch norm in some places. The simplifications below fold no
batch norm, so the file holds exactly what the report of ``edgekit.fold`` says.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence

import onnx
import onnx_ir
import torch
from onnx_ir.passes import Sequential, common
from onnxscript import optimizer, rewriter
from onnxscript.rewriter.rules import common as rules
from torch import fx

from edgekit.errors import ModelError
from edgekit.graphs.trace import TRACED_BATCH, dynamic_shapes, tensors_of
from edgekit.onnx.read import LARGEST_BYTES, batch_norms
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
        with _quiet():
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
        lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
        reason = next(
            (line for line in reversed(lines) if "No ONNX function" in line or "Error" in line), lines[0] if lines else ""
        )
        raise ModelError(
            f"torch.onnx.export refused the model at opset {opset}: {type(problem).__name__}: {reason}",
            "try another --opset, or replace the operator named here",
        ) from problem
    proto = onnx_ir.to_proto(model)
    for key, value in sorted((metadata or {}).items()):
        proto.metadata_props.add(key=key, value=value)
    _check_file(proto, fold_report)
    _check_tensor_names(proto, inputs, outputs)
    content: bytes = proto.SerializeToString(deterministic=True)
    return content


def _simplified(model: onnx_ir.Model) -> onnx_ir.Model:
    optimizer.fold_constants(common.InlinePass()(model).model)
    rewriter.rewrite(model, pattern_rewrite_rules=_SIMPLIFICATIONS)
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


def _check_file(proto: onnx.ModelProto, fold_report: FoldReport) -> None:
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as problem:
        raise ModelError(f"the exported file is not valid ONNX: {problem}", "please report this model") from problem
    written = batch_norms(proto)
    reported = sum(norm.nodes for norm in fold_report.kept)
    if written != reported:
        raise ModelError(
            f"the exported file has {written} BatchNormalization nodes where the fold report says {reported}",
            "please report this model",
        )


def _check_tensor_names(proto: onnx.ModelProto, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec]) -> None:
    """Raise ModelError if the exporter renamed a tensor: an output that is an input, a tensor returned twice, a weight's name."""
    for side, values, specs in (("inputs", proto.graph.input, inputs), ("outputs", proto.graph.output, outputs)):
        written, names = [value.name for value in values], [spec.name for spec in specs]
        if written != names or len(set(written)) != len(written):
            raise ModelError(
                f"the {side} {names} became {written} in the exported file", "give every output a tensor and a name of its own"
            )


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which prints, logs and warns about its own internals."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        for logger in loggers:
            logger.setLevel(logging.CRITICAL)
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
