"""A model repository for Triton: every field parsed by Triton's own definition and held against the ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import TensorProto

from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.errors import BundleError
from edgekit.ship import Forms
from edgekit.ship.triton import MOST_BATCH, model_of
from edgekit.tensors import TensorSpec
from tests.command_line import Command, contents, written
from tests.onnx.crafted import conv, export, norm, statistics, tensor
from tests.onnx.crafted import model_of as onnx_of

TYPES = {TensorProto.FLOAT: "TYPE_FP32", TensorProto.FLOAT16: "TYPE_FP16", TensorProto.INT64: "TYPE_INT64"}


def parsed(folder: Path) -> Any:
    """The config of a model, by Triton's model_config.proto; unknown fields are errors."""
    pytest.importorskip("tritonclient.grpc", reason="tritonclient is not installed", exc_type=ImportError)
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), model_config_pb2.ModelConfig())


def values(infos: Any) -> dict[str, tuple[str, list[int]]]:
    """Name -> Triton's type and the axes of an ONNX file's tensors; -1 is a free one."""
    return {
        info.name: (
            TYPES[info.type.tensor_type.elem_type],
            [axis.dim_value if axis.HasField("dim_value") else -1 for axis in info.type.tensor_type.shape.dim],
        )
        for info in infos
    }


def check_against_file(folder: Path) -> Any:
    """Hold every field of a model's config against its file, and return the config."""
    config, model = parsed(folder), onnx.shape_inference.infer_shapes(onnx.load(folder / "1" / "model.onnx"))
    assert (config.name, config.backend, config.platform) == (folder.name, "onnxruntime", "")
    batched = config.max_batch_size > 0
    assert config.HasField("dynamic_batching") == batched
    for declared, infos in ((config.input, model.graph.input), (config.output, model.graph.output)):
        expected = values(infos)
        assert [entry.name for entry in declared] == list(expected)
        for entry in declared:
            dtype, axes = expected[entry.name]
            assert config.DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_number[entry.data_type].name == dtype
            assert (axes[0] == -1) == batched
            shape = list(entry.reshape.shape) if entry.HasField("reshape") else list(entry.dims)
            assert shape == (axes[1:] if batched else axes)
    for warm_up in config.model_warmup:
        assert set(warm_up.inputs) == {entry.name for entry in config.input}
        assert 1 <= warm_up.batch_size <= max(config.max_batch_size, 1)
        for entry in config.input:
            given = warm_up.inputs[entry.name]
            assert (given.data_type, list(given.dims)) == (entry.data_type, list(entry.dims))
    return config


def test_every_variant_becomes_a_model_whose_config_says_what_its_file_does(
    run: Command, repository: Path, tmp_path: Path
) -> None:
    bundle = open_bundle(repository / "exported" / "edgenet")
    result = run("export", bundle.root, "--triton", tmp_path / "models", "--json")
    assert result.code == 0, result.err
    folders = sorted((tmp_path / "models").iterdir())
    assert [folder.name for folder in folders] == [
        "edgenet-float16", "edgenet-float32", "edgenet-int8", "edgenet-with-preprocessing",
    ]  # fmt: skip
    golden = bundle.golden().inputs["input"]
    for folder in folders[:-1]:  # the last takes pictures, see below
        config = check_against_file(folder)
        assert config.max_batch_size == MOST_BATCH
        assert [warm_up.batch_size for warm_up in config.model_warmup] == [1, MOST_BATCH]
        variant = folder.name.removeprefix("edgenet-")
        assert (folder / "1" / "model.onnx").read_bytes() == bundle.onnx_bytes(variant)
        assert (folder / config.output[0].label_filename).read_text(encoding="utf-8").splitlines() == list(bundle.manifest.labels)
        file = config.model_warmup[0].inputs["input"].input_data_file
        assert np.array_equal(np.frombuffer((folder / "warmup" / file).read_bytes(), "<f4").reshape(1, 1, 28, 28), golden[:1])
    shipped = {
        f"{path.relative_to(tmp_path / 'models').as_posix()}" for path in (tmp_path / "models").rglob("*") if path.is_file()
    }
    assert set(result.document["shipped"][0]["files"]) == shipped


def test_a_fixed_batch_has_no_batching_and_full_dims(tmp_path: Path) -> None:
    stored = [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), onnx.numpy_helper.from_array(np.array([5, 6, 12, 12]), "size")]
    resize = onnx.helper.make_node("Resize", ["n", "", "", "size"], ["y"], "resize", mode="nearest")
    export(tmp_path, onnx_of([conv(), norm("c", "n"), resize], stored, shape=(5, 4, 8, 8)))
    bundle = open_bundle(tmp_path / "bundle")
    Forms(triton=tmp_path / "models").write(bundle)
    (folder,) = (tmp_path / "models").iterdir()
    config = check_against_file(folder)
    assert config.max_batch_size == 0
    assert list(config.input[0].dims) == [5, 4, 8, 8]
    assert [warm_up.batch_size for warm_up in config.model_warmup] == [1]
    assert (folder / "warmup" / "0-x.bin").read_bytes() == bundle.golden().inputs["x"][:5].tobytes()


def test_a_variant_that_takes_pictures_is_warmed_up_with_pictures_of_any_size(taking_pictures: Path, tmp_path: Path) -> None:
    bundle = open_bundle(taking_pictures)
    Forms(triton=tmp_path / "models").write(bundle)
    folder = tmp_path / "models" / "lenet-with-preprocessing"
    config = parsed(folder)
    assert [(entry.name, list(entry.dims), entry.Format.Name(entry.format)) for entry in config.input] == [
        ("picture", [-1, -1, 3], "FORMAT_NHWC")
    ]
    assert config.max_batch_size == MOST_BATCH
    picture = bundle.golden("with-preprocessing").inputs["picture"][0]
    warm_up = config.model_warmup[0].inputs["picture"]
    assert list(warm_up.dims) == list(picture.shape)
    assert (folder / "warmup" / warm_up.input_data_file).read_bytes() == picture.tobytes()
    plain = parsed(tmp_path / "models" / "lenet-float32").input[0]
    assert plain.Format.Name(plain.format) == "FORMAT_NCHW"


def edited(bundle: Path, root: Path, **changes: Any) -> Any:
    """A bundle whose tensors are named or shaped as a manifest from elsewhere may have them; its file stays."""
    opened = open_bundle(bundle)
    manifest = msgspec.structs.replace(opened.manifest, **changes)
    golden = opened.golden()
    arrays = next(iter(golden.inputs.values()))
    inputs = {spec.name: np.zeros(spec.of_samples(len(arrays)), spec.dtype) for spec in manifest.inputs}
    files = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    files["golden.npz"] = GoldenArrays(inputs, golden.float64, golden.original, golden.labels).to_npz()
    return write_bundle(root, manifest, files)


def test_names_of_any_kind_stay_names_and_a_number_a_sample_is_written_with_one_dim(bundle: Path, tmp_path: Path) -> None:
    names = ('a"b\\c\n}', "Größe/ü:0")
    inputs = tuple(TensorSpec(name, "float32", ("batch",)) for name in names)
    other = edited(bundle, tmp_path / "other", inputs=inputs, name="../../etc", preprocess=None)
    Forms(triton=tmp_path / "models").write(other)
    (folder,) = (tmp_path / "models").iterdir()
    assert folder.name == "model-float32"
    config = parsed(folder)
    assert [entry.name for entry in config.input] == list(names)
    assert [(list(entry.dims), list(entry.reshape.shape)) for entry in config.input] == [([1], []), ([1], [])]
    assert sorted(config.model_warmup[0].inputs) == sorted(names)
    for warm_up in config.model_warmup[0].inputs.values():
        assert len((folder / "warmup" / warm_up.input_data_file).read_bytes()) == 4


def test_a_label_keeps_its_line(bundle: Path, tmp_path: Path) -> None:
    labels = ("two\nlines", *(str(number) for number in range(9)))
    model = model_of(edited(bundle, tmp_path / "other", labels=labels), "float32")
    assert model.files["labels.txt"].decode().splitlines()[:2] == ["two lines", "0"]


def test_a_dtype_that_triton_lacks_is_refused(bundle: Path) -> None:
    opened = open_bundle(bundle)
    strange = msgspec.structs.replace(opened.manifest.outputs[0], dtype="complex64")
    manifest = msgspec.structs.replace(opened.manifest, outputs=(strange,))
    with pytest.raises(BundleError, match="'output' is complex64, which Triton does not have"):
        model_of(msgspec.structs.replace(opened, manifest=manifest), "float32")


def test_a_model_of_edgekits_is_replaced_and_anything_else_stays(run: Command, bundle: Path, tmp_path: Path) -> None:
    models = tmp_path / "models"
    (models / "other" / "1").mkdir(parents=True)
    written(models / "other" / "config.pbtxt", 'name: "other"')
    for _ in range(2):
        assert run("export", bundle, "--triton", models).code == 0
    before = contents(models)
    assert "other/config.pbtxt" in before
    (models / "lenet-float32" / "2").mkdir()
    written(models / "lenet-float32" / "2" / "model.onnx", b"mine")
    before = contents(models)
    refused = run("export", bundle, "--triton", models)
    assert (refused.code, refused.out) == (2, "")
    assert "lenet-float32: it holds 2/model.onnx, which edgekit did not write; move it away" in refused.err
    assert contents(models) == before


def test_a_config_that_somebody_wrote_is_not_replaced(run: Command, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "models" / "lenet-float32").mkdir(parents=True)
    written(tmp_path / "models" / "lenet-float32" / "config.pbtxt", 'name: "mine"')
    before = contents(tmp_path / "models")
    assert run("export", bundle, "--triton", tmp_path / "models").code == 2
    assert contents(tmp_path / "models") == before


def test_what_changes_a_bundle_is_refused_beside_one(run: Command, bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    for words, expected in (
        ((), "is a bundle already; say what to write of it: --triton DIR or --golden-raw DIR"),
        (("--triton", tmp_path / "a", "--opset", "18"), "is a bundle already, and a bundle is immutable; leave out"),
        (("--triton", tmp_path / "a", "--output", tmp_path / "b"), "is a bundle already, and a bundle is immutable; leave out"),
        (("--triton", bundle / "models"), "is a bundle, which is immutable; choose a place outside of it"),
        (("--golden-raw", bundle), "is a bundle, which is immutable; choose a place outside of it"),
    ):
        result = run("export", bundle, *words)
        assert (result.code, result.out) == (2, "")
        assert expected in result.err
    assert contents(bundle) == before
    assert not (tmp_path / "a").exists()


def test_an_export_writes_its_forms_too_and_never_into_the_new_bundle(run: Command, tmp_path: Path) -> None:
    inside = run("export", "lenet", "--output", tmp_path / "new", "--golden-raw", tmp_path / "new" / "raw")
    assert inside.code == 2
    assert not (tmp_path / "new").exists()
    result = run(
        "export", "lenet", "--output", tmp_path / "new", "--triton", tmp_path / "models", "--golden-raw", tmp_path / "raw"
    )
    assert result.code == 0, result.err
    assert "next: tritonserver --model-repository=" in result.out
    check_against_file(tmp_path / "models" / "lenet-float32")
    assert (tmp_path / "raw" / "golden.json").is_file()
