"""Run the GPU report for tests, and hold its results."""

from __future__ import annotations

import contextlib
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

import gpu_report
import numpy as np
import onnx
from onnx import numpy_helper

from edgekit.bundle.folder import Bundle, open_bundle, write_bundle


class Run(NamedTuple):
    code: int
    document: dict[str, Any]
    printed: str


class Trial(NamedTuple):
    run: Run
    document: dict[str, Any]
    raw: Path
    unfolded: Bundle


def report(results: Path, *arguments: str | Path) -> Run:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        code = gpu_report.main([str(argument) for argument in ("--results", results, *arguments)])
    return Run(code, json.loads(results.read_text()), printed.getvalue())


def changed(bundle: Path, root: Path) -> Bundle:
    """A copy of a bundle whose ONNX file has the last layer's weights scaled by 1.01, with matching checksums."""
    opened = open_bundle(bundle)
    model = onnx.load(opened.onnx_of())
    weight = next(tensor for tensor in model.graph.initializer if tensor.name == "15.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    return write_bundle(root, opened.manifest, contents | {opened.variant().file: model.SerializeToString()})
