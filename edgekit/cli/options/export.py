"""The words of export and quantize; importing this imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgekit.cli.options.completion import source_names
from edgekit.cli.options.numbers import Range
from edgekit.cli.options.shared import MODEL, WRITTEN, flag, number, option

if TYPE_CHECKING:
    pass


ORIGIN, FORMS = "Whose it is", "In other formats too"
"""Groups of options in ``--help``."""
SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A recipe, a run directory, a model's name, an import path package.module:factory, or an ONNX file.",
        autocompletion=source_names,
    ),
]
FoldBn = Annotated[
    Optional[bool],
    option(
        "--fold-bn/--no-fold-bn",
        panel=WRITTEN,
        metavar="",
        show_default="fold",
        help="Fold batch norm into the layers around it.",
    ),
]
Opset = Annotated[Optional[int], number("--opset", metavar="N", taken=Range(18, 26), show_default="20", help="ONNX opset.")]
KeepWeights = Annotated[
    bool,
    flag("--keep-weights/--no-keep-weights", WRITTEN, help="Also write the PyTorch weights, for verify and bench."),
]
GoldenPictures = Annotated[
    bool,
    flag("--golden-pictures/--no-golden-pictures", WRITTEN, help="Also write a few test pictures, for verify to label."),
]
License = Annotated[
    str,
    option(
        "--license", panel=ORIGIN, metavar="SPDX", show_default="the recipe's", help="Its licence, by SPDX: Apache-2.0, MIT, ..."
    ),
]
Author = Annotated[str, option("--author", panel=ORIGIN, metavar="NAME", show_default="the recipe's", help="Who answers for it.")]
Triton = Annotated[
    Optional[Path],
    option("--triton", panel=FORMS, metavar="DIR", help="Also write a model repository for Triton."),
]
GoldenRaw = Annotated[
    Optional[Path],
    option(
        "--golden-raw",
        panel=FORMS,
        metavar="DIR",
        help="Also write raw golden tensors, with lines for trtexec.",
    ),
]
Mean = Annotated[
    Optional[str],
    option("--mean", panel=MODEL, metavar="M,M,M", help="Mean of each channel, for pixels in 0..1, like 0.485,0.456,0.406."),
]
Deviation = Annotated[
    Optional[str],
    option("--std", panel=MODEL, metavar="S,S,S", help="Deviation of each channel, for pixels in 0..1, like 0.229,0.224,0.225."),
]
Labels = Annotated[
    Optional[Path], option("--labels", panel=MODEL, metavar="FILE", help="Its labels, one a line, in the order of the output.")
]
Precision = Annotated[
    str,
    option(
        "--to",
        metavar="VARIANT",
        help="int8, float16, or with-preprocessing, which takes pictures.",
        autocompletion=lambda: ["int8", "float16", "with-preprocessing"],
    ),
]
Calibrate = Annotated[
    Optional[str],
    option(
        "--calibrate",
        metavar="SOURCE",
        show_default="the recipe's",
        help="Training pictures: a recipe, a folder, inputs (.npz), or random.",
    ),
]
Samples = Annotated[
    Optional[int], number("--samples", metavar="N", taken=Range(1, 100_000), show_default="256", help="How many of them.")
]
Keep = Annotated[
    Optional[list[str]],
    option("--keep", metavar="NODE", help="A node, or a whole module, that stays in float32; repeatable."),
]
Loss = Annotated[
    Optional[str],
    option(
        "--budget",
        metavar="LIMIT",
        help="Keep layers in float32 until it holds: accuracy=-0.3pt or snr=30dB.",
    ),
]
InPlace = Annotated[
    Optional[Path],
    option("--output", panel=WRITTEN, metavar="FOLDER", show_default="BUNDLE itself", help="Where the bundle is written."),
]


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """``0.485,0.456`` -> floats; raises UsageError that names ``option``."""
    from edgekit.errors import UsageError
    from edgekit.numerals import decimal

    if text is None:
        return None
    parts = text.split(",")
    values = [value for part in parts if (value := decimal(part)) is not None]
    if len(values) != len(parts):
        raise UsageError(f"{option} {text!r} is not a list of numbers", "write it like 0.485,0.456,0.406")
    return tuple(values)
