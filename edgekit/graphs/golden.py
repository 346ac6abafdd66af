"""Golden inputs, with the original, unfolded model's outputs in float64 and in its own dtype."""

from __future__ import annotations

import numpy as np
from torch import fx, nn

from edgekit.bundle.golden import GoldenArrays
from edgekit.errors import ModelError
from edgekit.graphs.exact import run_exact
from edgekit.graphs.trace import as_arrays, inference_copy, own_copies, run_module, tensors_of_feed
from edgekit.tensors import Array, differences, shape_text


def record(
    model: nn.Module, graph: fx.GraphModule, inputs: dict[str, Array], labels: Array | None, ordinary: int
) -> GoldenArrays:
    """Record the outputs of a copy of ``model`` in inference mode, and of its graph from ``trace`` in float64.

    Raises ModelError if an output is NaN on the first ``ordinary`` samples, or infinite in one dtype only (masks
    give -inf in both).
    """
    tensors = tensors_of_feed(inputs)
    original = as_arrays(run_module(inference_copy(model), own_copies(tensors)))
    float64 = {name: array.astype(np.float64) for name, array in as_arrays(run_exact(model, graph, tensors)).items()}
    samples = len(next(iter(inputs.values())))
    for name, array in float64.items():
        if len(array) != samples or len(original[name]) != samples:
            raise ModelError(
                f"output {name!r} is {shape_text(original[name].shape)} for {samples} samples: its first axis is not the batch",
                "let every output keep the batch as its first axis",
            )
        if not np.isfinite(differences(original[name][:ordinary], array[:ordinary])).all():
            nan = bool(np.isnan(array[:ordinary]).any() or np.isnan(original[name][:ordinary]).any())
            fault = "is NaN" if nan else "is infinite in its own dtype or in float64, and not in both,"
            raise ModelError(f"output {name!r} of the model {fault} on its golden inputs", "check the weights")
    return GoldenArrays(inputs, float64, original, labels)
