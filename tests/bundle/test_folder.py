"""A bundle is written whole or not at all, and never replaces the user's own files."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import msgspec
import pytest

from edgekit import atomic
from edgekit.backends.choose import open_named
from edgekit.bundle.folder import check_replaceable, open_bundle, write_bundle
from edgekit.errors import BundleError, OutputError
from edgekit.setups import Setup
from tests.bundle.editing import FILES, npz


def snapshot(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def contents(root: Path) -> dict[str, bytes]:
    return {name: (root / name).read_bytes() for name in FILES}


def test_a_bundle_is_written_as_it_was_read(bundle: Path, tmp_path: Path) -> None:
    manifest = msgspec.structs.replace(open_bundle(bundle).manifest, files={})
    written = write_bundle(tmp_path / "deep" / "copy", manifest, contents(bundle))
    assert written.manifest == open_bundle(written.root).manifest == open_bundle(bundle).manifest
    assert snapshot(written.root) == snapshot(bundle)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["copy"]


def test_files_just_written_are_not_hashed_again(bundle: Path, hashed: list[Path]) -> None:
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


def test_a_bundle_that_cannot_be_opened_does_not_take_an_older_bundles_place(bundle: Path) -> None:
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
    assert sorted(path.name for path in bundle.iterdir()) == [
        "README.md",
        "bom.cdx.json",
        "evidence.npz",
        "golden.npz",
        "manifest.json",
        "model.onnx",
    ]


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


def test_the_same_model_gives_the_same_bundle_byte_for_byte(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # of no git repository, as the first one was
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


def test_where_nothing_can_be_locked_a_bundle_whose_place_another_has_taken_is_not_run(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(atomic, "_flock", lambda handle, shared=False: None)
    opened = open_bundle(bundle)
    opened.check_in_place()
    files = contents(bundle)
    write_bundle(bundle, msgspec.structs.replace(opened.manifest, name="newer"), files).check_in_place()
    with pytest.raises(BundleError, match="was replaced while it was read; run the command again"):
        opened.check_in_place()
    assert opened.golden().inputs  # what was opened is still whole
    with pytest.raises(BundleError, match="was replaced while it was read"):
        open_named("ort-cpu", Setup("ort-cpu"), opened)
