"""Files whose batch cannot be freed become bundles of that batch, which every command takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from edgekit.bundle.folder import open_bundle
from edgekit.errors import ModelError
from tests.command_line import Command
from tests.onnx.crafted import conv, export, model_of, node, norm, statistics, tensor


def integers(name: str, *numbers: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(numbers), name)


def resizing(batch: int) -> onnx.ModelProto:
    """A file with a stored size, in which the batch is one number."""
    resize = helper.make_node("Resize", ["n", "", "", "size"], ["y"], "resize", mode="nearest")
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), integers("size", batch, 6, 12, 12)]
    return model_of([conv(), norm("c", "n"), resize], stored, shape=(batch, 4, 8, 8))


def with_class_token() -> onnx.ModelProto:
    nodes = [
        conv(),
        norm("c", "n"),
        node("Reshape", ["n", "rows"], "r"),
        node("Transpose", ["r"], "t", perm=[0, 2, 1]),
        node("Concat", ["token", "t"], "y", axis=1),
    ]
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), integers("rows", 1, 6, 36), tensor("token", 1, 1, 6)]
    return model_of(nodes, stored, shape=(1, 4, 8, 8), rank=3)


@pytest.mark.parametrize(
    ("model", "batch"), [(resizing(1), 1), (resizing(5), 5), (with_class_token(), 1)], ids=["1", "5", "token"]
)
def test_a_fixed_batch_stays_in_bundle_and_file_and_verifies(model: onnx.ModelProto, batch: int, tmp_path: Path) -> None:
    report = export(tmp_path, model)  # folds, and verifies
    bundle = open_bundle(tmp_path / "bundle")
    manifest, golden = bundle.manifest, bundle.golden()
    assert any(f"takes batches of {batch} only, and so does the bundle" in note for note in report.notes)
    assert len(report.fold.folded) == 1
    assert {spec.shape[0] for spec in (*manifest.inputs, *manifest.outputs)} == {batch}
    assert manifest.golden.samples == len(golden.inputs["x"]) >= 8
    assert manifest.golden.samples % batch == 0
    assert (
        len(np.unique(golden.inputs["x"].reshape(manifest.golden.samples, -1), axis=0)) == manifest.golden.samples
    )  # no sample twice


def test_bench_takes_the_fixed_batch_and_refuses_another(run: Command, tmp_path: Path) -> None:
    export(tmp_path, resizing(5))
    result = run("bench", tmp_path / "bundle", "--backend", "ort-cpu", "--seconds", "0.01", "--json")
    assert result.code == 0, result.err
    assert {row["batch"] for row in result.document["rows"]} == {5}
    assert run("bench", tmp_path / "bundle", "--backend", "ort-cpu", "--seconds", "0.01", "--batch", "5").code == 0
    refused = run("bench", tmp_path / "bundle", "--batch", "1,8")
    assert refused.code == 2
    assert "takes batches of 5 only; give --batch 5, or leave it out" in refused.err


def test_a_wrong_number_in_a_fixed_batch_fails_verify(run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export(tmp_path, resizing(5))
    monkeypatch.setattr(
        "edgekit.backends.onnxruntime.session.OrtSession.run", lambda self, feed: {"y": np.zeros((5, 6, 12, 12), "f4")}
    )
    assert run("verify", tmp_path / "bundle", "--backend", "ort-cpu").code == 1


def test_the_cards_program_runs_on_a_fixed_batch(tmp_path: Path) -> None:
    export(tmp_path, resizing(5))
    card = (tmp_path / "bundle" / "README.md").read_text()
    program = card.partition("```python\n")[2].partition("```")[0]
    done = subprocess.run([sys.executable, "-c", program], cwd=tmp_path / "bundle", capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "(5, 6, 12, 12)\n"), done.stderr


def test_predict_labels_single_pictures_with_a_fixed_batch(run: Command, tmp_path: Path) -> None:
    resize = helper.make_node("Resize", ["x", "", "", "size"], ["r"], "resize", mode="nearest")
    nodes = [resize, conv("r"), node("GlobalAveragePool", ["c"], "p"), node("Flatten", ["p"], "y")]
    model = model_of(nodes, [tensor("w", 3, 3, 3, 3), integers("size", 2, 3, 12, 12)], shape=(2, 3, 8, 8), rank=2)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")
    Image.effect_noise((9, 9), 90).convert("RGB").save(tmp_path / "p.png")
    words = ("--labels", tmp_path / "labels.txt", "--mean", "0,0,0", "--std", "1,1,1", "--output", tmp_path / "bundle")
    assert run("export", tmp_path / "net.onnx", *words).code == 0
    result = run("predict", tmp_path / "bundle", tmp_path / "p.png", "--json")
    assert result.code == 0, result.err
    assert len(result.document["predictions"][0]["guesses"]) == 3


@pytest.mark.parametrize("size", [-1, 0])
def test_a_batch_written_as_a_number_that_is_no_size_is_free(size: int, tmp_path: Path) -> None:
    model = model_of([conv(), norm("c", "y")], [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)], shape=(size, 4, 8, 8))
    export(tmp_path, model)
    bundle = open_bundle(tmp_path / "bundle")
    assert bundle.manifest.inputs[0].shape == ("batch", 4, 8, 8)
    graph = onnx.load(bundle.onnx_of()).graph
    assert [value.type.tensor_type.shape.dim[0].dim_param for value in (*graph.input, *graph.output)] == ["batch", "batch"]


CHW = model_of(
    [node("Unsqueeze", ["x", "first"], "u"), conv("u"), node("Squeeze", ["c", "first"], "y")],
    [integers("first", 0), tensor("w", 6, 4, 3, 3)],
    shape=(4, 8, 8),
    rank=3,
)
BOXES = model_of(
    [conv(), node("Reshape", ["c", "rows"], "r"), node("Transpose", ["r"], "y", perm=[1, 0])],
    [tensor("w", 6, 4, 3, 3), integers("rows", 6, 36)],
    shape=(1, 4, 8, 8),
    rank=2,
)
BOXES.graph.output[0].type.tensor_type.shape.dim[0].Clear()


@pytest.mark.parametrize(
    ("model", "shapes"), [(CHW, "is 6x6x6 for an input 'x' of 4x8x8"), (BOXES, "is 36x6 for an input 'x' of 1x")]
)
def test_a_file_without_a_batch_is_one_sentence_with_file_tensor_and_remedy(
    model: onnx.ModelProto, shapes: str, tmp_path: Path
) -> None:
    if model is CHW:
        model.graph.output[0].type.tensor_type.shape.dim[0].Clear()
    with pytest.raises(ModelError, match=rf"output 'y' of .*net.onnx {shapes}.*; export the model again so that the first axis"):
        export(tmp_path, model)
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize(("kind", "top"), [(TensorProto.UINT8, 255), (TensorProto.UINT16, 65535), (TensorProto.INT32, 255)])
def test_pictures_of_integers_get_golden_values_over_their_range(kind: int, top: int, tmp_path: Path) -> None:
    nodes = [node("Cast", ["x"], "f", to=TensorProto.FLOAT), node("Div", ["f", "top"], "s"), conv("s", "y")]
    model = model_of(nodes, [numpy_helper.from_array(np.float32(top), "top"), tensor("w", 6, 4, 3, 3)])
    model.graph.input[0].type.tensor_type.elem_type = kind
    export(tmp_path, model)
    pixels = open_bundle(tmp_path / "bundle").golden().inputs["x"]
    assert pixels.min() < 0.02 * top
    assert 0.98 * top < pixels.max() <= top


def test_a_sample_that_depends_on_its_place_in_the_batch_is_refused(tmp_path: Path) -> None:
    """Another number is added to each sample of the batch, so that the file takes batches of 4 only."""
    model = model_of([conv(), node("Add", ["c", "places"], "y")], [tensor("w", 6, 4, 3, 3), tensor("places", 4, 1, 1, 1)])
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    with pytest.raises(ModelError, match=r"depend on a sample's place within its batch of 4: output 'y' changes by"):
        export(tmp_path, model)
