"""Running an ONNX file in ONNX Runtime without optimisations."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import onnx
import onnxruntime as ort

from edgekit.errors import ModelError, first_line
from edgekit.tensors import Array, shape_text

UNOPTIMISED = "ONNX Runtime without optimisations"
Run: TypeAlias = Callable[[Mapping[str, Array]], dict[str, Array]]


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


def run_in_batches(run: Run, feed: Mapping[str, Array], fixed: int | None) -> dict[str, Array]:
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


def one_by_one(feed: Mapping[str, Array]) -> Iterator[dict[str, Array]]:
    for index in range(len(next(iter(feed.values())))):
        yield {name: array[index : index + 1] for name, array in feed.items()}
