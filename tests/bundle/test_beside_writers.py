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

PATIENCE = "atomic.PATIENCE = 600"  # for a lock that another process holds on a busy machine
WAYS = {
    "exchange": "",
    "renames": "atomic._renameat2 = lambda: None",
    "no locks": "atomic._renameat2 = lambda: None; atomic._flock = lambda handle, shared=False: None",
}
"""Ways to put a folder in its place -> what a process does first to have no better one."""
FEWEST = 6
"""Times that each writer puts a bundle in place beside the readers."""
# puts two bundles of different cards and files in the place argv[1] in turn, from a line of stdin to its end; says when it has
# done so argv[3] times
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
    if count == int(sys.argv[3]):
        print("swapped", flush=True)
    if done.is_set():
        break
print("whole")
"""
# opens the place argv[1] argv[3] times and then to the end of stdin, reads all of it, and prints what went wrong
READER = """
import hashlib, itertools, os, sys, threading
from pathlib import Path
from edgekit import atomic
from edgekit.bundle.folder import open_bundle
from edgekit.commands.verify import verify
exec(sys.argv[2])
done = threading.Event()
def times(count):
    for number in itertools.count(1):
        yield number
        if number >= count and done.is_set():
            return
def content(place, count):
    for number in times(count):
        opened = open_bundle(place)
        assert not opened.notes, opened.notes
        assert hashlib.sha256(opened.onnx_bytes()).hexdigest() == opened.sha256_of(), "another's file"
        assert opened.golden().inputs and opened.evidence().floors
def verdict(place, count):
    for number in times(count // 10):
        report = verify(place, "ort-cpu")
        assert report.passed and not report.notes, report.notes
print("ready", flush=True)
threading.Thread(target=lambda: (os.read(0, 1), done.set()), daemon=True).start()  # a read of sys.stdin would hold its lock
try:
    {"content": content, "verdict": verdict}[sys.argv[4]](Path(sys.argv[1]), int(sys.argv[3]))
except Exception as problem:
    print(type(problem).__name__, problem)
"""


def started(program: str, *arguments: object) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def rest_of(process: subprocess.Popen[str]) -> str:
    """What a process says until it ends, for which it is told by the end of its stdin."""
    with process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        return process.stdout.read().strip()


def beside_a_writer(bundle: Path, way: str, count: int = 40) -> list[str]:
    """What readers say that go on until every writer has put some bundles in place."""
    first = f"{PATIENCE}; {WAYS[way]}"
    writers = [started(WRITER, bundle, first, FEWEST) for _ in range(1 if way == "no locks" else 2)]
    assert [line_of(writer) for writer in writers] == ["ready"] * len(writers)
    readers = [started(READER, bundle, first, count, kind) for kind in ("content", "verdict")]
    assert [line_of(reader) for reader in readers] == ["ready"] * 2
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    assert [line_of(writer) for writer in writers] == ["swapped"] * len(writers)
    said = [rest_of(reader) for reader in readers]
    assert [rest_of(writer) for writer in writers] == ["whole"] * len(writers)
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
