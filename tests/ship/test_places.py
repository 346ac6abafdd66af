"""What somebody puts at a place between the first look and the writing stays there."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from edgekit import atomic
from edgekit.bundle.folder import Bundle, open_bundle, write_bundle
from edgekit.errors import OutputError
from edgekit.ship.pack import read_zip, write_zip
from edgekit.ship.raw import write_raw
from edgekit.ship.triton import write_triton
from edgekit.ship.web import write_page
from tests.command_line import contents


def exported(bundle: Bundle, place: Path) -> None:
    manifest = bundle.manifest
    write_bundle(place, manifest, {name: (bundle.root / name).read_bytes() for name in manifest.files})


def unpacked(bundle: Bundle, place: Path) -> None:
    write_zip(bundle, place.parent / "lenet.zip")
    read_zip(place.parent / "lenet.zip").write(place)


WRITERS: dict[str, Callable[[Bundle, Path], object]] = {
    "export": exported,
    "unpack": unpacked,
    "golden-raw": write_raw,
    "triton": lambda bundle, place: write_triton(bundle, place.parent),
    "web": lambda bundle, place: write_page(place, {"page.json": b"{}"}),
}
MINE = "mine.txt"


def a_folder(place: Path) -> None:
    place.mkdir(exist_ok=True)
    (place / MINE).write_text("precious")


def a_file(place: Path) -> None:
    place.write_text("precious")


def a_link(place: Path) -> None:
    (place.parent / "elsewhere").mkdir()
    (place.parent / "elsewhere" / MINE).write_text("precious")
    place.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [a_folder, a_file, a_link])
@pytest.mark.parametrize("writer", WRITERS)
def test_what_comes_between_the_look_and_the_writing_stays(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, writer: str, make: Callable[[Path], None]
) -> None:
    opened, put = open_bundle(bundle), atomic.put
    (tmp_path / "out").mkdir()
    place = tmp_path / "out" / f"{opened.manifest.name}-float32"
    made = dict[str, bytes | None]()

    def late(new: Path, where: Path, check: Callable[[], None]) -> None:
        if where == place:  # not the zip that is to be unpacked
            make(place)
            made.update(contents(tmp_path / "out"))
        put(new, where, check)

    monkeypatch.setattr(atomic, "put", late)
    with pytest.raises(OutputError, match=rf"cannot write .*{place.name}"):
        WRITERS[writer](opened, place)
    parts = {name for name in made if name.startswith(".")}
    assert contents(tmp_path / "out") == {name: content for name, content in made.items() if name not in parts}


def test_a_file_that_comes_between_stays_too(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = atomic.put

    def late(new: Path, where: Path, check: Callable[[], None]) -> None:
        where.write_text("precious")
        put(new, where, check)

    monkeypatch.setattr(atomic, "put", late)
    with pytest.raises(OutputError, match="a file that is no packed bundle is there"):
        write_zip(open_bundle(bundle), tmp_path / "lenet.zip")
    assert (tmp_path / "lenet.zip").read_text() == "precious"
