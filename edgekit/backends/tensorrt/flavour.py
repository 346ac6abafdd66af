"""The flavours of TensorRT, how they differ, and which of them is here.

The table was read off the bindings of 8.6.0, 10.16.1, 11.4.0 and TensorRT-RTX 1.7.1 (tests/trt_api/).
"""

from __future__ import annotations

import importlib.util
import platform
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from packaging.version import InvalidVersion, Version

from edgekit.backends.tensorrt.options import NAMES
from edgekit.errors import BROKEN, BrokenError, MissingError, UsageError
from edgekit.machine.gpu import cuda_absence, gpu_facts
from edgekit.machine.packages import broken_package, pip_install
from edgekit.setups import Absence


class Flavour(NamedTuple):
    """One family of releases: ``name`` is the distribution's, ``first`` the oldest release, of that major version only."""

    name: str
    module: str
    extra: str
    first: tuple[int, int]
    needs_gpu: bool = True
    """A build measures kernels, so it takes a GPU; only RTX compiles without one."""
    explicit_batch: bool = False
    """``EXPLICIT_BATCH`` exists (and 8.x insists on it)."""
    strong_typing_flag: bool = False
    """``STRONGLY_TYPED`` must be asked for; where neither this nor ``precision_flags`` is set, networks are always so."""
    precision_flags: bool = False
    """Networks are typed weakly: precision is allowed by ``FP16`` and ``INT8`` and asked for layer by layer."""
    names_nodes: bool = True
    """Parser errors name the node; elsewhere they number it."""
    lists_support: bool = False
    """The parser stops at the first node it lacks; ``supports_model`` lists all of them."""
    progress: bool = True
    """A build tells how far it is."""
    hardware_compatible: bool = True
    version_compatible: bool = True
    levels: bool = True
    """A build searches for faster kernels, for longer at a higher level."""
    timing_cache: bool = True
    """A build can reuse the measurements of an earlier one."""
    lists_gpus: bool = False
    """``ComputeCapability`` names the GPUs it compiles for."""
    compiles_late: bool = False
    """Kernels for the shapes at hand are compiled when they run, by a strategy of the context."""
    int64: bool = True
    """Inputs and outputs may be of 64-bit integers."""
    uint8_zero_points: bool = True
    """The parser takes QuantizeLinear with a uint8 zero point of 0, and reads its codes as int8."""
    int8_constants: bool = True
    """Weights may be stored in int8; elsewhere a QuantizeLinear must make them of floats, as NVIDIA's own tools write it."""
    opset: int | None = None
    """The newest ONNX opset whose operators the parser knows, where that is old; newer files may still be read."""

    @property
    def strongly_typed(self) -> bool:
        """The types in the ONNX file are the types of the layers."""
        return not self.precision_flags


FLAVOURS = (
    Flavour(
        "tensorrt", "tensorrt", "trt", (8, 6),
        explicit_batch=True, precision_flags=True, names_nodes=False, lists_support=True, progress=False,
        int64=False, uint8_zero_points=False, int8_constants=False, opset=17,
    ),
    Flavour("tensorrt", "tensorrt", "trt", (10, 0), explicit_batch=True, strong_typing_flag=True),
    Flavour("tensorrt", "tensorrt", "trt", (11, 0)),
    # it compiles for the GPU it finds when it runs: what is measured or bound to one GPU is not there or does nothing
    Flavour(
        "tensorrt-rtx", "tensorrt_rtx", "rtx", (1, 4),
        needs_gpu=False, hardware_compatible=False, version_compatible=False, levels=False, timing_cache=False, lists_gpus=True,
        compiles_late=True,
    ),
)  # fmt: skip


class TensorRT(NamedTuple):
    """An imported TensorRT: its flavour, its module and its version."""

    flavour: Flavour
    api: Any
    version: str

    def __str__(self) -> str:
        return f"{self.flavour.name} {self.version}"


def find(name: str | None = None) -> TensorRT:
    """Import the flavour ``name``, or the first that can build here; raises MissingError with what to do."""
    if name is not None and name not in NAMES:
        raise UsageError(f"no TensorRT flavour {name!r}", f"use one of {', '.join(NAMES)}")
    absences: dict[str, Absence] = {}
    for flavour in (name,) if name else NAMES:
        absence = build_absence(flavour)
        if absence is None:
            try:
                return _imported(flavour)
            except MissingError as broken:  # another flavour may work
                if name:
                    raise
                absence = Absence(broken.reason, broken.remedy, isinstance(broken, BrokenError))
        absences[flavour] = absence
    if name:
        raise MissingError(f"{name} cannot build here: {absences[name].reason}", absences[name].remedy)
    remedy = absences[NAMES[0]].remedy if on_arm() else f"{pip_install('rtx')}, which needs no GPU to build"
    reasons = ", ".join(f"{flavour}: {absence.reason}" for flavour, absence in absences.items())
    raise MissingError(f"no TensorRT can build here ({reasons})", remedy)


def installed() -> tuple[str, ...]:
    """Flavours whose package is here, the preferred one first; whether one works is another question."""
    return tuple(name for name in NAMES if importlib.util.find_spec(_module(name)) is not None)


def build_absence(name: str) -> Absence | None:
    """Why the flavour ``name`` cannot build on this machine; None when it can. Imports nothing."""
    flavour = next(row for row in FLAVOURS if row.name == name)
    if importlib.util.find_spec(flavour.module) is None:
        return Absence("it is not installed", how_to_install(name))
    # before the import: without a driver some releases end the process
    absence = cuda_absence() if flavour.needs_gpu else None
    return Absence(absence.reason, _remedy_without_gpu()) if absence else None


def how_to_install(name: str | None = None) -> str:
    """The remedy where the flavour ``name``, or every one, is not installed."""
    if not on_arm():
        commands = {row.name: pip_install(row.extra) for row in FLAVOURS}
        return commands[name] if name else ", or on RTX ".join(commands.values())
    if name == "tensorrt-rtx":
        return "there is no package of it for aarch64, use --flavour tensorrt"
    return "sudo apt install python3-libnvinfer, and make the environment with --system-site-packages"


def _remedy_without_gpu() -> str:
    if on_arm():
        return "build on the board itself, in a container with --runtime nvidia"
    return "run nvidia-smi, or use --flavour tensorrt-rtx, which builds without"


def on_arm() -> bool:
    """Whether this is an ARM board: TensorRT comes from apt there, nvidia-smi may be missing, and there is no RTX."""
    return platform.machine() == "aarch64"


def gpu_absence(trt: TensorRT) -> Absence | None:
    """Why no engine of this release runs on the GPU here; None where one may."""
    supported: list[str] = []
    if trt.flavour.lists_gpus:
        supported = dir(trt.api.ComputeCapability)
    return unknown_gpu(str(trt), supported, gpu_facts())


def unknown_gpu(release: str, supported: Collection[str], gpu: Mapping[str, str]) -> Absence | None:
    """Why ``release``, which compiles for the GPUs of ``known`` alone, runs nothing on this one; None where it may."""
    capability = gpu.get("compute capability", "")
    if not supported or not capability or f"SM{capability.replace('.', '')}" in supported:
        return None
    remedy = f"{how_to_install('tensorrt')}, for TensorRT itself"
    return Absence(f"{release} knows no GPU of compute capability {capability}", remedy)


def runs_here(trt: TensorRT) -> bool:
    """There is a GPU, and this release knows it."""
    return not cuda_absence() and not gpu_absence(trt)


def flavour_of(name: str, version: str) -> Flavour | None:
    """The row of the table for an installed version; None for one that edgekit does not know."""
    try:
        release = Version(version).release[:2]
    except (InvalidVersion, ValueError):  # ValueError: int() gives up on endless numbers
        return None
    if len(release) < 2:
        return None
    return next((row for row in FLAVOURS if row.name == name and row.first[0] == release[0] and release >= row.first), None)


def known_versions(name: str) -> str:
    """For messages: ``8.6 and later 8.x, 10.x, 11.x``."""
    rows = [row.first for row in FLAVOURS if row.name == name]
    return ", ".join(f"{major}.{minor} and later {major}.x" if minor else f"{major}.x" for major, minor in rows)


def _imported(name: str) -> TensorRT:
    try:
        api = importlib.import_module(_module(name))
        version = str(api.__version__)
    except BROKEN as problem:
        raise broken_package(name, problem).error() from problem
    flavour = flavour_of(name, version)
    if flavour is None:
        raise MissingError(f"edgekit does not know {name} {version}", f"install one of {known_versions(name)}")
    return TensorRT(flavour, api, version)


def _module(name: str) -> str:
    return next(flavour.module for flavour in FLAVOURS if flavour.name == name)
