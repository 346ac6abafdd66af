"""Files that are whole or absent."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from edgekit import atomic, files
from edgekit.bundle.golden import read_arrays
from edgekit.decoding import decoded
from edgekit.errors import BundleError, DataError, InputError, ModelError, OutputError
from edgekit.files import (
    check_writable,
    destination,
    is_onnx,
    read_bytes,
    read_text,
    replacing,
    replacing_folder,
    sha256_of,
    write_bytes,
    write_text,
)
from edgekit.models.weight_files import read_weights

CODES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some of your quota",
    errno.EACCES: "choose a folder you may write to",
    errno.EROFS: "choose a folder you may write to",
    errno.EIO: "check the path",
}


@pytest.fixture(params=[0o022, 0o077, 0o002])
def mask(request: pytest.FixtureRequest) -> Iterator[int]:
    old = os.umask(request.param)
    yield request.param
    os.umask(old)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("net.onnx", True), ("NET.ONNX", True), ("a.b/net.Onnx", True), (Path("net.onnx"), True), ("onnx", False),
        (".onnx", False), ("net.onnx.bak", False), ("net.onnx2", False), ("lenet", False), ("torchvision.models:resnet18", False),
    ],
)  # fmt: skip
def test_an_onnx_file_is_known_by_its_suffix_in_any_case(name: str | Path, expected: bool) -> None:
    assert is_onnx(name) is expected


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    write_text(tmp_path / "a" / "b" / "file.txt", "grün")
    assert (tmp_path / "a" / "b" / "file.txt").read_bytes() == "grün".encode()
    assert os.listdir(tmp_path / "a" / "b") == ["file.txt"]


def test_the_old_content_is_there_until_the_new_one_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with replacing(path) as temporary:
        assert temporary.parent == path.parent
        temporary.write_text("new, in part")
        assert path.read_text() == "old"
        temporary.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("failure", [ValueError("no"), KeyboardInterrupt()], ids=["error", "Ctrl-C"])
def test_a_failure_leaves_the_old_content_and_nothing_else(tmp_path: Path, failure: BaseException) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def write() -> None:
        with replacing(path) as temporary:
            temporary.write_text("half")
            raise failure

    with pytest.raises(type(failure)):
        write()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize(("code", "remedy"), CODES.items(), ids=[errno.errorcode[code] for code in CODES])
def test_a_failed_write_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(*_: object) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "write_bytes", fail)
    with pytest.raises(OutputError) as caught:
        write_bytes(path, b"new")
    assert str(caught.value) == f"cannot write {path}: {os.strerror(code)}; {remedy}, nothing was changed there"
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("step", ["mkstemp", "replace"])
def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(tempfile if step == "mkstemp" else os, step, refuse)
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / 'file'}: Permission denied; choose a folder"):
        write_bytes(tmp_path / "file", b"new")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_folder_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(OutputError, match="Permission denied; choose a folder you may write to"):
        write_bytes(tmp_path / "file", b"new")
    tmp_path.chmod(0o700)


def test_a_file_in_place_of_a_parent_is_named(tmp_path: Path) -> None:
    (tmp_path / "parent").write_text("a file")
    for write in (lambda path: write_bytes(path, b""), lambda path: replacing_folder(path).__enter__()):
        for path in (tmp_path / "parent" / "file", tmp_path / "parent" / "deep" / "file"):
            with pytest.raises(OutputError, match="choose a path whose parents are folders"):
                write(path)
    assert (tmp_path / "parent").read_text() == "a file"


def test_a_folder_in_place_of_the_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").mkdir()
    with pytest.raises(OutputError, match="a folder of that name is there; choose another name"):
        write_bytes(tmp_path / "file", b"")
    assert os.listdir(tmp_path) == ["file"]


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound_socket(path: Path) -> None:
    here = os.getcwd()
    os.chdir(path.parent)  # a socket's name must be short
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(path.name)
    os.chdir(here)


@pytest.mark.parametrize(("make", "kind"), [(pipe, "pipe"), (bound_socket, "socket"), (Path.mkdir, "folder")])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "behind a link"])
def test_what_is_no_file_is_never_replaced_by_one(tmp_path: Path, make: Callable[[Path], None], kind: str, linked: bool) -> None:
    make(tmp_path / "there")
    path = tmp_path / "link" if linked else tmp_path / "there"
    if linked:
        path.symlink_to("there")
    before = {path.name: path.lstat().st_mode for path in tmp_path.iterdir()}
    with pytest.raises(OutputError) as caught:
        write_bytes(path, b"new")
    assert str(caught.value) == f"cannot write {path}: a {kind} of that name is there; choose another name"
    with pytest.raises(OutputError, match=f"a {kind} of that name"):
        destination(path)  # before any work
    assert {path.name: path.lstat().st_mode for path in tmp_path.iterdir()} == before


@pytest.mark.parametrize("name", ["", ".", "..", "gone/..", "/"])
def test_a_name_that_can_only_be_a_folders_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(OutputError, match="a folder of that name is there; choose another name"):
        write_bytes(Path(name), b"new")
    assert os.listdir(tmp_path / "here") == []


@pytest.mark.parametrize("there", [True, False], ids=["of a file", "of nothing yet"])
def test_a_link_stays_and_what_it_points_to_is_replaced(tmp_path: Path, there: bool) -> None:
    (tmp_path / "shared").mkdir()
    if there:
        (tmp_path / "shared" / "results").write_text("old")
    path = tmp_path / "results"
    path.symlink_to("shared/results")
    write_text(path, "new")
    assert path.is_symlink()
    assert (tmp_path / "shared" / "results").read_text() == "new"
    assert os.listdir(tmp_path / "shared") == ["results"]
    assert sorted(os.listdir(tmp_path)) == ["results", "shared"]


def test_a_link_to_itself_is_named(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("link")
    with pytest.raises(OutputError, match=f"cannot write {tmp_path / 'link'}: Too many levels"):
        write_bytes(tmp_path / "link", b"")


def test_a_folder_takes_the_place_of_no_file_and_no_link(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("folder")
    (tmp_path / "loose").symlink_to("gone")
    for name in ("pipe", "link", "loose"):
        reason = "something that is not a folder is there" if name == "pipe" else "a link is there; give the folder"
        with pytest.raises(OutputError, match=reason):
            replacing_folder(tmp_path / name).__enter__()
    assert sorted(os.listdir(tmp_path)) == ["folder", "link", "loose", "pipe"]


def test_a_name_may_be_as_long_as_the_file_system_allows_and_no_longer(tmp_path: Path) -> None:
    write_bytes(tmp_path / ("x" * 255), b"content")
    with replacing_folder(tmp_path / ("y" * 255)) as folder:
        (folder / "inside").write_text("")
    assert sorted(map(len, os.listdir(tmp_path))) == [255, 255]
    for name in ("x" * 256, "x" * 5000):
        for write in (lambda path: write_bytes(path, b""), lambda path: replacing_folder(path).__enter__(), check_writable):
            with pytest.raises(OutputError, match="File name too long; choose a shorter name"):
                write(tmp_path / name)


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o444, 0o755])
@pytest.mark.parametrize("linked", [False, True], ids=["itself", "behind a link"])
def test_a_file_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int, linked: bool) -> None:
    place = tmp_path / "place"
    place.write_text("secret")
    place.chmod(mode)
    (tmp_path / "link").symlink_to("place")
    write_bytes(tmp_path / "link" if linked else place, b"new")
    assert place.read_bytes() == b"new"
    assert stat.S_IMODE(place.stat().st_mode) == mode


def test_a_link_into_a_folder_that_is_not_there_makes_none(tmp_path: Path) -> None:
    """A shell's ``>`` fails too."""
    (tmp_path / "link").symlink_to("gone/file")
    with pytest.raises(OutputError, match=r"cannot write .*link: No such file or directory; check the path"):
        write_bytes(tmp_path / "link", b"")
    assert os.listdir(tmp_path) == ["link"]


@pytest.mark.parametrize("name", ["-", "-/inside", "inside/-"])
def test_a_dash_is_no_name_of_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    for write in (lambda path: write_bytes(path, b""), lambda path: replacing_folder(path).__enter__()):
        with pytest.raises(OutputError, match=f"cannot write {name}: - stands for a stream.*; give it a name"):
            write(Path(name))
    assert not list(tmp_path.iterdir())
    write_bytes(tmp_path / "-" / "file", b"")  # an absolute path may lead through any folder


def test_a_nul_in_a_name_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "a\0b"
    writes = (lambda: write_bytes(path, b""), lambda: replacing_folder(path).__enter__(), lambda: check_writable(path))
    for write in (*writes, lambda: destination(path)):
        with pytest.raises(OutputError, match="it has a NUL in its name, which no file has; choose another name"):
            write()
    with pytest.raises(BundleError, match=r"ONNX file .* has a NUL in its name, which no file has; check the path"):
        read_bytes(path, "ONNX file", BundleError)


@pytest.mark.parametrize("mode", [0o700, 0o750, 0o711])
def test_a_folder_that_is_replaced_keeps_its_permissions(tmp_path: Path, mode: int) -> None:
    folder = tmp_path / "bundle"
    folder.mkdir()
    folder.chmod(mode)
    with replacing_folder(folder) as temporary:
        assert temporary.stat().st_mode & 0o200, "even what may not be written later is written now"
        (temporary / "file").write_text("new")
    assert stat.S_IMODE(folder.stat().st_mode) == mode
    assert (folder / "file").read_text() == "new"


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ({"EDGEKIT_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": ""}, "/a"),
        ({"EDGEKIT_CACHE": "", "XDG_CACHE_HOME": "/b", "HOME": ""}, "/b/edgekit"),
        ({"HOME": "/c"}, "/c/.cache/edgekit"),
        ({"HOME": ""}, None),
        ({}, None),
    ],
    ids=["edgekit's", "everybody's", "home", "home is empty", "nobody's home"],
)
def test_the_cache_is_where_it_is_asked_for_and_never_in_the_root_folder(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, str], place: str | None
) -> None:
    name_only(monkeypatch, named)
    if place is not None:
        assert files.cache_root() == Path(place)
        return
    with pytest.raises(OutputError, match=r"HOME names no home folder .*; let EDGEKIT_CACHE name a folder of yours"):
        files.cache_root()


@pytest.mark.parametrize(
    ("named", "place"),
    [
        ({"EDGEKIT_STATE": "/a", "XDG_STATE_HOME": "/b", "HOME": ""}, "/a"),
        ({"EDGEKIT_STATE": "", "XDG_STATE_HOME": "/b", "HOME": ""}, "/b/edgekit"),
        ({"EDGEKIT_CACHE": "/a", "XDG_CACHE_HOME": "/b", "HOME": "/c"}, "/c/.local/state/edgekit"),
        ({"EDGEKIT_CACHE": "/a", "HOME": ""}, None),
        ({}, None),
    ],
    ids=["edgekit's", "everybody's", "home", "home is empty", "nobody's home"],
)
def test_what_a_machine_finds_out_about_a_bundle_is_kept_by_its_manifest_and_never_in_the_cache(
    monkeypatch: pytest.MonkeyPatch, named: dict[str, str], place: str | None
) -> None:
    name_only(monkeypatch, named)
    sha256 = hashlib.sha256(b"manifest").hexdigest()
    if place is not None:
        assert files.state_root() == Path(place)
        assert files.state_folder(sha256) == Path(place) / "bundles" / sha256
        return
    with pytest.raises(
        OutputError, match=r"HOME names no home folder to keep state in; let EDGEKIT_STATE name a folder of yours"
    ):
        files.state_folder(sha256)


def name_only(monkeypatch: pytest.MonkeyPatch, named: dict[str, str]) -> None:
    """The environment names these folders and no others, and the user has no name, as in a container."""
    for name in ("EDGEKIT_CACHE", "XDG_CACHE_HOME", "EDGEKIT_STATE", "XDG_STATE_HOME", "HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("pwd.getpwuid", lambda user: {}[user])


def test_permissions_follow_the_umask(tmp_path: Path, mask: int) -> None:
    write_bytes(tmp_path / "file", b"")
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask
    with replacing_folder(tmp_path / "folder") as folder:
        (folder / "inside").write_text("")
    assert stat.S_IMODE((tmp_path / "folder").stat().st_mode) == 0o777 & ~mask


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "place"
    for name in ("old", "new"):
        with replacing_folder(place) as folder:
            (folder / name).write_text(name)
        assert os.listdir(place) == [name]
    assert os.listdir(place.parent) == ["place"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_folder_that_cannot_be_swapped_keeps_its_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "old").write_text("old")
    monkeypatch.setattr(atomic, "exchange", lambda new, place: False)  # as on a file system that cannot
    original, calls = os.replace, []

    def replace(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) == failing:
            raise OSError(errno.EBUSY, "Device or resource busy")
        original(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OutputError, match="Device or resource busy"), replacing_folder(place) as folder:
        (folder / "new").write_text("new")
    assert os.listdir(place) == ["old"]
    assert os.listdir(tmp_path) == ["place"]


@pytest.mark.parametrize("size", [0, 1, (1 << 20) - 1, 1 << 20, (1 << 20) + 1])
def test_the_fingerprint_is_the_sha256_of_all_bytes(tmp_path: Path, size: int) -> None:
    content = bytes(index % 251 for index in range(size % 1000)) + bytes(size - size % 1000)
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_file_that_cannot_be_read_is_named_by_what_it_is(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"labels {tmp_path / 'gone'} does not exist; check the path"):
        read_bytes(tmp_path / "gone", "labels")
    with pytest.raises(BundleError, match=r"manifest .+ is not a regular file"):
        read_bytes(tmp_path, "manifest", BundleError)
    (tmp_path / "file").write_bytes(b"content")
    assert read_bytes(tmp_path / "file", "labels") == b"content"
    assert read_bytes(tmp_path / "file", "labels", most=7) == b"content"
    with pytest.raises(InputError, match="file has more than 6 bytes; check the path"):
        read_bytes(tmp_path / "file", "labels", most=6)


@pytest.mark.parametrize("make", [pipe, bound_socket, Path.mkdir], ids=["pipe", "socket", "folder"])
def test_what_takes_a_files_place_between_a_look_and_the_opening_is_no_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Callable[[Path], None]
) -> None:
    """The look is deceived; the pipe has a writer and a byte, or an opening that waits would never fail."""
    make(tmp_path / "file")
    waiting = os.open(tmp_path / "file", os.O_RDWR | os.O_NONBLOCK) if make is pipe else None
    if waiting is not None:
        os.write(waiting, b"x")
    monkeypatch.setattr(Path, "is_file", lambda self: True)
    with pytest.raises(InputError, match=r"labels .+ is not a regular file; check the path"):
        read_bytes(tmp_path / "file", "labels", most=0)
    with pytest.raises(OSError, match="it is not a regular file"):
        sha256_of(tmp_path / "file")
    with pytest.raises(DataError, match=r"picture .+ is not a regular file"):
        decoded(tmp_path / "file", "grey", (8, 8))
    with pytest.raises(ValueError, match="it is not a regular file"):
        read_arrays(tmp_path / "file", {})
    with pytest.raises(ModelError, match=r"weights .+ cannot be read: it is not a regular file|weights .+ are a folder"):
        read_weights(tmp_path / "file")
    if waiting is not None:
        os.close(waiting)


TEXT = "caf\u00e9\nna\u00efve\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_as_its_byte_order_mark_says(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(TEXT.encode(encoding))
    assert read_text(path, "labels file") == TEXT


@pytest.mark.parametrize("encoding", ["utf-16-be", "utf-32-be"])
def test_text_of_a_big_endian_machine_is_read_too(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(("\ufeff" + TEXT).encode(encoding))
    assert read_text(path, "labels file") == TEXT


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (TEXT.encode("latin-1"), "is not UTF-8: byte 0xe9 in line 1"),
        (b"good\nba\xffd\n", "is not UTF-8: byte 0xff in line 2"),
        (TEXT.encode("utf-16-le"), "is not UTF-8: it has NUL bytes"),
        (b"\xff\xfe" + TEXT.encode("utf-16-le") + b"\x00", "is not UTF-16-LE: byte 0x00"),
    ],
)
def test_text_of_another_encoding_is_refused_by_name_and_line(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "labels.txt"
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(f"labels file {path} {reason}")) as caught:
        read_text(path, "labels file")
    assert caught.value.remedy == "save it as UTF-8"


def test_a_writer_meets_another_between_two_renames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The folder is nowhere at that moment, and has the mode that it had."""
    other, place = tmp_path / "moved", tmp_path / "bundle"
    other.mkdir(mode=0o750)
    monkeypatch.setattr(atomic, "hold", lambda folder: SimpleNamespace(status=other.stat))
    with replacing_folder(place) as temporary:
        (temporary / "file").touch()
    assert stat.S_IMODE(place.stat().st_mode) == stat.S_IMODE(other.stat().st_mode) == 0o750
