"""The commands that put a bundle to use. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgekit.cli.action import carry_out
from edgekit.cli.options import deploy as deploy_options
from edgekit.cli.options import shared as options
from edgekit.cli.options.deploy import BatchRanges, Builder, Csv, JsonLines, Level, Workspace
from edgekit.cli.options.numbers import Range
from edgekit.cli.options.shared import AllRows, Backend, BundlePath, Debug, Engine, Flavour, Json, Variant

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report


def build(
    bundle: BundlePath,
    backend: Builder = None,
    variant: Variant = None,
    flavour: Flavour = None,
    batch: BatchRanges = None,
    workspace: Workspace = None,
    level: Level = None,
    hardware_compatible: Annotated[
        bool, options.flag("--hardware-compatible", help="For every GPU from Ampere on; usually slower.")
    ] = False,
    version_compatible: Annotated[
        bool, options.flag("--version-compatible", help="For later releases of the same major version of TensorRT.")
    ] = False,
    tf32: Annotated[bool, options.flag("--tf32", help="Let float32 products be rounded to 10 bits; faster.")] = False,
    cuda_graph: Annotated[
        bool, options.flag("--cuda-graph", help="TensorRT-RTX: build what bench --cuda-graph can record.")
    ] = False,
    output: Annotated[
        Optional[Path], options.option("--output", metavar="FILE", show_default="in edgekit's cache", help="The engine's file.")
    ] = None,
    rebuild: Annotated[bool, options.flag("--rebuild", help="Build even if a fitting engine is there.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a TensorRT engine for this machine; exit code 1 when it computes in another precision than the bundle's."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.build import build as build_bundle
        from edgekit.tensors import BatchRange

        setup = deploy_options.build_setup(
            backend,
            variant=variant,
            flavour=flavour,
            profiles=[str(BatchRange.parse(text)) for text in batch or ()] or None,
            workspace_mib=workspace,
            level=level,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            tf32=tf32,
            cuda_graph=cuda_graph,
        )
        return build_bundle(bundle, setup, output=output, rebuild=rebuild, progress=progress)

    carry_out(action, json, debug)


def predict(
    bundle: BundlePath,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Pictures of any size, folders of them, or patterns like '**/*.png'.")
    ],
    backend: Backend = None,
    variant: Variant = None,
    flavour: Flavour = None,
    engine: Engine = None,
    top: Annotated[int, options.number("--top", metavar="N", taken=Range(1), help="How many labels to show.")] = 3,
    verbose: AllRows = False,
    csv: Csv = None,
    jsonl: JsonLines = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Label pictures through the bundle's own preprocessing.

    A picture that cannot be read is reported in its row (exit code 1).
    """

    def action(progress: Progress) -> Report:
        from edgekit.cli.outcome import check_output
        from edgekit.commands.predict import predict as predict_images
        from edgekit.files import write_bytes
        from edgekit.reports.predict import csv_head

        deploy_options.check_one_form(json, jsonl)
        setup = options.one_setup(backend, variant=variant, flavour=flavour, engine=engine)
        if csv is not None:
            check_output("--csv", csv, bundle, csv_head())
        report = predict_images(bundle, images, setup, top=top, progress=progress)
        if csv is not None:
            write_bytes(csv, report.to_csv().encode())
        return report

    carry_out(action, json, debug, verbose=verbose, form="json" if json else "jsonl" if jsonl else "page")


def web(
    bundle: BundlePath,
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the page is written; an older page there is replaced.")],
    variant: Variant = None,
    runtime: Annotated[
        Optional[Path],
        options.option(
            "--runtime",
            panel=options.RUNNING,
            metavar="FOLDER",
            show_default="fetched from npm, its sha512 checked",
            help="onnxruntime-web: the folder dist of its npm package.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a bundle as a web page: in a browser, it proves the golden outputs first, then labels pictures."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.web import web as write_web_page

        return write_web_page(bundle, folder, variant=variant or "", runtime=runtime, progress=progress)

    carry_out(action, json, debug, bundle=bundle)
