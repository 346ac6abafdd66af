"""onnxruntime-web, the runtime that a browser runs: from a folder, from the cache, or from npm at a pinned version."""

from __future__ import annotations

import base64
import hashlib
import io
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

from edgekit.errors import InputError, MissingError, first_line
from edgekit.files import cache_root, read_bytes, write_bytes
from edgekit.machine.bounds import LONGER, waiting_seconds
from edgekit.progress import SILENT, Progress

PACKAGE, VERSION = "onnxruntime-web", "1.30.0"
INTEGRITY = "sha512-q0y+JrrtukXSzsBWEMccVfqX25LRmosXHF+CaRJmg8pZClzcV7svNc4rKY3jL02Vb7QmRMDs1SigqR4CXAfKYQ=="
"""Of the package's file, in npm's form: base64 of its sha512."""
FILES = ("ort.wasm.min.js", "ort-wasm-simd-threaded.mjs", "ort-wasm-simd-threaded.wasm")
INSIDE = ("", "dist", "package/dist")
"""Where the files lie: in the folder that was given, or in the package's, or in what unpacks it."""
FETCH_SECONDS = 600
_VERSION = re.compile(rb"ONNX Runtime Web v([0-9A-Za-z.+-]{1,40})")
_HEAD = 400


class WebRuntime(NamedTuple):
    """The files that a page needs, by name, and the version that they say they are of; empty if they say none."""

    version: str
    files: dict[str, bytes]


def web_runtime(folder: Path | None = None, progress: Progress = SILENT) -> WebRuntime:
    """The runtime in ``folder``, as it is; without one the pinned version, from the cache or by the program npm.

    Raises InputError for a folder that lacks a file, or where what npm gives is not what was pinned, and MissingError where it
    cannot be fetched.
    """
    files = _from_folder(folder) if folder is not None else _from_package(_package(progress))
    told = _VERSION.search(files[FILES[0]][:_HEAD])
    return WebRuntime(told[1].decode() if told else "", files)


def _from_folder(folder: Path) -> dict[str, bytes]:
    for inside in INSIDE:
        place = folder / inside
        if (place / FILES[0]).exists():
            return {name: read_bytes(place / name, "file of onnxruntime-web") for name in FILES}
    raise InputError(
        f"{folder} lacks {FILES[0]} of {PACKAGE}", f"give the folder dist of the npm package {PACKAGE} {VERSION}, unpacked"
    )


def _package(progress: Progress) -> bytes:
    """The pinned package's file, whose sha512 was checked; fetched into the cache where it does not lie there."""
    place = cache_root() / "web" / f"{PACKAGE}-{VERSION}.tgz"
    if place.is_file():
        content = read_bytes(place, "cached package")
        if _is_pinned(content):
            return content
    progress.say(f"fetching {PACKAGE} {VERSION} by npm")
    content = _fetched()
    if not _is_pinned(content):
        raise InputError(
            f"what npm gives as {PACKAGE} {VERSION} has another sha512 than {INTEGRITY}",
            "look at npm's registry setting, or give --runtime a folder that you trust",
        )
    write_bytes(place, content)
    return content


def _is_pinned(content: bytes) -> bool:
    return "sha512-" + base64.b64encode(hashlib.sha512(content).digest()).decode() == INTEGRITY


def _fetched() -> bytes:
    npm = shutil.which("npm")
    by_hand = f"give --runtime the folder dist of the npm package {PACKAGE} {VERSION}, unpacked"
    if npm is None:
        raise MissingError(f"the program npm, which fetches {PACKAGE}, is not on the PATH", f"install it, or {by_hand}")
    seconds, remedy = waiting_seconds(FETCH_SECONDS), by_hand
    with tempfile.TemporaryDirectory(prefix="edgekit-web-") as scratch:
        command = [npm, "pack", "--ignore-scripts", f"{PACKAGE}@{VERSION}"]
        try:
            subprocess.run(command, cwd=scratch, check=True, capture_output=True, text=True, timeout=seconds)
            return (Path(scratch) / f"{PACKAGE}-{VERSION}.tgz").read_bytes()
        except subprocess.CalledProcessError as problem:
            lines = [line for line in problem.stderr.splitlines() if "code" not in line and line.strip()]
            reason = lines[0].strip() if lines else f"npm ended with {problem.returncode}"
        except subprocess.TimeoutExpired:
            reason, remedy = f"npm takes longer than {seconds:g} s", f"{LONGER}, or {by_hand}"
        except OSError as problem:
            reason = first_line(problem)
    raise MissingError(f"{PACKAGE} {VERSION} could not be fetched: {reason}", remedy)


def _from_package(content: bytes) -> dict[str, bytes]:
    files = {}
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        for name in FILES:
            member = archive.extractfile(f"package/dist/{name}")
            if member is not None:
                files[name] = member.read()
    return files
