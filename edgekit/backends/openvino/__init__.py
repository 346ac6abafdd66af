"""OpenVINO on the CPU: x86_64 and ARM."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal

from edgekit.backends.contract import Backend, Options, Session
from edgekit.backends.openvino.packages import PACKAGES
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BROKEN
from edgekit.machine.packages import broken_package, pip_install
from edgekit.progress import Progress
from edgekit.setups import Absence, Setup


class OpenVinoOptions(Options, frozen=True):
    """``precision``: of the arithmetic on float tensors. OpenVINO by itself takes bfloat16 or float16 where the CPU has it."""

    precision: Literal["float32", "bfloat16"] = "float32"


def _absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    if importlib.util.find_spec("openvino") is None:
        return Absence("OpenVINO is not installed", pip_install("openvino"))
    try:
        session = importlib.import_module("edgekit.backends.openvino.session")
    except BROKEN as error:
        return broken_package("OpenVINO", error)
    if OpenVinoOptions.of(setup).precision == "bfloat16" and "BF16" not in session.capabilities():
        return Absence("this CPU has no bfloat16 arithmetic (AVX512_BF16 or AMX)", "leave out precision=bfloat16")
    return None


def _open(files: ModelFiles, setup: Setup, progress: Progress) -> Session:
    from edgekit.backends.openvino.session import OpenVinoSession

    return OpenVinoSession.open(files, setup, OpenVinoOptions.of(setup).precision)


BACKENDS = (
    Backend(
        "openvino",
        _absence,
        _open,
        OpenVinoOptions,
        packages=PACKAGES,
        by_layer=True,
        in_memory=True,
        many_callers=True,
        worth_trying=({}, {"precision": "bfloat16"}),
    ),
)
