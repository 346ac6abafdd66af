"""What ``SOURCE`` may be: a recipe, a run folder, a shipped model's name, an import path, or an ONNX file from elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple, Protocol

from edgekit.bundle.draft import Draft
from edgekit.files import is_onnx
from edgekit.machine.packages import needs
from edgekit.progress import Advance
from edgekit.training.folder import RUNS


class ExportOptions(NamedTuple):
    """What ``edgekit export`` may add to what its source says; None leaves the source's own."""

    fold_bn: bool | None = None
    opset: int | None = None
    input_shapes: tuple[str, ...] = ()
    weights: Path | None = None
    keep_weights: bool = True
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: Path | None = None


class Origin(Protocol):
    """A source that was found, and what it is to become: everything that can be told before the long work."""

    @property
    def name(self) -> str:
        """What its bundle is called unless the user says otherwise."""
        ...

    def draft(self, advance: Advance) -> Draft:
        """Do the long work, in two steps; raises EdgekitError where what it gives could not be verified."""
        ...


NOTHING_ADDED = ExportOptions()


def origin_of(source: str, options: ExportOptions = NOTHING_ADDED, *, runs: Path = RUNS) -> Origin:
    """Resolve ``source``; raises UsageError for options that do not go with it, EdgekitError for what is missing or damaged."""
    path = Path(source)
    if is_onnx(path):
        needs("torch", "onnx", "onnxscript", "onnxruntime", extra="train")
        from edgekit.sources.onnx_file import origin_of_file

        return origin_of_file(path, options)
    needs("torch", "onnx", "onnxscript", extra="train")
    from edgekit.sources.drafting import origin_of_module

    return origin_of_module(source, options, runs)
