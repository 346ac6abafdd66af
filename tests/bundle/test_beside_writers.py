"""Readers beside a writer that replaces their bundle again and again get the old bundle or the new, whole."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from edgekit import atomic
from edgekit.backends.choose import open_named
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.setups import Setup
from tests.bundle.editing import FILES

WAYS = {
    "exchange": "",
    "renames": "atomic._renameat2 = lambda: None",
    "no locks": "atomic._renameat2 = lambda: None; atomic._flock = lambda handle, shared=False: None",
}
"""Ways to put a folder in its place -> what a process does first to have no better one."""
# puts two bundles of different cards and files in the place argv[1] in turn, from a line of stdin to its end
WRITER = """
import itertools, msgspec, sys, threading
from pathlib import Path
from edgekit import atomic
from edgekit.bundle.folder import open_bundle, write_bundle
exec(sys.argv[2])
place, done = Path(sys.argv[1]), threading.Event()
opened = open_bundle(place)
files = {name: (place / name).read_bytes() for name in opened.manifest.files}
other = files | {"README.md": b"another card", "model.onnx": files["model.onnx"] + b"\\x12\\x01x"}
print("ready", flush=True)
sys.stdin.readline()
threading.Thread(target=lambda: (sys.stdin.read(), done.set())).start()
for count in itertools.count(1):
    write_bundle(place, msgspec.structs.replace(opened.manifest, name=f"number-{count}"), other if count % 2 else files)
    if done.is_set():
        break
print(count)
"""
# opens the place argv[1] argv[3] times, reads all of it, and prints what went wrong
READER = """
import hashlib, sys, traceback
from pathlib import Path
from edgekit import atomic
from edgekit.bundle.folder import open_bundle
from edgekit.commands.verify import verify
exec(sys.argv[2])
def content(place, count):
    for number in range(count):
        opened = open_bundle(place)
        assert not opened.notes, opened.notes
        assert hashlib.sha256(opened.onnx_bytes()).hexdigest() == opened.sha256_of(), "another's file"
        assert opened.golden().inputs and opened.evidence().floors
def verdict(place, count):
    for number in range(count // 10):
        report = verify(place, "ort-cpu")
        assert report.passed and not report.notes, report.notes
try:
    {"content": content, "verdict": verdict}[sys.argv[4]](Path(sys.argv[1]), int(sys.argv[3]))
except Exception as problem:
    print(type(problem).__name__, problem)
"""


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def beside_a_writer(bundle: Path, way: str, count: int = 40) -> list[str]:
    """What readers say beside two writers."""
    writers = [started(WRITER, bundle, WAYS[way]) for _ in range(1 if way == "no locks" else 2)]
    assert all(writer.stdout is not None and writer.stdout.readline() == "ready\n" for writer in writers)
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    readers = [started(READER, bundle, WAYS[way], count, kind) for kind in ("content", "verdict")]
    said = [reader.communicate()[0].strip() for reader in readers]
    for writer in writers:
        swaps = writer.communicate("")[0].strip()
        assert swaps.isdecimal(), swaps
        assert int(swaps) > 5
    return said


@pytest.mark.parametrize("way", ["exchange", "renames"])
def test_readers_beside_a_writer_get_the_old_bundle_or_the_new(bundle: Path, way: str) -> None:
    assert beside_a_writer(bundle, way) == ["", ""]
    assert not [path for path in bundle.parent.iterdir() if path.name.endswith(atomic.SUFFIX)]


def test_where_nothing_can_be_locked_a_reader_is_told_that_the_bundle_was_replaced(bundle: Path) -> None:
    for said in beside_a_writer(bundle, "no locks"):
        assert said in ("", f"BundleError bundle {bundle} was replaced while it was read; run the command again")


def replaced(bundle: Path) -> None:
    """Put another bundle in the place of this one, whose network is no longer the same."""
    manifest = open_bundle(bundle).manifest
    files = {name: (bundle / name).read_bytes() for name in FILES}
    write_bundle(bundle, msgspec.structs.replace(manifest, name="newer"), files | {"model.onnx": b"no network"})


def beside(bundle: Path) -> list[str]:
    return sorted(name for name in os.listdir(bundle.parent) if name.startswith(f".{bundle.name}"))


def test_what_was_opened_stays_whole_and_its_last_reader_removes_it(bundle: Path) -> None:
    first, second = open_bundle(bundle), open_bundle(bundle)
    replaced(bundle)
    assert len(beside(bundle)) == 1
    assert first.golden().inputs
    assert first.evidence()
    with open_named("ort-cpu", Setup("ort-cpu"), first):
        pass
    del first
    assert second.onnx_bytes() != b"no network" == open_bundle(bundle).onnx_bytes()
    del second
    assert beside(bundle) == []


def test_a_folder_that_is_read_while_it_is_aside_goes_with_a_later_writer(bundle: Path) -> None:
    opened = open_bundle(bundle)
    replaced(bundle)
    aside = bundle.parent / beside(bundle)[0]
    replaced(bundle)
    assert aside.is_dir()  # a later writer does not sweep what is read
    del opened
    assert beside(bundle) == []
