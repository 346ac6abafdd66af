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
from edgekit.errors import BundleError, OutputError
from edgekit.tensors import Array

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
    original = bundling.sha256_of

    def record(path: Path) -> str:
        seen.append(path)
        return original(path)

    monkeypatch.setattr(bundling, "sha256_of", record)
    return seen


# the format


def test_a_bundle_opens_and_every_file_is_checked(bundle: Path, hashed: list[Path]) -> None:
    opened = open_bundle(bundle)
    assert opened.root == bundle
    assert opened.onnx == bundle / "model.onnx"
    assert opened.weights == bundle / "weights.safetensors"
    assert sorted(path.name for path in hashed) == sorted(FILES)
    assert opened.onnx_sha256 == hashlib.sha256((bundle / "model.onnx").read_bytes()).hexdigest()


def test_a_bundle_holds_these_files_and_no_others(bundle: Path) -> None:
    assert sorted(path.name for path in bundle.iterdir()) == sorted((*FILES, "manifest.json"))


def test_the_manifest_has_these_keys(bundle: Path) -> None:
    document = json.loads((bundle / "manifest.json").read_text())
    assert list(document) == [
        "schema", "name", "inputs", "outputs", "preprocess", "labels", "source", "opset", "fold", "test_accuracy", "golden",
        "variants", "tools", "notes", "files",
    ]  # fmt: skip
    assert document["schema"] == 3
    assert document["inputs"] == [{"name": "input", "dtype": "float32", "shape": ["batch", 1, 28, 28]}]
    assert document["outputs"] == [{"name": "output", "dtype": "float32", "shape": ["batch", 10]}]
    assert document["preprocess"] == {
        "color": "grey", "height": 28, "width": 28, "mean": [0.286], "std": [0.353], "interpolation": "bilinear",
        "layout": "NCHW",
    }  # fmt: skip
    assert list(document["source"]) == ["model", "args", "recipe", "weights_sha256", "weights_file"]
    assert list(document["golden"]) == ["file", "samples", "kind", "seed", "float32_error"]
    assert [list(variant) for variant in document["variants"]] == [["name", "file", "precision", "tolerance"]]
    assert list(document["variants"][0]["tolerance"]) == ["atol", "rtol", "top1"]
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
        "float32.output": ("float32", (8, 10)),
    }


def test_golden_arrays_come_back_as_they_were_written(bundle: Path) -> None:
    golden, raw = open_bundle(bundle).golden(), members(bundle)
    assert golden.labels is None
    np.testing.assert_array_equal(golden.inputs["input"], raw["input.input"])
    np.testing.assert_array_equal(golden.float64["output"], raw["float64.output"])
    np.testing.assert_array_equal(golden.float32["output"], raw["float32.output"])
    assert golden.to_npz() == (bundle / "golden.npz").read_bytes()


def test_golden_labels_are_kept(bundle: Path) -> None:
    golden = open_bundle(bundle).golden()
    put(bundle, "golden.npz", GoldenArrays(golden.inputs, golden.float64, golden.float32, np.arange(8)).to_npz())
    labels = open_bundle(bundle).golden().labels
    assert labels is not None
    np.testing.assert_array_equal(labels, np.arange(8))


def test_pytorch_is_offered_for_shipped_models_only(bundle: Path) -> None:
    assert open_bundle(bundle).model_files().torch_model == "lenet"
    edit(bundle, lambda document: document["source"].update(model="os:system"))
    assert open_bundle(bundle).model_files().torch_model is None


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


def test_a_bundle_of_schema_1_still_opens(bundle: Path) -> None:
    def older(document: dict[str, Any]) -> None:
        document["schema"] = 1
        document["fold"]["folded"] = [{"norm": "1", "kind": "BatchNorm2d", "into": "0"}]

    edit(bundle, older)
    assert open_bundle(bundle).manifest.fold.folded[0].into == ("0",)


def test_a_newer_schema_asks_for_a_newer_edgekit(bundle: Path) -> None:
    edit(bundle, lambda document: document.update(schema=4, something="new"))
    with pytest.raises(BundleError, match=r"has schema 4, and this edgekit reads up to 3; upgrade edgekit"):
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
    np.lib.format.write_array_header_1_0(buffer, {"descr": "<f8", "fortran_order": False, "shape": (1 << 55,)})  # type: ignore[no-untyped-call]
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
    original, written = Path.write_bytes, []

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
    from edgekit.commands.export import export_source
    from edgekit.sources.module import ExportOptions

    (tmp_path / "labels.txt").write_text("\n".join(open_bundle(bundle).manifest.labels))
    options = ExportOptions(
        output=tmp_path / "again",
        weights=bundle / "weights.safetensors",
        mean=(0.286,),
        std=(0.353,),
        labels=tmp_path / "labels.txt",
    )
    export_source("lenet", options)
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
