"""Folders and files that take their place at once, beside others who write, read or were killed."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from edgekit import atomic
from edgekit.atomic import exchange, hold, prepared, put
from edgekit.errors import OutputError
from edgekit.files import replacing_folder, write_bytes

# writes the place argv[1] (a folder where argv[2] says so), and waits to be killed with its work half done
HALF_DONE = """
import sys
from pathlib import Path
from edgekit.atomic import prepared
with prepared(Path(sys.argv[1]), folder=sys.argv[2] == "folder") as temporary:
    print(temporary, flush=True)
    sys.stdin.read()
"""


def filled(folder: Path, content: str) -> Path:
    folder.mkdir()
    (folder / "file").write_text(content)
    return folder


def can_exchange(folder: Path) -> bool:
    first, second = filled(folder / "x", "1"), filled(folder / "y", "2")
    return exchange(first, second)


def test_two_folders_change_places(tmp_path: Path) -> None:
    first, second = filled(tmp_path / "a", "1"), filled(tmp_path / "b", "2")
    if not exchange(first, second):
        pytest.skip("this file system cannot exchange")
    assert ((first / "file").read_text(), (second / "file").read_text()) == ("2", "1")


def test_a_folder_that_is_not_there_cannot_be_exchanged(tmp_path: Path) -> None:
    if not can_exchange(tmp_path):
        pytest.skip("this file system cannot exchange")
    with pytest.raises(FileNotFoundError):
        exchange(filled(tmp_path / "a", "1"), tmp_path / "none")


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOSYS])
def test_where_folders_cannot_be_exchanged_they_are_renamed_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(atomic, "_renameat2", lambda: lambda *arguments: -1)
    monkeypatch.setattr("ctypes.get_errno", lambda: number)
    place = filled(tmp_path / "place", "old")
    with replacing_folder(place) as folder:
        (folder / "file").write_text("new")
    assert (place / "file").read_text() == "new"
    assert os.listdir(tmp_path) == ["place"]


def test_a_c_library_without_the_call_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_renameat2", lambda: None)
    place = filled(tmp_path / "place", "old")
    with replacing_folder(place) as folder:
        (folder / "file").write_text("new")
    assert (place / "file").read_text() == "new"


def test_another_failure_of_the_exchange_is_told_and_the_old_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "_renameat2", lambda: lambda *arguments: -1)
    monkeypatch.setattr("ctypes.get_errno", lambda: errno.EIO)
    place = filled(tmp_path / "place", "old")
    with pytest.raises(OutputError, match="Input/output error"), replacing_folder(place) as folder:
        (folder / "file").write_text("new")
    assert (place / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["place"]


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_a_killed_writer_left_is_swept_up_by_the_next_and_what_a_living_one_has_is_not(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "place"
    writers = []
    for _ in range(2):
        command = [sys.executable, "-c", HALF_DONE, str(place), kind]
        writers.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
    left = [Path(writer.stdout.readline().strip()) for writer in writers if writer.stdout]
    writers[0].send_signal(signal.SIGKILL)
    writers[0].communicate()
    assert all(path.exists() for path in left)
    write_bytes(tmp_path / "other", b"")  # no writer of this place
    assert all(path.exists() for path in left)
    with prepared(place, folder=kind == "folder"):
        pass
    assert all(path.exists() for path in left)  # without the place itself, they may be all that is left of it
    filled(place, "old") if kind == "folder" else place.write_text("old")
    with prepared(place, folder=kind == "folder"):
        pass
    assert [path.exists() for path in left] == [False, True]
    writers[1].communicate("")
    assert sorted(os.listdir(tmp_path)) == ["other", "place"]


def test_a_lock_that_somebody_holds_for_ever_is_not_waited_for_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(atomic, "PATIENCE", 0.05)
    handle = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with replacing_folder(tmp_path / "place") as folder:
        (folder / "file").write_text("new")
    os.close(handle)
    assert (tmp_path / "place" / "file").read_text() == "new"


def test_the_users_own_hidden_files_are_not_swept_up(tmp_path: Path) -> None:
    place = tmp_path / "place"
    place.write_text("old")
    ours = atomic._prefix(place)
    for name in (".place.abcdefgh.part", f"{ours}backup.part", f"{ours}abcdefgh.partial", f"{ours[1:]}abcdefgh.part"):
        (tmp_path / name).write_text("mine")
    (tmp_path / f"{ours}abcdefgh.part").write_text("a killed writer's")
    write_bytes(place, b"new")
    assert len(os.listdir(tmp_path)) == 5


def test_what_writers_of_a_name_that_begins_alike_have_aside_is_not_swept_up(tmp_path: Path) -> None:
    first, second = tmp_path / ("x" * 60 + "1"), tmp_path / ("x" * 60 + "2")
    second.write_text("old")
    left = tmp_path / f"{atomic._prefix(first)}abcdefgh.part"
    left.write_text("a killed writer's of the first")
    write_bytes(second, b"new")
    assert left.exists()
    first.write_text("old")
    write_bytes(first, b"new")
    assert not left.exists()


def test_a_writer_prepares_under_a_name_that_fits_beside_the_longest(tmp_path: Path) -> None:
    place = tmp_path / ("\N{SNOWMAN}" * 85)
    write_bytes(place, b"new")
    assert place.read_bytes() == b"new"


def test_a_file_system_without_locks_is_written_to_and_nothing_is_swept_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(handle: int, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    left = filled(tmp_path / f"{atomic._prefix(tmp_path / 'place')}abcdefgh.part", "somebody's")
    with replacing_folder(tmp_path / "place") as folder:
        (folder / "file").write_text("new")
    assert (tmp_path / "place" / "file").read_text() == "new"
    assert left.exists()


def test_data_are_on_the_disk_before_they_are_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    events: list[str] = []
    fsync, swap = os.fsync, atomic.exchange

    def synced(handle: int) -> None:
        events.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name)
        fsync(handle)

    def exchanged(new: Path, place: Path) -> bool:
        events.append("exchange")
        return swap(new, place)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(atomic, "exchange", exchanged)
    place = filled(tmp_path / "place", "old")
    with replacing_folder(place) as folder:
        (folder / "file").write_text("new")
        name = folder.name
    assert events == ["file", name, "exchange", tmp_path.name]


def test_a_disk_that_is_full_when_data_are_flushed_leaves_the_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(handle: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    place = filled(tmp_path / "place", "old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left on device; free some disk space"), replacing_folder(place) as folder:
        (folder / "file").write_text("new")
    assert (place / "file").read_text() == "old"
    assert os.listdir(tmp_path) == ["place"]


@pytest.mark.parametrize("in_one_step", [True, False])
def test_while_a_folder_is_put_in_place_no_other_writer_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_one_step: bool
) -> None:
    free: list[bool | None] = []

    def exchanged(new: Path, place: Path) -> bool:
        handle = os.open(tmp_path, os.O_RDONLY)
        free.append(atomic._flock(handle))
        os.close(handle)
        return in_one_step and exchange(new, place)

    monkeypatch.setattr(atomic, "exchange", exchanged)
    put(filled(tmp_path / "new", "new"), filled(tmp_path / "place", "old"))
    assert (tmp_path / "place" / "file").read_text() == "new"
    assert free == [False]


def test_a_fork_that_ends_does_not_end_the_hold_of_its_parent(tmp_path: Path) -> None:
    place = filled(tmp_path / "place", "old")
    held = hold(place)
    assert held is not None
    child = os.fork()
    if not child:
        del held
        os._exit(0)
    os.waitpid(child, 0)
    with replacing_folder(place) as folder:
        (folder / "file").write_text("new")
    assert (held.path / "file").read_text() == "old"
    del held
    assert os.listdir(tmp_path) == ["place"]


def test_a_hold_by_way_of_a_link_stays_where_it_was_when_the_link_changes(tmp_path: Path) -> None:
    first, second, link = filled(tmp_path / "1", "1"), filled(tmp_path / "2", "2"), tmp_path / "current"
    link.symlink_to(first)
    held = hold(link)
    link.unlink()
    link.symlink_to(second)
    assert held is not None
    assert (held.path / "file").read_text() == "1"
    del held
    assert first.is_dir()  # nobody asked to remove it


def test_a_file_is_put_in_place_like_a_folder(tmp_path: Path) -> None:
    new = tmp_path / "new"
    new.write_text("new")
    (tmp_path / "place").write_text("old")
    put(new, tmp_path / "place")
    assert (tmp_path / "place").read_text() == "new"
    assert not new.exists()
