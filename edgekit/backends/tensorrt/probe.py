"""A child that imports TensorRT or CUDA's Python: ``python -m edgekit.backends.tensorrt.probe tensorrt-rtx``."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import sys

from edgekit.machine.child import answer


def main(package: str) -> None:
    """Answer about ``tensorrt``, ``tensorrt-rtx`` or ``cuda-bindings``."""
    if package == "cuda-bindings":
        _cuda_bindings()
    else:
        _tensorrt(package.replace("-", "_"))


def _tensorrt(module: str) -> None:
    """The CUDA it is built for stands in the wheels' names; RTX lists the GPUs that it knows."""
    api = importlib.import_module(module)
    names = [str(distribution.metadata["Name"]).replace("-", "_") for distribution in importlib.metadata.distributions()]
    built = [match[1] for match in (re.match(rf"{module}_cu(\d+)", name) for name in names) if match]
    supported = [name for name in dir(getattr(api, "ComputeCapability", None)) if name.startswith("SM")]
    answer({"version": str(api.__version__), "cuda": built[0] if built else "", "capabilities": supported})


def _cuda_bindings() -> None:
    """Call CUDA once: only a call tells whether the package fits the driver."""
    from cuda.bindings import runtime

    status = runtime.cudaGetDeviceCount()[0]
    text = runtime.cudaGetErrorString(status)[1].decode(errors="replace")
    answer({"version": importlib.metadata.version("cuda-bindings"), "status": int(status), "text": text})


if __name__ == "__main__":
    main(*sys.argv[1:])
