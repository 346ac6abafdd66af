"""The commands that tell what a bundle is and whether it is right. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from edgekit.cli.action import carry_out
from edgekit.cli.options import check as check_options
from edgekit.cli.options import shared as options
from edgekit.cli.options.check import Allowed, Checked, PublicKey, Required
from edgekit.cli.options.completion import report_formats, source_names
from edgekit.cli.options.numbers import Range
from edgekit.cli.options.shared import (
    AllRows,
    Arguments,
    Backends,
    BundlePath,
    CudaGraph,
    Debug,
    Engine,
    Flavour,
    InputShapes,
    Json,
    Output,
    Runs,
    Threads,
    TorchSource,
    Variant,
    Verbose,
    Weights,
)

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report
    from edgekit.reports.report import BundleReport


def verify(
    bundle: BundlePath,
    backend: Backends = None,
    variant: Checked = None,
    atol: Annotated[
        Optional[float],
        options.number(
            "--atol", metavar="X", taken=Range(0), show_default="the measured noise", help="Your own absolute tolerance."
        ),
    ] = None,
    rtol: Annotated[
        Optional[float],
        options.number(
            "--rtol",
            metavar="X",
            taken=Range(0, below=1),
            show_default="the measured noise",
            help="Your own tolerance relative to the scale, below 1. It replaces the noise, which is never above 2e-5.",
        ),
    ] = None,
    require: Required = None,
    allow: Allowed = None,
    public_key: PublicKey = None,
    bisect: Annotated[
        bool,
        options.flag(
            "--bisect", options.REPORT, help="If a check fails: name the first node that differs, and try setups that pass."
        ),
    ] = False,
    cuda_graph: CudaGraph = False,
    flavour: Flavour = None,
    engine: Engine = None,
    source: TorchSource = None,
    output: Output = None,
    verbose: Verbose = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check every backend present against the recorded float64 outputs, and the manifest against the files.

    Exit code 1 if any check fails.
    """

    def action(progress: Progress) -> Report:
        from edgekit.machine.fork import follow

        follow(f"bundle {bundle}")
        from edgekit.bundle.signature import open_signed
        from edgekit.commands.verify import verify as verify_bundle
        from edgekit.tolerance import ToleranceChange

        target = bundle if public_key is None else open_signed(bundle, public_key)
        limits, required = ToleranceChange(atol, rtol), check_options.required(require)
        setups = options.setups(backend, variant=variant, cuda_graph=cuda_graph, flavour=flavour, engine=engine, source=source)
        if bisect:
            from edgekit.commands.bisect import bisect as bisect_bundle

            return bisect_bundle(target, setups, tolerance=limits, require=required, allow=allow or (), progress=progress)
        return verify_bundle(target, setups, tolerance=limits, require=required, allow=allow or (), progress=progress)

    carry_out(action, json, debug, output=output, bundle=bundle, verbose=verbose)


def evaluate(
    bundle: BundlePath,
    data: Annotated[
        Optional[Path],
        options.option(
            "--data",
            metavar="SOURCE",
            show_default="Fashion-MNIST's",
            help="A folder of class folders, or a recipe, whose test set is taken.",
        ),
    ] = None,
    backend: Backends = None,
    variant: Variant = None,
    threads: Threads = None,
    min_accuracy: Annotated[
        Optional[float],
        options.number(
            "--min-accuracy", metavar="SHARE", taken=Range(0, 1), help="Exit code 1 where top-1 is below this, e.g. 0.9 for 90 %."
        ),
    ] = None,
    max_drop: Annotated[
        Optional[float],
        options.number(
            "--max-drop",
            metavar="POINTS",
            taken=Range(0, 100),
            help="Exit code 1 unless top-1 is surely at most so many percentage points below the original's.",
        ),
    ] = None,
    wrong: Annotated[
        Optional[Path],
        options.option(
            "--wrong", panel=options.REPORT, metavar="FOLDER", help="Write a contact sheet of the surest wrong pictures."
        ),
    ] = None,
    output: Output = None,
    verbose: AllRows = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Accuracy of every backend present on labelled pictures, and whether they differ."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.evaluate import Bars
        from edgekit.commands.evaluate import evaluate as evaluate_bundle

        bars = Bars(min_accuracy, None if max_drop is None else max_drop / 100)
        setups = options.setups(backend, variant=variant, threads=threads)
        return evaluate_bundle(bundle, data, setups, bars=bars, wrong=wrong, progress=progress)

    carry_out(action, json, debug, output=output, bundle=bundle, verbose=verbose)


def inspect(
    target: Annotated[
        str,
        typer.Argument(metavar="BUNDLE|FILE.onnx|SOURCE", help="What to look into.", autocompletion=source_names),
    ],
    variant: Variant = None,
    input_shape: InputShapes = None,
    arg: Arguments = None,
    weights: Weights = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Layers with shapes, parameters and MACs; operator counts; how many batch norms are left; where a bundle comes from."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.inspect import inspect as inspect_target

        arguments = options.arguments(arg)
        shapes = tuple(input_shape or ())
        return inspect_target(target, variant=variant or "", input_shapes=shapes, args=arguments, weights=weights, runs=runs)

    carry_out(action, json, debug)


def diff(
    first: Annotated[Path, typer.Argument(metavar="A", help="A bundle's folder.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another's.")],
    verbose: AllRows = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """What differs between two bundles: weights by tensor, folds, preprocessing, variants, figures, files.

    Exit code 0 if nothing differs, 1 if something does.
    """

    def action(progress: Progress) -> Report:
        from edgekit.commands.diff import diff as compare

        return compare(first, second, progress=progress)

    carry_out(action, json, debug, verbose=verbose)


def doctor(
    bench: Annotated[
        bool,
        options.flag("--bench", help="Instead: is this machine fit to be measured now, and what to change? Exit code 1 if not."),
    ] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Every runtime: present or not, what it would really run on, what is wrong, how to fix it; and which backends work."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.doctor import doctor as examine
        from edgekit.commands.doctor import fitness

        return fitness(progress) if bench else examine(progress)

    carry_out(action, json, debug)


def report(
    bundle: BundlePath,
    form: Annotated[
        str,
        options.option(
            "--format",
            panel=options.REPORT,
            metavar="FORMAT",
            help="html, md, json or junit.",
            autocompletion=report_formats,
        ),
    ] = "html",
    output: Annotated[
        Optional[Path],
        options.option(
            "--output",
            panel=options.REPORT,
            metavar="FILE",
            show_default="NAME.html; stdout for other formats",
            help="Where it is written.",
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """One page about a bundle: what it is, and all that verify, evaluate and bench have found out on this machine.

    Exit code 1 if a check in it has failed.
    """

    def action(progress: Progress) -> Report:
        from edgekit.cli.outcome import check_output
        from edgekit.commands.report import FORMATS, page_of
        from edgekit.commands.report import report as report_bundle

        chosen = check_options.report_format(form, beside_json=json and output is None)
        place = page_of(bundle) if output is None and chosen == "html" else output
        if place is not None:
            check_output("--output", place, bundle, FORMATS[chosen])
        return report_bundle(bundle, place, chosen, progress=progress)

    def document(found: BundleReport) -> bytes:
        from edgekit.commands.report import drawn

        return drawn(found, check_options.report_format(form))

    carry_out(action, json, debug, form="json" if json else "page" if output is not None or form == "html" else document)
