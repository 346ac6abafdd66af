"""Exported files: their contents, the numbers that runtimes compute from them, and the same bytes every time."""

from __future__ import annotations

import copy
import hashlib
import math
import os
import site
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgekit.errors import ModelError
from edgekit.fold import fold
from edgekit.graphs.trace import named_outputs, output_specs
from edgekit.graphs.write import export_onnx
from edgekit.reports.export import FoldReport, Kept
from edgekit.tensors import Array, TensorSpec, sample_feed
from tests.graphs.exports import METADATA, SIZES, export, exported, small
from tests.networks import randomise_norms
from tests.onnx_files import image_spec

SINGLE = 2e-5


def session(content: bytes) -> ort.InferenceSession:
    """ONNX Runtime without optimisations, which would fold batch norm themselves."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def error(content: bytes, model: nn.Module, inputs: tuple[TensorSpec, ...], batch: int) -> float:
    """The largest error of scale of any output in ONNX Runtime, against the original model in float64."""
    feed = sample_feed(inputs, batch, seed=batch)
    runtime = session(content)
    outputs = dict(zip([item.name for item in runtime.get_outputs()], runtime.run(None, feed), strict=True))
    exact = copy.deepcopy(model).eval().double()
    with torch.inference_mode():
        references = named_outputs(exact(*(torch.from_numpy(array).double() for array in feed.values())))
    assert list(outputs) == list(references)
    for name, array in references.items():
        assert outputs[name].shape == tuple(array.shape)
    return max(float(np.abs(outputs[name] - array.numpy()).max() / array.abs().max()) for name, array in references.items())


shipped = pytest.mark.parametrize("name", SIZES)
both = pytest.mark.parametrize("fold_bn", [True, False], ids=["folded", "unfolded"])


@shipped
@both
def test_onnx_runtime_computes_what_the_original_model_does_at_any_batch(name: str, fold_bn: bool) -> None:
    file = exported(name, fold_bn)
    for batch in (1, 2, 7):
        assert error(file.content, file.model, file.inputs, batch) <= SINGLE


def test_the_tolerance_catches_one_tensor_scaled_by_a_percent() -> None:
    file = exported("lenet", True)
    proto = file.proto
    tensor = next(item for item in proto.graph.initializer if item.name.endswith("15.weight"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * np.float32(1.01), tensor.name))
    assert error(proto.SerializeToString(), file.model, file.inputs, 2) > SINGLE


@pytest.mark.parametrize(
    ("name", "fold_bn", "nodes"),
    [
        ("lenet", True, 0),
        ("lenet", False, 4),
        ("lenet-scratch", True, 0),
        ("lenet-scratch", False, 0),
        ("resnet18", True, 0),
        ("resnet18", False, 17),
        ("densenet", True, 20),
        ("densenet", False, 21),
    ],
)
def test_the_file_holds_the_batch_norms_that_the_report_says(name: str, fold_bn: bool, nodes: int) -> None:
    file = exported(name, fold_bn)
    assert file.ops["BatchNormalization"] == nodes == sum(norm.nodes for norm in file.report.kept)


def test_a_written_out_batch_norm_is_in_the_file_unless_it_was_folded() -> None:
    unfolded, folded = exported("lenet-scratch", False).ops, exported("lenet-scratch", True).ops
    assert [unfolded[op] for op in ("Mul", "Add", "BatchNormalization")] == [4, 4, 0]
    assert [folded[op] for op in ("Sub", "Mul", "Add", "Div", "Sqrt")] == [0] * 5
    assert folded == exported("lenet", True).ops


@shipped
@both
def test_the_file_is_valid_and_its_batch_is_free(name: str, fold_bn: bool) -> None:
    proto = exported(name, fold_bn).proto
    onnx.checker.check_model(proto, full_check=True)
    assert [item.name for item in proto.graph.input] == ["input"]
    assert [item.name for item in proto.graph.output] == ["output"]
    for value in (*proto.graph.input, *proto.graph.output):
        first, *others = value.type.tensor_type.shape.dim
        assert first.dim_param == "batch"
        assert all(axis.dim_value > 0 for axis in others)
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT


@shipped
@both
def test_the_file_is_self_contained(name: str, fold_bn: bool) -> None:
    proto = exported(name, fold_bn).proto
    for tensor in proto.graph.initializer:
        assert tensor.data_location == onnx.TensorProto.DEFAULT
        assert not tensor.external_data
    assert not proto.functions
    assert [opset.domain for opset in proto.opset_import] == [""]


def test_exporting_writes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    export(small(), image_spec(1, 6))
    assert list(tmp_path.iterdir()) == []
    assert capfd.readouterr() == ("", "")


@shipped
@both
def test_no_path_of_this_machine_is_in_the_file(name: str, fold_bn: bool, repository: Path) -> None:
    content = exported(name, fold_bn).content
    places = {os.getcwd(), str(repository), str(Path.home()), sys.prefix, *site.getsitepackages(), "site-packages", "stack_trace"}
    for place in places:
        if len(place) > 1:
            assert place.encode() not in content, place


@pytest.mark.parametrize("opset", [18, 20, 22])
def test_the_opset_asked_for_is_in_the_file(opset: int) -> None:
    file = export(small(), image_spec(1, 6), opset=opset)
    assert [item.version for item in file.proto.opset_import] == [opset]
    assert error(file.content, file.model, file.inputs, 3) <= SINGLE


def test_metadata_is_in_the_file_in_order() -> None:
    proto = exported("lenet", True).proto
    assert [(item.key, item.value) for item in proto.metadata_props] == sorted(METADATA.items())


def test_the_same_graph_gives_the_same_bytes() -> None:
    inputs = image_spec(1, 6)
    graph, report = fold(small(), inputs)
    outputs = output_specs(graph, inputs)
    first, second = (export_onnx(graph, report, inputs, outputs, metadata=METADATA) for _ in range(2))
    assert first == second
    assert first == export(small(), inputs).content
    changed = small()
    bias = changed.get_parameter("0.bias")
    with torch.no_grad():
        bias[0] += 1e-3
    assert first != export(changed, inputs).content


PROGRAM = """
import hashlib, torch
from tests.graphs.exports import exported
torch.set_num_threads(1)
print(hashlib.sha256(exported("lenet", True).content).hexdigest())
"""


def test_another_process_in_another_folder_writes_the_same_bytes(
    repository: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    environment |= {"PYTHONPATH": str(repository), "PYTHONHASHSEED": "4711"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == hashlib.sha256(exported("lenet", True).content).hexdigest()


@both
def test_a_3d_convolution_without_bias_runs(fold_bn: bool) -> None:
    model = randomise_norms(
        nn.Sequential(nn.Conv3d(2, 3, 2, bias=False), nn.ReLU(), nn.BatchNorm3d(3), nn.Conv3d(3, 2, 2, bias=False))
    )
    done = export(model, (TensorSpec("input", "float32", ("batch", 2, 4, 4, 4)),), fold_bn=fold_bn)
    assert error(done.content, done.model, done.inputs, 2) <= SINGLE


@pytest.mark.parametrize(("fold_bn", "lie"), [(False, ()), (True, (Kept("1", "BatchNorm2d", "no reason"),) * 2)])
def test_a_report_that_disagrees_with_the_file_is_an_error(fold_bn: bool, lie: tuple[Kept, ...]) -> None:
    inputs = image_spec(1, 6)
    graph, report = fold(small(), inputs, fold_bn=fold_bn)
    assert len(report.kept) == 2 - fold_bn
    with pytest.raises(ModelError, match="BatchNormalization nodes where the fold report says"):
        export_onnx(graph, FoldReport((), lie), inputs, output_specs(graph, inputs))


def test_an_instance_norm_with_running_statistics_is_counted() -> None:
    norm = nn.InstanceNorm2d(3, affine=True, track_running_stats=True)
    assert norm.running_var is not None
    norm.running_var.copy_(torch.tensor([0.5, 2.0, 3.0]))
    model = nn.Sequential(nn.Conv2d(1, 3, 3), norm).eval()
    for fold_bn in (True, False):
        file = export(model, image_spec(1, 6), fold_bn=fold_bn)
        assert file.ops["BatchNormalization"] == 1 - fold_bn
        assert error(file.content, model, file.inputs, 3) <= SINGLE


class TwoInputs(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.conv, self.norm = nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3)
        self.linear = nn.Linear(4, 3)

    def forward(self, image: Tensor, vector: Tensor) -> object:
        y = self.norm(self.conv(image))
        z = self.linear(vector)
        sum_ = (y + z[:, :, None, None]).mean((2, 3))
        return {"tuple": (y, sum_), "list": [sum_], "dict": {"features": y, "logits": sum_}}[self.kind]


@pytest.mark.parametrize(
    ("kind", "names"), [("tuple", ["output0", "output1"]), ("list", ["output"]), ("dict", ["features", "logits"])]
)
def test_models_with_two_inputs_and_several_outputs_keep_their_names(kind: str, names: list[str]) -> None:
    inputs = (TensorSpec("image", "float32", ("batch", 1, 5, 5)), TensorSpec("vector", "float32", ("batch", 4)))
    file = export(randomise_norms(TwoInputs(kind)), inputs)
    assert [item.name for item in file.proto.graph.input] == ["image", "vector"]
    assert [item.name for item in file.proto.graph.output] == names
    assert file.ops["BatchNormalization"] == 0
    for batch in (1, 2, 7):
        assert error(file.content, file.model, inputs, batch) <= SINGLE


def test_a_model_in_training_mode_is_exported_in_inference_mode() -> None:
    head = nn.Sequential(nn.BatchNorm2d(1), nn.Dropout(0.9), nn.Conv2d(1, 2, 3, padding=1), nn.BatchNorm2d(2), nn.Dropout2d(0.9))
    model = randomise_norms(head).train()
    statistics = {key: value.clone() for key, value in model.state_dict().items()}
    file = export(model, image_spec(1, 6))
    assert file.ops["Dropout"] == 0
    assert file.ops["BatchNormalization"] == 1
    assert error(file.content, model, file.inputs, 4) <= SINGLE
    assert model.training
    assert all(torch.equal(value, statistics[key]) for key, value in model.state_dict().items())


class FixedBatch(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(2, -1)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize("model", [FixedBatch(), Branching()], ids=["fixed batch", "branch on a value"])
def test_a_model_without_a_free_batch_is_refused_in_one_sentence(model: nn.Module) -> None:
    with pytest.raises(ModelError, match="runs but cannot be traced with a free batch axis") as caught:
        export(model, image_spec(1, 6))
    assert "\n" not in str(caught.value)
    assert type(model).__name__ in str(caught.value)


class Unknown(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = torch.special.bessel_j0(x)
        return y


def test_an_operator_that_onnx_lacks_is_named_in_one_sentence() -> None:
    with pytest.raises(ModelError, match="bessel_j0") as caught:
        export(Unknown(), image_spec(1, 6))
    assert "\n" not in str(caught.value)
    assert "opset 20" in str(caught.value)


def test_weights_beyond_the_limit_of_a_file_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.graphs.write.LARGEST_BYTES", 100)
    with pytest.raises(ModelError, match="one ONNX file holds"):
        export(small(), image_spec(1, 6))


# NVIDIA's parser and builder, which need no GPU


def _engine(content: bytes) -> tuple[list[str], bytes]:
    """The layers that NVIDIA's parser makes of a file, and the engine built from the file."""
    trt = pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    logger = trt.Logger(trt.Logger.ERROR)
    builder = trt.Builder(logger)
    definition = builder.create_network(0)
    parser = trt.OnnxParser(definition, logger)
    assert parser.parse(content), [parser.get_error(index).desc() for index in range(parser.num_errors)]
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    for index in range(definition.num_inputs):
        tensor = definition.get_input(index)
        assert tensor.shape[0] == -1
        sizes = tuple(tensor.shape)[1:]
        profile.set_shape(tensor.name, (1, *sizes), (8, *sizes), (32, *sizes))
    assert config.add_optimization_profile(profile) == 0
    kinds = [definition.get_layer(index).type.name for index in range(definition.num_layers)]
    plan = builder.build_serialized_network(definition, config)
    assert plan is not None
    return kinds, bytes(plan)


@pytest.mark.parametrize(
    ("name", "fold_bn", "scales"), [("lenet", False, 4), ("lenet", True, 0), ("lenet-scratch", True, 0), ("densenet", True, 20)]
)
def test_tensorrt_builds_an_engine_and_sees_no_folded_norm(name: str, fold_bn: bool, scales: int) -> None:
    kinds, plan = _engine(exported(name, fold_bn).content)
    assert kinds.count("SCALE") == scales
    assert len(plan) > 10_000


def test_every_weight_of_the_file_is_finite_and_has_the_models_size() -> None:
    proto = exported("lenet", True).proto
    weights: dict[str, Array] = {item.name: numpy_helper.to_array(item) for item in proto.graph.initializer}
    floats = {name: array for name, array in weights.items() if array.dtype == np.float32}
    assert sum(array.size for array in floats.values()) == sum(
        math.prod(value.shape)
        for key, value in exported("lenet", True).model.state_dict().items()
        if key.split(".")[0] in ("0", "4", "9", "12", "15")
    )
    assert all(np.isfinite(array).all() for array in floats.values())


class Scalar(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"y": x.flatten(1), "loss": x.mean()}


class Merged(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(0, 1)


@pytest.mark.parametrize(("model", "name"), [(Scalar(), "loss"), (Merged(), "output")])
def test_an_output_without_the_batch_in_front_is_refused_by_name(model: nn.Module, name: str) -> None:
    inputs = (TensorSpec("input", "float32", ("batch", 2, 3, 3)),)
    with pytest.raises(ModelError, match=rf"output '{name}' is .* the batch must be the first axis"):
        output_specs(model, inputs)


class Echo(nn.Module):
    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"input": x + 1}


class Twice(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = x + 1
        return y, y


@pytest.mark.parametrize("model", [nn.Identity(), Echo(), Twice()])
def test_outputs_that_the_exporter_would_rename_are_refused(model: nn.Module) -> None:
    inputs = (TensorSpec("input", "float32", ("batch", 4)),)
    graph, report = fold(model, inputs)
    with pytest.raises(ModelError, match=r"in the exported file|not valid ONNX"):
        export_onnx(graph, report, inputs, output_specs(graph, inputs))
