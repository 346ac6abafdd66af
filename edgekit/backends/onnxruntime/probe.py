"""A child that imports ONNX Runtime and answers what a session really uses: ``python -m edgekit.backends.onnxruntime.probe``."""

from __future__ import annotations

import base64
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from edgekit.backends.onnxruntime.linked import linked_tensorrt, loading_problem
from edgekit.machine.child import answer
from edgekit.machine.gpu import cuda_absence

RELU = base64.b64decode("CAg6MwoMCgF4EgF5IgRSZWx1EgFnWg8KAXgSCgoICAESBAoCCAFiDwoBeRIKCggIARIECgIIAUIECgAQEQ==")
"""An ONNX file of a single Relu."""


def main() -> None:
    """Answer the version, the providers, and what works of CUDA and TensorRT.

    TensorRT comes last, because it may bring libraries that CUDA's provider lacks.
    """
    import onnxruntime

    providers = list(onnxruntime.get_available_providers())
    used, why = _with_cuda(onnxruntime) if "CUDAExecutionProvider" in providers else ([], "")
    links = linked_tensorrt(Path(onnxruntime.__file__).parent)
    answer(
        {
            "version": str(onnxruntime.__version__),
            "providers": providers,
            "used": used,
            "why": why,
            "links": links,
            "tensorrt": loading_problem(links, driver=cuda_absence() is None) if links else "",
        }
    )


def _with_cuda(onnxruntime: Any) -> tuple[list[str], str]:
    """(providers that a session asked for CUDA uses, the first line it complains with): any machine lists CUDA's."""
    if hasattr(onnxruntime, "preload_dlls"):
        onnxruntime.preload_dlls()
    used: list[str] = []
    stderr = os.dup(2)
    with tempfile.TemporaryFile() as log:  # its library writes past sys.stderr
        os.dup2(log.fileno(), 2)
        try:
            session = onnxruntime.InferenceSession(RELU, providers=["CUDAExecutionProvider"], enable_fallback=0)
            used = list(session.get_providers())
        except Exception as problem:
            sys.stderr.write(f"{problem}\n")
            sys.stderr.flush()
        os.dup2(stderr, 2)
        log.seek(0)
        lines = [line for line in log.read().decode(errors="replace").splitlines() if line.strip()]
    return used, lines[0][-300:] if lines else ""


if __name__ == "__main__":
    main()
