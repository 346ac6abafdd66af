"""Run an ONNX file in ONNX Runtime without optimisations."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime as ort

from edgekit.errors import ModelError, first_line
from edgekit.tensors import Array, Feed, batches_of, in_turns, joined_outputs, real_samples, shape_text

UNOPTIMISED = "ONNX Runtime without optimisations"
Runner: TypeAlias = Callable[[Feed], dict[str, Array]]
_NUMBERS = ("float16", "float", "double", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)))
IN_THE_FILE = ("Constant", "ConstantOfShape")
_IN_NUMPY = {f"tensor({kind})" for kind in _NUMBERS}


LEVELS = {
    "off": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
"""ONNX Runtime's optimisation levels; it runs at the last by itself."""


def ort_version() -> str:
    """The release of the installed ONNX Runtime."""
    return str(ort.__version__)


def open_unoptimised(model: onnx.ModelProto | bytes, path: Path, *, level: str = "off", threads: int | None = None) -> Runner:
    """Open ``model`` on the CPU with graph optimisations off, or at another of the ``LEVELS``.

    Opening and running raise ModelError if the runtime refuses. ``threads``: None leaves the number to the runtime.
    """
    session = _session(model, path, level=level, threads=threads)
    names = [value.name for value in session.get_outputs()]

    def run(feed: Feed) -> dict[str, Array]:
        try:
            outputs = dict(zip(names, session.run(names, dict(feed)), strict=True))
        except Exception as problem:
            raise _refused(path, problem) from None
        other = next((name for name, array in outputs.items() if not isinstance(array, np.ndarray)), None)
        if other is not None:
            raise ModelError(f"output {other!r} of {path} is not a tensor", "use a file whose outputs are all tensors")
        return outputs

    return run


def _session(
    model: onnx.ModelProto | bytes, path: Path, *, arena: bool = True, level: str = "off", threads: int | None = None
) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.graph_optimization_level = LEVELS[level]
    options.intra_op_num_threads = threads or 0
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = arena
    try:
        content = model if isinstance(model, bytes) else model.SerializeToString()
        return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise _refused(path, problem) from None


def _refused(path: Path, problem: Exception) -> ModelError:
    return ModelError(f"ONNX Runtime refuses {path} on the CPU: {first_line(problem)}", "check the file there first")


def open_every_value(model: onnx.ModelProto, path: Path, only: Collection[str] | None = None, *, level: str = "off") -> Runner:
    """Open ``model``, which must have no functions, so that a run gives the outputs of every node of the main graph.

    ``only``: names of the values to give; None gives all. What stands in the file (Constant, ConstantOfShape) is left out, and
    so is what is no tensor of numbers that numpy has. Opening and running raise ModelError if the runtime refuses.
    """
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    names = {value.name for value in (*shown.graph.output, *shown.graph.input)}
    computed = [node for node in shown.graph.node if node.op_type not in IN_THE_FILE]
    for name in dict.fromkeys(name for node in computed for name in node.output if name):
        if name not in names and (only is None or name in only):
            shown.graph.output.append(onnx.ValueInfoProto(name=name))
    session = _session(shown, path, arena=False, level=level)  # an arena would keep what no later run may need
    tensors = [value.name for value in session.get_outputs() if value.type in _IN_NUMPY and (only is None or value.name in only)]

    def run(feed: Feed) -> dict[str, Array]:
        if not tensors:  # ONNX Runtime takes an empty list for all
            return {}
        try:
            return dict(zip(tensors, session.run(tensors, dict(feed)), strict=True))
        except Exception as problem:
            raise _refused(path, problem) from None

    return run


def run_in_batches(run: Runner, feed: Feed, fixed: int | None, path: Path) -> dict[str, Array]:
    """The outputs of the file at ``path``, which takes batches of ``fixed`` samples only; None: any batch size, so one run.

    Raises ModelError if the first axis of an output is not the batch.
    """
    if fixed is None:
        return run(feed)
    parts = []
    for batch, real in batches_of(feed, fixed):
        outputs = run(batch)
        odd = [name for name, array in outputs.items() if array.shape[:1] != (fixed,)]
        if odd:
            name, given = next(iter(batch.items()))
            raise ModelError(
                f"output {odd[0]!r} of {path} is {shape_text(outputs[odd[0]].shape)} for an input {name!r} of "
                f"{shape_text(given.shape)}, so the first axis of the two is not one batch",
                "export the model again so that the first axis of every input and output is the batch",
            )
        parts.append(real_samples(outputs, fixed, real))
    return joined_outputs(parts)


def run_in_turns(run: Runner, feed: Feed, sizes: Sequence[int]) -> dict[str, Array]:
    """The outputs of batches whose ``sizes`` take turns, joined along the first axis."""
    parts = [real_samples(run(batch), size, samples.stop - samples.start) for samples, batch, size in in_turns(feed, sizes)]
    return joined_outputs(parts)


def run_alone(run: Runner, feed: Feed) -> dict[str, Array]:
    """The outputs of every sample run alone, joined along the first axis."""
    return joined_outputs([run(sample) for sample, _ in batches_of(feed, 1)])
