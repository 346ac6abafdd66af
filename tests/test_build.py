"""Engines built by NVIDIA's own parser and builder, which in TensorRT-RTX need no GPU; the other flavours by a strict fake."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import re
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn
from torchvision.models import densenet, efficientnet, mobilenetv2, mobilenetv3, resnet, shufflenetv2

import edgekit.backends.tensorrt.builder
import edgekit.backends.tensorrt.flavour
from edgekit.backends.tensorrt.builder import build_plan
from edgekit.backends.tensorrt.engines import EngineRecord, engine_folder, record_path
from edgekit.backends.tensorrt.flavour import FLAVOURS, TensorRT, build_absence, find, how_to_install
from edgekit.backends.tensorrt.inspector import engine_layers
from edgekit.backends.tensorrt.judgement import Inspected, judge
from edgekit.backends.tensorrt.messages import Message, failure, plain
from edgekit.backends.tensorrt.network import OnnxFile
from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.backends.tensorrt.precision import NetworkLayers, network_layers
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.cli.app import main
from edgekit.commands.build import build
from edgekit.errors import BundleError, EdgekitError, EngineError, MissingError, UsageError
from edgekit.machine.packages import pip_install
from edgekit.progress import Advance
from edgekit.reports.build import BuildReport, LayerCount, PrecisionReport
from edgekit.tensors import BatchRange, TensorSpec
from tests.fake_trt import GPU, FakeTensorRT, layers_json
from tests.networks import image_spec, network, randomise_norms
from tests.onnx_files import crafted, file_of, half, lenet, onnx_file, quantised
from tests.trt_listing import LISTINGS
from tests.ways import NO_DRIVER, building, set_driver

TEN = next(one for one in LISTINGS if one.version.startswith("10."))
EIGHT = next(one for one in LISTINGS if one.version.startswith("8."))
RANGE = BuildOptions(profiles=(BatchRange(1, 2, 4),))
SIZES = {"lenet": 28, "lenet-scratch": 28, "densenet": 32}


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Or one test would find another's engine."""
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def rtx() -> TensorRT:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    return find("tensorrt-rtx")


def precision_of(report: BuildReport) -> PrecisionReport:
    assert report.precision is not None
    return report.precision


def kinds(layers: Sequence[LayerCount]) -> Counter[str]:
    counts: Counter[str] = Counter()
    for layer in layers:
        counts[layer.kind] += layer.count
    return counts


# every model becomes an engine, and batch norm is there exactly where it was left


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("lenet", {"CONVOLUTION": 2, "MATRIX_MULTIPLY": 3, "ACTIVATION": 4, "POOLING": 2}),
        ("lenet-scratch", {"CONVOLUTION": 2, "MATRIX_MULTIPLY": 3, "ACTIVATION": 4, "POOLING": 2}),
        ("densenet", {"CONVOLUTION": 20, "MATRIX_MULTIPLY": 1, "ACTIVATION": 21, "CONCATENATION": 16, "POOLING": 4}),
    ],
)
def test_every_committed_bundle_becomes_an_engine(repository: Path, rtx: TensorRT, name: str, wanted: dict[str, int]) -> None:
    root = repository / "exported" / name
    report = build(root, building(flavour="tensorrt-rtx"))
    found = kinds(report.layers)
    assert {kind: found[kind] for kind in wanted} == wanted
    kept = sum(one.nodes for one in open_bundle(root).manifest.fold.kept)
    assert found["SCALE"] == kept
    assert report.passed
    assert report.engine is not None
    plan = Path(report.engine).read_bytes()
    assert hashlib.sha256(plan).hexdigest() == report.engine_sha256
    assert len(plan) == report.engine_bytes > 100_000


@pytest.mark.parametrize(("name", "norms"), [("lenet", 4), ("lenet-scratch", 0), ("densenet", 21)])
def test_without_folding_the_same_parser_meets_every_norm(repository: Path, rtx: TensorRT, name: str, norms: int) -> None:
    """The partner of the test above: a hand-written norm is arithmetic and no SCALE, but it is more layers."""
    unfolded, _ = file_of(network(name), image_spec(1, SIZES[name]), fold_bn=False)
    built = build_plan(rtx, unfolded, RANGE)
    assert kinds(built.network.counts)["SCALE"] == norms
    folded = build(repository / "exported" / name, building(flavour="tensorrt-rtx"))
    assert kinds(built.network.counts).total() > kinds(folded.layers).total()


MBConv, Inverted = efficientnet.MBConvConfig, mobilenetv3.InvertedResidualConfig
ZOO: dict[str, Callable[[], nn.Module]] = {
    "resnet": lambda: resnet.ResNet(resnet.BasicBlock, [1, 1, 1, 1], num_classes=10),
    "densenet": lambda: densenet.DenseNet(growth_rate=8, block_config=(2, 2), num_init_features=16, num_classes=10),
    "shufflenet": lambda: shufflenetv2.ShuffleNetV2([1, 2, 1], [24, 24, 48, 96, 128], num_classes=10),
    "mobilenet_v2": lambda: mobilenetv2.MobileNetV2(10, 0.25, [[1, 16, 1, 1], [6, 24, 2, 2]]),
    "mobilenet_v3": lambda: mobilenetv3.MobileNetV3(
        [Inverted(16, 3, 16, 16, True, "RE", 2, 1, 1), Inverted(16, 5, 48, 24, True, "HS", 1, 1, 1)], 64, num_classes=10
    ),
    "efficientnet": lambda: efficientnet.EfficientNet(
        [MBConv(1, 3, 1, 16, 8, 1, 1.0, 1.0), MBConv(6, 3, 2, 8, 16, 2, 1.0, 1.0)], 0.0, num_classes=10
    ),
}


@pytest.mark.parametrize("name", ZOO)
def test_models_of_torchvision_become_engines_with_as_many_scales_as_norms_were_kept(rtx: TensorRT, name: str) -> None:
    torch.manual_seed(0)
    model, report = file_of(randomise_norms(ZOO[name]()).eval(), image_spec(3, 32))
    built = build_plan(rtx, model, RANGE)
    assert kinds(built.network.counts)["SCALE"] == sum(kept.nodes for kept in report.kept)
    convolutions = sum(node.op_type == "Conv" for node in onnx.load_model_from_string(model.content).graph.node)
    assert kinds(built.network.counts)["CONVOLUTION"] == convolutions > 0
    assert len(built.plan) > 10_000


def test_the_same_file_and_options_give_the_same_plan_and_other_options_another(rtx: TensorRT) -> None:
    model = lenet()
    plans = [build_plan(rtx, model, RANGE).plan for _ in range(2)]
    assert plans[0] == plans[1]
    for other in (msgspec.structs.replace(RANGE, tf32=True), BuildOptions(profiles=(BatchRange(1, 8, 32),))):
        assert build_plan(rtx, model, other).plan != plans[0]


def test_several_batch_ranges_build_one_engine(rtx: TensorRT) -> None:
    model = lenet()
    several = BuildOptions(profiles=(BatchRange(1, 1, 1), BatchRange(2, 8, 16)), workspace_mib=256)
    assert len(build_plan(rtx, model, several).plan) > len(
        build_plan(rtx, model, BuildOptions(profiles=(BatchRange(1, 1, 1),))).plan
    )


# precision: the file decides


@pytest.mark.parametrize("precision", ["float32", "float16", "int8"])
def test_the_network_computes_in_the_precision_of_the_file(rtx: TensorRT, precision: str) -> None:
    model = quantised() if precision == "int8" else lenet()
    model = half(model) if precision == "float16" else model
    network = build_plan(rtx, model, RANGE).network
    layers = network.counts
    computing = {layer.precision for layer in layers if layer.kind in ("CONVOLUTION", "MATRIX_MULTIPLY")}
    assert computing == {precision}
    assert judge(precision, rtx.flavour, network, Inspected(None, "no GPU"), False).problems == ()
    # NVIDIA's own parser says which node each of its layers is
    computing = {node.name for node in onnx.load_model_from_string(model.content).graph.node if node.op_type in ("Conv", "Gemm")}
    assert network.nodes == dict.fromkeys(computing, precision)
    for other in {"float32", "float16"} - {precision} if precision != "int8" else ():
        report = judge(other, rtx.flavour, network, Inspected(None, "no GPU"), False)
        assert f"{other} was asked for, and the network computes in {precision}" in report.problems


def test_a_quantised_file_goes_the_whole_way_to_an_engine(tmp_path: Path, rtx: TensorRT) -> None:
    """Its numbers are stored in floats for the most part, and that is what its bundle says; its layers are int8."""
    from edgekit.commands.export import export as export_bundle

    (tmp_path / "model.onnx").write_bytes(quantised().content)
    export_bundle(str(tmp_path / "model.onnx"), tmp_path / "bundle")
    report = build(tmp_path / "bundle", building(flavour="tensorrt-rtx"))
    assert report.passed
    assert (precision_of(report).asked, precision_of(report).found) == ("float32, quantised", ("int8",))


@pytest.mark.parametrize("between", ["MaxPool", "Flatten"])
def test_what_leaves_the_numbers_as_they_are_may_stand_behind_a_quantiser(rtx: TensorRT, between: str) -> None:
    weights = np.ones((4, 1, 3, 3) if between == "MaxPool" else (784, 4), np.int8)
    more = {"kernel_shape": [1, 1]} if between == "MaxPool" else {}
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantise"),
        helper.make_node(between, ["x"], ["between"], name="between", **more),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], name="dequantise_weights"),
        helper.make_node("Conv" if between == "MaxPool" else "MatMul", ["between", "w"], ["output"], name="multiply"),
    ]
    stored = {"scale": np.float32(0.1), "zero": np.int8(0), "weights": weights}
    built = build_plan(rtx, crafted(nodes, stored, (4, 26, 26) if between == "MaxPool" else (4,)), RANGE)
    assert built.network.nodes == {"multiply": "int8"}


def test_a_report_without_a_gpu_says_that_it_read_the_network_and_not_the_engine(bundle: Path, rtx: TensorRT) -> None:
    report = build(bundle, building(flavour="tensorrt-rtx"))
    assert precision_of(report).read_from == "network"
    assert precision_of(report).note.startswith("read off the network, not off the engine: ")
    assert precision_of(report).typing.startswith("strongly typed")
    assert report.facts["TF32"] == "off"
    assert BuildReport.from_json(report.to_json()) == report
    assert build(bundle, building(flavour="tensorrt-rtx", options=BuildOptions(tf32=True))).facts["TF32"] == "on"


# what cannot be built: one sentence, exit code 2, nothing half-written


class Result(NamedTuple):
    code: int
    document: dict[str, Any]
    err: str


Command = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], tmp_path: Path, rtx: TensorRT) -> Command:
    """``edgekit build ARGS --json`` in this process, in an empty folder."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def call(*args: object) -> Result:
        monkeypatch.setattr(sys, "argv", ["edgekit", "build", *map(str, args), "--json"])
        with pytest.raises(SystemExit) as done:
            main()
        captured = capfd.readouterr()
        return Result(int(str(done.value.code)), json.loads(captured.out), captured.err)

    return call


def with_model(bundle: Path, model: OnnxFile | bytes) -> Path:
    """The bundle with another ONNX file in it, and with a manifest that says so."""
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    content = model if isinstance(model, bytes) else model.content
    manifest = opened.manifest
    if isinstance(model, OnnxFile):
        manifest = msgspec.structs.replace(manifest, inputs=model.inputs)
    write_bundle(bundle, manifest, {**contents, opened.variant().file: content})
    return bundle


def written() -> list[str]:
    return sorted(str(path) for root in (Path("../cache"), Path()) for path in root.rglob("*") if path.is_file())


def refused(run: Command, *args: object, kind: str = "EngineError") -> str:
    """The one sentence of a build that must fail with exit code 2 and leave nothing behind."""
    before = written()
    result = run(*args)
    assert result.code == 2
    assert result.document["error"]["kind"] == kind
    message = str(result.document["error"]["message"])
    assert "\n" not in message
    assert "; " in message  # what to do
    assert written() == before
    return message


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


def test_what_the_parser_does_not_survive_is_refused_before_it(rtx: TensorRT) -> None:
    """It ends the process with a segmentation fault."""
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
    monkeypatch.setattr("edgekit.backends.tensorrt.build.read_bytes", lambda path, what, error: b"something else")
    assert refused(run, bundle, kind="BundleError").endswith("model.onnx changed while it was read; build again")


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


def test_a_free_batch_without_a_range_is_refused_and_the_command_line_has_one(bundle: Path, rtx: TensorRT, run: Command) -> None:
    model = lenet()
    with pytest.raises(UsageError, match=r"input input of model.onnx leaves the batch free; .*--batch 1:8:32"):
        build_plan(rtx, model, BuildOptions())
    assert run(bundle).document["ranges"] == [{"min": 1, "opt": 8, "max": 32}]


def test_another_free_axis_than_the_batch_is_named(rtx: TensorRT) -> None:
    model = lenet()
    wide = model._replace(inputs=(TensorSpec("input", "float32", ("batch", 1, "height", 28)),))
    with pytest.raises(UsageError, match=r"input input of model.onnx leaves height free"):
        build_plan(rtx, wide, RANGE)


def test_a_fixed_batch_with_a_range_is_refused_and_without_one_builds(rtx: TensorRT) -> None:
    model = lenet()
    proto = onnx.load_model_from_string(model.content)
    for value in (*proto.graph.input, *proto.graph.output, *proto.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.dim_param:
                axis.dim_value = 2
    sides = [tuple(TensorSpec(one.name, one.dtype, one.concrete(2)) for one in side) for side in (model.inputs, model.outputs)]
    fixed = onnx_file(proto.SerializeToString(), *sides)
    with pytest.raises(UsageError, match="has no free batch axis; leave out --batch"):
        build_plan(rtx, fixed, RANGE)
    assert len(build_plan(rtx, fixed, BuildOptions()).plan) > 10_000


@pytest.mark.parametrize("batch", ["8:4:1", "4:2:8", "1:9:8", "0:1:2", "0", "1:8:65537", "1:8", "1:2:3:4", "a:b:c", "-1:1:2", ""])
def test_a_range_that_no_batch_fits_is_refused(bundle: Path, run: Command, batch: str) -> None:
    message = refused(run, bundle, "--batch", batch, kind="UsageError")
    assert message.startswith("--batch ")
    assert "1:8:32" in message


def test_tensorrt_itself_refusing_a_profile_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.profile_result = -1
    with pytest.raises(EngineError, match=r"tensorrt 10.16.1 cannot build for the batch sizes 1:2:4"):
        build_plan(find("tensorrt"), lenet(), RANGE)


def test_too_little_memory_for_a_layer_says_which_option_gives_more(bundle: Path, run: Command) -> None:
    assert "workspace limit" in (message := refused(run, bundle, "--workspace", "1"))
    assert message.endswith("give it more with --workspace")
    assert "/_src/" not in message
    assert ".cpp" not in message


@pytest.mark.parametrize("option", ["--hardware-compatible", "--version-compatible"])
def test_an_option_that_the_flavour_lacks_is_refused_by_name(bundle: Path, run: Command, option: str) -> None:
    message = refused(run, bundle, option, "--flavour", "tensorrt-rtx", kind="UsageError")
    assert f"does not have {option}; leave it out" in message


def test_rtx_takes_no_level_because_it_measures_nothing(bundle: Path, run: Command) -> None:
    message = refused(run, bundle, "--level", "5", "--flavour", "tensorrt-rtx", kind="UsageError")
    assert "does not have --level, because it measures no kernels; leave it out" in message


def test_rtx_builds_what_a_graph_can_record_and_the_others_need_nothing_for_it(
    rtx: TensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph = msgspec.structs.replace(RANGE, cuda_graph=True)
    assert build_plan(rtx, lenet(), graph).plan != build_plan(rtx, lenet(), RANGE).plan
    fake = FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    build_plan(find("tensorrt-rtx"), lenet(), graph)
    assert "REQUIRE_USER_ALLOCATION" in fake.builds[0][1]._flags
    FakeTensorRT(TEN).install(monkeypatch)
    with pytest.raises(UsageError, match="does not have --cuda-graph, because all its engines can be recorded; leave it out"):
        build_plan(find("tensorrt"), lenet(), graph)


def test_a_workspace_that_no_machine_has_is_refused(bundle: Path, run: Command) -> None:
    assert "give MiB from 1 to 1048576" in refused(run, bundle, "--workspace", "17592186044416", kind="UsageError")


@pytest.mark.parametrize("option", [("--level", "6"), ("--level", "-1"), ("--workspace", "0")])
def test_an_option_out_of_its_range_is_wrong_usage(bundle: Path, run: Command, option: tuple[str, str]) -> None:
    result = run(bundle, *option)
    assert (result.code, result.document["error"]["kind"]) == (2, "UsageError")


@pytest.mark.parametrize("options", [BuildOptions(level=6), BuildOptions(level=-1), BuildOptions(workspace_mib=0)])
def test_an_option_out_of_its_range_is_refused_in_python_too(bundle: Path, rtx: TensorRT, options: BuildOptions) -> None:
    with pytest.raises(UsageError):
        build(bundle, building(flavour="tensorrt-rtx", options=options))


@pytest.mark.parametrize("place", ["a file", "a folder", "below a file", "a link"])
def test_an_output_that_cannot_be_written_is_refused_before_the_build(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    Path("mine").write_text("precious")
    Path("folder").mkdir()
    Path("link").symlink_to("mine")
    monkeypatch.setattr("edgekit.backends.tensorrt.build.build_plan", None)
    where = {"a file": "mine", "a folder": "folder", "below a file": "mine/engine.plan", "a link": "link"}[place]
    assert "cannot write" in refused(run, bundle, "--output", where, kind="OutputError")
    assert Path("mine").read_text() == "precious"


@pytest.mark.parametrize(
    ("where", "needle"),
    [(name, "a folder of that name is there") for name in (".", "", "/", "..", "gone/..", "folder", "folder/", "to the folder")]
    + [("-", "no engine is written to stdout"), ("pipe", "a pipe of that name is there"), ("x" * 5000, "choose a shorter name")]
    + [("x" * 252, "choose a shorter name")],  # its record's name is five longer
)
def test_an_output_that_names_no_file_is_refused_before_the_build(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch, where: str, needle: str
) -> None:
    Path("folder").mkdir()
    Path("to the folder").symlink_to("folder")
    os.mkfifo("pipe")
    monkeypatch.setattr("edgekit.backends.tensorrt.build.build_plan", None)
    assert needle in refused(run, bundle, "--output", where, kind="OutputError")
    assert Path("pipe").is_fifo()


@pytest.mark.parametrize("where", ["engine.plan", "engines/engine.plan", "model.onnx"])
def test_an_output_in_the_bundle_is_refused_before_the_build(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    monkeypatch.setattr("edgekit.backends.tensorrt.build.build_plan", None)
    before = sorted(bundle.rglob("*"))
    assert "and a bundle is immutable; choose" in refused(run, bundle, "--output", bundle / where, kind="OutputError")
    assert sorted(bundle.rglob("*")) == before


def test_an_engine_takes_the_place_of_a_link_and_leaves_what_it_pointed_to(bundle: Path, run: Command) -> None:
    """A link is no engine that is found again, so writing through one would build it every time."""
    assert run(bundle, "--output", "engine.plan").code == 0
    Path("engine.plan").rename("elsewhere")
    Path("engine.plan").symlink_to("elsewhere")
    before = Path("elsewhere").read_bytes()
    for cached in (False, True):
        assert run(bundle, "--output", "engine.plan").document["cached"] is cached
    assert not Path("engine.plan").is_symlink()
    assert Path("elsewhere").read_bytes() == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_read_only_is_refused_before_the_build(bundle: Path, run: Command) -> None:
    Path("sealed").mkdir(mode=0o500)
    assert "Permission denied" in refused(run, bundle, "--output", "sealed/engine.plan", kind="OutputError")


def test_a_disk_that_is_full_leaves_no_engine(bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: Path, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert "free some disk space" in refused(run, bundle, "--output", "engine.plan", kind="OutputError")


# the command


def test_the_command_writes_a_plan_that_is_nothing_but_the_plan(bundle: Path, run: Command, rtx: TensorRT) -> None:
    result = run(bundle, "--output", "engine.plan", "--batch", "1:2:4", "--batch", "8")
    assert result.code == 0
    document = result.document
    assert document["passed"] is True
    assert document["cached"] is False
    assert document["ranges"] == [{"min": 1, "opt": 2, "max": 4}, {"min": 8, "opt": 8, "max": 8}]
    plan = Path("engine.plan").read_bytes()
    assert hashlib.sha256(plan).hexdigest() == document["engine_sha256"]
    profiles = (BatchRange(1, 2, 4), BatchRange(8, 8, 8))
    opened = open_bundle(bundle)
    model = onnx_file((bundle / "model.onnx").read_bytes(), opened.manifest.inputs, opened.manifest.outputs)
    assert plan == build_plan(rtx, model, BuildOptions(profiles=profiles)).plan
    assert sorted(os.listdir()) == ["engine.plan", "engine.plan.json"]
    record = msgspec.json.decode(record_path(Path("engine.plan")).read_bytes(), type=EngineRecord)
    assert record.key.onnx_sha256 == opened.sha256_of()


def test_the_table_names_layers_precision_and_place(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], rtx: TensorRT
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setattr(sys, "argv", ["edgekit", "build", str(bundle)])
    told = []
    for _ in range(2):
        with pytest.raises(SystemExit) as done:
            main()
        assert done.value.code == 0
        told.append(capsys.readouterr().out)
    for part in ("CONVOLUTION", "float32 asked for, float32 found in the network, TF32 off: pass", "batch 1:8:32", ".plan"):
        assert part in told[0]
    assert re.search(r"the build took \d.*\nwrote ", told[0])
    assert re.search(r"its build took \d\S+ s; timing cache: this flavour has none, .*\nfound ", told[1])


class Recorder:
    """Progress that is remembered; stops the work at ``stop`` steps."""

    def __init__(self, stop: int | None = None) -> None:
        self.steps: list[int] = []
        self.notes: list[str] = []
        self.total = 0
        self._stop = stop

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        self.total = total

        def advance(steps: int, note: str) -> None:
            self.steps.append(steps)
            self.notes.append(note)
            if self._stop is not None and sum(self.steps) >= self._stop:
                raise KeyboardInterrupt

        yield advance

    def say(self, line: str) -> None: ...


def test_a_build_tells_how_far_it_is_and_ends_at_the_end(rtx: TensorRT) -> None:
    seen = Recorder()
    build_plan(rtx, lenet(), RANGE, progress=seen)
    assert all(step >= 0 for step in seen.steps)
    assert sum(seen.steps) == seen.total
    assert sum(step > 0 for step in seen.steps) > 2
    assert "building engine" in seen.notes


def test_ctrl_c_stops_a_build_and_leaves_nothing(bundle: Path, tmp_path: Path, rtx: TensorRT) -> None:
    with pytest.raises(KeyboardInterrupt):
        build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "out" / "engine.plan", progress=Recorder(stop=1))
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


class Killing(Recorder):
    """Ctrl-C as the terminal gives it: a signal, in the middle of the step at which ``stop`` is reached."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        def advance(steps: int, note: str) -> None:
            if not self.steps:  # a second one would end this process
                os.kill(os.getpid(), signal.SIGINT)
            self.steps.append(steps)

        yield advance


@pytest.fixture
def _ctrl_c() -> Iterator[None]:
    """As at a terminal: what a script starts in the background ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_as_a_signal_stops_a_build_and_leaves_nothing(bundle: Path, tmp_path: Path, rtx: TensorRT) -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "engine.plan", progress=Killing())
    assert not (tmp_path / "engine.plan").exists()
    assert signal.getsignal(signal.SIGINT) == before


@pytest.mark.usefixtures("_ctrl_c")
def test_ctrl_c_while_tensorrt_writes_its_log_is_not_lost(
    bundle: Path, tmp_path: Path, rtx: TensorRT, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Raised there, its bindings would print it, drop it and go on: a build writes thousands of lines and calls little else."""
    real, lines = edgekit.backends.tensorrt.builder.start, list[str]()

    def noisy(trt: TensorRT) -> Any:
        logger = real(trt)

        class Noisy(type(logger)):  # type: ignore[misc]
            def log(self, severity: Any, msg: str) -> None:
                lines.append(msg)
                if len(lines) == 20:
                    os.kill(os.getpid(), signal.SIGINT)

        return Noisy()

    monkeypatch.setattr("edgekit.backends.tensorrt.builder.start", noisy)
    with pytest.raises(KeyboardInterrupt):
        build(bundle, building(flavour="tensorrt-rtx"), output=tmp_path / "engine.plan")
    assert len(lines) > 20
    assert not (tmp_path / "engine.plan").exists()


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it(bundle: Path, rtx: TensorRT) -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        assert build(bundle, building(flavour="tensorrt-rtx"), progress=Killing()).passed
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_thread_builds_without_touching_signals(bundle: Path, rtx: TensorRT) -> None:
    done = list[bool]()
    thread = threading.Thread(target=lambda: done.append(build(bundle, building(flavour="tensorrt-rtx")).passed))
    thread.start()
    thread.join()
    assert done == [True]


def test_ctrl_c_makes_tensorrt_itself_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        build_plan(find("tensorrt"), lenet(), RANGE, progress=Recorder(stop=1))
    assert fake.stopped_at == 0


# which flavour


def test_a_flavour_that_needs_a_driver_is_not_even_imported_without_one(
    bundle: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    imported: list[str] = []
    real = importlib.import_module

    def importing(name: str, package: str | None = None) -> Any:
        """Typer and what it brings import by this function too."""
        if not name.startswith("tensorrt"):
            return real(name, package)
        imported.append(name)
        return fake.api

    set_driver(monkeypatch, NO_DRIVER)
    monkeypatch.setattr(edgekit.backends.tensorrt.flavour.importlib, "import_module", importing)
    message = refused(run, bundle, "--flavour", "tensorrt", kind="MissingError")
    assert message == (
        "tensorrt cannot build here: no NVIDIA driver is installed; "
        "run nvidia-smi, or use --flavour tensorrt-rtx, which builds without"
    )
    assert imported == []


def test_the_first_flavour_that_can_build_here_is_taken(monkeypatch: pytest.MonkeyPatch, rtx: TensorRT) -> None:
    FakeTensorRT(TEN).install(monkeypatch)
    assert find().flavour.name == "tensorrt"
    set_driver(monkeypatch, NO_DRIVER)
    assert find().flavour.name == "tensorrt-rtx"


def test_a_flavour_that_is_broken_leaves_the_way_to_the_next(monkeypatch: pytest.MonkeyPatch, rtx: TensorRT) -> None:
    FakeTensorRT(TEN).install(monkeypatch).api.__version__ = "12.0"
    assert find().flavour.name == "tensorrt-rtx"
    monkeypatch.setattr(
        edgekit.backends.tensorrt.flavour.importlib.util, "find_spec", lambda name: None if name == "tensorrt_rtx" else name
    )
    with pytest.raises(MissingError, match=r"tensorrt: edgekit does not know tensorrt 12.0, tensorrt-rtx: it is not installed"):
        find()


def test_where_no_flavour_is_installed_all_are_named_with_a_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgekit.backends.tensorrt.flavour.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"tensorrt: it is not installed, tensorrt-rtx: it is not installed.*install .*rtx"):
        find()
    with pytest.raises(MissingError, match=f"tensorrt cannot build here: it is not installed; {pip_install('trt')}$"):
        find("tensorrt")


def test_on_a_board_the_remedies_are_a_boards(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its TensorRT comes from apt, there is no RTX for it, and the older ones have no nvidia-smi."""
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    assert str(build_absence("tensorrt-rtx") or "") in (
        "",
        "it is not installed; there is no package of it for aarch64, use --flavour tensorrt",
    )
    monkeypatch.setattr(edgekit.backends.tensorrt.flavour.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingError, match=r"no TensorRT can build here .*; sudo apt install python3-libnvinfer, and "):
        find()
    assert "pip" not in how_to_install()
    monkeypatch.setattr(
        edgekit.backends.tensorrt.flavour.importlib.util, "find_spec", lambda name: name if name == "tensorrt" else None
    )
    set_driver(monkeypatch, NO_DRIVER)
    told = "no NVIDIA driver is installed; build on the board itself, in a container with --runtime nvidia"
    assert str(build_absence("tensorrt")) == told
    with pytest.raises(MissingError, match=r"; build on the board itself, in a container with --runtime nvidia$"):
        find()


def test_a_library_that_is_missing_is_a_missing_package_and_no_crash(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(TEN).install(monkeypatch)

    def fail(name: str) -> None:
        raise ImportError("libnvinfer.so.10: cannot open shared object file")

    monkeypatch.setattr(edgekit.backends.tensorrt.flavour.importlib, "import_module", fail)
    with pytest.raises(MissingError, match=r"tensorrt is installed but cannot be imported: libnvinfer.so.10.*edgekit doctor"):
        find("tensorrt")


def test_a_release_that_edgekit_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(TEN._replace(version="10.16.1")).install(monkeypatch).api.__version__ = "12.0"
    with pytest.raises(MissingError, match=r"does not know tensorrt 12.0; install one of 8.6 and later 8.x, 10.x, 11.x"):
        find("tensorrt")


def test_an_unknown_flavour_is_refused_with_the_known_ones(bundle: Path, run: Command) -> None:
    assert "use one of tensorrt, tensorrt-rtx" in refused(run, bundle, "--flavour", "tensorrt11", kind="UsageError")


def test_a_builder_that_does_not_start_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.broken = True
    with pytest.raises(MissingError, match=r"tensorrt 10.16.1 does not start: pybind11.*; run edgekit doctor"):
        build_plan(find("tensorrt"), lenet(), RANGE)
    fake.complaints = [("WARNING", "a newer release is there"), ("ERROR", "CUDA initialization failure with error: 35")]
    with pytest.raises(MissingError, match=r"does not start: CUDA initialization failure with error: 35; run edgekit doctor"):
        build_plan(find("tensorrt"), lenet(), RANGE)


# the flavours that need a GPU, through a fake that knows only what their listings name


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda one: one.version)
@pytest.mark.parametrize("precision", ["float32", "float16"])
def test_every_flavour_is_asked_in_its_own_way(monkeypatch: pytest.MonkeyPatch, listing: Any, precision: str) -> None:
    fake = FakeTensorRT(listing).install(monkeypatch)
    flavour = listing.flavour
    model = lenet()
    built = build_plan(find(flavour.name), half(model) if precision == "float16" else model, RANGE)
    ((definition, config),) = fake.builds
    flags = fake.api.NetworkDefinitionCreationFlag
    wanted = (1 << flags.EXPLICIT_BATCH if flavour.explicit_batch else 0) | (
        1 << flags.STRONGLY_TYPED if flavour.strong_typing_flag else 0
    )
    assert definition._flags == wanted
    assert "TF32" not in config._flags
    assert config.profiling_verbosity == fake.api.ProfilingVerbosity.DETAILED
    assert config._profiles == [{"input": [(1, 1, 28, 28), (2, 1, 28, 28), (4, 1, 28, 28)]}]
    if flavour.precision_flags:
        half_asked = precision == "float16"
        assert config._flags == ({"OBEY_PRECISION_CONSTRAINTS", "FP16"} if half_asked else set())
        assert set(fake.layer_types.values()) == ({"HALF"} if half_asked else set())  # float32 alone leaves nothing to choose
        assert not half_asked or len(fake.layer_types) == definition.num_layers
    assert config.__dict__.get("_capabilities") is None  # RTX knows no such GPU: the engine is for those that it knows
    assert {layer.precision for layer in built.network.counts if layer.kind in ("CONVOLUTION", "MATRIX_MULTIPLY")} == {precision}


def test_eight_six_allows_int8_where_the_file_quantises(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(EIGHT).install(monkeypatch)
    built = build_plan(find("tensorrt"), quantised(), RANGE)
    # nothing is asked of a layer between Q and DQ, or TensorRT would not make an int8 layer of it
    assert fake.builds[0][1]._flags == {"INT8"}
    assert fake.layer_types == {}
    assert {layer.precision for layer in built.network.counts if layer.kind == "CONVOLUTION"} == {"int8"}


def test_eight_six_holds_what_is_not_quantised_to_the_files_type_and_leaves_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of three precisions: what quantisers feed is free, float16 and float32 are asked for."""
    fake = FakeTensorRT(EIGHT).install(monkeypatch)
    weights = np.ones((4, 1, 3, 3), np.int8)
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], name="quantise"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["x"], name="dequantise"),
        helper.make_node("DequantizeLinear", ["weights", "scale", "zero"], ["w"], name="dequantise_weights"),
        helper.make_node("Conv", ["x", "w"], ["a"], name="conv"),
        helper.make_node("Cast", ["a"], ["b"], name="narrow", to=TensorProto.FLOAT16),
        helper.make_node("Relu", ["b"], ["c"], name="half"),
        helper.make_node("Cast", ["c"], ["d"], name="widen", to=TensorProto.FLOAT),
        helper.make_node("Relu", ["d"], ["output"], name="single"),
    ]
    stored = {"scale": np.float32(0.1), "zero": np.int8(0), "weights": weights}
    build_plan(find("tensorrt"), crafted(nodes, stored, (4, 26, 26)), RANGE)
    assert fake.builds[0][1]._flags == {"INT8", "FP16", "OBEY_PRECISION_CONSTRAINTS"}
    assert fake.layer_types == {"half": "HALF", "single": "FLOAT"}


def test_eight_six_says_that_it_has_no_int64_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    FakeTensorRT(EIGHT).install(monkeypatch)
    model = lenet()
    wide = model._replace(inputs=(*model.inputs, TensorSpec("index", "int64", ("batch",))))
    with pytest.raises(EngineError, match=r"tensorrt 8.6.0 has no int64 inputs .* index of model.onnx .*int32 .*ort-cpu"):
        build_plan(find("tensorrt"), wide, RANGE)


def test_a_timing_cache_that_was_refused_is_not_why_a_build_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.cache_error = "Error Code 1: Serialization (the timing cache is of another device.)"
    fake.build_error = " "
    with pytest.raises(EngineError, match=r"cannot build model.onnx: it does not say why"):
        build_plan(find("tensorrt"), lenet(), RANGE, timing_cache=b"foreign")


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda one: one.version)
def test_bindings_that_raise_are_one_sentence(monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    fake = FakeTensorRT(listing).install(monkeypatch)
    for step, told in (
        ("set_shape", "build for the batch sizes 1:2:4: Shape provided for min is inconsistent with other shapes"),
        ("build", "build model.onnx: std::bad_alloc"),
        ("plugins", "register its plugins: it does not say why"),
    ):
        fake.fails = step
        with pytest.raises(EngineError, match=f"^{listing.flavour.name} {listing.version} cannot {told}; "):
            build_plan(find(listing.flavour.name), lenet(), RANGE)


def test_options_reach_the_builder(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    options = msgspec.structs.replace(
        RANGE, workspace_mib=64, level=1, hardware_compatible=True, version_compatible=True, tf32=True
    )
    build_plan(find("tensorrt"), lenet(), options)
    config = fake.builds[0][1]
    assert config._flags == {"TF32", "VERSION_COMPATIBLE"}
    assert config._memory == {"WORKSPACE": 64 << 20}
    assert config.builder_optimization_level == 1
    assert config.hardware_compatibility_level == fake.api.HardwareCompatibilityLevel.AMPERE_PLUS


@pytest.mark.parametrize("listing", LISTINGS, ids=lambda one: one.version)
def test_every_flavour_names_all_the_nodes_it_refuses(monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    FakeTensorRT(listing).install(monkeypatch)
    nodes = [
        helper.make_node("Frobnicate", ["input"], ["a"], name="first", domain="my"),
        helper.make_node("Relu", ["a"], ["b"], name="fine"),
        helper.make_node("Wobble", ["b"], ["output"], name="third", domain="my"),
    ]
    with pytest.raises(
        EngineError, match=r"refuses model.onnx: Frobnicate \(first\): no such operator, Wobble \(third\): no such"
    ):
        build_plan(find(listing.flavour.name), crafted(nodes, {}, (1, 28, 28)), RANGE)


def test_a_build_that_gives_nothing_is_an_error_with_its_first_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(TEN).install(monkeypatch)
    fake.build_error = "IBuilder::buildSerializedNetwork: Error Code 2: OutOfMemory (Requested size was 9 bytes, out of memory.)"
    with pytest.raises(EngineError, match=r"cannot build model.onnx: Requested size was 9 bytes, out of memory; free some of"):
        build_plan(find("tensorrt"), lenet(), RANGE)


# an engine is asked what it computes in


@pytest.fixture
def ten(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    """TensorRT 10 on a machine with a GPU."""
    return FakeTensorRT(TEN).install(monkeypatch)


@pytest.mark.parametrize("key", ["Format/Datatype", "Datatype"])
@pytest.mark.parametrize("text", ["Row major linear FP32", "Float"])
def test_an_engine_that_computes_as_its_file_says_is_kept(bundle: Path, ten: FakeTensorRT, text: str, key: str) -> None:
    ten.information = layers_json(*[text] * 5, key=key)
    report = build(bundle, building(flavour="tensorrt"))
    assert report.passed
    assert precision_of(report).read_from == "engine"
    assert precision_of(report).found == ("float32",)
    assert precision_of(report).note == ""
    # all that it said is there, for whoever has to find out why a check failed
    assert [(one.name, one.computes, one.precisions) for one in precision_of(report).engine][1] == ("conv0", True, ("float32",))
    assert BuildReport.from_json(report.to_json()) == report
    assert report.engine is not None
    assert report.facts["gpu"] == "Pretended GPU"
    assert ten.shapes_set == {"input": (8, 1, 28, 28)}


@pytest.mark.parametrize(
    ("information", "told"),
    [
        (
            layers_json("Float", "Half"),
            "1 layer(s) run in another precision than the network's float32: node_conv2d_1 in float16 instead of float32",
        ),
        (
            layers_json("Channel major INT8 format"),
            "1 layer(s) run in another precision than the network's float32: node_conv2d in int8 instead of float32",
        ),
        (layers_json("Float", tactic="sm80_tf32f32"), "TF32 is off, and 1 layer(s) use it: conv0"),
    ],
)
def test_an_engine_that_computes_in_another_precision_fails_the_check_and_is_not_kept(
    bundle: Path, ten: FakeTensorRT, run: Command, information: str, told: str
) -> None:
    ten.information = information
    before = written()
    result = run(bundle, "--flavour", "tensorrt", "--output", "engine.plan")
    assert result.code == 1
    assert result.document["passed"] is False
    assert result.document["engine"] is None
    assert told in result.document["precision"]["problems"]
    assert written() == before


def test_tf32_that_was_asked_for_is_no_fault(bundle: Path, ten: FakeTensorRT) -> None:
    ten.information = layers_json(*["Float"] * 5, tactic="sm80_tf32f32")
    assert build(bundle, building(flavour="tensorrt", options=BuildOptions(tf32=True))).passed


@pytest.mark.parametrize("information", [json.dumps({"Layers": ["conv0", "conv1"]}), layers_json("N/A due to dynamic shapes")])
def test_an_engine_that_does_not_say_is_not_taken_for_one_that_does(bundle: Path, ten: FakeTensorRT, information: str) -> None:
    ten.information = information
    report = build(bundle, building(flavour="tensorrt"))
    assert precision_of(report).read_from == "network"
    assert "the engine does not say what its layers compute in" in precision_of(report).note


@pytest.mark.parametrize("document", ["", "conv0\nconv1", "[]", "{}"])
def test_a_description_that_is_no_json_is_an_error(document: str) -> None:
    with pytest.raises(EngineError, match="not the JSON that TensorRT documents"):
        engine_layers(document)


def test_a_runtime_that_does_not_start_is_one_sentence(bundle: Path, ten: FakeTensorRT) -> None:
    ten.fails = "runtime"
    with pytest.raises(MissingError, match=r"tensorrt 10.16.1 does not start: pybind11.*; run edgekit doctor"):
        build(bundle, building(flavour="tensorrt"))


def test_a_shape_that_the_engine_refuses_is_an_error_and_no_guess_at_its_precision(bundle: Path, ten: FakeTensorRT) -> None:
    ten.fails = "shape"
    with pytest.raises(EngineError, match="cannot take input of 8x1x28x28: a shape it does not take"):
        build(bundle, building(flavour="tensorrt"))


@pytest.mark.parametrize("listing", LISTINGS[:3], ids=lambda one: one.version)
def test_an_engine_of_several_profiles_is_asked_about_each(bundle: Path, monkeypatch: pytest.MonkeyPatch, listing: Any) -> None:
    """8.6 tells the layers of a profile only in its shapes; before any shapes are set nobody tells."""
    fake = FakeTensorRT(listing).install(monkeypatch)
    ranges = BuildOptions(profiles=(BatchRange(1, 1, 1), BatchRange(2, 4, 8), BatchRange(16, 16, 16)))
    report = build(bundle, building(flavour="tensorrt", options=ranges))
    assert (precision_of(report).read_from, precision_of(report).problems, precision_of(report).note) == ("engine", (), "")
    copies = 3 if listing.flavour.precision_flags else 1
    assert len(precision_of(report).engine) == 5 * copies
    assert fake.contexts == 3


def test_a_version_compatible_engine_is_allowed_to_bring_its_runtime(bundle: Path, ten: FakeTensorRT) -> None:
    report = build(bundle, building(flavour="tensorrt", options=BuildOptions(version_compatible=True)))
    assert precision_of(report).read_from == "engine"


def test_an_engine_that_its_own_gpu_cannot_load_is_an_error(bundle: Path, ten: FakeTensorRT) -> None:
    ten.loads = False
    with pytest.raises(
        EngineError, match=r"refuses the engine it has just built: the GPU is of another kind; run the bundle with"
    ):
        build(bundle, building(flavour="tensorrt"))
    assert not list(engine_folder().glob("*.plan"))


def test_rtx_builds_for_the_gpu_that_is_here_and_what_does_not_load_on_it_is_an_error(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Turing is not among its usual targets."""
    fake = FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    monkeypatch.setattr("edgekit.backends.tensorrt.flavour.gpu_facts", lambda: {**GPU, "compute capability": "7.5"})
    assert precision_of(build(bundle, building(flavour="tensorrt-rtx"))).read_from == "engine"
    assert fake.builds[0][1]._capabilities == {0: "CURRENT"}
    fake.fails = "capability"
    with pytest.raises(EngineError, match="cannot build for the GPU that is here: no such compute capability; "):
        build(bundle, building(flavour="tensorrt-rtx"), rebuild=True)
    fake.fails = ""
    fake.loads = False
    with pytest.raises(EngineError, match="refuses the engine it has just built"):
        build(bundle, building(flavour="tensorrt-rtx"), rebuild=True)


def test_rtx_may_build_for_other_gpus_than_one_that_it_does_not_know(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = FakeTensorRT(LISTINGS[-1]).install(monkeypatch)
    fake.loads = False
    report = build(bundle, building(flavour="tensorrt-rtx"))
    assert report.passed
    assert precision_of(report).note.endswith("knows no GPU of compute capability 8.7")
    assert report.facts == {"TF32": "off", "gpu": "none in particular"}
    assert fake.builds[0][1].__dict__.get("_capabilities") is None


# sentences


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("4: [network.cpp::validate::3062] Error Code 4: Internal Error (Network has no outputs.)", "Network has no outputs"),
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (No profile (of two). In validate at /_src/n.cpp:4)",
            "No profile (of two)",
        ),
        ('creator && "Plugin not found, are the plugin name, version, and namespace correct?"', "no such operator"),
        ("false", "not supported"),
        ("Assertion failed: a.b(): It is wrong.", "It is wrong"),
        ("two\nlines", "two lines"),
        (
            "It is in use. In updateLayerName at /_src/network.cpp:3117) [checkMacros.cpp::catchCudaError::250] Error Code 1: "
            "Cuda Runtime (In catchCudaError at /_src/common/checkMacros.cpp:250 (cudaError 35: no driver)",
            "It is in use",
        ),
    ],
)
def test_nvidias_lines_become_plain(line: str, told: str) -> None:
    assert plain(line) == told


def test_a_failure_gives_its_first_reason_and_not_that_there_is_no_driver() -> None:
    trt = TensorRT(FLAVOURS[0], None, "8.6")
    noise = Message("ERROR", "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (no driver)")
    messages = [Message("WARNING", "mind"), noise, Message("ERROR", "the reason"), Message("ERROR", "what followed")]
    assert "cannot build x: the reason; " in str(failure(trt, "build x", messages))
    assert "cannot build x: no driver; " in str(failure(trt, "build x", [noise]))
    assert "it does not say why" in str(failure(trt, "build x", []))


def test_layers_without_outputs_are_counted_all_the_same() -> None:
    class Layer:
        type, num_outputs, name = type("T", (), {"name": "ASSERTION"}), 0, "check"

    class Network:
        num_layers = 1

        def get_layer(self, index: int) -> Layer:
            return Layer()

    assert network_layers(Network(), {}) == NetworkLayers((LayerCount("ASSERTION", "", 1),), {})
