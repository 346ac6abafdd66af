"""Facts about this machine that make two measurements comparable, or not."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from pathlib import Path

import edgekit


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine_facts() -> dict[str, str]:
    """CPU model, cores allowed, governor, load, system; what cannot be read is left out."""
    facts = {
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_model(),
        "cores": str(cores()),
        "python": platform.python_version(),
    }
    governor = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    if governor.is_file():
        facts["governor"] = governor.read_text().strip()
    if hasattr(os, "getloadavg"):
        facts["load"] = f"{os.getloadavg()[0]:.2f}"
    return facts


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware", "Model"))]
    return names[0] if names else platform.processor() or platform.machine()


def tool_versions() -> dict[str, str]:
    """Versions of edgekit and of the packages its results depend on, of those installed."""
    found = {"edgekit": edgekit.__version__}
    for name in ("torch", "onnx", "onnxscript", "numpy", "onnxruntime", "onnxruntime-gpu"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found
