"""The command line: words in, a command called, its report out. Nothing heavy is imported before a command needs it.

Exit codes: 0 all well; 1 a check failed; 2 wrong usage, bad input, or something missing here; 3 undecided; 130 stopped by Ctrl-C,
143 by SIGTERM, 129 by SIGHUP.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

from edgekit.cli import options
from edgekit.cli.options import (
    Against,
    AgainstBackends,
    Allowed,
    AllRows,
    Arguments,
    Arrivals,
    Author,
    Backend,
    Backends,
    BatchRanges,
    BatchSizes,
    Bounds,
    BudgetMs,
    Budgets,
    Builder,
    BundleFolder,
    BundlePath,
    BundlePaths,
    Calibrate,
    Concurrency,
    Csv,
    CudaGraph,
    Debug,
    Deviation,
    Device,
    Engine,
    Flavour,
    FoldBn,
    GoldenPictures,
    GoldenRaw,
    InPlace,
    InputShapes,
    Json,
    JsonLines,
    Keep,
    KeepWeights,
    Labels,
    Layers,
    Level,
    License,
    Limit,
    Loss,
    Mean,
    Opset,
    Output,
    Pairs,
    Precision,
    Processes,
    PublicKey,
    Rate,
    RecipeOrRun,
    RecipePath,
    Required,
    Rows,
    Runs,
    Samples,
    Seconds,
    Seed,
    Sessions,
    SourceName,
    Start,
    TensorBoardFolder,
    Threads,
    TorchSource,
    Triton,
    Undecided,
    Variant,
    Verbose,
    Weights,
    Workspace,
)  # fmt: skip

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report
    from edgekit.reports.report import BundleReport
    from edgekit.training.folder import Begin

app = typer.Typer(
    name="edgekit",
    help="Train, fold, export, verify and time vision models, and ship bundles that prove themselves.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: edgekit run recipes/lenet.toml",
)
data_app = typer.Typer(help="Datasets.", no_args_is_help=True)
app.add_typer(data_app, name="data")


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgekit.version import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None:
    pass


@app.command(epilog="Example: edgekit run recipes/lenet.toml")
def run(
    recipe: RecipePath,
    output: BundleFolder = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    restart: Annotated[bool, options.flag("--restart", help="Discard an interrupted training.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Every step in order: train, export, verify, bench. Steps whose inputs have not changed are skipped."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.run import run as run_recipe

        return run_recipe(recipe, runs=runs, output=output, device=device, restart=restart, progress=progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit train recipes/lenet.toml")
def train(
    recipe: RecipeOrRun,
    resume: Annotated[bool, options.flag("--resume", help="Continue an interrupted training.")] = False,
    restart: Annotated[bool, options.flag("--restart", help="Discard an interrupted training.")] = False,
    device: Device = "auto",
    runs: Annotated[
        Path | None,
        options.option("--runs", metavar="FOLDER", help="Where its folder is: runs, or that of a RUN, if left out."),
    ] = None,
    tensorboard: TensorBoardFolder = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a recipe into runs/<name>/: weights, checkpoint, metrics.jsonl, curve.png. Ctrl-C keeps a checkpoint.

    The folder of a finished run, given in place of a recipe, is trained again, and compared with what it was.

    On several processes or machines: torchrun --nproc-per-node 2 -m edgekit train RECIPE.
    """

    def action(progress: Progress) -> Report:
        from edgekit.cli.outcome import exit_code
        from edgekit.commands.train import processes, recipe_of
        from edgekit.commands.train import train as train_recipe
        from edgekit.machine.launcher import Elsewhere

        begin: Begin = "resume" if resume else "restart" if restart else "anew"
        with processes() as speaks:
            wanted = recipe_of(recipe)
            place = None if runs is None else runs / wanted.recipe.name
            report = train_recipe(recipe, place, device=device, begin=begin, progress=progress, tensorboard=tensorboard)
        if not speaks:
            raise Elsewhere(exit_code(report))
        return report

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit export torchvision.models:resnet18 --input-shape 1x3x224x224 --output exported/r18")
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

        export_options = ExportOptions(
            fold_bn=fold_bn,
            opset=opset,
            input_shapes=tuple(input_shape or ()),
            weights=weights,
            keep_weights=keep_weights,
            mean=options.numbers("--mean", mean),
            std=options.numbers("--std", std),
            labels=labels,
            args=options.arguments(arg),
            golden_pictures=golden_pictures,
            license=license,
            author=author,
        )
        forms = Forms(triton, golden_raw)
        if is_bundle(source):
            return ship(source, forms, output, export_options)
        return export_source(source, output, export_options, forms=forms, runs=runs, progress=progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit quantize exported/densenet --to int8 --budget accuracy=-0.3pt --output exported/densenet8")
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

    _carry_out(action, json, debug, bundle=bundle, verbose=verbose)


@app.command(epilog="Example: edgekit pack exported/lenet")
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

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit unpack lenet.zip")
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

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit verify exported/lenet --backend tensorrt --engine lenet.plan")
def verify(
    bundle: BundlePath,
    backend: Backends = None,
    variant: Variant = None,
    atol: Annotated[
        Optional[float],
        options.option("--atol", metavar="X", min=0, show_default="the measured noise", help="Your own absolute tolerance."),
    ] = None,
    rtol: Annotated[
        Optional[float],
        options.option(
            "--rtol",
            metavar="X",
            min=0,
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

        target = bundle if public_key is None else open_signed(bundle, public_key)
        limits, required = options.tolerance(atol, rtol), options.required(require)
        setups = options.setups(backend, variant=variant, cuda_graph=cuda_graph, flavour=flavour, engine=engine, source=source)
        if bisect:
            from edgekit.commands.bisect import bisect as bisect_bundle

            return bisect_bundle(target, setups, tolerance=limits, require=required, allow=allow or (), progress=progress)
        return verify_bundle(target, setups, tolerance=limits, require=required, allow=allow or (), progress=progress)

    _carry_out(action, json, debug, output=output, bundle=bundle, verbose=verbose)


@app.command(epilog="Example: edgekit evaluate exported/lenet --data photos/ --min-accuracy 0.9")
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
        options.option("--min-accuracy", metavar="SHARE", help="Exit code 1 where top-1 is below this, e.g. 0.9 for 90 %."),
    ] = None,
    max_drop: Annotated[
        Optional[float],
        options.option(
            "--max-drop",
            metavar="POINTS",
            min=0,
            max=100,
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

        bars = Bars(options.share("--min-accuracy", min_accuracy), None if max_drop is None else max_drop / 100)
        setups = options.setups(backend, variant=variant, threads=threads)
        return evaluate_bundle(bundle, data, setups, bars=bars, wrong=wrong, progress=progress)

    _carry_out(action, json, debug, output=output, bundle=bundle, verbose=verbose)


@app.command(epilog="Example: edgekit bench exported/new --against exported/old --limit 5% --threads 1")
def bench(
    bundle: BundlePaths,
    batch: BatchSizes = "1,8,32",
    threads: Threads = None,
    seconds: Seconds = 1.0,
    budget_ms: BudgetMs = None,
    cuda_graph: CudaGraph = False,
    layers: Layers = False,
    processes: Processes = 0,
    row: Rows = None,
    seed: Seed = 0,
    start: Start = False,
    budget: Bounds = None,
    concurrency: Concurrency = None,
    sessions: Sessions = None,
    rate: Rate = None,
    arrivals: Arrivals = None,
    against: Against = None,
    against_backend: AgainstBackends = None,
    limit: Limit = None,
    pairs: Pairs = None,
    undecided: Undecided = None,
    backend: Backends = None,
    variant: Variant = None,
    flavour: Flavour = None,
    engine: Engine = None,
    source: TorchSource = None,
    output: Output = None,
    verbose: Verbose = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time every backend present, and several bundles, taking turns; raw samples are in the JSON.

    With --against: is the bundle slower than another? Exit code 1 if it is, 0 if it is not, and 3 where that cannot be decided.
    """

    def action(progress: Progress) -> Report:
        from edgekit.commands.bench import bench as bench_bundles

        options.check_outside(output, [*bundle[1:], *filter(None, [against])])
        limit_ms = options.budget(budget_ms)
        timing = options.timing(batch, seconds, processes, row, seed)
        ways = partial(
            options.setups,
            variant=variant, threads=threads, cuda_graph=cuda_graph, flavour=flavour, engine=engine, source=source,
        )  # fmt: skip
        if against is None:
            options.check_with_against(
                against_backend=against_backend, limit=limit, pairs=pairs, undecided=undecided, row=None if processes else row
            )
            load = options.load(concurrency, rate, seed, sessions=sessions, arrivals=arrivals)
            further = options.further(budget, load, layers=layers, start=start)
            options.check_samples(output, bundle)
            return bench_bundles(bundle, ways(backend), timing, budget_ms=limit_ms, further=further, progress=progress)

        from edgekit.commands.against import Terms, usual_setups
        from edgekit.commands.against import against as compare

        first = options.check_without_against(
            bundle,
            budget_ms=limit_ms, layers=layers, processes=processes, start=start, budget=budget, concurrency=concurrency,
            sessions=sessions, rate=rate, arrivals=arrivals,
        )  # fmt: skip
        setups = ways(backend or usual_setups())
        others = ways(against_backend) if against_backend else ()
        terms = Terms(options.percentage(limit), pairs, others, options.undecided(undecided))
        return compare(first, against, setups, timing, terms=terms, progress=progress)

    _carry_out(action, json, debug, output=output, bundle=bundle[0], verbose=verbose)


@app.command(epilog="Example: edgekit tune exported/edgenet --budget accuracy=-0.3pt --budget p99=5ms")
def tune(
    bundle: BundlePath,
    budget: Budgets = None,
    metric: Annotated[
        str, options.option("--metric", metavar="NAME", help="median, p99 or throughput.", autocompletion=options.metric_names)
    ] = "median",
    batch: Annotated[int, options.option("--batch", metavar="N", min=1, help="The batch size.")] = 1,
    data: Annotated[
        Optional[Path],
        options.option(
            "--data",
            metavar="RECIPE|FOLDER",
            help="Pictures for accuracies.",
            show_default="the test set it was exported with",
            autocompletion=options.recipe_paths,
        ),
    ] = None,
    backend: Backends = None,
    variant: Variant = None,
    threads: Threads = None,
    output: Output = None,
    verbose: Verbose = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find the best way to run a bundle here: runtimes, variants, threads and options in one table, within your budgets.

    Exit code 1 if no way is within the budgets. The choice is kept for predict and --backend tuned.
    """

    def action(progress: Progress) -> Report:
        from edgekit.commands.tune import Goal
        from edgekit.commands.tune import tune as tune_bundle

        goal = Goal(options.metric(metric), batch, tuple(budget or ()))
        setups = options.setups(backend, variant=variant, threads=threads)
        return tune_bundle(bundle, setups, goal, data=data, progress=progress)

    _carry_out(action, json, debug, output=output, bundle=bundle, verbose=verbose)


@app.command(epilog="Example: edgekit build exported/lenet --batch 1:8:32 --output lenet.plan")
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

        setup = options.build_setup(
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

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit inspect exported/lenet")
def inspect(
    target: Annotated[
        str,
        typer.Argument(metavar="BUNDLE|FILE.onnx|SOURCE", help="What to look into.", autocompletion=options.source_names),
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

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit predict exported/lenet shirt.png photos/ --csv labels.csv")
def predict(
    bundle: BundlePath,
    images: Annotated[
        list[Path], typer.Argument(metavar="IMAGE", help="Pictures of any size, folders of them, or patterns like '**/*.png'.")
    ],
    backend: Backend = None,
    variant: Variant = None,
    flavour: Flavour = None,
    engine: Engine = None,
    top: Annotated[int, options.option("--top", metavar="N", min=1, help="How many labels to show.")] = 3,
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

        options.check_one_form(json, jsonl)
        setup = options.one_setup(backend, variant=variant, flavour=flavour, engine=engine)
        if csv is not None:
            check_output("--csv", csv, bundle, csv_head())
        report = predict_images(bundle, images, setup, top=top, progress=progress)
        if csv is not None:
            write_bytes(csv, report.to_csv().encode())
        return report

    _carry_out(action, json, debug, verbose=verbose, form="json" if json else "jsonl" if jsonl else "page")


@app.command(epilog="Example: edgekit models --json")
def models(json: Json = False, debug: Debug = False) -> None:
    """The models edgekit ships."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.models import models as list_models

        return list_models()

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit runs runs/lenet runs/lenet-wide --plot curves.png")
def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Folders of trainings, or names below --runs; all there if left out."),
    ] = None,
    runs: Runs = Path("runs"),
    plot: Annotated[
        Path | None,
        options.option(
            "--plot", metavar="FILE", help="Draw their losses and accuracies together, as a PNG or an SVG by its name."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List and compare trainings: their figures, and the recipe keys in which they differ."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.runs import runs as compare

        return compare(folders or (), root=runs, plot=plot)

    _carry_out(action, json, debug)


@data_app.command(epilog="Example: edgekit data fetch fashion-mnist")
def fetch(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The dataset: fashion-mnist.", autocompletion=options.dataset_names)
    ],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find or fetch a dataset and check its sha256."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.data import fetch as fetch_data

        return fetch_data(name, progress)

    _carry_out(action, json, debug)


@data_app.command(epilog="Example: edgekit data cache --remove")
def cache(
    remove: Annotated[bool, typer.Option("--remove", help="Remove them: they are decoded again when they are needed.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The decoded pictures of large folders in edgekit's cache: of what, and how large."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.data import cache as decoded_pictures

        return decoded_pictures(remove=remove)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit doctor --bench")
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

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit report exported/lenet --output lenet.html")
def report(
    bundle: BundlePath,
    form: Annotated[
        str,
        options.option(
            "--format",
            panel=options.REPORT,
            metavar="FORMAT",
            help="html, md, json or junit.",
            autocompletion=options.report_formats,
        ),
    ] = "html",
    output: Annotated[
        Optional[Path],
        options.option(
            "--output",
            panel=options.REPORT,
            metavar="FILE",
            show_default="report.html; stdout for other formats",
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
        from edgekit.commands.report import FORMATS, PAGE
        from edgekit.commands.report import report as report_bundle

        chosen = options.report_format(form, beside_json=json and output is None)
        place = PAGE if output is None and chosen == "html" else output
        if place is not None:
            check_output("--output", place, bundle, FORMATS[chosen])
        return report_bundle(bundle, place, chosen, progress=progress)

    def document(found: BundleReport) -> bytes:
        from edgekit.commands.report import drawn

        return drawn(found, options.report_format(form))

    _carry_out(action, json, debug, form="json" if json else "page" if output is not None or form == "html" else document)


@app.command(epilog="Example: edgekit web exported/lenet lenet-page")
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

    _carry_out(action, json, debug, bundle=bundle)


@app.command(epilog="Example: edgekit diff exported/lenet lenet-of-last-week")
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

    _carry_out(action, json, debug, verbose=verbose)


# typer brings its own copy of click, or uses the installed one: this is UsageError in either
_TyperUsageError: Any = typer.BadParameter.__bases__[0]


def main() -> NoReturn:
    """The entry point: under ``--json`` and ``--jsonl`` wrong usage too is one JSON document."""
    try:
        code = app(prog_name="edgekit", standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # help is written without
    except typer.Abort:
        sys.exit(130)
    except _TyperUsageError as problem:
        from edgekit.cli.outcome import complain, print_error

        if type(problem).__name__ == "NoArgsIsHelpError":  # nothing was asked: the whole help
            complain(problem.format_message())
            sys.exit(2)
        from edgekit.cli.usage import usage_sentence

        sentence = usage_sentence(problem)
        if {"--json", "--jsonl"} & {*sys.argv}:
            with suppress(typer.Exit):  # stdout takes no document, which has been said
                print_error("UsageError", sentence, "json" if "--json" in sys.argv else "jsonl")
        complain(f"error: {sentence}")
        sys.exit(2)
    except OSError as problem:  # of --help and --version, and where stderr takes no sentence: commands print by themselves
        from edgekit.cli.outcome import say_unwritten

        say_unwritten(problem)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _carry_out(action: Callable[[Progress], Report], json: bool, debug: bool, **more: Any) -> NoReturn:
    from edgekit.cli.outcome import carry_out

    carry_out(action, more.pop("form", "json" if json else "page"), debug, **more)
