"""One small contract for every runtime, and how a runtime is opened or found absent.

Importing this package imports no runtime; ``open_backend`` imports the one file it needs.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from edgekit.backends.contract import Backend, Runtime, Wishes
from edgekit.backends.tensorrt.flavour import NAMES, find, gpu_problem, how_to_install, installed
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BROKEN, MissingError, UsageError, broken_import, first_line
from edgekit.machine.gpu import cuda_problem
from edgekit.machine.packages import pip_install
from edgekit.progress import SILENT, Progress


def open_backend(
    kind: str,
    files: ModelFiles,
    *,
    threads: int | None = None,
    batches: Sequence[int] = (),
    cuda_graph: bool = False,
    flavour: str | None = None,
    engine: Path | None = None,
    progress: Progress = SILENT,
) -> Backend:
    """Open ``files`` in the runtime ``kind``; raises MissingError when it is not present here, UsageError for no such kind.

    TensorRT (of the ``flavour`` named, or the first that is here) finds or builds its engine first, for the usual batch
    sizes and ``batches``, unless an ``engine`` is given.
    """
    problem = absence(kind, files, flavour)
    if problem:
        raise MissingError(f"{kind} cannot run here: {problem}")
    return RUNTIMES[kind].open(files, Wishes(threads, tuple(batches), cuda_graph, flavour, engine, progress))


def absence(kind: str, files: ModelFiles | None = None, flavour: str | None = None) -> str:
    """Why the runtime ``kind`` is not present for ``files`` on this machine, with the remedy; nothing when it is."""
    if kind not in RUNTIMES:
        raise UsageError(f"no backend {kind!r}; use one of {', '.join(KINDS)}")
    check_flavour(flavour)
    return RUNTIMES[kind].absence(files, Wishes(flavour=flavour))


def check_flavour(name: str | None) -> None:
    """Raise UsageError for a name that is no flavour's: the spelling comes before what is missing here."""
    if name is not None and name not in NAMES:
        find(name)  # it raises, and says which there are


def present(
    files: ModelFiles, kinds: Sequence[str] | None = None, flavour: str | None = None
) -> tuple[list[str], dict[str, str]]:
    """(kinds that can run ``files`` here, kind -> reason for the others)."""
    reasons = {kind: absence(kind, files, flavour) for kind in (KINDS if kinds is None else kinds)}
    return [kind for kind, reason in reasons.items() if not reason], {kind: reason for kind, reason in reasons.items() if reason}


def _torch_absence(files: ModelFiles | None, wishes: Wishes) -> str:
    """It is imported only where it is about to be opened: that takes seconds."""
    problem = _torch_lacking(files)
    if problem or files is None:
        return problem
    try:
        importlib.import_module("edgekit.backends.pytorch.session")
    except BROKEN as error:
        return broken_import("PyTorch", error)
    return ""


def _torch_lacking(files: ModelFiles | None) -> str:
    if importlib.util.find_spec("torch") is None:
        return f"PyTorch is not installed; {pip_install('train')}"
    if files is not None and (files.torch_model is None or files.torch_weights is None):
        return "the bundle does not hold a PyTorch model that can be rebuilt from edgekit's own; name one with --source"
    return ""


def _torch_cuda_absence(files: ModelFiles | None, wishes: Wishes) -> str:
    """The driver is asked before PyTorch, which takes seconds to import."""
    problem = _torch_lacking(files) or cuda_problem()
    if problem:
        return problem
    try:
        import torch

        version, usable = torch.__version__, torch.cuda.is_available()
    except BROKEN as error:
        return broken_import("PyTorch", error)
    if not usable:
        return f"the installed PyTorch {version} finds no CUDA; install the one for the CUDA of your driver"
    return ""


def _open_torch(kind: str, files: ModelFiles, wishes: Wishes) -> Backend:
    try:
        from edgekit.backends.pytorch.session import TorchBackend, TorchCudaBackend
    except BROKEN as error:
        raise MissingError(broken_import("PyTorch", error)) from error
    return (TorchBackend if kind == "torch" else TorchCudaBackend).open(files, wishes.threads)


def _ort_absence(files: ModelFiles | None, wishes: Wishes) -> str:
    if importlib.util.find_spec("onnxruntime") is None:
        return "ONNX Runtime is not installed; pip install onnxruntime, or onnxruntime-gpu"
    try:
        importlib.import_module("edgekit.backends.onnxruntime.session")
    except BROKEN as error:  # a library that is missing, or onnxruntime and onnxruntime-gpu in one place
        return broken_import("ONNX Runtime", error)
    return ""


def _ort_cuda_absence(files: ModelFiles | None, wishes: Wishes) -> str:
    problem = _ort_absence(files, wishes) or cuda_problem()
    if problem:
        return problem
    from edgekit.backends.onnxruntime.session import available_providers

    if "CUDAExecutionProvider" not in available_providers():
        return "the installed ONNX Runtime has no CUDA; pip uninstall onnxruntime, then pip install onnxruntime-gpu"
    return ""


def _ort_tensorrt_absence(files: ModelFiles | None, wishes: Wishes) -> str:
    problem = _ort_cuda_absence(files, wishes)
    if problem:
        return problem
    from edgekit.backends.onnxruntime.session import available_providers, tensorrt_problem

    if "TensorrtExecutionProvider" not in available_providers():
        return "the installed ONNX Runtime has no TensorRT provider; use tensorrt, which does without ONNX Runtime"
    return tensorrt_problem()


def _open_ort(kind: str, files: ModelFiles, wishes: Wishes) -> Backend:
    from edgekit.backends.onnxruntime.layers import OrtCpuBackend
    from edgekit.backends.onnxruntime.session import OrtBackend

    made = OrtCpuBackend if kind == "ort-cpu" else OrtBackend
    return made.open(kind, files, wishes.threads, wishes.batches)


def _tensorrt_absence(files: ModelFiles | None, wishes: Wishes) -> str:
    """Nothing is imported before the driver is known to start: without one, some releases end the process."""
    named = wishes.flavour
    if named not in installed() if named else not installed():
        return f"{named or 'TensorRT'} is not installed; {how_to_install(named)}"
    if importlib.util.find_spec("onnx") is None:
        return "TensorRT is installed, but onnx, by which its engines are built, is not; pip install onnx"
    return cuda_problem() or _tensorrt_problem(named)


def _tensorrt_problem(flavour: str | None) -> str:
    """With a driver: whether TensorRT, the GPU and CUDA's Python go together; of several flavours one is enough."""
    problems = [_flavour_problem(name) for name in ((flavour,) if flavour else installed())]
    if all(problems):
        return problems[0]
    try:
        from edgekit.backends.tensorrt.memory import runtime_problem
    except BROKEN as error:
        return f"TensorRT is installed, but CUDA's Python cannot be imported: {first_line(error)}; pip install cuda-bindings"
    return runtime_problem()


def _flavour_problem(name: str) -> str:
    try:
        return gpu_problem(find(name))
    except MissingError as error:
        return str(error)


def _open_tensorrt(files: ModelFiles, wishes: Wishes) -> Backend:
    from edgekit.backends.tensorrt.session import open_tensorrt

    return open_tensorrt(files, wishes)


RUNTIMES: Mapping[str, Runtime] = {
    "torch": Runtime(_torch_absence, partial(_open_torch, "torch")),
    "torch-cuda": Runtime(_torch_cuda_absence, partial(_open_torch, "torch-cuda"), on_gpu=True),
    "ort-cpu": Runtime(_ort_absence, partial(_open_ort, "ort-cpu"), by_layer=True),
    "ort-cuda": Runtime(_ort_cuda_absence, partial(_open_ort, "ort-cuda"), on_gpu=True),
    "ort-tensorrt": Runtime(_ort_tensorrt_absence, partial(_open_ort, "ort-tensorrt"), on_gpu=True),
    "tensorrt": Runtime(_tensorrt_absence, _open_tensorrt, by_layer=True, on_gpu=True, in_ranges=True),
}
"""Every runtime, in the order of reports."""
KINDS = tuple(RUNTIMES)
"""What ``--backend`` takes."""


def on_gpu(backend: Backend) -> bool:
    """Whether its runtime is one of those on a GPU; one that is made up is not."""
    return backend.name in RUNTIMES and RUNTIMES[backend.name].on_gpu
