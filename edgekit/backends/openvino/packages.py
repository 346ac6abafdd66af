"""OpenVINO's package, for ``edgekit doctor``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgekit.machine.packages import Examined, Package, pip_install, version_of
from edgekit.setups import Absence


def _absence() -> Absence | None:
    return None if version_of("openvino") else Absence("not installed", pip_install("openvino"))


def _examine(facts: Mapping[str, Any]) -> Examined:
    """What the CPU computes in, as OpenVINO tells it."""
    if "CPU" not in facts["devices"]:
        return Examined("", Absence("it finds no CPU plugin", "pip install --force-reinstall openvino", broken=True))
    precisions = [name for name in ("FP32", "FP16", "BF16", "INT8") if name in facts["capabilities"]]
    return Examined(f"CPU ({', '.join(precisions)})", version=facts["version"])


PACKAGES = (Package("openvino", _absence, ("edgekit.backends.openvino.probe",), _examine),)
