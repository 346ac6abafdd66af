"""What is written for other programs: names of files, raw tensors, and folders that take nothing else's place."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path

import numpy as np

from edgekit.bundle.around import bundle_around, inside
from edgekit.errors import OutputError
from edgekit.files import check_name, opened, replacing_folder, write_error
from edgekit.tensors import Array

_ODD = re.compile(r"[^A-Za-z0-9._-]")


def tensor_file(index: int, name: str, suffix: str = ".bin") -> str:
    """The file of the tensor ``name``, which may hold characters that no file name should; ``index`` makes it unique."""
    return f"{index}-{_ODD.sub('_', name)[:80]}{suffix}"


def raw_bytes(array: Array) -> bytes:
    """The elements alone, little-endian in C order, as trtexec and Triton read them."""
    return np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False)).tobytes()


def folder_name(name: str) -> str:
    """The name of a bundle as that of a folder; a manifest from elsewhere may hold any text."""
    return name if check_name(name) else "model"


def check_no_bundle(folder: Path, written: Path | None = None) -> None:
    """Raise OutputError where ``folder`` is a bundle, or lies in one, be it one that is about to be ``written``."""
    own, place = Path(os.path.realpath(folder)), bundle_around(folder)
    if place is None and written is not None and Path(os.path.realpath(written)) in (own, *own.parents):
        place = written
    if place is not None:
        raise inside(folder, place)


def check_ours(folder: Path, files: Collection[str], marked: str, mark: bytes) -> None:
    """Raise OutputError unless ``folder`` is free, empty, or was written by edgekit with no file but those that it will hold.

    ``files`` are their paths in it; the file ``marked`` begins with ``mark``.
    """
    check_no_bundle(folder)
    try:
        present = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())
        if not present:
            return
        strangers = [name for name in present if name not in files]
        if strangers or not _begins(folder / marked, mark):
            what = strangers[0] if strangers else present[0]
            raise OutputError(
                f"cannot write {folder}: it holds {what}, which edgekit did not write", "move it away or choose another folder"
            )
    except OSError as problem:
        raise write_error(folder, problem) from problem


def write_ours(folder: Path, files: Mapping[str, bytes], marked: str, mark: bytes) -> None:
    """Write ``files``, by their paths in it, as ``folder``, whole or not at all; raises what ``check_ours`` does."""

    def check() -> None:
        check_ours(folder, files, marked, mark)

    check()
    with replacing_folder(folder, check) as temporary:
        write_files(temporary, files)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write ``files`` into ``folder``, by their paths in it."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _begins(path: Path, mark: bytes) -> bool:
    try:
        with opened(path) as stream:
            return stream.read(len(mark)) == mark
    except FileNotFoundError:
        return False
