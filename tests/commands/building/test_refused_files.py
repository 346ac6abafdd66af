"""Files that cannot be built: one sentence, exit code 2, nothing half-written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.flavour import TensorRT
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.errors import BundleError, EdgekitError, EngineError
from tests.backends.tensorrt.builds import RANGE
from tests.commands.building.command import Command, refused, with_model
from tests.onnx_files import crafted, quantised

LINEAR = {"w": np.zeros((784, 10), np.float32)}


def test_operators_that_tensorrt_lacks_are_all_named_at_once(bundle: Path, run: Command) -> None:
    nodes = [
        helper.make_node("Frobnicate", ["input"], ["a"], name="first", domain="my"),
        helper.make_node("Frobnicate", ["a"], ["b"], name="second", domain="my"),
        helper.make_node("Relu", ["b"], ["c"], name="fine"),
        helper.make_node("Wobble", ["c"], ["d"], name="third", domain="my"),
        helper.make_node("Flatten", ["d"], ["e"], name="flat"),
        helper.make_node("MatMul", ["e", "w"], ["output"], name="linear"),
    ]
    message = refused(run, with_model(bundle, crafted(nodes, LINEAR, (10,))))
    assert "Frobnicate (first, second): no such operator, Wobble (third): no such operator; " in message
    assert "fine" not in message
    assert message.count("export the model without it") == 1


@pytest.mark.parametrize(("zero_point", "uint8"), [(3, False), (3, True)])
def test_quantisation_that_is_not_symmetric_names_the_node_and_the_remedy(rtx: TensorRT, zero_point: int, uint8: bool) -> None:
    with pytest.raises(EngineError, match=r"QuantizeLinear \(quantise\): Non-zero zero point.*; quantise symmetrically"):
        build_plan(rtx, quantised(zero_point, uint8), RANGE)


@pytest.mark.parametrize("content", [b"", b"not an ONNX file", "half"], ids=["empty", "text", "truncated"])
def test_a_file_that_is_no_onnx_is_refused_although_the_parser_takes_it_for_an_empty_network(
    bundle: Path, run: Command, content: bytes | str
) -> None:
    whole = (bundle / "model.onnx").read_bytes()
    damaged = whole[: len(whole) // 2] if isinstance(content, str) else content
    message = refused(run, with_model(bundle, damaged), kind="BundleError")
    assert "model.onnx is not an ONNX file" in message
    assert message.endswith("export it again")


def test_weights_beside_the_file_are_refused_before_anything_opens_them(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = onnx.load_model_from_string((bundle / "model.onnx").read_bytes())
    tensor = proto.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    root = with_model(bundle, proto.SerializeToString())
    monkeypatch.setattr("tensorrt_rtx.OnnxParser", None)  # the parser would look for the file
    assert f"keeps {tensor.name} in another file" in refused(run, root, kind="BundleError")


def test_an_attribute_whose_tensor_is_elsewhere_is_refused_too(rtx: TensorRT) -> None:
    value = numpy_helper.from_array(np.zeros((1,), np.float32), "hidden")
    value.ClearField("raw_data")
    value.data_location = TensorProto.EXTERNAL
    nodes = [
        helper.make_node("Constant", [], ["c"], name="constant", value=value),
        helper.make_node("Add", ["input", "c"], ["output"], name="add"),
    ]
    with pytest.raises(BundleError, match="keeps hidden in another file"):
        build_plan(rtx, crafted(nodes, {}, (1, 28, 28)), RANGE)


def externally(name: str, values: np.ndarray) -> TensorProto:
    tensor = numpy_helper.from_array(values, name)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="secret")
    return tensor


def test_weights_elsewhere_are_found_in_a_functions_defaults_and_in_sparse_tensors(rtx: TensorRT) -> None:
    constant = helper.make_node("Constant", [], ["c"], name="constant")
    constant.attribute.add(name="value", type=onnx.AttributeProto.TENSOR, ref_attr_name="value")
    function = helper.make_function(
        "my", "Plus", ["x"], ["y"], [constant, helper.make_node("Add", ["x", "c"], ["y"])], [helper.make_opsetid("", 20)]
    )
    function.attribute_proto.append(helper.make_attribute("value", externally("hidden", np.zeros(1, np.float32))))
    model = crafted([helper.make_node("Plus", ["input"], ["output"], name="plus", domain="my")], {}, (1, 28, 28))
    proto = onnx.load_model_from_string(model.content)
    proto.functions.append(function)
    with pytest.raises(BundleError, match="keeps hidden in another file"):
        build_plan(rtx, model._replace(content=proto.SerializeToString()), RANGE)
    sparse = onnx.SparseTensorProto(
        values=externally("far", np.ones(1, np.float32)), indices=numpy_helper.from_array(np.zeros(1, np.int64)), dims=[4]
    )
    node = helper.make_node("Constant", [], ["c"], name="constant")
    node.attribute.append(helper.make_attribute("sparse_value", sparse))
    nodes = [node, helper.make_node("Relu", ["input"], ["output"], name="relu")]
    with pytest.raises(BundleError, match="keeps far in another file"):
        build_plan(rtx, crafted(nodes, {}, (1, 28, 28)), RANGE)


def test_a_file_that_crashes_the_parser_is_refused_before_parsing(rtx: TensorRT) -> None:
    """These files would end the process with a segmentation fault."""
    nothing = [helper.make_node("Relu", ["input"], ["output"]), helper.make_node("Relu", ["input"], [])]
    with pytest.raises(BundleError, match="has a Relu node that puts out nothing"):
        build_plan(rtx, crafted(nothing, {}, (1, 28, 28)), RANGE)
    opset = [helper.make_opsetid("", 20), helper.make_opsetid("my", 1)]
    first = helper.make_function("my", "First", ["x"], ["y"], [helper.make_node("Second", ["x"], ["y"], domain="my")], opset)
    second = helper.make_function("my", "Second", ["x"], ["y"], [helper.make_node("First", ["x"], ["y"], domain="my")], opset)
    model = crafted([helper.make_node("First", ["input"], ["output"], name="one", domain="my")], {}, (1, 28, 28))
    proto = onnx.load_model_from_string(model.content)
    proto.functions.extend([first, second])
    with pytest.raises(BundleError, match="has a function First that calls itself"):
        build_plan(rtx, model._replace(content=proto.SerializeToString()), RANGE)


def test_an_operator_whose_name_is_no_text_is_one_sentence(rtx: TensorRT) -> None:
    node = helper.make_node("RRRR", ["input"], ["output"], name="node")
    model = crafted([node], {}, (1, 28, 28))
    with pytest.raises(EdgekitError) as caught:
        build_plan(rtx, model._replace(content=model.content.replace(b"RRRR", b"R\xff\xfeR")), RANGE)
    assert "\n" not in str(caught.value)


def test_a_file_that_changed_after_its_checksum_is_refused(bundle: Path, run: Command) -> None:
    (bundle / "model.onnx").write_bytes((bundle / "model.onnx").read_bytes() + b"\0")
    assert "model.onnx has" in refused(run, bundle, kind="BundleError")


def test_a_file_that_changes_after_its_bundle_was_opened_is_refused(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.onnx.untrusted.read_bytes", lambda path, kind, error: b"something else")
    assert refused(run, bundle, kind="BundleError").endswith("model.onnx changed while it was read; run it again")


def test_a_network_of_other_tensors_than_the_manifest_says_is_refused(bundle: Path, run: Command) -> None:
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    proto = onnx.load_model_from_string(contents["model.onnx"])
    proto.graph.node[-1].output[0] = proto.graph.output[0].name = "other"
    contents["model.onnx"] = proto.SerializeToString()
    write_bundle(bundle, opened.manifest, contents)
    message = refused(run, bundle)
    assert "reads the outputs other float32 free x 10" in message
    assert "the manifest says output float32 free x 10; export the bundle again" in message
