"""What works on this machine: every runtime, its version, what it would really run on, what is wrong, what mends it.

Each package is imported in a process of its own, because a broken one may crash.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import edgekit
from edgekit.backends import KINDS
from edgekit.backends.tensorrt.engines import engine_folder
from edgekit.backends.tensorrt.flavour import NAMES, flavour_of, how_to_install, installed, known_versions, on_arm, unknown_gpu
from edgekit.errors import OutputError
from edgekit.machine.cpu import machine_facts
from edgekit.machine.gpu import cuda_problem, gpu_facts
from edgekit.machine.packages import pip_install
from edgekit.progress import SILENT, Progress
from edgekit.reports.doctor import DoctorReport, Finding

IMPORT_SECONDS = 120
FOR_GPUS = ("onnxruntime-gpu", "cuda-bindings", "tensorrt")
_ASKED = {"version", "absence"}
_EDGEKIT = str(Path(edgekit.__file__).parent.parent)


class Package(NamedTuple):
    """A distribution, the module it brings, the extra that installs it and a program that prints JSON facts about it.

    Without an ``extra`` it is installed by its own name.
    """

    name: str
    module: str
    extra: str
    program: str


# python -c puts the current folder first, and whatever lies there would be imported; PYTHONPATH stays
_NOTHING_FROM_HERE = "import sys; sys.path = [place for place in sys.path if place]\n"
_PLAIN = "import json, {module} as m; print(json.dumps({{'version': str(m.__version__)}}))"
_TORCH = """
import json, torch
cuda = torch.cuda.is_available()
print(json.dumps({'version': str(torch.__version__), 'cuda': cuda, 'built': torch.version.cuda,
                  'device': torch.cuda.get_device_name(0) if cuda else ''}))
"""
# get_available_providers() names CUDA on any machine: only a session tells. The model is a single Relu. TensorRT comes
# last, because it may bring libraries that CUDA's provider lacks, and edgekit's own part of it from where this file is.
_ORT = f"""
import base64, json, os, sys, tempfile, onnxruntime as o
facts = {{'version': o.__version__, 'providers': o.get_available_providers(), 'used': [], 'why': '', 'tensorrt': '', 'links': ''}}
if 'CUDAExecutionProvider' in facts['providers']:
    if hasattr(o, 'preload_dlls'):
        o.preload_dlls()
    model = base64.b64decode('CAg6MwoMCgF4EgF5IgRSZWx1EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQEQ==')
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            session = o.InferenceSession(model, providers=['CUDAExecutionProvider'], enable_fallback=0)
            facts['used'] = session.get_providers()
        except Exception as problem:
            print(problem, file=sys.stderr, flush=True)
        os.dup2(stderr, 2)
        log.seek(0)
        lines = [line for line in log.read().decode(errors='replace').splitlines() if line.strip()]
        facts['why'] = lines[0][-300:] if lines else ''
sys.path.insert(0, {_EDGEKIT!r})
from pathlib import Path
from edgekit.machine.gpu import cuda_problem
from edgekit.backends.onnxruntime.linked import linked_tensorrt, loading_problem
facts['links'] = linked_tensorrt(Path(o.__file__).parent)
if facts['links']:
    facts['tensorrt'] = loading_problem(facts['links'], driver=not cuda_problem())
print(json.dumps(facts))
"""
# the wheels of each CUDA have names of their own; RTX lists the GPUs that it knows
_TENSORRT = """
import importlib.metadata, json, re, {module} as m
names = [str(one.metadata['Name']) for one in importlib.metadata.distributions()]
built = [found[1] for found in (re.match(r'{module}[-_]cu(\\d+)', name.replace('-', '_')) for name in names) if found]
known = [name for name in dir(getattr(m, 'ComputeCapability', None)) if name.startswith('SM')]
print(json.dumps({{'version': str(m.__version__), 'cuda': built[0] if built else '', 'capabilities': known}}))
"""
# its release must fit the driver: only a call tells
_CUDA = """
import importlib.metadata, json
from cuda.bindings import runtime
status = runtime.cudaGetDeviceCount()[0]
text = runtime.cudaGetErrorString(status)[1].decode(errors='replace')
print(json.dumps({'version': importlib.metadata.version('cuda-bindings'), 'status': int(status), 'text': text}))
"""

PACKAGES = (
    Package("torch", "torch", "train", _TORCH),
    Package("torchvision", "torchvision", "train", _PLAIN.format(module="torchvision")),
    Package("onnx", "onnx", "cpu", _PLAIN.format(module="onnx")),
    Package("onnxruntime", "onnxruntime", "cpu", _ORT),
    Package("onnxruntime-gpu", "onnxruntime", "", _ORT),
    Package("cuda-bindings", "cuda.bindings", "", _CUDA),
    Package("tensorrt", "tensorrt", "trt", _TENSORRT.format(module="tensorrt")),
    Package("tensorrt-rtx", "tensorrt_rtx", "rtx", _TENSORRT.format(module="tensorrt_rtx")),
)

Probe = Callable[[str], "dict[str, object] | str"]


def doctor(progress: Progress = SILENT, probe: Probe | None = None) -> DoctorReport:
    """Look at every runtime; ``probe`` runs a program and gives what it printed as JSON, or the reason it failed."""
    probe = probe or run_program
    findings = [_driver()]
    versions = {package.name: _version(package.name) for package in PACKAGES}
    backends = {}
    with progress.task("looking at runtimes", len(PACKAGES) + len(KINDS)) as advance:
        for package in PACKAGES:
            findings.append(_examine(package, versions, probe))
            advance(1, package.name)
        for kind in KINDS:
            facts = probe(_backend(kind))
            backends[kind] = facts if isinstance(facts, str) else str(facts.get("absence", "it does not say"))
            advance(1, kind)
    return DoctorReport(machine_facts() | _engine_cache(), tuple(findings), backends)


def _backend(kind: str) -> str:
    """A program that prints what ``--backend kind`` would say here."""
    # where PyTorch is the runtime, its absence is told without importing it, which takes seconds: here it is imported
    whole = "import edgekit.backends._torch; " if kind == "torch" else ""
    asked = f"why = absence({kind!r})\nif not why: {whole}pass\nprint(json.dumps({{'absence': why}}))"
    return f"import json, sys; sys.path.insert(0, {_EDGEKIT!r})\nfrom edgekit.backends import absence\n{asked}"


def run_program(program: str) -> dict[str, object] | str:
    """Run ``program`` in a fresh interpreter: the JSON object it printed last, or why there is none."""
    command = [sys.executable, "-c", _NOTHING_FROM_HERE + program]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=IMPORT_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return f"importing it takes longer than {IMPORT_SECONDS} s"
    if done.returncode < 0:
        return f"importing it crashes with signal {-done.returncode}"
    lines = [line for line in (done.stderr if done.returncode else done.stdout).splitlines() if line.strip()]
    if done.returncode:
        return lines[-1].strip() if lines else f"importing it exits with {done.returncode}"
    try:
        facts = json.loads(lines[-1])
    except (IndexError, ValueError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not _ASKED & facts.keys():  # what it printed by itself, for example as it ended
        return "importing it ends the program before it can say its version"
    return facts


def _engine_cache() -> dict[str, str]:
    """How much there is, and where: it is found again only by what fits, and may be deleted at any time."""
    try:
        folder = engine_folder()
    except OutputError as problem:
        return {"engine cache": f"none: {problem}"}
    try:
        sizes = [plan.stat().st_size for plan in folder.iterdir() if plan.suffix == ".plan" and plan.is_file()]
    except FileNotFoundError:
        return {}
    except OSError as problem:  # a file, or somebody else's: no engine would be found or kept
        return {"engine cache": f"none: {folder}: {problem.strerror}; let EDGEKIT_CACHE name a folder of yours"}
    engines = "1 engine" if len(sizes) == 1 else f"{len(sizes)} engines"
    return {"engine cache": f"{engines}, {sum(sizes) / 1e6:.1f} MB in {folder}"} if sizes else {}


def _driver() -> Finding:
    problem = cuda_problem()
    if not problem:
        facts = gpu_facts()
        return Finding("NVIDIA driver", "ok", facts.get("driver", ""), facts.get("gpu", "GPU"), "", "")
    what, _, remedy = problem.partition("; ")
    status = "absent" if "no NVIDIA driver" in problem else "broken"
    return Finding("NVIDIA driver", status, "", "", what, remedy)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return ""


def _examine(package: Package, versions: dict[str, str], probe: Probe) -> Finding:
    version, tensorrt = versions[package.name], package.name in NAMES
    # as it will be imported: TensorRT also comes from apt, or from pip under other names
    if package.name not in installed() if tensorrt else not version:
        return Finding(package.name, "absent", "", "", "not installed", _how_to_add(package, versions))
    if package.module == "onnxruntime" and versions["onnxruntime"] and versions["onnxruntime-gpu"]:
        return Finding(
            package.name,
            "broken",
            version,
            "",
            "onnxruntime and onnxruntime-gpu are both installed and overwrite each other's files",
            "pip uninstall -y onnxruntime onnxruntime-gpu, then pip install the one of them that you want",
        )
    facts = probe(package.program)
    if isinstance(facts, str):
        again = f"pip install --force-reinstall {package.name}" if version else "install it again by what installed it"
        return Finding(package.name, "broken", version, "", facts, again)
    version = str(facts["version"]) if tensorrt else version
    runs_on, problem, remedy = _runs_on(package, facts)
    broken = package.module == "onnxruntime" and runs_on == "CPU" and problem and not cuda_problem()
    return Finding(package.name, "broken" if broken else "ok", version, runs_on, problem, remedy)


def _how_to_add(package: Package, versions: dict[str, str]) -> str:
    """What installs a package that is absent, and leaves whole what is there."""
    if package.name == "onnxruntime" and versions["onnxruntime-gpu"]:
        return "none is needed, onnxruntime-gpu has the CPU too"
    if package.name == "onnxruntime-gpu" and on_arm():
        return "PyPI has none for aarch64, use tensorrt"
    release = gpu_facts().get("cuda driver", "").partition(".")[0] if package.name == "cuda-bindings" else ""
    command = f"pip install '{package.name}=={release}.*'" if release else f"pip install {package.name}"
    if package.extra:
        command = how_to_install(package.name) if package.name in NAMES else pip_install(package.extra)
    if package.name == "onnxruntime-gpu" and versions["onnxruntime"]:
        command = f"pip uninstall -y onnxruntime, then {command}"
    return f"for NVIDIA GPUs: {command}" if package.name in FOR_GPUS and cuda_problem() else command


def _runs_on(package: Package, facts: dict[str, object]) -> tuple[str, str, str]:
    """(what it would really run on, a limitation, its remedy)."""
    gpu, _, remedy = cuda_problem().partition("; ")
    if package.name == "torch":
        idle = f"its CUDA {facts['built']} is idle: {gpu}" if facts["built"] and gpu else ""
        return (f"CUDA {facts['built']}, {facts['device']}", "", "") if facts["cuda"] else ("CPU", idle, "")
    if package.module == "onnxruntime":
        return _onnxruntime(facts, gpu, remedy)
    if package.name.startswith("tensorrt"):
        return _tensorrt(package, facts, gpu)
    if package.name == "cuda-bindings":
        return _cuda_bindings(facts, gpu)
    return "", "", ""


def _onnxruntime(facts: dict[str, object], gpu: str, remedy: str) -> tuple[str, str, str]:
    """It names CUDA on any machine: what counts is what a session really used."""
    lists_cuda = "CUDAExecutionProvider" in list(facts["providers"])  # type: ignore[call-overload]
    if lists_cuda and gpu:
        return "CPU", f"it lists CUDA but would fall back to the CPU: {gpu}", remedy
    if lists_cuda and list(facts["used"])[:1] != ["CUDAExecutionProvider"]:  # type: ignore[call-overload]
        reason = f"it lists CUDA but falls back to the CPU: {facts['why'] or 'a CUDA library is missing'}"
        return "CPU", reason, "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    return _ort_with_cuda(facts) if lists_cuda else ("CPU", "", "")


def _cuda_bindings(facts: dict[str, object], gpu: str) -> tuple[str, str, str]:
    """CUDA's Python, by which engines are run; with a GPU, its release may be too new for the driver."""
    if gpu:
        return "nothing", gpu, ""
    if facts["status"]:
        return (
            "nothing",
            f"CUDA does not start: {facts['text']}",
            "update the NVIDIA driver, or pip install 'cuda-bindings==12.*'",
        )
    return "GPU", "", ""


def _ort_with_cuda(facts: dict[str, object]) -> tuple[str, str, str]:
    """ONNX Runtime brings its TensorRT provider, and not TensorRT."""
    if not facts.get("links"):
        return "CUDA, CPU", "", ""
    if not facts.get("tensorrt"):
        return "CUDA, TensorRT, CPU", "", ""
    major = str(facts["links"]).rpartition(".")[2]
    lack = f"its TensorRT provider links {facts['links']}: {facts['tensorrt']}"
    remedy = f"pip install 'tensorrt=={major}.*', or install TensorRT {major} and add its folder to LD_LIBRARY_PATH"
    return "CUDA, CPU", lack, f"{remedy}, or leave that provider alone"


def _tensorrt(package: Package, facts: dict[str, object], gpu: str) -> tuple[str, str, str]:
    """What this release would do here; ``gpu`` says why there is none."""
    version, here = str(facts["version"]), gpu_facts()
    flavour = flavour_of(package.name, version)
    if flavour is None:
        return "nothing", f"edgekit does not know {package.name} {version}", f"install one of {known_versions(package.name)}"
    without = "nothing" if flavour.needs_gpu else "builds engines here, runs none"
    if gpu:
        return without, gpu, "install one" if flavour.needs_gpu else "none is needed to build"
    built, driver = str(facts.get("cuda") or ""), here.get("cuda driver", "")
    if built and driver and int(driver.partition(".")[0]) < int(built):
        return without, f"it is built for CUDA {built}, and the driver reaches CUDA {driver}", "update the NVIDIA driver"
    problem, _, remedy = unknown_gpu("it", list(facts.get("capabilities") or []), here).partition("; ")  # type: ignore[call-overload]
    return (without, problem, remedy) if problem else ("GPU", "", "")
