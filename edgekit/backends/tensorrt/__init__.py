"""TensorRT in every flavour: one table of their differences, and code that asks the table instead of the version.

Nothing here imports TensorRT; ``flavour.find`` does, when an engine is asked for. By convention a name stands for one kind of
TensorRT object everywhere (``api`` the module, ``builder``, ``network``, ``config``, ...):
tests/backends/tensorrt/test_contract.py reads the code by these names and holds every attribute against the listings of each
flavour.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path

from edgekit.backends.contract import Backend, Builder, Session, Target
from edgekit.backends.tensorrt.engines import file_of_engine, flavour_of_engine
from edgekit.backends.tensorrt.flavour import find, gpu_absence, how_to_install, installed
from edgekit.backends.tensorrt.options import BuildSettings, RunOptions, free_side_absence
from edgekit.backends.tensorrt.packages import PACKAGES, engine_cache
from edgekit.bundle.files import ModelFiles
from edgekit.errors import BROKEN, BrokenError, MissingError, UsageError, first_line
from edgekit.machine.gpu import cuda_absence
from edgekit.progress import Progress
from edgekit.reports.build import BuildReport
from edgekit.setups import Absence, Setup


def _absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    """Probe the driver before any import: without a driver some releases end the process."""
    flavour = _flavour(RunOptions.of(setup))
    if flavour not in installed() if flavour else not installed():
        return Absence(f"{flavour or 'TensorRT'} is not installed", how_to_install(flavour))
    if importlib.util.find_spec("onnx") is None:
        return Absence("TensorRT is installed, but onnx, by which its engines are built, is not", "pip install onnx")
    return cuda_absence() or free_side_absence(files) or _absence_with_driver(flavour)


def _flavour(options: RunOptions) -> str | None:
    """The flavour asked for, or that of the engine; raises UsageError where these are two."""
    if options.engine is None:
        return options.flavour
    built_by = flavour_of_engine(Path(options.engine))
    if options.flavour not in (None, built_by):
        raise UsageError(f"--flavour {options.flavour}: {options.engine} is an engine of {built_by}", "leave out one of the two")
    return built_by


def _file_of(setup: Setup) -> str | None:
    """The file of the engine that the setup names."""
    engine = RunOptions.of(setup).engine
    return None if engine is None else file_of_engine(Path(engine))


def _absence_with_driver(flavour: str | None) -> Absence | None:
    """Whether TensorRT, the GPU and CUDA's Python go together; of several flavours one is enough."""
    absences = [_flavour_absence(name) for name in ((flavour,) if flavour else installed())]
    if all(absences):
        return absences[0]
    try:
        from edgekit.backends.tensorrt.memory import runtime_absence
    except BROKEN as error:
        reason = f"TensorRT is installed, but CUDA's Python cannot be imported: {first_line(error)}"
        return Absence(reason, "pip install cuda-bindings")
    return runtime_absence()


def _flavour_absence(name: str) -> Absence | None:
    try:
        return gpu_absence(find(name))
    except MissingError as problem:
        return Absence(problem.reason, problem.remedy, isinstance(problem, BrokenError))


def _open(files: ModelFiles, setup: Setup, progress: Progress) -> Session:
    from edgekit.backends.tensorrt.session import open_tensorrt

    return open_tensorrt(files, setup, progress)


def _build(files: ModelFiles, setup: Setup, target: Target, progress: Progress) -> BuildReport:
    from edgekit.backends.tensorrt.build import build_for

    return build_for(files, setup, target, progress)


BACKENDS = (
    Backend(
        "tensorrt",
        _absence,
        _open,
        options=RunOptions,
        packages=PACKAGES,
        by_layer=True,
        on_gpu=True,
        in_ranges=True,
        builder=Builder(BuildSettings, _build),
        doctor_facts=engine_cache,
        file_of=_file_of,
        worth_trying=({}, {"cuda_graph": True}),
    ),
)
