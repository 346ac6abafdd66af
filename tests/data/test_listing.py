"""Which files of a folder are pictures."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import NamedTuple

import pytest

from edgekit import files
from edgekit.data import listing
from edgekit.data.listing import digests, list_pictures, matching, subfolders
from edgekit.errors import DataError
from tests.data.test_image_folder import draw


def names(root: Path) -> list[str]:
    return [picture.name for picture in list_pictures(root).pictures]


def reasons(root: Path) -> dict[str, tuple[int, str]]:
    return {row.reason: (row.count, row.example) for row in list_pictures(root).left_out}


@pytest.mark.parametrize(
    "name",
    ["a.png", "a.PNG", "a.jpg", "a.JPEG", "a.jpe", "a.jfif", "a.avif", "a.jp2", "a.webp", "a.bmp", "a.tif", "a.TIFF", "a.pgm",
     "a.ppm", "a.gif", "a.qoi", "a.b.png"],
)  # fmt: skip
def test_files_of_every_format_that_is_read_count(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert names(tmp_path) == [name]


@pytest.mark.parametrize("name", ["a.pdf", "a.eps", "a.txt", "a.npy", "png", "a.heic", "a.svg"])
def test_files_of_other_formats_are_left_out_by_their_suffix(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"")
    assert names(tmp_path) == []
    suffix = Path(name).suffix or "no suffix"
    assert reasons(tmp_path) == {f"no picture format that is read: {suffix}": (1, name)}


@pytest.mark.parametrize(
    "folder", [".ipynb_checkpoints", ".thumbnails", "@eaDir", "__MACOSX", "Thumbnails", "thumbs", "$RECYCLE.BIN"]
)
def test_hidden_folders_and_copies_by_file_managers_are_left_out_at_any_depth(tmp_path: Path, folder: str) -> None:
    draw(tmp_path / "cat" / "1.png", 1)
    draw(tmp_path / "cat" / folder / "deep" / "1.png", 1)
    draw(tmp_path / "cat" / "._1.png", 1)
    assert names(tmp_path) == ["cat/1.png"]
    assert sum(count for count, _ in reasons(tmp_path).values()) == 2


def test_links_to_folders_and_files_are_followed(tmp_path: Path) -> None:
    draw(tmp_path / "store" / "inner" / "1.png", 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "cat").symlink_to(tmp_path / "store")
    (tmp_path / "data" / "2.png").symlink_to(tmp_path / "store" / "inner" / "1.png")
    assert names(tmp_path / "data") == ["2.png", "cat/inner/1.png"]


def test_a_link_to_a_folder_above_ends_there(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "1.png", 1)
    (tmp_path / "cat" / "again").symlink_to(tmp_path)
    assert names(tmp_path) == ["cat/1.png"]
    assert reasons(tmp_path) == {"a link to a folder above it": (1, "cat/again")}


def test_a_folder_that_links_reach_often_is_listed_once(tmp_path: Path) -> None:
    folders = [tmp_path / "cat" / name for name in "abcdefgh"]
    for folder in folders:
        draw(folder / "1.png", 1)
    for folder in folders:
        for other in folders:
            if other != folder:
                (folder / other.name).symlink_to(other)
    assert sorted(picture.path.resolve() for picture in list_pictures(tmp_path).pictures) == [path / "1.png" for path in folders]
    assert "a folder that a link has led to already" in reasons(tmp_path)


def test_folders_that_stand_apart_each_have_what_their_links_lead_to(tmp_path: Path) -> None:
    draw(tmp_path / "store" / "1.png", 1)
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for link in ("one", "two"):
            (tmp_path / "data" / name / link).symlink_to(tmp_path / "store")
    assert names(tmp_path / "data") == ["cat/one/1.png"]
    assert [picture.name for picture in list_pictures(tmp_path / "data", apart=1).pictures] == ["cat/one/1.png", "dog/one/1.png"]


def test_links_to_nothing_and_pipes_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere.png")
    os.mkfifo(tmp_path / "pipe.png")
    assert names(tmp_path) == []
    assert reasons(tmp_path) == {"a link to nothing": (1, "gone.png"), "not a regular file": (1, "pipe.png")}


def test_links_to_themselves_are_links_to_nothing(tmp_path: Path) -> None:
    draw(tmp_path / "cat" / "1.png", 1)
    for name in ("loop", "cat/loop.png", "cat/round"):
        (tmp_path / name).symlink_to(tmp_path / name)
    (tmp_path / "long.png").symlink_to("x" * 300)
    assert names(tmp_path) == ["cat/1.png"]
    assert reasons(tmp_path) == {"a link to nothing": (4, "cat/loop.png")}
    assert subfolders(tmp_path) == ["cat"]


def test_what_cannot_be_looked_at_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Forbidden(NamedTuple):
        """An entry behind a folder that the user may not enter."""

        name: str
        path: str

        def stat(self) -> os.stat_result:
            raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr("os.scandir", lambda folder: iter([Forbidden("1.png", f"{folder}/1.png")]))
    with pytest.raises(DataError, match=r"1\.png cannot be read: Permission denied; check the path and its permissions"):
        list_pictures(tmp_path)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none cannot be read: No such file"):
        list_pictures(tmp_path / "none")


def test_the_order_is_that_of_paths_folder_by_folder(tmp_path: Path) -> None:
    for name in ("b/1.png", "a/2.png", "a-b/1.png", "a/1.png", "c.png"):
        draw(tmp_path / name, 1)
    assert names(tmp_path) == ["a/1.png", "a/2.png", "a-b/1.png", "b/1.png", "c.png"]


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Pictures at several depths among what is none, and a link to the folder that it is in."""
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "cat/1.png", "cat/deep/2.bmp", "dog/3.png", "dog/@eaDir/3.png", ".hidden/4.png", "dog/.5.png"):
        draw(tmp_path / "ds" / name, 1)
    (tmp_path / "ds" / "cat" / "notes.txt").write_text("meow")
    (tmp_path / "ds" / "dog" / "again").symlink_to(tmp_path / "ds" / "dog")
    (tmp_path / "ds" / "loop.png").symlink_to("loop.png")
    return tmp_path


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("ds/**/*", "a.png cat/1.png cat/deep/2.bmp dog/3.png"),
        ("ds/**", "a.png cat/1.png cat/deep/2.bmp dog/3.png"),
        ("d?/**", "a.png cat/1.png cat/deep/2.bmp dog/3.png"),
        ("**/*.png", "a.png cat/1.png dog/3.png"),
        ("ds/**/*.png", "a.png cat/1.png dog/3.png"),
        ("ds/**/deep/*", "cat/deep/2.bmp"),
        ("ds/**/deep", "cat/deep/2.bmp"),
        ("ds/*", "a.png cat/1.png cat/deep/2.bmp dog/3.png"),
        ("ds/*.png", "a.png"),
        ("ds/[cd]*/*.png", "cat/1.png dog/3.png"),
        ("ds/c*/*/*", "cat/deep/2.bmp"),
        ("ds/dog/@ea*/*", ""),
        ("ds/dog/@eaDir/*", "dog/@eaDir/3.png"),
        ("ds/dog/@eaDir/**/*.png", "dog/@eaDir/3.png"),
        ("ds/cat/*.txt", ""),
        ("ds/*.png/**", ""),
        ("nowhere/**/*.png", ""),
        ("nowhere/*.png", ""),
    ],
)
def test_a_pattern_is_decided_as_a_folder_is(photos: Path, pattern: str, expected: str) -> None:
    pictures = matching(Path(pattern)).pictures
    assert [str(picture.path.relative_to("ds")) for picture in pictures] == expected.split()
    assert [picture.path.relative_to(photos) for picture in matching(photos / pattern).pictures] == [
        picture.path for picture in pictures
    ]


@pytest.mark.parametrize(
    ("pattern", "reasons"),
    [
        (
            "ds/*",
            {"a link to nothing": 1, "no picture format that is read: .txt": 1, "a folder of thumbnails or of the system": 1},
        ),
        ("ds/**/*.txt", {"no picture format that is read: .txt": 1}),
        ("ds/*.png", {"a link to nothing": 1}),
        ("ds/dog/@*/*.png", {"a folder of thumbnails or of the system": 1}),
        ("ds/cat/*.png", {}),
    ],
)
def test_what_a_pattern_matches_and_is_left_out_is_told(photos: Path, pattern: str, reasons: dict[str, int]) -> None:
    left_out = {row.reason: row.count for row in matching(photos / pattern).left_out}
    left_out.pop("hidden", None)
    left_out.pop("a link to a folder above it", None)
    assert left_out == reasons


@pytest.fixture
def settled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Later: files that were just written have not changed for long enough to be remembered."""
    now = time.time_ns
    monkeypatch.setattr("time.time_ns", lambda: now() + 10 * 10**9)


@pytest.mark.usefixtures("settled")
def test_a_file_is_hashed_once_and_again_when_it_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for index in range(3):
        draw(tmp_path / f"{index}.png", index)
    hashed: list[str] = []

    def counted(path: Path) -> str:
        hashed.append(path.name)
        return files.sha256_of(path)

    monkeypatch.setattr(listing, "sha256_of", counted)
    first = digests(tmp_path, list_pictures(tmp_path).pictures)
    assert digests(tmp_path, list_pictures(tmp_path).pictures) == first
    assert hashed == ["0.png", "1.png", "2.png"]
    draw(tmp_path / "1.png", 200)
    os.utime(tmp_path / "1.png", ns=(1, 1))
    assert digests(tmp_path, list_pictures(tmp_path).pictures)["1.png"] != first["1.png"]
    assert hashed[3:] == ["1.png"]


@pytest.mark.usefixtures("settled")
@pytest.mark.parametrize("way", ["renamed", "rewritten"])
def test_files_that_change_places_are_hashed_again_though_size_and_time_are_the_same(tmp_path: Path, way: str) -> None:
    first, second, aside = tmp_path / "cat.bmp", tmp_path / "dog.bmp", tmp_path / "aside"
    for value, path in enumerate((first, second)):
        draw(path, value)
        os.utime(path, ns=(1, 1))
    before = digests(tmp_path, list_pictures(tmp_path).pictures)
    if way == "renamed":
        first.rename(aside)
        second.rename(first)
        aside.rename(second)
    else:
        contents = first.read_bytes(), second.read_bytes()
        second.write_bytes(contents[0])
        first.write_bytes(contents[1])
        for path in (first, second):
            os.utime(path, ns=(1, 1))
    after = digests(tmp_path, list_pictures(tmp_path).pictures)
    assert after == {"cat.bmp": before["dog.bmp"], "dog.bmp": before["cat.bmp"]}


def test_a_file_that_may_still_change_within_its_clocks_tick_is_not_remembered(tmp_path: Path) -> None:
    (tmp_path / "1.png").write_bytes(b"one")
    status = (tmp_path / "1.png").stat()
    first = digests(tmp_path, list_pictures(tmp_path).pictures)
    (tmp_path / "1.png").write_bytes(b"two")
    os.utime(tmp_path / "1.png", ns=(status.st_atime_ns, status.st_mtime_ns))
    assert digests(tmp_path, list_pictures(tmp_path).pictures) != first


@pytest.mark.usefixtures("settled")
def test_without_a_place_for_state_files_are_hashed_every_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("no folder")
    draw(tmp_path / "data" / "1.png", 1)
    pictures = list_pictures(tmp_path / "data").pictures
    assert digests(tmp_path / "data", pictures) == digests(tmp_path / "data", pictures) != {}
