"""Folding in an ONNX file from elsewhere, by onnxscript's own rules, and proving it in ONNX Runtime without optimisations.

Batch norm goes into the Conv, ConvTranspose or Gemm before it; what else ``edgekit.fold`` can do needs the PyTorch model.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime as ort
from onnxscript import rewriter
from onnxscript.rewriter.rules import common as rules

from edgekit.errors import BundleError, ModelError, first_line
from edgekit.reports import Fold, FoldReport, Kept, Obstacle
from edgekit.tensors import BATCH, Array, TensorSpec, sample_feed, shape_text

_RULES = (
    rules.fuse_batchnorm_into_conv_rule,
    rules.fuse_batchnorm_into_conv_transpose_rule,
    rules.fuse_batchnorm_into_gemm_rule,
)
_LAYERS = ("Conv", "ConvTranspose", "Gemm")
_NORM = "BatchNormalization"


def load_whole(path: Path) -> onnx.ModelProto:
    """The file with what lies beside it, checked; raises BundleError for anything else."""
    if not path.is_file():
        raise BundleError(f"ONNX file {path} does not exist; check the path")
    try:
        model = onnx.load(path)  # refuses names of outside files that leave the folder
        if not model.graph.node:
            raise ValueError("it holds no graph")
        for tensor in model.graph.initializer:
            tensor.ClearField("external_data")
            tensor.data_location = onnx.TensorProto.DEFAULT
        onnx.checker.check_model(model)
    except Exception as problem:  # protobuf, the operating system and the checker raise a dozen kinds
        raise BundleError(f"{path} is not a whole ONNX file: {first_line(problem)}; export it again") from None
    return model


def fold_onnx(model: onnx.ModelProto, *, fold_bn: bool = True) -> tuple[onnx.ModelProto, FoldReport]:
    """A folded copy and what became of each BatchNormalization; ``model`` is untouched."""
    before = onnx_ir.from_proto(model)
    norms = {_output(node): node for node in before.graph if node.op_type == _NORM}
    inside = [node for node in before.graph.all_nodes() if node.op_type == _NORM and node.graph is not before.graph]
    kept = [_kept(node, "branch", "it is inside a branch, a loop or a function, where nothing is folded") for node in inside]
    if not fold_bn:
        kept += [_kept(node, "not-asked", "folding was not asked for") for node in norms.values()]
        return model, FoldReport((), tuple(kept))
    after = onnx_ir.from_proto(model)
    rewriter.rewrite(after, pattern_rewrite_rules=_RULES)
    left = {_output(node) for node in after.graph if node.op_type == _NORM}
    folded = tuple(
        Fold(_name(node), _NORM, (_name(producer),))
        for output, node in norms.items()
        if output not in left and (producer := node.inputs[0].producer()) is not None  # type: ignore[union-attr]
    )
    kept += [_refused(node) for output, node in norms.items() if output in left]
    proto = onnx_ir.to_proto(after)
    report = FoldReport(folded, tuple(kept))
    _check_count(proto, report)
    return proto, report


def specs_of(model: onnx.ModelProto, path: Path) -> tuple[TensorSpec, ...]:
    """The inputs; raises ModelError unless the first axis of each is free and no other."""
    stored = {tensor.name for tensor in model.graph.initializer}
    specs = []
    for value in model.graph.input:
        if value.name in stored:
            continue
        kind = value.type.tensor_type
        sizes = [dim.dim_value if dim.HasField("dim_value") else 0 for dim in kind.shape.dim]
        if not sizes or sizes[0] > 0 or any(size <= 0 for size in sizes[1:]):
            raise ModelError(
                f"input {value.name!r} of {path} is {shape_text([size or 'free' for size in sizes])}; "
                "export the model again with a free first axis (the batch) and no other"
            )
        dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type)
        specs.append(TensorSpec(value.name, str(dtype), (BATCH, *sizes[1:])))
    return tuple(specs)


def run_unoptimised(model: onnx.ModelProto, feed: Mapping[str, Array], path: Path) -> dict[str, Array]:
    """One inference in ONNX Runtime on the CPU with graph optimisations off; raises ModelError when it refuses the file."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        names = [value.name for value in session.get_outputs()]
        return dict(zip(names, session.run(names, dict(feed)), strict=True))
    except Exception as problem:
        raise ModelError(f"ONNX Runtime refuses {path} on the CPU: {first_line(problem)}; check the file there first") from None


def output_specs_of(model: onnx.ModelProto, inputs: tuple[TensorSpec, ...], path: Path) -> tuple[TensorSpec, ...]:
    """By running two batches; raises ModelError unless the batch is the first axis of every output."""
    small, large = (run_unoptimised(model, sample_feed(inputs, batch), path) for batch in (2, 3))
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


def _check_count(proto: onnx.ModelProto, report: FoldReport) -> None:
    from edgekit.onnx_count import batch_norms

    written, reported = batch_norms(proto), sum(kept.nodes for kept in report.kept)
    if written != reported:
        raise ModelError(
            f"the folded file has {written} BatchNormalization nodes where the report says {reported}; please report this file"
        )


def _refused(node: onnx_ir.Node) -> Kept:
    """Why the rules left it: the first thing that is not as they need it."""
    source = node.inputs[0]
    assert source is not None
    producer = source.producer()
    if any(value is None or value.const_value is None for value in node.inputs[1:]):
        return _kept(node, "computed", "its parameters are not stored in the file")
    if producer is None or producer.op_type not in _LAYERS:
        found = "an input of the model" if producer is None else f"{producer.op_type} {_name(producer)}"
        return _kept(node, "between", f"no Conv, ConvTranspose or Gemm directly before it, but {found}")
    others = sorted({_name(user) for user, _ in source.uses() if user is not node})
    if others or source.is_graph_output():
        return _kept(
            node, "other-users", f"the output of {_name(producer)} is also {', '.join(others) or 'an output of the model'}"
        )
    for value in producer.inputs[1:3]:
        if value is not None and value.const_value is None:
            return _kept(node, "computed", f"{value.name} of {_name(producer)} is not stored in the file")
        users = sorted({_name(user) for user, _ in value.uses() if user is not producer}) if value is not None else []
        if users and value is not None:
            return _kept(node, "shared-weight", f"{value.name} of {_name(producer)} is shared with {', '.join(users)}")
    return _kept(node, "rule", f"onnxscript has no rule for this {producer.op_type} ({_name(producer)})")


def _kept(node: onnx_ir.Node, code: str, why: str) -> Kept:
    return Kept(_name(node), _NORM, why, 1, (Obstacle("itself", code, _name(node), why),))


def _name(node: onnx_ir.Node) -> str:
    return node.name or _output(node)


def _output(node: onnx_ir.Node) -> str:
    return str(node.outputs[0].name)
