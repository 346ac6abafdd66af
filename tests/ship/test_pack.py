"""A bundle in one file: the same bytes from the same bundle, and nothing unpacked that is no bundle."""

from __future__ import annotations

import os
import shutil
import stat
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit.bundle.folder import open_bundle
from edgekit.commands.pack import pack
from edgekit.commands.unpack import unpack
from edgekit.errors import BundleError
from edgekit.ship import pack as packing
from tests.command_line import Command, contents, flipped, written

Entries = list[tuple[zipfile.ZipInfo, bytes]]


@pytest.fixture
def packed(bundle: Path, tmp_path: Path) -> Path:
    pack(bundle, tmp_path / "lenet.zip")
    return tmp_path / "lenet.zip"


def entries_of(file: Path) -> Entries:
    with zipfile.ZipFile(file) as archive:
        return [(info, archive.read(info)) for info in archive.infolist()]


def rewritten(file: Path, change: Callable[[Entries], None]) -> Path:
    entries = entries_of(file)
    change(entries)
    with zipfile.ZipFile(file, "w") as archive:
        for info, content in entries:
            archive.writestr(info, content, info.compress_type)
    return file


def added(name: str, content: bytes = b"x", mode: int = stat.S_IFREG | 0o644) -> Callable[[Entries], None]:
    info = zipfile.ZipInfo(name)
    info.external_attr = mode << 16
    return lambda entries: entries.append((info, content))


def replaced(name: str, change: Callable[[bytes], bytes]) -> Callable[[Entries], None]:
    def edit(entries: Entries) -> None:
        entries[:] = [(info, change(content) if info.filename.endswith(name) else content) for info, content in entries]

    return edit


def test_the_way_back_gives_the_same_folder(run: Command, bundle: Path, tmp_path: Path) -> None:
    result = run("pack", bundle, "--json")
    assert result.code == 0, result.err
    report = result.document
    assert (report["file"], report["files"]) == ("lenet.zip", sorted(contents(bundle)))
    back = run("unpack", "lenet.zip")
    assert back.code == 0, back.err
    assert "every checksum right" in back.out
    assert contents(Path("lenet")) == contents(bundle)
    assert run("verify", "lenet", "--backend", "ort-cpu").code == 0


def test_the_same_bundle_gives_the_same_bytes_wherever_and_whenever_it_lies(bundle: Path, tmp_path: Path) -> None:
    first = pack(bundle, tmp_path / "a.zip")
    shutil.copytree(bundle, tmp_path / "elsewhere")
    for number, path in enumerate((tmp_path / "elsewhere").iterdir()):
        path.chmod(0o600)
        os.utime(path, (number, number))
    second = pack(tmp_path / "elsewhere", tmp_path / "b.zip")
    assert (tmp_path / "a.zip").read_bytes() == (tmp_path / "b.zip").read_bytes()
    assert first.sha256 == second.sha256
    names = [info.filename for info, _ in entries_of(tmp_path / "a.zip")]
    assert names == sorted(names)
    assert {info.compress_type for info, _ in entries_of(tmp_path / "a.zip")} == {zipfile.ZIP_STORED}


def test_signatures_go_along_and_strangers_stay_and_are_named(bundle: Path, tmp_path: Path) -> None:
    for name in ("manifest.json.sig", "model.sig", "notes.txt"):
        written(bundle / name, name)
    report = pack(bundle, tmp_path / "signed.zip")
    assert report.notes == ("notes.txt is not part of the bundle, and was left out",)
    back = unpack(tmp_path / "signed.zip", tmp_path / "back")
    assert back.signatures == ("manifest.json.sig", "model.sig")
    assert {*contents(tmp_path / "back")} == {*contents(bundle)} - {"notes.txt"}


def test_a_zip_that_another_program_packed_unpacks_too(packed: Path, tmp_path: Path) -> None:
    def compressed(entries: Entries) -> None:
        for info, _ in entries:
            info.compress_type = zipfile.ZIP_DEFLATED
        entries.insert(0, (zipfile.ZipInfo("lenet/"), b""))

    unpack(rewritten(packed, compressed), tmp_path / "back")
    assert open_bundle(tmp_path / "back").manifest.name == "lenet"


def lost(entries: Entries) -> None:
    entries.pop()


LINK = stat.S_IFLNK | 0o777
BAD: dict[str, tuple[Callable[[Entries], None], str]] = {
    "parent": (added("lenet/../../evil"), r"holds 'lenet/\.\./\.\./evil', which is no file of a bundle"),
    "absolute": (added("/etc/evil"), "holds '/etc/evil', which is no file of a bundle"),
    "backslash": (added("lenet/..\\evil"), "which is no file of a bundle"),
    "folder": (added("lenet/more/evil"), "which is no file of a bundle"),
    "beside": (added("other/model.onnx"), "holds 'other/model.onnx', which is no file of a bundle"),
    "hidden": (added("lenet/.profile"), "which is no file of a bundle"),
    "link": (added("lenet/model.sig", b"/etc/passwd", LINK), "lenet/model.sig is a link or a device"),
    "device": (added("lenet/model.sig", b"", stat.S_IFCHR), "lenet/model.sig is a link or a device"),
    "stranger": (added("lenet/run.sh"), "holds run.sh, which the manifest does not list"),
    "other case": (added("lenet/MODEL.onnx"), "holds lenet/MODEL.onnx twice"),
    "large signature": (added("lenet/model.sig", bytes(2 << 20)), "lenet/model.sig is larger than any such file"),
    "lost": (lost, "lacks weights.safetensors"),
    "longer": (replaced("model.onnx", lambda content: content + b"x"), "model.onnx has .* bytes where the manifest says"),
    "changed": (replaced("model.onnx", flipped), "model.onnx does not have the sha256 that the manifest says"),
    "no manifest": (lambda entries: entries.clear(), r"it has no manifest\.json; give a file that edgekit pack wrote"),
    "bad manifest": (replaced("manifest.json", lambda content: content[:-9]), r"manifest\.json is damaged"),
    "large card": (replaced("README.md", lambda content: bytes(17 << 20)), "README.md is larger than any such file"),
}


@pytest.mark.parametrize("kind", BAD)
def test_a_zip_with_anything_else_is_refused_and_nothing_is_written(kind: str, packed: Path, tmp_path: Path) -> None:
    change, sentence = BAD[kind]
    rewritten(packed, change)
    before = contents(tmp_path)
    with pytest.raises(BundleError, match=sentence):
        unpack(packed, tmp_path / "back")
    assert contents(tmp_path) == before


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_file_that_is_there_twice_is_refused(packed: Path, tmp_path: Path) -> None:
    rewritten(packed, added("lenet/model.onnx", b"another network"))
    with pytest.raises(BundleError, match=r"holds lenet/model\.onnx twice"):
        unpack(packed, tmp_path / "back")


def test_a_bomb_is_refused_before_it_is_unpacked(packed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packing, "SMALL_BYTES", 1000)
    monkeypatch.setattr(packing, "MAX_INFLATION", 1)
    unpack_size = sum(len(content) for _, content in entries_of(packed))

    def compressed(entries: Entries) -> None:
        for info, _ in entries:
            info.compress_type = zipfile.ZIP_DEFLATED

    rewritten(packed, compressed)
    assert packed.stat().st_size < unpack_size
    monkeypatch.setattr(packing, "_extract", lambda *_: pytest.fail("it was unpacked"))
    with pytest.raises(BundleError, match=r"would unpack to 0 MiB from .* bytes; do not use this file"):
        unpack(packed, tmp_path / "back")


def test_an_entry_that_holds_more_than_it_says_is_refused(packed: Path, tmp_path: Path) -> None:
    def compressed(entries: Entries) -> None:
        for info, _ in entries:
            info.compress_type = zipfile.ZIP_DEFLATED

    size = next(len(content) for info, content in entries_of(packed) if info.filename == "lenet/golden.npz")
    rewritten(packed, compressed)
    rewritten(packed, replaced("golden.npz", lambda content: content + bytes(1 << 20)))
    content = packed.read_bytes()
    larger = (size + (1 << 20)).to_bytes(4, "little")
    assert content.count(larger) == 2  # in front of the entry, and in the directory
    packed.write_bytes(content.replace(larger, size.to_bytes(4, "little")))
    with pytest.raises(BundleError, match="is damaged: Bad CRC-32"):
        unpack(packed, tmp_path / "back")
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("cut", [0, 1, 100, -1, -30])
def test_a_damaged_file_is_one_sentence(run: Command, packed: Path, cut: int) -> None:
    packed.write_bytes(packed.read_bytes()[:cut])
    result = run("unpack", packed)
    assert (result.code, result.out, result.err.count("\n")) == (2, "", 1)
    assert "get the bundle again" in result.err
    assert list(Path.cwd().iterdir()) == []


def test_what_is_no_file_is_one_sentence(run: Command, bundle: Path, tmp_path: Path) -> None:
    for path, sentence in (
        (tmp_path / "none.zip", "does not exist"),
        (tmp_path, "is not a regular file"),
        (bundle, "is a bundle's folder, and there is nothing to unpack; use it as it is"),
    ):
        result = run("unpack", path)
        assert (result.code, sentence in result.err) == (2, True)


def test_the_users_files_are_never_replaced(run: Command, packed: Path, bundle: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    written(mine / "thesis.txt", "ten years of work")
    other = written(tmp_path / "other.zip", b"PK\x05\x06" + bytes(18))
    photo = written(tmp_path / "photo.png", "a photo")
    before = contents(tmp_path)
    for words, sentence in (
        (("unpack", packed, "--output", mine), "it holds thesis.txt, which is not part of a bundle"),
        (("unpack", packed, "--output", bundle / "inner"), "is a bundle, which is immutable"),
        (("pack", bundle, "--output", photo), "a file that is no packed bundle is there"),
        (("pack", bundle, "--output", other), "a file that is no packed bundle is there"),
        (("pack", bundle, "--output", mine), "a folder of that name is there"),
        (("pack", bundle, "--output", bundle / "lenet.zip"), "is a bundle, which is immutable"),
    ):
        result = run(*words)
        assert (result.code, result.out) == (2, "")
        assert sentence in result.err
    assert contents(tmp_path) == before
    assert run("pack", bundle, "--output", packed).code == 0


@pytest.mark.parametrize("manifest", ['{"name": "My app", "icons": []}', "", "[]", "no JSON"])
def test_a_folder_with_the_manifest_of_another_program_is_no_bundle(
    run: Command, bundle: Path, tmp_path: Path, manifest: str
) -> None:
    app = tmp_path / "app"
    app.mkdir()
    written(app / "manifest.json", manifest)
    assert run("pack", bundle, "--output", app / "lenet.zip").code == 0
    assert run("unpack", app / "lenet.zip", "--output", app / "lenet").code == 0
    assert run("pack", app / "lenet", "--output", app / "lenet" / "lenet.zip").code == 2


@pytest.mark.parametrize("suffix", [".zip", ".lenet"])
def test_a_packed_bundle_in_place_of_a_folder_is_told_what_to_do(
    run: Command, packed: Path, bundle: Path, tmp_path: Path, suffix: str
) -> None:
    """By every command that takes a bundle, whatever the file is called."""
    packed = packed.rename(packed.with_suffix(suffix))
    before = contents(tmp_path)
    for words in (
        ("verify", packed), ("bench", packed), ("bench", bundle, packed), ("tune", packed), ("evaluate", packed),
        ("predict", packed, bundle / "picture-0.png"), ("build", packed), ("inspect", packed), ("report", packed),
        ("diff", bundle, packed), ("web", packed, tmp_path / "page"), ("pack", packed), ("export", packed),
        ("export", packed, "--triton", tmp_path / "models"), ("quantize", packed),
        ("quantize", packed, "--output", tmp_path / "other"), ("verify", packed, "--public-key", tmp_path / "key.pub"),
    ):  # fmt: skip
        result = run(*words)
        assert (result.code, result.out) == (2, ""), words
        assert result.err == f"error: {packed} is a packed bundle; unpack it first: edgekit unpack {packed}\n", words
    assert contents(tmp_path) == before


def test_a_zip_that_is_no_packed_bundle_is_no_bundle(run: Command, tmp_path: Path) -> None:
    """As a checkpoint of PyTorch is."""
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("archive/data.pkl", b"x")
    result = run("verify", tmp_path / "weights.pt")
    assert (result.code, "is not a bundle: it is a file, and a bundle is a folder" in result.err) == (2, True)


@pytest.mark.parametrize("older", [False, True])
def test_unpacking_does_not_wait_for_itself(
    older: bool, packed: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "out"
    if older:
        shutil.copytree(bundle, root)

    def waits(seconds: float) -> None:
        raise AssertionError(f"it waits for a lock, which only this process can hold, {seconds} s at a time")

    monkeypatch.setattr("time.sleep", waits)
    assert unpack(packed, root).files == tuple(sorted(contents(bundle)))


def test_twice_as_many_entries_are_looked_at_in_twice_the_steps(tmp_path: Path) -> None:
    def steps(count: int) -> int:
        infos = [zipfile.ZipInfo(f"lenet/f{number}") for number in range(count)]
        calls = 0

        def counted(frame: object, event: str, argument: object) -> None:
            nonlocal calls
            calls += event in ("call", "c_call")

        sys.setprofile(counted)
        try:
            packing._plain_entries(infos, tmp_path / "x.zip")
        finally:
            sys.setprofile(None)
        return calls

    assert steps(400) < 2.5 * steps(200)


@pytest.mark.parametrize("words", [("pack", "--output"), ("export", "--triton"), ("export", "--golden-raw")])
def test_a_dash_for_stdout_is_refused(run: Command, bundle: Path, words: tuple[str, str]) -> None:
    command, option = words
    refused = run(command, bundle, option, "-", "--json")
    assert (refused.code, refused.document["error"]["kind"]) == (2, "OutputError")
    assert "- stands for a stream" in refused.err
    assert not Path("-").exists()
