"""Reading an ONNX file without the onnx package, compared with what the package reads."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from edgekit.errors import BundleError
from edgekit.onnx.bodies import check_one_graph
from edgekit.onnx.untrusted import read_for_session
from edgekit.onnx.wire import DEEPEST, operators, tensor_elsewhere

X, Y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy")


def model_of(*nodes: onnx.NodeProto, functions: tuple[onnx.FunctionProto, ...] = ()) -> onnx.ModelProto:
    graph = helper.make_graph(list(nodes), "EPContext", [X], [Y])
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("mine", 1)]
    return helper.make_model(graph, opset_imports=opsets, functions=functions, producer_name="EPContext")


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    return helper.make_graph([node], "branch", [], [Y])


CONTEXT = helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context=b"code", embed_mode=1)
RELU = helper.make_node("Relu", ["x"], ["y"], name="EPContext", doc_string="EPContext")
TRUE = helper.make_node("Constant", [], ["condition"], value=helper.make_tensor("EPContext", TensorProto.BOOL, [], [True]))
BRANCH = helper.make_node("If", ["condition"], ["y"], then_branch=branch(RELU), else_branch=branch(CONTEXT))
DEEPER = helper.make_node("If", ["condition"], ["y"], then_branch=branch(RELU), else_branch=branch(BRANCH))
MANY = helper.make_node("Mine", ["x"], ["y"], domain="mine", graphs=[branch(RELU), branch(CONTEXT)])
CALL = helper.make_node("Called", ["x"], ["y"], domain="mine")
CALLED = helper.make_function("mine", "Called", ["x"], ["y"], [CONTEXT], [helper.make_opsetid("com.microsoft", 1)])


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (model_of(RELU), {"Relu"}),
        (model_of(CONTEXT), {"EPContext"}),
        (model_of(TRUE, BRANCH), {"Constant", "If", "Relu", "EPContext"}),
        (model_of(TRUE, DEEPER), {"Constant", "If", "Relu", "EPContext"}),
        (model_of(MANY), {"Mine", "Relu", "EPContext"}),
        (model_of(CALL, functions=(CALLED,)), {"Called", "EPContext"}),
    ],
)
def test_operators_are_found_in_every_graph_and_told_from_names(model: onnx.ModelProto, expected: set[str]) -> None:
    assert operators(model.SerializeToString()) == expected


def test_a_real_file_has_the_operators_that_onnx_reads(bundle: Path) -> None:
    content = (bundle / "model.onnx").read_bytes()
    assert operators(content) == {node.op_type for node in onnx.load_model_from_string(content).graph.node}


def test_every_kind_of_field_is_skipped() -> None:
    tensor = helper.make_tensor("numbers", TensorProto.FLOAT, [2], [1.0, 2.0])
    tensor.double_data.extend([1.0])
    node = helper.make_node("Constant", [], ["y"], value=tensor)
    node.attribute.append(helper.make_attribute("alpha", -0.5))
    node.attribute.append(helper.make_attribute("beta", -3))
    assert operators(model_of(node).SerializeToString() + b"\xf9\x01" + bytes(8)) == {"Constant"}


def test_a_key_beyond_32_bits_hides_nothing() -> None:
    """Protobuf reads this key as 58, the key of the graph."""
    graph = model_of(CONTEXT).graph.SerializeToString()
    size = bytes([len(graph) & 0x7F | 0x80, len(graph) >> 7])
    assert operators(b"\xba\x80\x80\x80\x10" + size + graph) == {"EPContext"}


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"\x3a\x05abc", "ends behind its message"),
        (b"\x3d\x01", "ends behind its message"),
        (b"\x08" + b"\xff" * 12, "has no end"),
        (b"\x3a", "has no end"),
        (b"\x3b\x3c", "wire type 3"),
        (b"ORTM" * 4, "wire type 7"),
        (b"\x00\x00", "has the number 0"),
    ],
)
def test_a_malformed_message_is_refused(content: bytes, sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        operators(content)


ELSEWHERE = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
SPARSE = [onnx.SparseTensorProto(values=ELSEWHERE), onnx.SparseTensorProto(indices=ELSEWHERE)]
HOLDS = [
    onnx.AttributeProto(name="a", t=ELSEWHERE),
    onnx.AttributeProto(name="a", tensors=[TensorProto(), ELSEWHERE]),
    *(onnx.AttributeProto(name="a", sparse_tensor=tensor) for tensor in SPARSE),
    *(onnx.AttributeProto(name="a", sparse_tensors=[tensor]) for tensor in SPARSE),
]
NODES = [onnx.NodeProto(op_type="Mine", attribute=[attribute]) for attribute in HOLDS]
GRAPHS = [
    onnx.GraphProto(initializer=[ELSEWHERE]),
    *(onnx.GraphProto(sparse_initializer=[tensor]) for tensor in SPARSE),
    *(onnx.GraphProto(node=[RELU, node]) for node in NODES),
]
MODELS = [
    *(onnx.ModelProto(graph=graph) for graph in GRAPHS),
    *(model_of(onnx.NodeProto(op_type="If", attribute=[onnx.AttributeProto(name="a", g=graph)])) for graph in GRAPHS),
    *(model_of(onnx.NodeProto(op_type="If", attribute=[onnx.AttributeProto(name="a", graphs=[graph])])) for graph in GRAPHS),
    *(onnx.ModelProto(functions=[onnx.FunctionProto(node=[node])]) for node in NODES),
    *(onnx.ModelProto(functions=[onnx.FunctionProto(attribute_proto=[attribute])]) for attribute in HOLDS),
]


@pytest.mark.parametrize("model", MODELS, ids=range(len(MODELS)))
def test_a_tensor_in_another_file_is_found_in_every_place(model: onnx.ModelProto) -> None:
    content = model.SerializeToString()
    assert tensor_elsewhere(content) == "w"
    inside = content.replace(b"\x70\x01", b"\x70\x00")  # data_location: 1 to 0
    assert inside != content
    assert tensor_elsewhere(inside) is None


def test_a_named_file_counts_even_without_the_mark() -> None:
    tensor = TensorProto(name="w")
    tensor.external_data.add(key="location", value="w.bin")
    assert tensor_elsewhere(onnx.ModelProto(graph=onnx.GraphProto(initializer=[tensor])).SerializeToString()) == "w"


def graph_of(*tensors: bytes) -> bytes:
    """The bytes of a model of these initializers, written by hand, because onnx writes a tensor's fields in one order only."""
    graph = b"".join(b"\x2a" + bytes([len(tensor)]) + tensor for tensor in tensors)
    return b"\x3a" + bytes([len(graph)]) + graph


def test_the_tensor_in_another_file_is_named_and_no_other() -> None:
    near, far = b"\x42\x04near", b"\x42\x03far"
    mark = b"\x70\x01"  # data_location is EXTERNAL
    for content in (graph_of(near, far + mark), graph_of(near, mark + far), graph_of(far + mark, near)):
        assert [tensor.name for tensor in onnx.load_model_from_string(content).graph.initializer if tensor.data_location] == [
            "far"
        ]
        assert tensor_elsewhere(content) == "far"
    assert tensor_elsewhere(graph_of(near, mark)) == ""
    assert tensor_elsewhere(graph_of(near, far)) is None


def test_a_real_file_has_all_its_weights_inside(bundle: Path) -> None:
    assert tensor_elsewhere((bundle / "model.onnx").read_bytes()) is None


def nested(count: int) -> bytes:
    """The bytes of a node nested in ``count`` graphs, written by hand, because onnx cannot nest so deep."""
    content = onnx.GraphProto(node=[onnx.NodeProto(op_type="Relu")]).SerializeToString()
    for key in (b"\x32", b"\x2a", b"\x0a") * count:  # graph of an attribute, of a node, of a graph
        content = key + bytes([len(content) & 0x7F | 0x80, len(content) >> 7]) + content
    size = bytes([len(content) & 0x7F | 0x80, len(content) >> 7])
    return b"\x3a" + size + bytes(content)


def test_the_limit_of_nesting_is_protobufs() -> None:
    """A nested graph adds three messages to the model, its graph and the last node."""
    deepest = nested((DEEPEST - 3) // 3)
    assert onnx.load_model_from_string(deepest).SerializeToString()
    assert operators(deepest) == {"Relu"}
    with pytest.raises(ValueError, match=f"more than {DEEPEST} deep"):
        operators(nested(DEEPEST // 3 + 1))


def test_many_messages_take_little_memory() -> None:
    content = b"\x3a\x00" * 100_000
    tracemalloc.start()
    try:
        assert operators(content) == set()
        assert tracemalloc.get_traced_memory()[1] < len(content) / 4
    finally:
        tracemalloc.stop()


def test_a_number_where_a_message_belongs_is_passed_over() -> None:
    assert operators(b"\x38\x01") == set()  # the graph's field, written as a number
    assert tensor_elsewhere(b"\x38\x01") is None


def test_a_graph_in_pieces_is_refused_before_a_runtime_merges_it(tmp_path: Path) -> None:
    model = onnx.load("exported/lenet/model.onnx")
    whole, rest = model.SerializeToString(), onnx.ModelProto()
    rest.graph.node.extend(model.graph.node[-1:])
    check_one_graph(whole)
    (tmp_path / "pieces.onnx").write_bytes(whole + rest.SerializeToString())
    with pytest.raises(BundleError, match=r"pieces\.onnx is not a whole ONNX file: its graph is in several pieces"):
        read_for_session(tmp_path / "pieces.onnx", "")
