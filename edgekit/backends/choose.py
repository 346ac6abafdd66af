"""Which ways to run a bundle take part on this machine, and why the others do not."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.backends import absence, check_flavour, present
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import Bundle
from edgekit.errors import BundleError, MissingError, UsageError
from edgekit.machine.packages import pip_install
from edgekit.reports.base import Skipped


def model_files(bundle: Bundle, source: str | None) -> ModelFiles:
    """The bundle's files; with ``source`` the PyTorch model is built by it, and filled with the bundle's weights."""
    files = bundle.model_files()
    if source is None:
        return files
    if bundle.weights is None:
        raise BundleError(f"bundle {bundle.root} holds no PyTorch weights; export it again without --no-keep-weights")
    return files._replace(torch_model=source, torch_args=bundle.manifest.source.args, torch_weights=bundle.weights)


def check_graph(cuda_graph: bool, kinds: Sequence[str]) -> None:
    if cuda_graph and "tensorrt" not in kinds:
        raise UsageError("--cuda-graph is for tensorrt, which does not take part here; leave it out, or see edgekit doctor")


def flavour_asked(asked: str | None, engine: Path | None) -> str | None:
    """The one asked for, or that of the engine; raises UsageError where these are two."""
    if engine is None:
        return asked
    from edgekit.backends.tensorrt.engines import flavour_of_engine

    found = flavour_of_engine(engine)
    if asked not in (None, found):
        raise UsageError(f"--flavour {asked}: {engine} is an engine of {found}; leave out one of the two")
    return found


def check_flavour_fits(flavour: str | None, backends: Sequence[str]) -> None:
    check_flavour(flavour)
    if flavour is not None and backends and "tensorrt" not in backends:
        raise UsageError(
            f"--flavour and --engine are for tensorrt, which is not among {', '.join(backends)}; add --backend tensorrt"
        )


def choose(files: ModelFiles, backends: Sequence[str], flavour: str | None = None) -> tuple[list[str], tuple[Skipped, ...]]:
    """Runtimes asked for must be present; where none is asked for, those that are not present are named."""
    check_flavour_fits(flavour, backends)
    if backends:
        for kind in backends:
            problem = absence(kind, files, flavour)
            if problem:
                raise MissingError(f"{kind} cannot run here: {problem}")
        return list(dict.fromkeys(backends)), ()
    kinds, reasons = present(files, flavour=flavour)
    if flavour is not None and "tensorrt" in reasons:
        raise MissingError(f"tensorrt cannot run here: {reasons['tensorrt']}")
    if not kinds:
        raise MissingError(f"no runtime works here; see edgekit doctor, or {pip_install('cpu')}")
    return kinds, tuple(Skipped(kind, reason) for kind, reason in reasons.items())
