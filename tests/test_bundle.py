"""Bundles: what is in one, that damage of any kind is named before anything is used, and that writing is all or nothing."""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.bundle import folder as bundling
from edgekit.bundle.folder import check_replaceable, open_bundle, write_bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Allowance
from edgekit.errors import BundleError, OutputError, UsageError
from edgekit.files import sha256_of
from edgekit.tensors import Array
from edgekit.tolerance import Tolerance

FILES = ("README.md", "golden.npz", "model.onnx", "weights.safetensors")


def edit(root: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change the manifest as data."""
    path = root / "manifest.json"
    document = json.loads(path.read_text())
    change(document)
    path.write_text(json.dumps(document))


def put(root: Path, name: str, content: bytes) -> None:
    """Replace a file, and make its checksum right again."""
    (root / name).write_bytes(content)
    entry = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    edit(root, lambda document: document["files"].update({name: entry}))


def npz(members: Mapping[str, Array]) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **members)  # type: ignore[arg-type]
    return buffer.getvalue()


def members(root: Path) -> dict[str, Array]:
    with np.load(root / "golden.npz") as content:
        return dict(content)


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files whose content is read, while a bundle is opened."""
    seen: list[Path] = []

    def record(path: Path) -> str:
        seen.append(path)
        return sha256_of(path)

    monkeypatch.setattr("edgekit.bundle.folder.sha256_of", record)
    return seen


# the format


def test_a_bundle_opens_and_every_file_is_checked(bundle: Path, hashed: list[Path]) -> None:
    opened = open_bundle(bundle)
    assert opened.root == bundle
    assert opened.onnx_of() == opened.onnx_of("float32") == bundle / "model.onnx"
    assert opened.weights == bundle / "weights.safetensors"
    assert sorted(path.name for path in hashed) == sorted(FILES)
    assert opened.sha256_of() == hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest()
    assert opened.sha256 == hashlib.sha256((bundle / "manifest.json").read_bytes()).hexdigest()


def test_a_bundle_holds_these_files_and_no_others(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == sorted((*FILES, "manifest.json"))


def test_the_manifest_has_these_keys(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    assert list(document) == [
        "schema", "reads_from", "name", "inputs", "outputs", "preprocess", "labels", "source", "opset", "fold", "test_accuracy",
        "golden", "variants", "tools", "notes", "files",
    ]  # fmt: skip
    assert (document["schema"], document["reads_from"]) == (4, 4)
    assert document["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 1, 28, 28]}]
    assert document["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]
    assert document["preprocess"] == {
        "color": "grey", "height": 28, "width": 28, "mean": [0.286], "std": [0.353], "interpolation": "bilinear",
        "layout": "NCHW",
    }  # fmt: skip
    assert list(document["source"]) == ["model", "args", "recipe", "weights_sha256", "weights_file"]
    assert list(document["golden"]) == ["file", "samples", "kind", "seed", "original_error", "reference"]
    assert document["golden"]["reference"] == "PyTorch float64, unfolded (recorded)"
    (variant,) = document["variants"]
    assert list(variant) == ["name", "file", "precision", "allowance", "error", "accuracy", "made_by"]
    assert (variant["name"], variant["precision"]) == ("float32", "float32")
    assert variant["error"] == document["fold"]["error_exported"]
    assert variant["made_by"] == {"command": "export", "edgekit": document["tools"]["edgekit"]}
    assert list(variant["allowance"]) == ["tolerance", "accuracy_points"]
    assert list(variant["allowance"]["tolerance"]) == ["atol", "rtol", "top1"]
    assert list(document["fold"]) == ["folded", "kept", "error_float64", "error_exported"]
    assert list(document["files"]) == list(FILES)
    assert all(list(entry) == ["sha256", "size"] for entry in document["files"].values())
    assert document["labels"] == [f"class {index}" for index in range(10)]


def test_the_manifest_survives_a_round_trip_byte_for_byte(bundle: Path) -> None:
    content = (bundle / "manifest.json").read_bytes()
    assert open_bundle(bundle).manifest.to_json() == content


def test_the_golden_file_has_these_members_and_dtypes(bundle: Path) -> None:
    assert {name: (str(array.dtype), array.shape) for name, array in members(bundle).items()} == {
        "input.input": ("float32", (8, 1, 28, 28)),
        "float64.output": ("float64", (8, 10)),
        "original.output": ("float32", (8, 10)),
    }


def test_golden_arrays_come_back_as_they_were_written(bundle: Path) -> None:
    golden, raw = open_bundle(bundle).golden(), members(bundle)
    assert golden.labels is None
    np.testing.assert_array_equal(golden.inputs["input"], raw["input.input"])
    np.testing.assert_array_equal(golden.float64["output"], raw["float64.output"])
    np.testing.assert_array_equal(golden.original["output"], raw["original.output"])
    assert golden.to_npz() == (bundle / "golden.npz").read_bytes()


def test_golden_labels_are_kept(bundle: Path) -> None:
    golden = open_bundle(bundle).golden()
    put(bundle, "golden.npz", GoldenArrays(golden.inputs, golden.float64, golden.original, np.arange(8)).to_npz())
    labels = open_bundle(bundle).golden().labels
    assert labels is not None
    np.testing.assert_array_equal(labels, np.arange(8))


def test_what_the_original_was_made_of_is_handed_on_as_the_manifest_claims_it(bundle: Path) -> None:
    files = open_bundle(bundle).files()
    assert (files.factory, files.args, files.weights) == ("lenet", {}, bundle / "weights.safetensors")
    edit(bundle, lambda document: document["source"].update(model="os:system"))
    assert open_bundle(bundle).files().factory == "os:system"


# variants


@pytest.fixture
def two(bundle: Path) -> Path:
    """The bundle with a float16 file beside the first; for the manifest any bytes will do."""
    put(bundle, "half.onnx", b"half")
    allowance = {"tolerance": {"atol": 1e-5, "rtol": 3e-3, "top1": 0.98}, "accuracy_points": 0.5}
    half = {"name": "float16", "file": "half.onnx", "precision": "float16", "allowance": allowance}
    edit(bundle, lambda document: document["variants"].append(half))
    return bundle


def test_a_bundle_gives_every_variant_by_its_name_and_the_first_without_one(two: Path) -> None:
    bundle = open_bundle(two)
    assert bundle.variant() is bundle.variant("float32") is bundle.manifest.variants[0]
    half = bundle.variant("float16")
    assert half.allowance == Allowance(Tolerance(1e-5, 3e-3, 0.98), 0.5)
    assert (half.error, half.accuracy, half.made_by) == (None, None, {})
    assert bundle.onnx_of("float16") == two / "half.onnx"
    assert bundle.sha256_of("float16") == hashlib.sha256(b"half").hexdigest() != bundle.sha256_of()


def test_a_backend_is_given_the_files_of_one_variant(two: Path) -> None:
    bundle = open_bundle(two)
    first, half = bundle.files(), bundle.files("float16")
    assert (first.onnx, first.precision, first.onnx_sha256) == (two / "model.onnx", "float32", bundle.sha256_of())
    assert (half.onnx, half.precision, half.onnx_sha256) == (two / "half.onnx", "float16", bundle.sha256_of("float16"))
    assert (first.original, half.original) == (True, False)
    assert first == bundle.files("float32")
    assert half._replace(onnx=first.onnx, precision="float32", onnx_sha256=first.onnx_sha256, original=True) == first


def test_the_first_variant_is_whichever_stands_first(two: Path) -> None:
    edit(two, lambda document: document["variants"].reverse())
    bundle = open_bundle(two)
    assert (bundle.variant().name, bundle.files().precision) == ("float16", "float16")


def test_the_original_computes_what_export_made_of_it_wherever_that_stands(two: Path) -> None:
    edit(two, lambda document: document["variants"].reverse())
    bundle = open_bundle(two)
    assert (bundle.files().original, bundle.files("float32").original) == (False, True)


@pytest.mark.parametrize("made_by", [{}, {"command": "quantize"}, {"command": None}, {"export": "1.0"}])
def test_a_variant_that_export_has_not_made_is_not_what_the_original_computes(bundle: Path, made_by: dict[str, Any]) -> None:
    assert open_bundle(bundle).files().original
    edit(bundle, lambda document: document["variants"][0].update(made_by=made_by))
    assert not open_bundle(bundle).files().original


@pytest.mark.parametrize("reference", [None, "", 3])
def test_a_bundle_says_what_its_reference_is(bundle: Path, reference: Any) -> None:
    edit(bundle, lambda document: document["golden"].update(reference=reference))
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*`\$\.golden\.reference`; export the bundle again"):
        open_bundle(bundle)


@pytest.mark.parametrize(("name", "near"), [("int8", ""), ("fp32", ""), ("FLOAT32", " (did you mean 'float32'?)"), (" ", "")])
def test_a_variant_that_is_not_there_is_refused_with_those_that_are(two: Path, name: str, near: str) -> None:
    bundle = open_bundle(two)
    for ask in (bundle.variant, bundle.files, bundle.onnx_of, bundle.sha256_of, bundle.manifest.variant):
        with pytest.raises(UsageError) as caught:
            ask(name)
        assert str(caught.value) == f"bundle lenet has no variant '{name}'; choose one of: float32, float16{near}"
        assert caught.value.remedy == f"choose one of: float32, float16{near}"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "float32"}, "has two variants of the name 'float32'"),
        ({"file": "model.onnx"}, r"has two variants of one file, model\.onnx"),
        ({"name": ""}, "calls a variant '', which is no plain name"),
        ({"name": "half precision"}, "calls a variant 'half precision', which is no plain name"),
        ({"tolerance": {}}, "unknown field `tolerance`"),
        ({"allowance": {"tolerance": {}, "accuracy_points": -1}}, "accuracy_points"),
    ],
)
def test_variants_that_cannot_be_told_apart_or_held_are_refused(two: Path, change: dict[str, Any], reason: str) -> None:
    edit(two, lambda document: document["variants"][1].update(change))
    with pytest.raises(BundleError, match=rf"manifest\.json .*{reason}.*; export the bundle again"):
        open_bundle(two)


def test_every_variants_file_is_checked_when_a_bundle_is_opened(two: Path) -> None:
    (two / "half.onnx").write_bytes(b"haLf")
    with pytest.raises(BundleError, match=r"half\.onnx does not have the sha256"):
        open_bundle(two)


# damage


@pytest.mark.parametrize("which", ["inputs", "outputs"])
def test_a_tensor_without_axes_is_refused_at_opening(bundle: Path, which: str) -> None:
    edit(bundle, lambda document: document[which][0].update(shape=[]))
    with pytest.raises(BundleError, match=r"manifest\.json gives '(in|out)put' no axes, and samples are the first axis; export"):
        open_bundle(bundle)


@pytest.mark.parametrize("which", ["inputs", "outputs"])
def test_a_model_that_takes_or_gives_nothing_is_refused_at_opening(bundle: Path, which: str) -> None:
    edit(bundle, lambda document: document[which].clear())
    with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*length >= 1.*export the bundle again"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_named(bundle: Path, name: str) -> None:
    (bundle / name).unlink()
    with pytest.raises(BundleError, match=f"lacks {name}"):
        open_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named_and_not_read(bundle: Path, name: str, hashed: list[Path]) -> None:
    content = (bundle / name).read_bytes()
    (bundle / name).write_bytes(content[:-1])
    with pytest.raises(BundleError, match=rf"{name} has {len(content) - 1} bytes where the manifest says {len(content)}"):
        open_bundle(bundle)
    assert bundle / name not in hashed


@pytest.mark.parametrize("name", FILES)
def test_one_flipped_bit_is_found_and_its_file_named(bundle: Path, name: str) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[len(content) // 2] ^= 1
    (bundle / name).write_bytes(content)
    with pytest.raises(BundleError, match=f"{name} does not have the sha256"):
        open_bundle(bundle)


def test_a_size_that_lies_is_found(bundle: Path, hashed: list[Path]) -> None:
    edit(bundle, lambda document: document["files"]["model.onnx"].update(size=document["files"]["model.onnx"]["size"] + 1))
    with pytest.raises(BundleError, match=r"model\.onnx has \d+ bytes"):
        open_bundle(bundle)
    assert bundle / "model.onnx" not in hashed


@pytest.mark.parametrize("name", FILES)
def test_a_link_in_place_of_a_file_is_not_followed(bundle: Path, tmp_path: Path, name: str, hashed: list[Path]) -> None:
    (bundle / name).rename(tmp_path / "elsewhere")
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(BundleError, match=f"{name} is not a regular file"):
        open_bundle(bundle)
    assert bundle / name not in hashed


def test_a_pipe_in_place_of_a_file_is_not_waited_for(bundle: Path) -> None:
    (bundle / "model.onnx").unlink()
    os.mkfifo(bundle / "model.onnx")
    with pytest.raises(BundleError, match=r"model\.onnx is not a regular file"):
        open_bundle(bundle)


@pytest.mark.parametrize(
    "content",
    [b"", b"[]", b"null", b"{", b'{"schema": 1}', b"\xff\xfe", b'{"a": "\xff"}', b'{"a":' + b"[" * 100_000],
    ids=["empty", "list", "null", "cut", "keys missing", "not UTF-8", "text not UTF-8", "nested without end"],
)
def test_a_damaged_manifest_is_named(bundle: Path, content: bytes, hashed: list[Path]) -> None:
    (bundle / "manifest.json").write_bytes(content)
    with pytest.raises(BundleError, match=r"manifest\.json is damaged") as caught:
        open_bundle(bundle)
    assert "\n" not in str(caught.value)
    assert hashed == []


def _unknown_key(document: dict[str, Any]) -> None:
    document["golden"]["sample"] = 3


def _no_variants(document: dict[str, Any]) -> None:
    document["variants"] = []


def _impossible_mean(document: dict[str, Any]) -> None:
    document["preprocess"]["mean"] = [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [(_unknown_key, "unknown field `sample`"), (_no_variants, "variants"), (_impossible_mean, r"need 1 value\(s\)")],
)
def test_a_manifest_with_wrong_values_is_named(bundle: Path, change: Callable[[dict[str, Any]], None], reason: str) -> None:
    edit(bundle, change)
    with pytest.raises(BundleError, match=rf"manifest\.json is damaged: .*{reason}"):
        open_bundle(bundle)


def test_a_manifest_of_no_schema_is_named(bundle: Path) -> None:
    for schema in (0, -1, True, "4", None, 4.5):
        edit(bundle, lambda document, schema=schema: document.update(schema=schema))  # type: ignore[misc]
        with pytest.raises(BundleError, match=r"manifest\.json is damaged: .*schema"):
            open_bundle(bundle)


def test_a_huge_manifest_is_not_read(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bundling, "read_bytes", lambda *_: pytest.fail("it was read"))
    os.truncate(bundle / "manifest.json", (16 << 20) + 1)
    with pytest.raises(BundleError, match="larger than any manifest"):
        open_bundle(bundle)


OUTSIDE = ["../secret", "/etc/hostname", "sub/model.onnx", "..", ".", "", ".hidden", "a\\b", "a\nb", "a\0b", "manifest.json"]


@pytest.mark.parametrize("name", OUTSIDE)
@pytest.mark.parametrize("place", ["files", "variant", "golden", "weights"])
def test_a_name_that_leaves_the_folder_is_refused_and_nothing_is_read(
    bundle: Path, name: str, place: str, hashed: list[Path]
) -> None:
    (bundle.parent / "secret").write_text("outside")

    def change(document: dict[str, Any]) -> None:
        if place == "files":
            document["files"][name] = document["files"]["model.onnx"]
        elif place == "variant":
            document["variants"][0]["file"] = name
        elif place == "golden":
            document["golden"]["file"] = name
        else:
            document["source"]["weights_file"] = name or "/"

    edit(bundle, change)
    with pytest.raises(BundleError, match="no plain name in its folder"):
        open_bundle(bundle)
    assert hashed == []


def test_a_file_that_is_used_but_has_no_checksum_is_refused(bundle: Path) -> None:
    edit(bundle, lambda document: document["files"].pop("model.onnx"))
    with pytest.raises(BundleError, match=r"no checksum for model\.onnx"):
        open_bundle(bundle)


def test_something_that_is_no_bundle_is_named(tmp_path: Path, bundle: Path) -> None:
    with pytest.raises(BundleError, match=f"bundle {tmp_path / 'nothing'} does not exist"):
        open_bundle(tmp_path / "nothing")
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(tmp_path)
    with pytest.raises(BundleError, match="is not a bundle"):
        open_bundle(bundle / "model.onnx")


# damage of golden.npz that its checksum does not show


def _zip(name: str, content: bytes, **options: Any) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, **options) as archive:
        archive.writestr(name, content)
    return buffer.getvalue()


def _without(name: str) -> Callable[[Path], bytes]:
    return lambda root: npz({key: array for key, array in members(root).items() if key != name})


def _with(name: str, array: Array) -> Callable[[Path], bytes]:
    return lambda root: npz({**members(root), name: array})


def _corrupt(root: Path) -> bytes:
    content = bytearray((root / "golden.npz").read_bytes())
    content[200:260] = bytes(60)
    return bytes(content)


def _lying_header(root: Path) -> bytes:
    """A small member whose header promises more than any machine has."""
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 55,)})
    return _replaced(root, "float64.output.npy", buffer.getvalue())


def _not_an_array(root: Path) -> bytes:
    return _replaced(root, "float64.output.npy", b"no array")


def _replaced(root: Path, name: str, content: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(root / "golden.npz") as source, zipfile.ZipFile(buffer, "w") as archive:
        for member in source.namelist():
            archive.writestr(member, content if member == name else source.read(member))
    return buffer.getvalue()


GOLDEN_DAMAGE: dict[str, tuple[Callable[[Path], bytes], str]] = {
    "not a zip": (lambda _: b"PK no zip", "not a zip file"),
    "empty": (lambda _: b"", "not a zip file"),
    "an array alone": (lambda _: b"\x93NUMPY\x01\x00", "not a zip file"),
    "input missing": (_without("input.input"), "input.input"),
    "reference missing": (_without("float64.output"), "float64.output"),
    "unknown member": (_with("extra", np.zeros(1)), "'extra.npy' is unknown or too large"),
    "wrong shape": (_with("float64.output", np.zeros((8, 9))), "float64.output is float64"),
    "wrong dtype": (_with("float64.output", np.zeros((8, 10), np.float32)), "float64.output is float32"),
    "wrong number of samples": (_with("input.input", np.zeros((7, 1, 28, 28), np.float32)), "input.input is float32"),
    "labels of another shape": (_with("labels", np.arange(7)), r"labels is int64 \(7,\)"),
    "labels of another dtype": (_with("labels", np.zeros(8)), "labels is float64"),
    "bomb": (_with("float64.output", np.zeros((1 << 21,))), "'float64.output.npy' is unknown or too large"),
    "corrupt": (_corrupt, ""),
    "lying header": (_lying_header, ""),
    "not an array": (_not_an_array, ""),
}


@pytest.mark.parametrize(("damage", "reason"), GOLDEN_DAMAGE.values(), ids=GOLDEN_DAMAGE)
def test_a_golden_file_that_is_not_what_the_manifest_says_is_refused(
    bundle: Path, damage: Callable[[Path], bytes], reason: str
) -> None:
    put(bundle, "golden.npz", damage(bundle))
    opened = open_bundle(bundle)
    with pytest.raises(BundleError, match=rf"golden\.npz is not the golden file its manifest describes: .*{reason}") as caught:
        opened.golden()
    assert "\n" not in str(caught.value)


def test_a_zip_bomb_is_not_unpacked(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(bundle, "golden.npz", _zip("input.input.npy", bytes(64 << 20)))
    opened = open_bundle(bundle)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(BundleError, match=r"'input\.input\.npy' is unknown or too large"):
        opened.golden()


def test_a_manifest_that_promises_terabytes_is_refused_before_anything_is_unpacked(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(bundle, lambda document: document["inputs"][0].update(shape=["batch", 1 << 40]))
    opened = open_bundle(bundle)
    monkeypatch.setattr(np, "load", lambda *_, **__: pytest.fail("it was unpacked"))
    with pytest.raises(BundleError, match="more than 4 GiB of memory"):
        opened.golden()


def test_a_dtype_that_does_not_exist_is_refused(bundle: Path) -> None:
    edit(bundle, lambda document: document["inputs"][0].update(dtype="banana"))
    with pytest.raises(BundleError, match="banana"):
        open_bundle(bundle).golden()


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("name", ["float64.output", "labels"])
def test_nothing_in_a_golden_file_is_unpickled(bundle: Path, tmp_path: Path, name: str) -> None:
    array = np.empty(1, object)
    array[0] = Trap(tmp_path / "sprung")
    content = npz({**members(bundle), name: array})
    pickle.loads(pickle.dumps(array))  # it would work
    (tmp_path / "sprung").unlink()
    put(bundle, "golden.npz", content)
    with pytest.raises(BundleError, match=r"golden\.npz is not the golden file"):
        open_bundle(bundle).golden()
    assert not (tmp_path / "sprung").exists()


# writing


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in FILES}


def test_a_bundle_is_written_as_it_was_read(bundle: Path, tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(open_bundle(bundle).manifest, files={})
    written = write_bundle(tmp_path / "deep" / "copy", manifest, contents(bundle))
    assert written.manifest == open_bundle(written.root).manifest == open_bundle(bundle).manifest
    assert snapshot(written.root) == snapshot(bundle)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_what_was_just_written_is_not_hashed_again(bundle: Path, hashed: list[Path]) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)
    del hashed[:]
    written = write_bundle(bundle, manifest, files)
    assert hashed == []
    assert written == open_bundle(bundle)


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_was_not_written_whole_does_not_take_an_older_bundles_place(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)
    before, original = snapshot(bundle), Path.write_bytes
    monkeypatch.setattr(Path, "write_bytes", lambda path, content: original(path, content[path.name == name :]))
    with pytest.raises(BundleError, match=rf"{name} has \d+ bytes where the manifest says"):
        write_bundle(bundle, msgspec.structs.replace(manifest, name="newer"), files)
    assert snapshot(bundle) == before
    assert os.listdir(bundle.parent) == [bundle.name]


def test_what_cannot_be_opened_does_not_take_an_older_bundles_place(bundle: Path) -> None:
    manifest, files, before = open_bundle(bundle).manifest, contents(bundle), snapshot(bundle)
    with pytest.raises(BundleError, match=r"golden\.npz is not the golden file its manifest describes"):
        write_bundle(bundle, manifest, {**files, "golden.npz": npz({})})
    with pytest.raises(BundleError, match=r"no checksum for model\.onnx"):
        write_bundle(bundle, manifest, {name: content for name, content in files.items() if name != "model.onnx"})
    with pytest.raises(BundleError, match="two variants of the name"):
        write_bundle(bundle, msgspec.structs.replace(manifest, variants=manifest.variants * 2), files)
    assert snapshot(bundle) == before
    assert os.listdir(bundle.parent) == [bundle.name]


def test_an_older_bundle_is_replaced_as_a_whole(bundle: Path) -> None:
    manifest = open_bundle(bundle).manifest
    source = msgspec.structs.replace(manifest.source, weights_file=None)
    manifest = msgspec.structs.replace(manifest, name="newer", source=source)
    fewer = {name: content for name, content in contents(bundle).items() if name != "weights.safetensors"}
    write_bundle(bundle, manifest, fewer)
    assert open_bundle(bundle).manifest.name == "newer"
    assert sorted(path.name for path in bundle.iterdir()) == ["README.md", "golden.npz", "manifest.json", "model.onnx"]


def test_an_empty_folder_is_free_for_a_bundle(bundle: Path) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)
    for path in bundle.iterdir():
        path.unlink()
    write_bundle(bundle, manifest, files)
    assert open_bundle(bundle).manifest == manifest


def test_a_bundle_with_a_damaged_manifest_is_for_the_user_to_remove(bundle: Path) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)
    (bundle / "manifest.json").write_bytes(b"{")
    with pytest.raises(OutputError, match="remove the folder yourself"):
        write_bundle(bundle, manifest, files)
    assert (bundle / "README.md").is_file()


@pytest.mark.parametrize("name", ["notes.txt", ".git", "model.onnx.bak"])
def test_a_folder_with_something_of_the_users_is_refused_and_untouched(bundle: Path, name: str) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)
    (bundle / name).write_text("mine")
    before = snapshot(bundle.parent)
    with pytest.raises(OutputError, match=f"it holds {name}, which is not part of a bundle"):
        write_bundle(bundle, manifest, files)
    assert snapshot(bundle.parent) == before


def test_a_folder_that_is_no_bundle_is_refused(bundle: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine"
    target.mkdir()
    (target / "model.onnx").write_text("mine, and there is no manifest beside it")
    with pytest.raises(OutputError, match=r"it holds model\.onnx"):
        write_bundle(target, open_bundle(bundle).manifest, contents(bundle))
    assert [path.name for path in target.iterdir()] == ["model.onnx"]


def test_a_file_or_a_link_at_the_place_is_refused(bundle: Path, tmp_path: Path) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link"):
        with pytest.raises(OutputError, match="something that is not a folder is there"):
            write_bundle(tmp_path / name, manifest, files)
    assert (tmp_path / "file").read_text() == "mine"
    assert (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("after", [0, 2, 4])
def test_a_full_disk_leaves_the_older_bundle_and_nothing_else(bundle: Path, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)
    before = snapshot(bundle.parent)
    original = Path.write_bytes
    written: list[Path] = []

    def write_bytes(path: Path, content: bytes) -> int:
        if len(written) == after:
            original(path, content[:10])
            raise OSError(errno.ENOSPC, "No space left on device")
        written.append(path)
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", write_bytes)
    with pytest.raises(OutputError, match=f"cannot write {bundle}: No space left on device; free some disk space"):
        write_bundle(bundle, msgspec.structs.replace(manifest, name="newer"), files)
    monkeypatch.undo()
    assert len(written) == after
    assert snapshot(bundle.parent) == before
    assert os.listdir(bundle.parent) == [bundle.name]
    assert open_bundle(bundle).manifest == manifest


def test_a_bundle_written_for_the_first_time_is_not_there_in_part(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, files = open_bundle(bundle).manifest, contents(bundle)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    place = tmp_path / "new"
    place.mkdir()
    monkeypatch.setattr(Path, "write_bytes", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_bundle(place / "bundle", manifest, files)
    assert list(place.iterdir()) == []


def test_the_same_model_gives_the_same_bundle_byte_for_byte(bundle: Path, tmp_path: Path) -> None:
    from edgekit.commands.export import export
    from edgekit.sources import ExportOptions

    (tmp_path / "labels.txt").write_text("\n".join(open_bundle(bundle).manifest.labels))
    options = ExportOptions(
        weights=bundle / "weights.safetensors",
        mean=(0.286,),
        std=(0.353,),
        labels=tmp_path / "labels.txt",
    )
    export("lenet", tmp_path / "again", options)
    again, first = snapshot(tmp_path / "again"), snapshot(bundle)
    assert again.keys() == first.keys()
    assert [name for name in again if again[name] != first[name]] == []


def test_a_folder_whose_manifest_is_not_ours_is_never_replaced(tmp_path: Path) -> None:
    app = tmp_path / "app"
    (app / "weights.safetensors").mkdir(parents=True)
    (app / "weights.safetensors" / "mine.txt").write_text("precious")
    (app / "manifest.json").write_text('{"name": "my web app"}')
    (app / "README.md").write_text("precious")
    with pytest.raises(OutputError, match="is no bundle's"):
        check_replaceable(app)
    assert (app / "README.md").read_text() == "precious"


@pytest.mark.parametrize("name", ["", ".", "..", "/", "new/.."])
def test_a_bundle_never_takes_the_place_of_the_folder_one_stands_in(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.chdir(bundle)
    with pytest.raises(OutputError, match="this folder cannot be replaced by another; give --output a name in it"):
        check_replaceable(Path(name))


def test_a_folder_of_an_endless_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="File name too long; choose a shorter name"):
        check_replaceable(tmp_path / ("x" * 5000))
