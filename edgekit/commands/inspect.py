"""``edgekit inspect``: the layers, shapes, parameters and multiply-accumulates of a model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec

from edgekit.bundle.described import origin_of, pictures_of, variant_rows
from edgekit.bundle.folder import open_bundle
from edgekit.bundle.manifest import MANIFEST
from edgekit.errors import EdgekitError, UsageError
from edgekit.files import as_path, is_onnx
from edgekit.machine.packages import needs, needs_onnx
from edgekit.reports.inspect import InspectReport
from edgekit.sources import NO_ARGS, check_name_of_module
from edgekit.training.folder import RUN_RECIPE, RUNS

ARITHMETIC = frozenset({"Mul", "Div"})
"""Operators of which one is in every batch norm that is written out."""


def inspect(
    target: Path | str,
    *,
    variant: str = "",
    input_shapes: Sequence[str] = (),
    args: Mapping[str, Any] = NO_ARGS,
    weights: Path | None = None,
    runs: Path = RUNS,
) -> InspectReport:
    """Describe a bundle's variant, an ONNX file, or any source: layers, shapes, parameters and multiply-accumulates.

    ``input_shapes``, ``args`` (of the factory) and ``weights`` are for a shipped model or an import path.
    """
    path = as_path(target, "source", UsageError)
    is_bundle = (path / MANIFEST).is_file()
    if variant and not is_bundle:
        raise UsageError(f"--variant goes with a bundle, and {target} is not a bundle", "leave out --variant")
    if args and (is_bundle or is_onnx(path)):
        raise UsageError(f"--arg is for the factory of a model, and {target} has no factory", "leave out --arg")
    if is_bundle or is_onnx(path):
        needs_onnx()
        from edgekit.onnx.table import onnx_table

        def described(file: Path) -> InspectReport:
            table = onnx_table(file)
            return msgspec.structs.replace(table, written_out=_written_out(file, table.ops))

        if not is_bundle:
            return described(path)
        opened = open_bundle(path)
        report = opened.reading(lambda place: described(opened.onnx_of(variant)))
        several = len(opened.manifest.variants) > 1
        variants = variant_rows(opened.manifest, pictures_of(opened)) if several else ()
        return msgspec.structs.replace(report, variants=variants, origin=origin_of(opened))
    if path.is_dir() and not (path / RUN_RECIPE).is_file():
        open_bundle(path)  # raises: neither a bundle nor a run
    check_name_of_module(str(target))
    needs("torch", extra="train")
    from edgekit.graphs.table import module_table
    from edgekit.sources.module import load_source

    source = load_source(str(target), runs=runs, input_shapes=input_shapes, weights=weights, args=args, trained=False)
    return module_table(str(target), source.module, source.inputs)


def _written_out(path: Path, operators: Iterable[str]) -> int | None:
    """The batch norms of an ONNX file that export would fold and that no BatchNormalization node stands for."""
    if not ARITHMETIC & {*operators}:
        return 0
    if find_spec("torch") is None or find_spec("onnxscript") is None:
        return None
    from edgekit.onnx.fold import fold_onnx
    from edgekit.onnx.read import WHOLE, read_onnx

    try:
        report = fold_onnx(read_onnx(path, WHOLE)).report
    except EdgekitError:  # inspect describes what export refuses
        return None
    return sum(not fold.nodes for fold in report.folded) + sum(not norm.nodes for norm in report.kept)
