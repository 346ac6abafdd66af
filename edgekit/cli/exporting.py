"""The commands that write bundles. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgekit.cli.action import carry_out
from edgekit.cli.options import export as export_options
from edgekit.cli.options import shared as options
from edgekit.cli.options.export import (
    Author,
    Calibrate,
    Deviation,
    FoldBn,
    GoldenPictures,
    GoldenRaw,
    InPlace,
    Keep,
    KeepWeights,
    Labels,
    License,
    Loss,
    Mean,
    Opset,
    Precision,
    Samples,
    SourceName,
    Triton,
)
from edgekit.cli.options.shared import AllRows, Arguments, BundleFolder, BundlePath, Debug, InputShapes, Json, Runs, Weights

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report


def export(
    source: SourceName,
    fold_bn: FoldBn = None,
    opset: Opset = None,
    output: BundleFolder = None,
    input_shape: InputShapes = None,
    arg: Arguments = None,
    weights: Weights = None,
    keep_weights: KeepWeights = True,
    golden_pictures: GoldenPictures = True,
    mean: Mean = None,
    std: Deviation = None,
    labels: Labels = None,
    license: License = "",
    author: Author = "",
    triton: Triton = None,
    golden_raw: GoldenRaw = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a bundle: one ONNX file, golden inputs and outputs, manifest, model card.

    With --triton or --golden-raw, SOURCE may be a bundle, which stays as it is.
    """

    def action(progress: Progress) -> Report:
        from edgekit.commands.export import export as export_source
        from edgekit.commands.export import is_bundle, ship
        from edgekit.ship import Forms
        from edgekit.sources import ExportOptions

        settings = ExportOptions(
            fold_bn=fold_bn,
            opset=opset,
            input_shapes=tuple(input_shape or ()),
            weights=weights,
            keep_weights=keep_weights,
            mean=export_options.numbers("--mean", mean),
            std=export_options.numbers("--std", std),
            labels=labels,
            args=options.arguments(arg),
            golden_pictures=golden_pictures,
            license=license,
            author=author,
        )
        forms = Forms(triton, golden_raw)
        if is_bundle(source):
            return ship(source, forms, output, settings)
        return export_source(source, output, settings, forms=forms, runs=runs, progress=progress)

    carry_out(action, json, debug)


def quantize(
    bundle: BundlePath,
    to: Precision = "int8",
    calibrate: Calibrate = None,
    samples: Samples = None,
    keep: Keep = None,
    budget: Loss = None,
    output: InPlace = None,
    drop_signature: Annotated[
        bool,
        options.flag("--drop-signature", options.WRITTEN, help="Take a signed bundle too; what is written is not signed."),
    ] = False,
    verbose: AllRows = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a bundle with one more file of its network, in int8, in float16 or with its preprocessing, and say what that costs.

    Exit code 1 if the test set loses more than the budget; 2, and nothing is written, if no layer could be converted for it.
    """

    def action(progress: Progress) -> Report:
        from edgekit.commands.quantize import quantize as quantize_bundle
        from edgekit.variants import Wanted

        wanted = Wanted(calibrate, samples, tuple(keep or ()), budget)
        return quantize_bundle(bundle, to, wanted, output=output, drop_signature=drop_signature, progress=progress)

    carry_out(action, json, debug, bundle=bundle, verbose=verbose)


def pack(
    bundle: BundlePath,
    output: Annotated[
        Optional[Path], options.option("--output", metavar="FILE", show_default="NAME.zip", help="The zip file.")
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a bundle as one zip file, the same bytes from the same bundle; edgekit unpack is the way back."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.pack import pack as pack_bundle

        return pack_bundle(bundle, output)

    carry_out(action, json, debug)


def unpack(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file that edgekit pack wrote.")],
    output: Annotated[
        Optional[Path],
        options.option("--output", metavar="FOLDER", show_default="the bundle's name", help="Where the bundle is written."),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Unpack a bundle and check every file; nothing that is no part of a bundle is written."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.unpack import unpack as unpack_bundle

        return unpack_bundle(file, output)

    carry_out(action, json, debug)
