"""``edgekit inspect``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from edgekit.bundle.folder import open_bundle
from edgekit.machine.packages import needs, needs_onnx
from edgekit.reports.inspect import InspectReport
from edgekit.training.folder import RUNS


def inspect_target(
    target: str, *, input_shapes: Sequence[str] = (), weights: Path | None = None, runs: Path = RUNS
) -> InspectReport:
    """A bundle, an ONNX file, or any source."""
    path = Path(target)
    is_bundle = (path / "manifest.json").is_file()
    if is_bundle or path.suffix == ".onnx":
        needs_onnx()
        from edgekit.onnx.table import onnx_table

        return onnx_table(open_bundle(path).onnx if is_bundle else path)
    if path.is_dir() and not (path / "recipe.json").is_file():
        open_bundle(path)  # raises: neither a bundle nor a run
    needs("torch", extra="train")
    from edgekit.graphs.table import module_table
    from edgekit.sources.module import load_source

    found = load_source(target, runs=runs, input_shapes=input_shapes, weights=weights, trained=False)
    return module_table(target, found.module, found.inputs)
