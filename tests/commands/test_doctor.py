"""``edgekit doctor`` on runtimes that are absent, broken, or less capable than they claim."""

from __future__ import annotations

import importlib.metadata
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import edgekit.commands.doctor
from edgekit.backends import absence, table
from edgekit.backends.contract import Backend, Session
from edgekit.backends.tensorrt.flavour import flavour_of
from edgekit.backends.tensorrt.options import NAMES
from edgekit.bundle.files import ModelFiles
from edgekit.commands.doctor import ONNX, ask, doctor
from edgekit.machine.child import Answer, Limits
from edgekit.machine.gpu import cuda_absence
from edgekit.machine.packages import Examined, Package, pip_install
from edgekit.progress import Progress
from edgekit.reports.console import draw
from edgekit.reports.doctor import DoctorReport, Finding
from edgekit.setups import Absence, Setup
from tests.command_line import answered_here

NO_DRIVER = Absence("no NVIDIA driver is installed", "install one, or use ort-cpu")
NO_GPU = Absence("the NVIDIA driver finds no GPU", "check nvidia-smi", broken=True)
PACKAGES = {package.name: package for row in table().values() for package in (*row.packages, ONNX)}
ASK_DRIVER = [
    "edgekit.commands.doctor",
    "edgekit.machine.packages",
    *(f"edgekit.backends.{folder}.packages" for folder in ("pytorch", "onnxruntime", "tensorrt")),
]
"""Modules that use ``cuda_absence`` and ``gpu_facts``."""
CPU_ORT: dict[str, object] = {"version": "1.0", "providers": ["CPUExecutionProvider"]}
GPU_ORT: dict[str, object] = {
    "version": "1.0",
    "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "used": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "why": "",
}


class Machine:
    """A machine invented for a test: installed distributions, the facts or error of importing each, and the driver's state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.facts: dict[str, dict[str, object] | str] = {}
        self.driver: Absence | None = NO_DRIVER
        self.probed: list[str] = []
        self.pip_knows: set[str] | None = None  # None: all installed ones
        self.absences: dict[str, Absence | None] = {}
        self.gpu: dict[str, str] = {}
        monkeypatch.setattr(importlib.metadata, "version", self.version)
        monkeypatch.setattr(
            "edgekit.backends.tensorrt.packages.installed", lambda: tuple(name for name in NAMES if name in self.facts)
        )
        monkeypatch.setattr("platform.machine", lambda: "x86_64")
        for module in ASK_DRIVER:
            monkeypatch.setattr(f"{module}.cuda_absence", lambda: self.driver)
            monkeypatch.setattr(f"{module}.gpu_facts", lambda: self.gpu, raising=False)

    def examine(self) -> dict[str, Finding]:
        return {finding.name: finding for finding in self.report().findings}

    def report(self) -> DoctorReport:
        return doctor(probe=self.probe)

    def version(self, name: str) -> str:
        if name not in (self.facts if self.pip_knows is None else self.pip_knows):
            raise importlib.metadata.PackageNotFoundError(name)
        return "1.0"

    def probe(self, command: Sequence[str], key: str) -> Answer | Absence:
        if key == "absence":
            missing = self.absences.get(command[-1])
            crashed = missing is not None and missing.broken
            return (
                missing if crashed and missing else {"absence": missing and {"reason": missing.reason, "remedy": missing.remedy}}
            )
        (package,) = [package for package in PACKAGES.values() if package.probe == command and package.name in self.facts]
        self.probed.append(package.name)
        facts = self.facts[package.name]
        return Absence(facts, "", broken=True) if isinstance(facts, str) else facts


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real probe imports a runtime, for which a busy machine takes as long as it takes."""
    monkeypatch.setattr(edgekit.commands.doctor, "LIMITS", Limits(3600))


def test_a_package_that_is_not_installed_is_absent_with_its_extra_and_is_not_probed(machine: Machine) -> None:
    findings = machine.examine()
    assert set(findings) == {"NVIDIA driver", *PACKAGES}
    assert list(findings)[:2] == ["NVIDIA driver", "onnx"]
    assert set(PACKAGES) == {
        *("torch", "torchvision", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "cuda-bindings"),
        *("tensorrt", "tensorrt-rtx"),
    }
    assert {finding.status for finding in findings.values()} == {"absent"}
    assert findings["torch"].remedy == pip_install("train")
    assert findings["onnxruntime"].remedy == pip_install("cpu")
    assert findings["openvino"].remedy == pip_install("openvino")
    assert findings["onnxruntime-gpu"].remedy == "for NVIDIA GPUs: pip install onnxruntime-gpu"
    assert findings["cuda-bindings"].remedy == "for NVIDIA GPUs: pip install cuda-bindings"
    assert findings["tensorrt"].remedy == f"for NVIDIA GPUs: {pip_install('trt')}"
    assert findings["tensorrt-rtx"].remedy == pip_install("rtx")
    machine.driver, machine.gpu = None, {"cuda driver": "12.6"}
    findings = machine.examine()
    assert findings["onnxruntime-gpu"].remedy == "pip install onnxruntime-gpu"
    assert findings["cuda-bindings"].remedy == "pip install 'cuda-bindings==12.*'"
    assert findings["tensorrt"].remedy == pip_install("trt")
    assert machine.probed == []


def test_a_remedy_does_not_break_installed_packages(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine.driver, machine.facts = None, {"onnxruntime": CPU_ORT}
    added = machine.examine()["onnxruntime-gpu"].remedy
    assert added == "pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
    machine.facts = {"onnxruntime-gpu": GPU_ORT}
    assert machine.examine()["onnxruntime"].remedy == "none is needed, onnxruntime-gpu has the CPU too"
    monkeypatch.setattr("platform.machine", lambda: "aarch64")
    machine.facts = {}
    findings = machine.examine()
    assert findings["tensorrt"].remedy.startswith("sudo apt install python3-libnvinfer, and ")
    assert "use tensorrt" in findings["onnxruntime-gpu"].remedy
    assert "--flavour tensorrt" in findings["tensorrt-rtx"].remedy


def test_a_tensorrt_that_pip_does_not_know_by_this_name_is_examined_like_any_other(machine: Machine) -> None:
    """TensorRT may come from apt, or from pip as tensorrt-cu12."""
    machine.pip_knows, machine.driver, machine.facts = set(), None, {"tensorrt": {"version": "10.3.0"}}
    assert machine.examine()["tensorrt"] == Finding("tensorrt", "ok", "10.3.0", "GPU", "", "")
    machine.facts = {"tensorrt": "ImportError: libnvinfer.so.10: cannot open shared object file"}
    broken = machine.examine()["tensorrt"]
    assert (broken.status, broken.remedy) == ("broken", "reinstall tensorrt the way it was installed")
    machine.pip_knows, machine.facts = {"tensorrt"}, {}
    assert machine.examine()["tensorrt"].status == "absent"  # nothing that could be imported


def test_every_backend_is_probed_and_named_in_a_line(machine: Machine) -> None:
    crash = Absence("it crashes", "", broken=True)
    absent = Absence("no NVIDIA driver is installed", "")
    machine.absences = {**dict.fromkeys(table(), absent), "torch": None, "ort-cpu": crash}
    report = machine.report()
    assert report.backends == machine.absences
    assert DoctorReport.from_json(report.to_json()) == report
    console = Console(file=io.StringIO(), width=200)
    draw(report.page(), console)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # the console writes into a StringIO
    assert "backends that work here: torch" in lines
    assert "not present: torch-cuda, ort-cuda, ort-tensorrt, openvino, tensorrt: no NVIDIA driver is installed" in lines
    assert "BROKEN: ort-cpu: it crashes" in lines
    assert not report.passed


def test_a_backend_is_probed_in_a_process_of_its_own_and_answers_as_in_this_process() -> None:
    facts = ask(("edgekit.backends.probe", "ort-cuda"), "absence")
    assert isinstance(facts, dict)
    missing = absence(Setup("ort-cuda"))
    assert facts == {"absence": missing and {"reason": missing.reason, "remedy": missing.remedy, "broken": missing.broken}}


def test_a_name_of_no_backend_is_one_sentence() -> None:
    reason = ask(("edgekit.backends.probe", "ort-gpu"), "absence")
    assert isinstance(reason, Absence)
    assert reason.reason.startswith("no backend 'ort-gpu'; use one of torch, ")


def _never_opened(files: ModelFiles, setup: Setup, progress: Progress) -> Session:
    raise AssertionError("doctor opens no session")


def test_packages_of_other_backends_stand_behind_edgekits_own_each_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first of two packages of one name is examined; a backend's facts are added to the machine's."""
    silicon = Package("silicon", lambda: None, ("silicon.probe",), lambda facts: Examined("NPU", version=facts["version"]))
    others = Package("onnxruntime", lambda: Absence("never asked", ""), ("other.probe",), lambda facts: Examined())
    broken = Absence("the backend of silicon is installed but cannot be imported: no libsilicon", "", broken=True)
    row = Backend(
        "silicon",
        lambda files, setup: broken,
        _never_opened,
        packages=(silicon, others),
        doctor_facts=lambda: {"npu": "1"},
    )
    rows = {**table(), "silicon": row}
    monkeypatch.setattr(edgekit.commands.doctor, "table", lambda: rows)
    monkeypatch.setitem(PACKAGES, "silicon", silicon)
    machine.pip_knows, machine.facts, machine.absences = set(), {"silicon": {"version": "2.0"}}, {"silicon": broken}
    report = machine.report()
    assert report.findings[-1] == Finding("silicon", "ok", "2.0", "NPU", "", "")
    assert [finding.problem for finding in report.findings if finding.name == "onnxruntime"] == ["not installed"]
    assert report.backends["silicon"] == broken
    assert all(finding.status != "broken" for finding in report.findings)
    assert not report.passed
    assert report.machine["npu"] == "1"


def test_a_runtime_that_works_is_ok_with_its_version(machine: Machine) -> None:
    machine.facts = {"onnxruntime": CPU_ORT}
    finding = machine.examine()["onnxruntime"]
    assert finding == Finding("onnxruntime", "ok", "1.0", "CPU", "", "")
    assert machine.report().passed


def test_both_onnxruntime_packages_at_once_are_broken_and_nothing_imports_them(machine: Machine) -> None:
    machine.facts = {"onnxruntime": CPU_ORT, "onnxruntime-gpu": GPU_ORT}
    findings = machine.examine()
    for name in ("onnxruntime", "onnxruntime-gpu"):
        assert findings[name].status == "broken"
        assert "overwrite each other" in findings[name].problem
        assert "pip uninstall -y onnxruntime onnxruntime-gpu" in findings[name].remedy
    assert machine.probed == []
    assert not machine.report().passed


def test_cuda_that_is_listed_without_a_driver_is_told_apart_from_cuda_that_works(machine: Machine) -> None:
    machine.facts = {"onnxruntime-gpu": GPU_ORT}
    idle = machine.examine()["onnxruntime-gpu"]
    assert (idle.status, idle.runs_on) == ("ok", "CPU")
    assert "lists CUDA but would fall back to the CPU: no NVIDIA driver" in idle.problem
    assert idle.remedy == "install one, or use ort-cpu"
    machine.driver = None
    assert machine.examine()["onnxruntime-gpu"] == Finding("onnxruntime-gpu", "ok", "1.0", "CUDA, CPU", "", "")
    machine.facts = {"onnxruntime-gpu": {**GPU_ORT, "used": ["CPUExecutionProvider"], "why": "libcudnn.so.9 not found"}}
    fallen = machine.examine()["onnxruntime-gpu"]
    assert (fallen.status, fallen.runs_on) == ("broken", "CPU")
    assert "libcudnn.so.9 not found" in fallen.problem


@pytest.mark.parametrize(
    ("library", "remedy"),
    [("libcudnn.so.8", "pip install 'nvidia-cudnn-cu12<9'"), ("libfoo.so.8", "pip install --force-reinstall tensorrt")],
)
def test_a_library_that_tensorrt_does_not_bring_has_a_remedy_of_its_own(machine: Machine, library: str, remedy: str) -> None:
    machine.facts = {"tensorrt": f"ImportError: {library}: cannot open shared object file"}
    assert machine.examine()["tensorrt"].remedy == remedy


@pytest.mark.parametrize(("problem", "status"), [(None, "ok"), (NO_DRIVER, "absent"), (NO_GPU, "broken")])
def test_the_driver_is_ok_absent_or_broken(machine: Machine, problem: Absence | None, status: str) -> None:
    machine.driver = problem
    finding = machine.examine()["NVIDIA driver"]
    assert finding.status == status
    assert machine.report().passed == (status != "broken")
    assert bool(finding.remedy) == bool(problem)


def test_an_import_that_fails_is_broken_with_its_reason_and_a_remedy(machine: Machine) -> None:
    machine.facts = {"onnxruntime": "ImportError: libfoo.so.1: cannot open shared object file"}
    finding = machine.examine()["onnxruntime"]
    assert (finding.status, finding.problem) == ("broken", "ImportError: libfoo.so.1: cannot open shared object file")
    assert "--force-reinstall onnxruntime" in finding.remedy
    assert not machine.report().passed


@pytest.mark.parametrize(
    ("facts", "runs_on", "problem"),
    [
        ({"cuda": False, "built": None, "device": ""}, "CPU", ""),
        ({"cuda": False, "built": "13.0", "device": ""}, "CPU", "its CUDA 13.0 is idle: no NVIDIA driver is installed"),
        ({"cuda": True, "built": "13.0", "device": "H100"}, "CUDA 13.0, H100", ""),
    ],
)
def test_torch_says_what_it_would_really_run_on(machine: Machine, facts: dict[str, Any], runs_on: str, problem: str) -> None:
    machine.facts = {"torch": {"version": "1.0", **facts}}
    finding = machine.examine()["torch"]
    assert (finding.runs_on, finding.problem) == (runs_on, problem)


def test_tensorrt_without_a_gpu_says_what_it_can_still_do(machine: Machine) -> None:
    machine.facts = {"tensorrt": {"version": "10.3.0"}, "tensorrt-rtx": {"version": "1.7.1"}}
    findings = machine.examine()
    assert findings["tensorrt"].runs_on == "nothing"
    assert findings["tensorrt-rtx"].runs_on == "builds engines here, runs none"
    assert findings["tensorrt"].problem == findings["tensorrt-rtx"].problem == "no NVIDIA driver is installed"
    assert findings["tensorrt-rtx"].remedy == "none is needed to build"
    machine.driver = None
    assert machine.examine()["tensorrt"].runs_on == "GPU"


def test_a_tensorrt_that_edgekit_does_not_know_says_which_it_knows(machine: Machine) -> None:
    machine.facts = {"tensorrt": {"version": "12.0"}}
    finding = machine.examine()["tensorrt"]
    assert (finding.runs_on, finding.problem) == ("nothing", "edgekit does not know tensorrt 12.0")
    assert finding.remedy == "install one of 8.6 and later 8.x, 10.x, 11.x"


@pytest.mark.parametrize(("driver", "runs_on"), [("12.4", "nothing"), ("13.0", "GPU"), ("14.2", "GPU"), ("", "GPU")])
def test_tensorrt_of_a_newer_cuda_than_the_drivers_runs_nothing(machine: Machine, driver: str, runs_on: str) -> None:
    machine.driver, machine.gpu = None, {"cuda driver": driver, "compute capability": "8.9"}
    machine.facts = {"tensorrt": {"version": "10.3.0", "cuda": "13", "capabilities": []}}
    finding = machine.examine()["tensorrt"]
    assert finding.runs_on == runs_on
    assert ("built for CUDA 13, and the driver reaches CUDA 12.4" in finding.problem) == (runs_on == "nothing")
    assert bool(finding.remedy) == (runs_on == "nothing")


@pytest.mark.parametrize(("capability", "runs_on"), [("9.0", "builds engines here, runs none"), ("8.9", "GPU"), ("", "GPU")])
def test_rtx_on_a_gpu_that_it_does_not_know_only_builds(machine: Machine, capability: str, runs_on: str) -> None:
    machine.driver, machine.gpu = None, {"cuda driver": "13.0", "compute capability": capability}
    machine.facts = {"tensorrt-rtx": {"version": "1.7.1", "cuda": "13", "capabilities": ["SM86", "SM89"]}}
    finding = machine.examine()["tensorrt-rtx"]
    assert finding.runs_on == runs_on
    assert ("no GPU of compute capability 9.0" in finding.problem) == (capability == "9.0")


def test_onnxruntimes_tensorrt_provider_says_whether_it_finds_the_tensorrt_it_links(machine: Machine) -> None:
    machine.driver = None
    facts = {**GPU_ORT, "links": "libnvinfer.so.10", "tensorrt": ""}
    machine.facts = {"onnxruntime-gpu": facts}
    assert machine.examine()["onnxruntime-gpu"] == Finding("onnxruntime-gpu", "ok", "1.0", "CUDA, TensorRT, CPU", "", "")
    machine.facts = {"onnxruntime-gpu": {**facts, "tensorrt": "libnvinfer.so.10: cannot open shared object file"}}
    lacking = machine.examine()["onnxruntime-gpu"]
    assert (lacking.status, lacking.runs_on) == ("ok", "CUDA, CPU")
    assert lacking.problem.startswith("its TensorRT provider links libnvinfer.so.10: libnvinfer.so.10: cannot open")
    assert lacking.remedy.startswith("pip install 'tensorrt==10.*', or install TensorRT 10 ")


def test_the_probe_reads_what_the_provider_links_out_of_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invented onnxruntime whose provider links a library that does not exist."""
    package = tmp_path / "onnxruntime"
    (package / "capi").mkdir(parents=True)
    (package / "__init__.py").write_text("__version__ = '1.0'\ndef get_available_providers(): return []\n")
    (package / "capi" / "libonnxruntime_providers_tensorrt.so").write_bytes(b"\x7fELF\0libnvinfer.so.97\0libnvonnxparser.so.97\0")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = ask(PACKAGES["onnxruntime-gpu"].probe, "version")
    assert isinstance(facts, dict), facts
    assert facts["links"] == "libnvinfer.so.97"
    assert "libnvinfer.so.97" in str(facts["tensorrt"])


def test_the_probe_prints_its_facts_last_and_lets_no_session_fall_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An invented onnxruntime that prints on failure, as the real one does."""
    (tmp_path / "onnxruntime.py").write_text(
        "import sys\n"
        "__version__ = '1.0'\n"
        "def get_available_providers(): return ['CUDAExecutionProvider']\n"
        "def preload_dlls(): print('Failed to load libcublas.so.13')\n"
        "def InferenceSession(content, providers, enable_fallback):\n"
        "    print('EP Error')\n"
        "    raise RuntimeError('libcudnn.so.9: cannot open' if enable_fallback == 0 else 'it would fall back')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = ask(PACKAGES["onnxruntime-gpu"].probe, "version")
    assert isinstance(facts, dict), facts
    assert (facts["used"], facts["why"]) == ([], "libcudnn.so.9: cannot open")


def test_the_probe_finds_edgekit_wherever_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONPATH", raising=False)
    facts = ask(PACKAGES["onnxruntime"].probe, "version")
    assert isinstance(facts, dict), facts
    assert facts["version"]


def test_the_probe_tells_the_cuda_and_the_gpus_of_the_installed_rtx() -> None:
    pytest.importorskip("tensorrt_rtx", exc_type=ImportError)
    facts = ask(PACKAGES["tensorrt-rtx"].probe, "version")
    assert isinstance(facts, dict)
    assert str(facts["cuda"]).isdecimal()
    assert "SM89" in facts["capabilities"]


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for the test to write, which a child process runs as the module ``mine``."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return tmp_path / "mine.py"


NO_FACTS = ("5", "null", "[1]", '"text"', "{}", "[" * 100_000)


@pytest.mark.parametrize(
    ("program", "reason"),
    [
        ("import os; os.abort()", "importing it crashes with signal 6"),
        ("raise ImportError('libfoo.so.1: cannot open')", "ImportError: libfoo.so.1: cannot open"),
        ("raise SystemExit(3)", "importing it exits with 3"),
        ("pass", "importing it ends the program before its version can be read"),
        *((f"print({text!r})", "importing it ends the program before its version can be read") for text in NO_FACTS),
        ("import sys; sys.stdout.buffer.write(b'\\xff\\xfe')", "importing it ends the program before its version can be read"),
        ("import sys; sys.stderr.buffer.write(b'\\xff!'); sys.exit(3)", "\ufffd!"),
    ],
)
def test_a_probe_that_fails_is_broken_with_the_reason(module: Path, program: str, reason: str) -> None:
    module.write_text(program)
    assert ask(("mine",), "version") == Absence(reason, "", broken=True)


def test_without_a_home_the_doctor_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EDGEKIT_CACHE", "XDG_CACHE_HOME", "HOME"):
        monkeypatch.setenv(name, "")
    report = doctor(probe=lambda command, key: Absence("not asked", "", broken=True))
    assert "let EDGEKIT_CACHE name a folder of yours" in report.machine["engine cache"]


@pytest.mark.parametrize("version", ["9" * 5000 + ".1", "10." + "9" * 5000, "10", "ten.one"])
def test_a_version_that_is_none_is_of_no_flavour(version: str) -> None:
    assert flavour_of("tensorrt", version) is None


def test_an_import_that_hangs_is_given_up(module: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(edgekit.commands.doctor, "LIMITS", Limits(0.05))
    monkeypatch.setenv("EDGEKIT_SECONDS", "0.06")  # more than its own
    module.write_text("import signal; signal.pause()")
    expected = "importing it takes longer than 0.06 s; set EDGEKIT_SECONDS to the seconds that it may take"
    assert str(ask(("mine",), "version")) == expected


@pytest.mark.parametrize(("module_name", "version"), [("msgspec", True), ("edgekit.nowhere", False)])
def test_the_plain_probe_tells_the_version_of_what_can_be_imported(module_name: str, version: bool) -> None:
    facts = ask(("edgekit.machine.probe", module_name), "version")
    assert isinstance(facts, dict) == version, facts
    assert version or "No module named 'edgekit.nowhere'" in str(facts)


def test_this_machine_is_described(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[Sequence[str]] = []

    def probe(command: Sequence[str], key: str) -> Answer | Absence:
        commands.append(command)
        return answered_here(command, key)

    report = doctor(probe=probe)
    findings = {finding.name: finding for finding in report.findings}
    assert findings["onnxruntime"].status == "ok" or findings["onnxruntime-gpu"].status == "ok"
    assert findings["onnx"].version
    assert commands
    assert DoctorReport.from_json(report.to_json()) == report
    assert json.loads(report.to_json())["passed"] is report.passed


@pytest.mark.parametrize(
    ("driver", "status", "runs_on", "problem", "remedy"),
    [
        (None, 0, "GPU", "", ""),
        (None, 35, "nothing", "CUDA does not start: too old", "update the NVIDIA driver, or pip install 'cuda-bindings==12.*'"),
        (NO_DRIVER, 35, "nothing", "no NVIDIA driver is installed", ""),
    ],
)
def test_cudas_python_is_checked_against_the_driver(
    machine: Machine, driver: Absence | None, status: int, runs_on: str, problem: str, remedy: str
) -> None:
    machine.driver = driver
    machine.facts["cuda-bindings"] = {"version": "13.0", "status": status, "text": "too old"}
    finding = machine.examine()["cuda-bindings"]
    assert (finding.runs_on, finding.problem, finding.remedy) == (runs_on, problem, remedy)


def test_the_real_cuda_python_answers() -> None:
    pytest.importorskip("cuda.bindings.runtime", exc_type=ImportError)
    facts = ask(PACKAGES["cuda-bindings"].probe, "version")
    assert isinstance(facts, dict), facts
    assert (facts["status"] == 0) is (cuda_absence() is None)


def test_the_engine_cache_is_named_with_its_size(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path))
    assert "engine cache" not in machine.report().machine
    (tmp_path / "engines").mkdir()
    for name, size in (("a.plan", 2_000_000), ("b.plan", 1_000_000), ("b.plan.json", 9), ("timing-x.cache", 9_000_000)):
        (tmp_path / "engines" / name).write_bytes(bytes(size))
    assert machine.report().machine["engine cache"] == f"2 engines, 3.0 MB in {tmp_path / 'engines'}"
    (tmp_path / "engines" / "a.plan").unlink()
    assert machine.report().machine["engine cache"] == f"1 engine, 1.0 MB in {tmp_path / 'engines'}"


def test_a_cache_that_is_none_is_named_with_what_to_do(machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "file"))
    sentence = f"none: {tmp_path / 'file' / 'engines'}: Not a directory; let EDGEKIT_CACHE name a folder of yours"
    assert machine.report().machine["engine cache"] == sentence
    assert machine.report().passed

    def refuse(self: Path) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "iterdir", refuse)  # root may read anything
    assert "engines: Permission denied; let EDGEKIT_CACHE" in machine.report().machine["engine cache"]


def test_a_pytorch_that_is_broken_is_no_backend_that_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A real child process finds a broken package before the installed one."""
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('libtorch.so: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    facts = ask(("edgekit.backends.probe", "torch"), "absence")
    assert isinstance(facts, dict), facts
    assert "libtorch.so: cannot open" in facts["absence"]["reason"]
    assert facts["absence"]["broken"]


def test_a_cpu_without_vnni_is_a_warning_and_no_fault(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    for names, warned in ((("avx2",), True), (("avx2", "avx512_vnni"), False)):
        monkeypatch.setattr("edgekit.machine.cpu.instruction_sets", lambda names=names: names)
        report = machine.report()
        assert report.passed
        assert bool(report.warnings) is warned
        shown = io.StringIO()
        draw(report.page(), Console(file=shown, width=300))
        assert ("warning: int8 without VNNI" in shown.getvalue()) is warned
