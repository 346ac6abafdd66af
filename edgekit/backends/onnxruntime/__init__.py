"""ONNX Runtime on the CPU, on CUDA, or through its TensorRT provider."""

from __future__ import annotations

import importlib
import importlib.util
from typing import Literal

from edgekit.backends.contract import Backend, Options, Session
from edgekit.backends.onnxruntime.packages import PACKAGES, how_to_get_cuda
from edgekit.backends.tensorrt.options import free_side_absence
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BROKEN
from edgekit.machine.gpu import cuda_absence
from edgekit.machine.packages import broken_package
from edgekit.progress import Progress
from edgekit.setups import Absence, Setup


class OrtOptions(Options, frozen=True):
    """``optimisation``: how far ONNX Runtime rewrites the graph before it runs it; ``all`` is its own default."""

    optimisation: Literal["off", "basic", "extended", "all"] = "all"


def _absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    if importlib.util.find_spec("onnxruntime") is None:
        return Absence("ONNX Runtime is not installed", "pip install onnxruntime, or onnxruntime-gpu")
    try:
        importlib.import_module("edgekit.backends.onnxruntime.session")
    except BROKEN as error:  # a library that is missing, or onnxruntime and onnxruntime-gpu in one place
        return broken_package("ONNX Runtime", error)
    return None


def _cuda_absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    absence = _absence(files, setup) or cuda_absence()
    if absence:
        return absence
    from edgekit.backends.onnxruntime.session import available_providers

    if "CUDAExecutionProvider" not in available_providers():
        return Absence("the installed ONNX Runtime has no CUDA", how_to_get_cuda())
    return None


def _tensorrt_absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    absence = _cuda_absence(files, setup) or free_side_absence(files)
    if absence:
        return absence
    from edgekit.backends.onnxruntime.session import available_providers, provider_absence

    if "TensorrtExecutionProvider" not in available_providers():
        remedy = "use tensorrt, which does without ONNX Runtime"
        return Absence("the installed ONNX Runtime has no TensorRT provider", remedy)
    return provider_absence()


def _open(files: ModelFiles, setup: Setup, progress: Progress) -> Session:
    from edgekit.backends.onnxruntime.layers import OrtCpuSession
    from edgekit.backends.onnxruntime.session import OrtSession

    opened = OrtCpuSession if setup.backend == "ort-cpu" else OrtSession
    return opened.open(files, setup)


_HALF_ON_CPU = "float16 on ONNX Runtime's CPU is computed in float32 or emulated, which says nothing about a GPU"
BACKENDS = (
    Backend(
        "ort-cpu",
        _absence,
        _open,
        OrtOptions,
        packages=PACKAGES,
        by_layer=True,
        in_memory=True,
        many_callers=True,
        tells_nothing_of={"float16": _HALF_ON_CPU},
        as_written={"optimisation": "off"},
    ),
    Backend("ort-cuda", _cuda_absence, _open, OrtOptions, packages=PACKAGES, on_gpu=True, many_callers=True),
    Backend("ort-tensorrt", _tensorrt_absence, _open, OrtOptions, packages=PACKAGES, on_gpu=True, many_callers=True),
)
