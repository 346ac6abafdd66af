"""One small contract for every runtime, and how a runtime is opened or found absent.

Importing this package imports no runtime; ``open_backend`` imports the one file it needs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Protocol

from edgekit.cuda import cuda_problem
from edgekit.errors import MissingError, UsageError
from edgekit.tensors import Array, Feed, TensorSpec

KINDS = ("torch", "ort-cpu", "ort-cuda")
"""What ``--backend`` takes, in the order of reports."""


class Backend(Protocol):
    """A model opened in a runtime; a context manager.

    ``facts`` say what the numbers depend on: versions, device, precision, TF32, providers really in use.
    """

    @property
    def name(self) -> str:
        """One of ``KINDS``."""
        ...

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` and ``bind`` take."""
        ...

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What ``run`` gives."""
        ...

    @property
    def facts(self) -> Mapping[str, str]:
        """What the numbers depend on."""
        ...

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out; the caller owns the outputs."""
        ...

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Put the inputs on the device; the function runs the model once and returns when the work is done."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None: ...


class ModelFiles(NamedTuple):
    """What a runtime needs of a bundle: the ONNX file, its tensors, and the PyTorch model where it can be rebuilt."""

    onnx: Path
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    torch_model: str | None = None
    torch_args: Mapping[str, Any] = {}
    torch_weights: Path | None = None
    precision: str = "float32"


def open_backend(kind: str, files: ModelFiles, *, threads: int | None = None) -> Backend:
    """Open ``files`` in the runtime ``kind``; raises MissingError when it is not present here, UsageError for no such kind."""
    problem = absence(kind, files)
    if problem:
        raise MissingError(f"{kind} cannot run here: {problem}")
    if kind == "torch":
        try:
            from edgekit.backends._torch import TorchBackend
        except ImportError as error:
            raise MissingError(f"torch is installed but cannot be imported: {error}; run edgekit doctor") from error
        return TorchBackend.open(files, threads)
    from edgekit.backends._ort import OrtBackend

    return OrtBackend.open(kind, files, threads)


def absence(kind: str, files: ModelFiles | None = None) -> str:
    """Why the runtime ``kind`` is not present for ``files`` on this machine, with the remedy; nothing when it is."""
    if kind not in KINDS:
        raise UsageError(f"no backend {kind!r}; use one of {', '.join(KINDS)}")
    if kind == "torch":
        if importlib.util.find_spec("torch") is None:
            return "PyTorch is not installed; pip install 'edgekit[train]'"
        if files is not None and (files.torch_model is None or files.torch_weights is None):
            return "the bundle does not hold a PyTorch model that can be rebuilt from edgekit's own; name one with --source"
        return ""
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed; pip install 'edgekit[cpu]' or 'edgekit[gpu]'"
    return _ort_absence(kind)


def present(files: ModelFiles, kinds: Sequence[str] = KINDS) -> tuple[list[str], dict[str, str]]:
    """(kinds that can run ``files`` here, kind -> reason for the others)."""
    reasons = {kind: absence(kind, files) for kind in kinds}
    return [kind for kind in kinds if not reasons[kind]], {kind: reason for kind, reason in reasons.items() if reason}


def _ort_absence(kind: str) -> str:
    try:
        from edgekit.backends import _ort
    except ImportError as error:  # a library that is missing, or onnxruntime and onnxruntime-gpu in one place
        return f"ONNX Runtime is installed but cannot be imported: {error}; run edgekit doctor"
    if kind == "ort-cpu":
        return ""
    problem = cuda_problem()
    if not problem and "CUDAExecutionProvider" not in _ort.available_providers():
        return "the installed ONNX Runtime has no CUDA; pip uninstall onnxruntime, then pip install 'edgekit[gpu]'"
    return problem
