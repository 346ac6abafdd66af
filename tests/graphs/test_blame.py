"""The search for a differing operator finds it, finds none, and never hides the fault that asked for it."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from torch import nn

from edgekit.errors import ModelError
from edgekit.fold import fold
from edgekit.graphs import blame
from edgekit.graphs.blame import differing_operator
from edgekit.graphs.trace import output_specs
from edgekit.graphs.write import export_onnx
from tests.fold.checks import spec


def test_a_differing_operator_is_found_or_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = spec(4, 8, 8)
    graph, report = fold(nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 3)), inputs, fold_bn=False)
    content = export_onnx(graph, report, inputs, output_specs(graph, inputs))
    feed = {"input": np.random.default_rng(0).standard_normal((3, 4, 8, 8)).astype(np.float32)}
    assert differing_operator(content, graph, feed, 0.0) is None
    model = onnx.load_from_string(content)
    weight = next(tensor for tensor in model.graph.initializer if list(tensor.dims) == [5, 6, 3, 3])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    culprit = differing_operator(model.SerializeToString(), graph, feed, 0.0)
    assert culprit is not None
    assert (culprit.operator, culprit.module) == ("Conv", "2")

    def refuse(*arguments: object) -> None:
        raise ModelError("ONNX Runtime refuses the exported file")

    monkeypatch.setattr(blame, "open_every_value", refuse)
    assert differing_operator(model.SerializeToString(), graph, feed, 0.0) is None
