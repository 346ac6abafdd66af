"""A fixed batch size is freed if the freed file provably computes the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.bundle.manifest import GoldenPart
from edgekit.errors import ModelError
from edgekit.parity.inputs import Golden
from edgekit.sources import onnx_file
from edgekit.tensors import TensorSpec, sample_feed
from tests.onnx.crafted import conv, export, folds, model_of, node, norm, statistics, tensor


def test_a_fixed_batch_is_freed_when_that_is_proved(tmp_path: Path) -> None:
    for fixed in (1, 3):
        shape = numpy_helper.from_array(np.array([fixed, 2, 3, 6, 6]), "shape")
        back = numpy_helper.from_array(np.array([fixed, -1]), "back")
        model = model_of(
            [conv(), norm("c", "n"), node("Reshape", ["n", "shape"], "five"), node("Relu", ["five"], "r"),
             node("Reshape", ["r", "back"], "f", "flat"), node("Gemm", ["f", "w2"], "g"), norm("g", "y", "bn2")],
            [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), shape, back, tensor("w2", 216, 5), *statistics("bn2", 5)],
            shape=(fixed, 4, 8, 8), rank=2,
        )  # fmt: skip
        model.graph.value_info.append(helper.make_tensor_value_info("r", 1, [fixed, 2, 3, 6, 6]))
        report = export(tmp_path, model)
        assert folds(report) == {"bn": ("conv",), "bn2": ("gemm",)}
        assert any(f"takes batches of {fixed} only; its batch axis was freed" in note for note in report.notes)
        bundle = open_bundle(tmp_path / "bundle")
        assert bundle.manifest.notes == report.notes
        assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*onnx.load(bundle.onnx_of()).graph.input,)] == [
            "batch"
        ]
        assert not [
            value
            for value in onnx.load(bundle.onnx_of()).graph.value_info
            if value.type.tensor_type.shape.dim[0].dim_value == fixed
        ]
        single = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        golden = bundle.golden()
        assert np.abs(single.run(None, {"x": golden.inputs["x"][:fixed]})[0] - golden.float64["y"][:fixed]).max() < 1e-5


def test_shapes_computed_from_constants_are_freed_too(tmp_path: Path) -> None:
    nodes = [
        node("Concat", ["batch", "split"], "shape", axis=0), node("Reshape", ["x", "shape"], "five"),
        node("Transpose", ["five"], "t", perm=[0, 2, 1, 3, 4]), node("Concat", ["batch", "joined"], "back", "second", axis=0),
        node("Reshape", ["t", "back"], "f", "flat"), conv("f"), norm("c", "y"),
    ]  # fmt: skip
    stored = [
        numpy_helper.from_array(np.array(sizes), name)
        for name, sizes in (("batch", [1]), ("split", [2, 2, 8, 8]), ("joined", [4, 8, 8]))
    ]
    model = model_of(nodes, [*stored, tensor("w", 6, 4, 3, 3), *statistics("bn", 6)], shape=(1, 4, 8, 8))
    assert folds(export(tmp_path, model)) == {"bn": ("conv",)}


def test_a_batch_that_is_one_axis_with_others_is_freed(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), numpy_helper.from_array(np.array([6, 36]), "shape")]
    nodes = [conv(), norm("c", "n"), node("Reshape", ["n", "shape"], "m", "heads"), node("Reshape", ["m", "back"], "y", "flat")]
    back = numpy_helper.from_array(np.array([1, 216]), "back")
    report = export(tmp_path, model_of(nodes, [*stored, back], shape=(1, 4, 8, 8), rank=2))
    assert any("its batch axis was freed" in note for note in report.notes)
    assert open_bundle(tmp_path / "bundle").manifest.inputs[0].shape[0] == "batch"


def test_a_file_whose_samples_see_each_other_keeps_its_batch_or_is_refused(tmp_path: Path) -> None:
    nodes = [
        conv(),
        norm("c", "n"),
        node("ReduceMean", ["n"], "m", axes=[0], keepdims=1),
        node("Sub", ["n", "m"], "d"),
        node("Add", ["d", "n"], "y"),
    ]
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]
    report = export(tmp_path, model_of(nodes, stored, shape=(1, 4, 8, 8)))
    assert any("takes batches of 1 only, and so does the bundle: output 'y' changes by" in note for note in report.notes)
    with pytest.raises(ModelError, match=r"the first axis of input 'x' .* is no batch, or its samples depend on each other"):
        export(tmp_path, model_of(nodes, stored, shape=(3, 4, 8, 8)))
    with pytest.raises(ModelError, match="depend on each other: output 'y' changes by"):
        export(tmp_path, model_of(nodes, stored))


def branching(cutoff: float, factor: float = -1) -> onnx.ModelProto:
    """A model that multiplies batches whose mean is below ``cutoff`` by ``factor``."""

    def branch(name: str) -> onnx.GraphProto:
        ends = [helper.make_tensor_value_info(f"{name}.o", TensorProto.FLOAT, None)]
        return helper.make_graph([node("Mul", ["n", name], f"{name}.o", name)], name, [], ends)

    nodes = [
        conv(),
        norm("c", "n"),
        node("ReduceMean", ["x"], "mean", keepdims=0),
        node("Less", ["mean", "cutoff"], "below"),
        helper.make_node("If", ["below"], ["y"], "branch", then_branch=branch("factor"), else_branch=branch("one")),
    ]
    numbers = {"cutoff": cutoff, "factor": factor, "one": 1}
    constants = [numpy_helper.from_array(np.float32(value), name) for name, value in numbers.items()]
    return model_of(nodes, [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), *constants])


def apart(which: str) -> float:
    """A cutoff that only these golden inputs are below, and none of the batches that ``open_onnx`` tries."""
    specs = (TensorSpec("x", "float32", ("batch", 4, 8, 8)),)
    few, golden = (sample_feed(specs, count)["x"] for count in (3, 8))
    tried = min(few[:count].mean() for count in (1, 2, 3))
    whole, lowest = golden.mean(), golden.mean((1, 2, 3)).min()
    below, above = (whole, tried) if which == "all together" else (lowest, min(tried, whole))
    assert below < above
    return float(below + above) / 2


@pytest.fixture
def eight_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden inputs that ``apart`` knows."""
    parts = (GoldenPart("normal", 8),)
    monkeypatch.setattr(onnx_file, "without_data", lambda specs, *_: Golden(sample_feed(specs, 8), parts))


@pytest.mark.usefixtures("eight_samples")
@pytest.mark.parametrize("fold_bn", [True, False])
@pytest.mark.parametrize("which", ["one alone", "all together"])
def test_golden_inputs_that_depend_on_each_other_are_named_as_such(tmp_path: Path, which: str, fold_bn: bool) -> None:
    """The message blames neither folding nor the dtype."""
    with pytest.raises(ModelError, match=r"depend on each other: output 'y' changes by .* when each is run alone; export"):
        export(tmp_path, branching(apart(which)), fold_bn=fold_bn)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.usefixtures("eight_samples")
def test_a_difference_that_rounding_may_explain_is_not_called_dependence(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be verified: use a wider dtype"):
        export(tmp_path, branching(apart("one alone"), factor=1.0003), fold_bn=False)


def test_samples_that_all_take_one_branch_are_exported(tmp_path: Path) -> None:
    assert len(export(tmp_path, branching(-1e6)).fold.folded) == 1
