"""Runs of the GPU report, as tests look at them."""

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
    said: str


class Trial(NamedTuple):
    run: Run
    found: dict[str, Any]
    raw: Path
    unfolded: Bundle


def report(results: Path, *arguments: str | Path) -> Run:
    with contextlib.redirect_stdout(io.StringIO()) as said:
        code = gpu_report.main([str(one) for one in ("--results", results, *arguments)])
    return Run(code, json.loads(results.read_text()), said.getvalue())


def changed(bundle: Path, root: Path) -> Bundle:
    """The bundle with the last layer's weights scaled by 1.01 in its file, and the right checksums for it."""
    opened = open_bundle(bundle)
    model = onnx.load(opened.onnx_of())
    weight = next(one for one in model.graph.initializer if one.name == "15.weight")
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(1.01), weight.name))
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    return write_bundle(root, opened.manifest, contents | {opened.variant().file: model.SerializeToString()})
