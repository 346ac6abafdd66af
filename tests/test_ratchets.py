"""Limits of edgekit's cost on a board: installed megabytes, and memory while verifying a bundle. Who opens files by name.

A limit may be lowered, never raised. Each limit has a partner case that exceeds it in the same measurement.
"""

from __future__ import annotations

import ast
import importlib.util
import subprocess
import sys
from collections.abc import Collection, Iterator
from importlib.metadata import PackageNotFoundError, distribution, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

CORE_MB = 25
VERIFY_MIB = 96
STATUS = Path("/proc/self/status")

# runs the statement argv[1], then ``edgekit`` with the other words; the last line of stderr is the peak in kibibytes.
# Two cores, because each thread of a runtime takes memory; VmHWM, because ru_maxrss includes the memory of the parent process
VERIFY = """
import os, re, runpy, sys
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:2])
exec(sys.argv.pop(1))
try:
    runpy.run_module("edgekit", run_name="__main__", alter_sys=True)
finally:
    print(re.search(r"VmHWM:\\s*(\\d+) kB", open("/proc/self/status").read())[1], file=sys.stderr)
"""
# None among the modules makes an import fail and ``find_spec`` find nothing
AS_ON_A_BOARD = "sys.modules.update(dict.fromkeys(['torch', 'torchvision', 'onnx']))"


OPENERS = {"ZipFile", "is_zipfile", "load_file"}
"""Functions that open the file whose path they are given, as ``load`` and ``open`` of ``LOADERS`` do."""
LOADERS = {"np", "numpy", "torch", "Image"}
STREAMS = {"stream", "BytesIO", "enter_context"}
"""What they are given instead: a name or a call that makes a stream."""
BY_NAME = {
    "edgekit/machine/*.py": "what the system tells of itself, in /proc and /sys",
    "edgekit/{data/cache,data/listing,training/steps,backends/tensorrt/build}.py": "caches and notes that edgekit alone writes",
    "edgekit/backends/{onnxruntime/layers,onnxruntime/linked,openvino/probe}.py": "a profile, a library and a copy, just made",
    "edgekit/{reports/html,bundle/card,ship/raw}.py": "parts of edgekit",
    "edgekit/training/{code,folder}.py": "modules that were imported; a checkpoint of its own that is added to",
    "edgekit/models/weight_files.py": "safetensors maps a file into memory by its name; it was looked at before",
    "edgekit/ship/{compare_raw,onnxruntime_web,pack}.py": "a program without edgekit; what npm has just written; what is written",
}
"""Files of edgekit that open others by name, and why they may: a pipe in the place of a user's file would be waited for."""


def opened_by_name(source: str) -> Iterator[int]:
    """The lines in which a module opens a file to read it, other than by ``edgekit.files``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            name, owner = called(node.func)
            first = called(node.args[0])[0] if node.args else ""
            mode = node.args[0].value if name == "open" and node.args and isinstance(node.args[0], ast.Constant) else ""
            loads = name in OPENERS or (name in ("load", "open", "fromfile") and owner in LOADERS)
            bare = not owner and name == "open"
            reads = isinstance(node.func, ast.Attribute) and name in ("read_bytes", "read_text")
            if bare or reads or (loads and first not in STREAMS) or str(mode).startswith(("r", "a")):
                yield node.lineno


def called(node: ast.expr) -> tuple[str, str]:
    """The last name of an expression, without its arguments, and the name before it."""
    node = node.func if isinstance(node, ast.Call) else node
    if isinstance(node, ast.Attribute):
        return node.attr, called(node.value)[0]
    return (node.id, "") if isinstance(node, ast.Name) else ("", "")


def test_users_files_are_opened_without_waiting_for_a_pipe(repository: Path) -> None:
    allowed = [path for pattern in BY_NAME for each in braces(pattern) for path in repository.glob(each)]
    lines = {path: list(opened_by_name(path.read_text())) for path in (repository / "edgekit").rglob("*.py")}
    assert {str(path): found for path, found in lines.items() if found and path not in allowed} == {}
    assert [str(path) for path in allowed if path.parent.name != "machine" and not lines[path]] == [], "they need no exception"


def braces(pattern: str) -> list[str]:
    """The patterns that one with ``{a,b}`` stands for."""
    head, brace, rest = pattern.partition("{")
    inner, _, tail = rest.partition("}")
    return [f"{head}{each}{tail}" for each in inner.split(",")] if brace else [pattern]


@pytest.mark.parametrize(
    ("source", "by_name"),
    [
        ("path.read_bytes()", True),
        ('path.open("rb")', True),
        ("open(path)", True),
        ("np.load(path)", True),
        ("zipfile.ZipFile(root / name)", True),
        ("torch.load(path, weights_only=True)", True),
        ("Image.open(path)", True),
        ('read_bytes(path, "file")', False),
        ("opened(path)", False),
        ("np.load(stream)", False),
        ("zipfile.ZipFile(io.BytesIO(content))", False),
        ('path.open("wb")', False),
        ("session.open(files)", False),
    ],
)
def test_what_opens_a_file_by_name_is_found(source: str, by_name: bool) -> None:
    assert list(opened_by_name(source)) == [1] * by_name


def installed_bytes(package: str, without: Collection[str] = ()) -> dict[str, int]:
    """Distribution -> bytes, for all direct and indirect requirements of ``package`` on this machine, without its extras.

    Distributions in ``without`` are left out, and so are those that only they require.
    """
    sizes: dict[str, int] = {}
    visited: set[tuple[str, str]] = set()
    waiting = needed(package, extra="")
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        for extra in {"", *requirement.extras}:
            if name not in (*without, canonicalize_name(package)) and (name, extra) not in visited:
                visited.add((name, extra))
                sizes[name] = listed_bytes(name)
                waiting += needed(name, extra)
    return sizes


def needed(name: str, extra: str) -> list[Requirement]:
    """The requirements of a distribution on this machine; ``extra`` is one of its extras, or empty."""
    requirements = [Requirement(line) for line in requires(name) or []]
    return [each for each in requirements if each.marker is None or each.marker.evaluate({"extra": extra})]


def listed_bytes(name: str) -> int:
    """Bytes of the files in a distribution's RECORD, without compiled Python files."""
    files = distribution(name).files
    if files is None:
        pytest.skip(f"{name} was installed without a list of its files")
    paths = [Path(str(file.locate())) for file in files if "__pycache__" not in file.parts]
    return sum(path.stat().st_size for path in paths if path.is_file())


@pytest.fixture
def _installed() -> None:
    try:
        distribution("edgekit")
    except PackageNotFoundError:
        pytest.skip("edgekit is not installed, so nothing says what it requires")


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize(
    ("without", "within"), [pytest.param(["numpy"], True, id="core"), pytest.param([], False, id="with numpy")]
)
def test_the_core_is_small(without: list[str], within: bool) -> None:
    sizes = installed_bytes("edgekit", without)
    assert (sum(sizes.values()) <= CORE_MB * 10**6) == within, sizes


def test_each_requirement_is_counted_once_and_only_if_it_applies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four distributions require each other in circles; requirements of another Python or extra are not even installed."""
    install(
        tmp_path, "top", 1, 'Base_Part[fast]>=1; python_version >= "3"', "nowhere; extra == 'more'", "older; python_version < '3'"
    )
    install(tmp_path, "base-part", 20, "top[more2]", "deep", 'speed; extra == "fast"')
    install(tmp_path, "deep", 300, "base.part")
    install(tmp_path, "speed", 4000, "deep", "left-out")
    monkeypatch.syspath_prepend(tmp_path)
    assert installed_bytes("top", ["left-out"]) == {"base-part": 20, "deep": 300, "speed": 4000}


def install(site: Path, name: str, size: int, *requirements: str) -> None:
    """Install a distribution of a module of ``size`` bytes, its compiled file, and a RECORD entry of a deleted file."""
    module, info = name.replace("-", "_"), site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir()
    (site / "__pycache__").mkdir(exist_ok=True)
    (site / f"{module}.py").write_bytes(b"#" * size)
    (site / "__pycache__" / f"{module}.pyc").write_bytes(b"#" * 1000)
    lines = [f"Requires-Dist: {requirement}" for requirement in requirements]
    (info / "METADATA").write_text("\n".join(["Metadata-Version: 2.1", f"Name: {name}", "Version: 1.0", *lines, ""]))
    (info / "RECORD").write_text(f"{module}.py,,\n__pycache__/{module}.pyc,,\ndeleted_{module}.py,,7\n")


def tells_its_peak() -> bool:
    """Whether the system reports the peak memory of a process."""
    return STATUS.is_file() and "VmHWM:" in STATUS.read_text()


def verify(repository: Path, environment: dict[str, str], first: str, backend: str) -> subprocess.CompletedProcess[str]:
    """Run the statement ``first``, then ``edgekit verify exported/lenet --backend BACKEND``, in a process of its own."""
    words = ["verify", str(repository / "exported" / "lenet"), "--backend", backend]
    return subprocess.run(
        [sys.executable, "-c", VERIFY, first, *words],
        env=environment | {"PYTHONPATH": str(repository)},
        capture_output=True,
        text=True,
        check=False,
        timeout=1800,
    )


@pytest.mark.skipif(not tells_its_peak(), reason="needs VmHWM in /proc, the peak memory of a process")
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="onnxruntime is not installed")
@pytest.mark.parametrize(
    ("first", "within"),
    [pytest.param(AS_ON_A_BOARD, True, id="as on a board"), pytest.param("import torch", False, id="torch imported")],
)
def test_verifying_a_bundle_takes_little_memory(repository: Path, environment: dict[str, str], first: str, within: bool) -> None:
    done = verify(repository, environment, first, "ort-cpu")
    assert done.returncode == 0, done.stderr
    assert "ort-cpu" in done.stdout
    peaks = [int(line) for line in done.stderr.splitlines() if line.isdecimal()]  # of the command, and of what watches it
    assert len(peaks) == 2
    peak_mib = max(peaks) / 1024
    assert (peak_mib <= VERIFY_MIB) == within, f"{peak_mib:.1f} MiB"


@pytest.mark.skipif(not tells_its_peak(), reason="needs VmHWM in /proc, the peak memory of a process")
def test_torch_is_out_of_reach_as_on_a_board(repository: Path, environment: dict[str, str]) -> None:
    done = verify(repository, environment, AS_ON_A_BOARD, "torch")
    assert done.returncode == 2
    assert "PyTorch is not installed" in done.stderr
