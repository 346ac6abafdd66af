"""PyTorch eager, on the original model with its batch norm unfolded."""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING

from edgekit.backends.contract import Backend, Options, Session
from edgekit.backends.pytorch.packages import PACKAGES
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BROKEN
from edgekit.machine.gpu import cuda_absence
from edgekit.machine.packages import broken_package, pip_install
from edgekit.models import MODELS
from edgekit.progress import Progress
from edgekit.setups import Absence, Setup

if TYPE_CHECKING:
    from edgekit.backends.pytorch.session import TorchSession


class PyTorchOptions(Options, frozen=True):
    """``source``: a model or import path that makes the module; it gets the bundle's weights."""

    source: str | None = None


def factory_of(files: ModelFiles, setup: Setup) -> str | None:
    """The factory of the module: the setup's source, or a shipped model; never an import path that a manifest names."""
    source = PyTorchOptions.of(setup).source
    if source is not None:
        return source
    return files.factory if files.factory in MODELS else None


def _lacking(files: ModelFiles | None, setup: Setup) -> Absence | None:
    """The reason that can be known without importing PyTorch, which takes seconds."""
    if importlib.util.find_spec("torch") is None:
        return Absence("PyTorch is not installed", pip_install("train"))
    if files is None:
        return None
    if files.trained_for or not files.original:
        reason = "PyTorch runs the original model, which this variant was made of"
        if files.trained_for:
            reason = f"the folded network was trained on for {files.trained_for}, and PyTorch's original is another network"
        return Absence(reason, "leave it out of this comparison")
    if factory_of(files, setup) is None:
        reason = "the bundle does not hold a PyTorch model that can be rebuilt from edgekit's own"
        return Absence(reason, "name one with --source")
    if files.weights is None:
        reason = f"bundle {files.onnx.parent} holds no PyTorch weights"
        return Absence(reason, "export it again without --no-keep-weights")
    return None


def _absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    return _lacking(files, setup) or _broken()


def _broken() -> Absence | None:
    try:
        importlib.import_module("edgekit.backends.pytorch.session")
    except BROKEN as error:
        return broken_package("PyTorch", error)
    return None


def _cuda_absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    """The driver is asked before PyTorch is imported."""
    absence = _lacking(files, setup) or cuda_absence() or _broken()
    if absence:
        return absence
    import torch

    if torch.cuda.is_available():
        return None
    reason = f"the installed PyTorch {torch.__version__} finds no CUDA"
    return Absence(reason, "install the one for the CUDA of your driver")


def _open(files: ModelFiles, setup: Setup, progress: Progress) -> Session:
    try:
        from edgekit.backends.pytorch.session import TorchCudaSession, TorchSession
    except BROKEN as error:
        raise broken_package("PyTorch", error).error() from error
    opened: type[TorchSession] = TorchSession if setup.backend == "torch" else TorchCudaSession
    return opened.open(files, factory_of(files, setup), setup.threads)


BACKENDS = (
    Backend("torch", _absence, _open, options=PyTorchOptions, packages=PACKAGES, many_callers=True),
    Backend("torch-cuda", _cuda_absence, _open, options=PyTorchOptions, packages=PACKAGES, on_gpu=True, many_callers=True),
)
