"""Run an ONNX file in ONNX Runtime without optimisations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime as ort

from edgekit.errors import ModelError, first_line
from edgekit.tensors import Array, Feed, batches_of, joined_outputs, real_samples, shape_text

UNOPTIMISED = "ONNX Runtime without optimisations"
Runner: TypeAlias = Callable[[Feed], dict[str, Array]]


def open_unoptimised(model: onnx.ModelProto | bytes, path: Path, *, optimised: bool = False) -> Runner:
    """Open ``model`` on the CPU with graph optimisations off; opening and running raise ModelError if the runtime refuses.

    ``optimised``: with the runtime's usual optimisations, as users run it.
    """
    options = ort.SessionOptions()
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4

    def refused(problem: Exception) -> ModelError:
        return ModelError(f"ONNX Runtime refuses {path} on the CPU: {first_line(problem)}", "check the file there first")

    try:
        content = model if isinstance(model, bytes) else model.SerializeToString()
        session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as problem:
        raise refused(problem) from None
    names = [value.name for value in session.get_outputs()]

    def run(feed: Feed) -> dict[str, Array]:
        try:
            outputs = dict(zip(names, session.run(names, dict(feed)), strict=True))
        except Exception as problem:
            raise refused(problem) from None
        other = next((name for name, array in outputs.items() if not isinstance(array, np.ndarray)), None)
        if other is not None:
            raise ModelError(f"output {other!r} of {path} is not a tensor", "use a file whose outputs are all tensors")
        return outputs

    return run


def run_in_batches(run: Runner, feed: Feed, fixed: int | None) -> dict[str, Array]:
    """The outputs of a file that takes batches of ``fixed`` samples only; None: any batch size, so one run."""
    if fixed is None:
        return run(feed)
    parts = []
    for batch, real in batches_of(feed, fixed):
        outputs = run(batch)
        odd = [name for name, array in outputs.items() if array.shape[:1] != (fixed,)]
        if odd:
            raise ModelError(f"output {odd[0]!r} is {shape_text(outputs[odd[0]].shape)} for a batch of {fixed}")
        parts.append(real_samples(outputs, fixed, real))
    return joined_outputs(parts)


def run_alone(run: Runner, feed: Feed) -> dict[str, Array]:
    """The outputs of every sample run alone, joined along the first axis."""
    return joined_outputs([run(sample) for sample, _ in batches_of(feed, 1)])
