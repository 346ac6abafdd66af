"""Whether a file holds another one whole: a changed, missing or rewired part is named."""

from __future__ import annotations

from collections.abc import Callable

import onnx
import pytest
from onnx import helper

from edgekit.onnx.contained import first_lacking
from tests.onnx.crafted import model_of, node, tensor

PART = model_of([node("Relu", ["x"], "r"), node("LeakyRelu", ["r"], "y", "leak", alpha=0.1)], [tensor("w", 2)])


def within(change: Callable[[onnx.ModelProto], object] = id) -> bytes:
    """A file that holds the part behind a node of its own."""
    whole = onnx.ModelProto()
    whole.CopyFrom(PART)
    whole.graph.node.insert(0, helper.make_node("Neg", ["before"], ["x"]))
    whole.graph.initializer.insert(0, tensor("more", 3))
    change(whole)
    return bytes(whole.SerializeToString())


def other_weight(whole: onnx.ModelProto) -> None:
    whole.graph.initializer[1].CopyFrom(tensor("w", 2, low=1, high=2))


def other_slope(whole: onnx.ModelProto) -> None:
    whole.graph.node[2].attribute[0].f = 0.2


def another_source(whole: onnx.ModelProto) -> None:
    whole.graph.node[1].input[0] = "before"


def with_a_function(whole: onnx.ModelProto) -> None:
    """A Relu that gives its input: an operator of ONNX with a meaning of the file's own."""
    body = [helper.make_node("Identity", ["a"], ["b"])]
    whole.functions.append(helper.make_function("", "Relu", ["a"], ["b"], body, [helper.make_opsetid("", 17)]))


def of_another_opset(whole: onnx.ModelProto) -> None:
    whole.opset_import[0].version = 12


def with_another_domain(whole: onnx.ModelProto) -> None:
    whole.opset_import.append(helper.make_opsetid("com.other", 1))


def without_weight(whole: onnx.ModelProto) -> None:
    del whole.graph.initializer[1]


def test_a_file_holds_itself_and_what_stands_beside_it_is_no_matter() -> None:
    assert first_lacking(PART.SerializeToString(), PART.SerializeToString()) == ""
    assert first_lacking(within(), PART.SerializeToString()) == ""
    assert first_lacking(PART.SerializeToString(), within()) == "the tensor 'more'"


def test_the_domain_of_onnx_has_two_spellings() -> None:
    def spelt(whole: onnx.ModelProto) -> None:
        whole.opset_import[0].domain = "ai.onnx"

    assert first_lacking(within(spelt), PART.SerializeToString()) == ""


@pytest.mark.parametrize(
    ("change", "lacking"),
    [
        (other_weight, "the tensor 'w'"),
        (without_weight, "the tensor 'w'"),
        (other_slope, "the node LeakyRelu of 'y'"),
        (another_source, "the node Relu of 'r'"),
        (with_a_function, "the same functions"),
        (of_another_opset, "the same opset imports"),
        (with_another_domain, "the same opset imports"),
    ],
)
def test_a_part_that_is_another_is_named(change: Callable[[onnx.ModelProto], None], lacking: str) -> None:
    assert first_lacking(within(change), PART.SerializeToString()) == lacking
