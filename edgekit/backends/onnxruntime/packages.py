"""ONNX Runtime's packages, for ``edgekit doctor``: two that bring one module, and overwrite each other's files."""

from __future__ import annotations

import platform
from collections.abc import Mapping
from typing import Any

from edgekit.machine.gpu import cuda_absence
from edgekit.machine.packages import Examined, Package, for_gpus, pip_install, version_of
from edgekit.setups import Absence

CPU, GPU = "onnxruntime", "onnxruntime-gpu"
BOTH = Absence(
    f"{CPU} and {GPU} are both installed and overwrite each other's files",
    f"pip uninstall -y {CPU} {GPU}, then pip install the one of them that you want",
    broken=True,
)


def _cpu_absence() -> Absence | None:
    """The remedy that installs ONNX Runtime and leaves an installed GPU package, which can do the same, untouched."""
    if version_of(CPU):
        return BOTH if version_of(GPU) else None
    return Absence("not installed", f"none is needed, {GPU} has the CPU too" if version_of(GPU) else pip_install("cpu"))


def _gpu_absence() -> Absence | None:
    if version_of(GPU):
        return BOTH if version_of(CPU) else None
    return Absence("not installed", for_gpus(how_to_get_cuda()) if platform.machine() != "aarch64" else how_to_get_cuda())


def how_to_get_cuda() -> str:
    """The remedy that installs ONNX Runtime with CUDA: the CPU package is removed first."""
    if platform.machine() == "aarch64":
        return "PyPI has none for aarch64, use tensorrt"
    return f"{f'pip uninstall -y {CPU}, then ' if version_of(CPU) else ''}pip install {GPU}"


def _examine(facts: Mapping[str, Any]) -> Examined:
    """The package names CUDA on any machine, so only the provider of an opened session counts."""
    if "CUDAExecutionProvider" not in facts["providers"]:
        return Examined("CPU")
    gpu = cuda_absence()
    if gpu:
        return Examined("CPU", Absence(f"it lists CUDA but would fall back to the CPU: {gpu.reason}", gpu.remedy))
    if facts["used"][:1] != ["CUDAExecutionProvider"]:
        reason = f"it lists CUDA but falls back to the CPU: {facts['why'] or 'a CUDA library is missing'}"
        return Examined("CPU", Absence(reason, f"pip install '{GPU}[cuda,cudnn]'", broken=True))
    return _with_cuda(facts)


def _with_cuda(facts: Mapping[str, Any]) -> Examined:
    """ONNX Runtime brings its TensorRT provider, and not TensorRT."""
    links, problem = facts.get("links"), facts.get("tensorrt")
    if not links:
        return Examined("CUDA, CPU")
    if not problem:
        return Examined("CUDA, TensorRT, CPU")
    major = links.rpartition(".")[2]
    remedy = f"pip install 'tensorrt=={major}.*', or install TensorRT {major} and add its folder to LD_LIBRARY_PATH"
    lack = Absence(f"its TensorRT provider links {links}: {problem}", f"{remedy}, or leave that provider alone")
    return Examined("CUDA, CPU", lack)


PACKAGES = (
    Package(CPU, _cpu_absence, ("edgekit.backends.onnxruntime.probe",), _examine),
    Package(GPU, _gpu_absence, ("edgekit.backends.onnxruntime.probe",), _examine, runtime=CPU),
)
