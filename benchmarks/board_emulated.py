"""Run tests that need no PyTorch on an emulated aarch64 processor: Debian's Python and the wheels that pip gives such a board.

    python benchmarks/board_emulated.py [FOLDER]

Everything is unpacked into FOLDER (a temporary one if left out) and nothing is installed: some arm64 packages of Debian 12, the
static qemu-user of Debian 13 (that of 12 crashes), and the wheels of edgekit[cpu], pytest and hypothesis for aarch64. It needs
apt-get, dpkg, pip and the network. The script writes ``benchmarks/results/board_emulated.json``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

ROOT = Path(__file__).parent.parent
RESULT = Path(__file__).parent / "results" / "board_emulated.json"
DEBIAN, EMULATORS = "bookworm", "trixie"
PYTHON = "3.11"
PACKAGES = (
    "libbz2-1.0", "libc6", "libcom-err2", "libcrypt1", "libdb5.3", "libexpat1", "libffi8", "libgcc-s1",
    "libgssapi-krb5-2", "libk5crypto3", "libkeyutils1", "libkrb5-3", "libkrb5support0", "liblzma5", "libncursesw6",
    "libnsl2", "libpython3.11-minimal", "libpython3.11-stdlib", "libreadline8", "libsqlite3-0", "libssl3", "libstdc++6",
    "libtinfo6", "libtirpc3", "libuuid1", "python3.11-minimal", "zlib1g",
)  # fmt: skip
PLATFORMS = ("manylinux2014_aarch64", *(f"manylinux_2_{minor}_aarch64" for minor in range(17, 37)))
TESTS = (
    "tests/test_preprocess.py", "tests/test_decoding.py", "tests/test_tolerance.py", "tests/test_tensors.py",
    "tests/test_files.py", "tests/test_setups.py", "tests/test_accuracy.py", "tests/test_budgets.py", "tests/parity",
    "tests/onnx/test_wire.py",
)  # fmt: skip
COUNTED = """
import json, sys
import pytest

class Counts:
    def __init__(self):
        self.of = {"passed": 0, "skipped": 0, "need PyTorch": 0, "failed": 0}
        self.failed = []

    def pytest_runtest_logreport(self, report):
        kind = report.outcome if report.when == "call" or report.outcome != "passed" else ""
        reasons = ("No module named 'torch", "No module named 'safetensors", "PyTorch is not installed")
        if kind == "failed" and any(reason in report.longreprtext for reason in reasons):
            kind = "need PyTorch"
        if kind:
            self.of[kind] += 1
        if kind == "failed":
            self.failed.append([report.nodeid, report.longreprtext[-400:]])

counts = Counts()
pytest.main(sys.argv[1:], plugins=[counts])
print(json.dumps({**counts.of, "failing": counts.failed}))
"""
"""Runs pytest and prints how the tests ended: those whose bundle PyTorch would export cannot run here."""
COMMANDS = (("verify", "exported/lenet", "--backend", "ort-cpu"), ("verify", "exported/edgenet", "--backend", "ort-cpu"))


def main() -> None:
    given = sys.argv[1:2]
    with tempfile.TemporaryDirectory(prefix="edgekit-board-") as scratch:
        folder = Path(given[0] if given else scratch).absolute()
        folder.mkdir(parents=True, exist_ok=True)
        board = Board(folder)
        board.prepare()
        result = {"python": board.said("-c", "import platform as p; print(p.machine(), p.python_version())"), **measured(board)}
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(RESULT.read_text())


class Board:
    """A root of arm64 files with a Python in it, run by an emulator."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.root, self.wheels = folder, folder / "root", folder / "site"
        self.emulator = folder / "qemu" / "usr" / "bin" / "qemu-aarch64"

    def prepare(self) -> None:
        """Fetch and unpack what is not there yet."""
        if not self.emulator.exists():
            unpack(self.folder / "apt-emulator", EMULATORS, (), ("qemu-user",), self.folder / "qemu")
        if not self.root.exists():
            unpack(self.folder / "apt-board", DEBIAN, ("-o", "APT::Architecture=arm64"), PACKAGES, self.root)
        if not self.wheels.exists():
            install(self.wheels)

    def run(self, *words: str, timeout: int = 3000) -> subprocess.CompletedProcess[str]:
        """Run the board's Python in the repository."""
        environment = {
            "PYTHONPATH": f"{ROOT}:{self.wheels}",
            "PYTHONHOME": f"{self.root}/usr",
            "QEMU_LD_PREFIX": str(self.root),
            "LD_LIBRARY_PATH": f"{self.root}/lib/aarch64-linux-gnu:{self.root}/usr/lib/aarch64-linux-gnu",
            "HOME": str(self.folder),
            "PATH": os.environ["PATH"],
            "PYTHONDONTWRITEBYTECODE": "1",
            "OMP_NUM_THREADS": "1",
            "EDGEKIT_SECONDS": "1200",  # an emulator is some twenty times as slow as a processor
        }
        command = [str(self.emulator), f"{self.root}/usr/bin/python{PYTHON}", *words]
        return subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=timeout)

    def said(self, *words: str) -> str:
        """What the board's Python printed; raises RuntimeError where it failed."""
        done = self.run(*words)
        if done.returncode:
            raise RuntimeError(done.stderr[-2000:])
        return done.stdout.strip()


def unpack(place: Path, suite: str, options: Sequence[str], packages: Sequence[str], target: Path) -> None:
    """Download Debian packages of ``suite`` by lists of their own and unpack them, from where this machine gets Debian."""
    for folder in ("lists/partial", "cache/archives/partial"):
        (place / folder).mkdir(parents=True, exist_ok=True)
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)", "Origin: Debian", "Label: Debian"],
        capture_output=True,
        text=True,
        check=True,
    )
    site = listed.stdout.split()[0]
    (place / "sources.list").write_text(f"deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] {site} {suite} main\n")
    own = [
        "-o",
        f"Dir::Etc::sourcelist={place}/sources.list",
        "-o",
        "Dir::Etc::sourceparts=-",
        "-o",
        f"Dir::State::lists={place}/lists",
    ]
    own += ["-o", f"Dir::Cache={place}/cache", "-o", "APT::Sandbox::User=root", *options]
    for words in (["update", "-q"], ["download", "-q", *packages]):
        subprocess.run(["apt-get", *own, *words], cwd=place, check=True, stdout=subprocess.DEVNULL)
    for package in sorted(place.glob("*.deb")):
        subprocess.run(["dpkg", "-x", str(package), str(target)], check=True)


def install(target: Path) -> None:
    """Unpack the wheels that pip gives a board for edgekit[cpu], and what runs tests."""
    project = msgspec.toml.decode((ROOT / "pyproject.toml").read_bytes())["project"]
    needed = [
        *project["dependencies"],
        *project["optional-dependencies"]["cpu"],
        "pytest",
        "hypothesis",
        "pytest-randomly",
        "pytest-xdist",
    ]
    words = [sys.executable, "-m", "pip", "install", "-q", "--target", str(target), "--only-binary=:all:", "--no-compile"]
    words += ["--implementation", "cp", "--python-version", PYTHON, *(f"--platform={name}" for name in PLATFORMS)]
    subprocess.run([*words, *(name.split(";")[0] for name in needed if "tomli" not in name)], check=True)


def measured(board: Board) -> dict[str, object]:
    """The versions on the board, what the tests say, and the commands on bundles."""
    versions = board.said("-c", "import numpy, onnxruntime; print(numpy.__version__, onnxruntime.__version__)").split()
    commands = {" ".join(words): timed(board, "-m", "edgekit", *words) for words in COMMANDS}
    return {"numpy": versions[0], "onnxruntime": versions[1], "commands": commands, "tests": {"files": TESTS, **tested(board)}}


def tested(board: Board) -> dict[str, object]:
    """How the tests end on the board that need no PyTorch."""
    begin = time.perf_counter()
    options = ("-q", "-p", "no:randomly", "-p", "no:cacheprovider", "-p", "no:xdist", "--continue-on-collection-errors")
    last = board.said("-c", COUNTED, *options, *TESTS).splitlines()[-1]
    counts: dict[str, object] = json.loads(last)
    return {**counts, "seconds": round(time.perf_counter() - begin, 1)}


def timed(board: Board, *words: str) -> dict[str, object]:
    """How a run ended: its exit code, its last line or row of results, and its seconds under emulation."""
    begin = time.perf_counter()
    done = board.run(*words)
    lines = [line for line in done.stdout.splitlines() if re.search(r"pass|fail", line, re.IGNORECASE)]
    said = [" ".join(re.sub(r"[^ -~]", " ", line).split()) for line in lines[-4:]]
    ended = {"exit_code": done.returncode, "said": said, "seconds": round(time.perf_counter() - begin, 1)}
    return ended if done.returncode == 0 else ended | {"stderr": done.stderr[-600:]}


if __name__ == "__main__":
    main()
