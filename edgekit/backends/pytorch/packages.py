"""PyTorch's packages, for ``edgekit doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from edgekit.machine.gpu import cuda_absence
from edgekit.machine.packages import Examined, Package, pip_install, plain_package, version_of
from edgekit.setups import Absence


def _absence(name: str) -> Absence | None:
    return None if version_of(name) else Absence("not installed", pip_install("train"))


def _torch(facts: Mapping[str, Any]) -> Examined:
    """PyTorch computes on a GPU where it finds one; otherwise its CUDA, if built in, is idle."""
    if facts["cuda"]:
        return Examined(f"CUDA {facts['built']}, {facts['device']}")
    gpu = cuda_absence() if facts["built"] else None
    return Examined("CPU", Absence(f"its CUDA {facts['built']} is idle: {gpu.reason}", "") if gpu else None)


PACKAGES = (
    Package("torch", partial(_absence, "torch"), ("edgekit.backends.pytorch.probe",), _torch),
    Package("torchvision", partial(_absence, "torchvision"), ("edgekit.machine.probe", "torchvision"), plain_package),
)
