"""Counting nodes in an ONNX file, wherever they hide."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

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
