"""The command line: parse, call, render, exit code. No logic, and nothing heavy imported before a command needs it.

Exit codes: 0 all well; 1 a check failed; 2 wrong usage, bad input, or something missing here; 130 stopped by Ctrl-C.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Optional

import typer

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report
    from edgekit.tolerance import Tolerance

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

Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Runs = Annotated[Path, typer.Option(help="Where the folders of trainings are.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that edgekit export wrote.")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (*.toml).")]
InputShapes = Annotated[
    Optional[list[str]],
    typer.Option("--input-shape", metavar="[NAME=]1x3x224x224", help="Shape of an input of an import path; repeatable."),
]
Weights = Annotated[
    Optional[Path], typer.Option(help="Weights for an import path: safetensors, or a state_dict saved by torch.save.")
]


def _device_names() -> list[str]:
    return ["auto", "cpu", "cuda"]


def _backend_names() -> list[str]:
    from edgekit.backends import KINDS

    return list(KINDS)


def _flavour_names() -> list[str]:
    return ["tensorrt", "tensorrt-rtx"]


def _model_names(incomplete: str) -> list[str]:
    from edgekit.models import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", autocompletion=_device_names)]
Backends = Annotated[
    Optional[list[str]],
    typer.Option("--backend", help="Only this runtime, which must be present; repeatable.", autocompletion=_backend_names),
]
Flavour = Annotated[
    Optional[str],
    typer.Option(
        "--flavour", help="tensorrt or tensorrt-rtx.", show_default="the first that works here", autocompletion=_flavour_names
    ),
]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph", help="TensorRT records its work once and replays it: fewer launches.")]
Engine = Annotated[
    Optional[Path],
    typer.Option(
        "--engine",
        metavar="FILE.plan",
        help="TensorRT's engine, written by edgekit build; it is run as it is, or refused.",
        show_default="the usual one, found or built",
    ),
]
TorchSource = Annotated[
    Optional[str], typer.Option("--source", help="Model or import path of the PyTorch side; it gets the bundle's weights.")
]


def _print_version(wanted: bool) -> None:
    if wanted:
        from edgekit import __version__

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
    output: Annotated[Optional[Path], typer.Option(help="The bundle's folder; exported/<name> if left out.")] = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Every step in order: train, export, verify, bench. Steps whose inputs have not changed are skipped."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.run import run_recipe

        return run_recipe(recipe, runs=runs, output=output, device=device, progress=progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit train recipes/lenet.toml")
def train(
    recipe: RecipePath,
    resume: Annotated[bool, typer.Option("--resume", help="Continue an interrupted training.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Discard an interrupted training.")] = False,
    device: Device = "auto",
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a recipe into runs/<name>/: weights, checkpoint, metrics.jsonl, curve.png. Ctrl-C keeps a checkpoint."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.train import train_recipe
        from edgekit.recipe import load

        loaded = load(recipe)
        return train_recipe(loaded, runs / loaded.name, device=device, resume=resume, restart=restart, progress=progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit export torchvision.models:resnet18 --input-shape 1x3x224x224 --output exported/r18")
def export(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            help="A recipe, a run directory, a model's name, or an import path package.module:factory.",
            autocompletion=_model_names,
        ),
    ],
    fold_bn: Annotated[
        Optional[bool],
        typer.Option("--fold-bn/--no-fold-bn", show_default="fold", help="Fold batch norm into the layer before it."),
    ] = None,
    opset: Annotated[Optional[int], typer.Option(min=18, max=26, show_default="20", help="ONNX opset.")] = None,
    output: Annotated[Optional[Path], typer.Option(help="The bundle's folder; exported/<name> if left out.")] = None,
    input_shape: InputShapes = None,
    weights: Weights = None,
    keep_weights: Annotated[
        bool, typer.Option(help="Put the PyTorch weights into the bundle, for verify and bench with PyTorch.")
    ] = True,
    mean: Annotated[Optional[str], typer.Option(help="Preprocessing of an import path, e.g. 0.485,0.456,0.406")] = None,
    std: Annotated[Optional[str], typer.Option(help="Preprocessing of an import path, e.g. 0.229,0.224,0.225")] = None,
    labels: Annotated[Optional[Path], typer.Option(help="Labels of an import path, one a line.")] = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Write a bundle: one ONNX file, golden inputs and outputs, manifest, model card."""

    def action(progress: Progress) -> Report:
        from edgekit.machine.packages import needs

        needs("torch", "onnx", "onnxscript", *(("onnxruntime",) if source.lower().endswith(".onnx") else ()), extra="train")
        from edgekit.commands.export import export_source
        from edgekit.sources.module import ExportOptions

        options = ExportOptions(
            output=output,
            fold_bn=fold_bn,
            opset=opset,
            input_shapes=tuple(input_shape or ()),
            weights=weights,
            keep_weights=keep_weights,
            mean=_numbers("--mean", mean),
            std=_numbers("--std", std),
            labels=labels,
        )
        return export_source(source, options, runs=runs, progress=progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit verify exported/lenet --backend tensorrt --engine lenet.plan")
def verify(
    bundle: BundlePath,
    backend: Backends = None,
    atol: Annotated[Optional[float], typer.Option(min=0, show_default="the manifest's", help="Absolute tolerance.")] = None,
    rtol: Annotated[Optional[float], typer.Option(min=0, help="Tolerance relative to the scale, below 1.")] = None,
    cuda_graph: CudaGraph = False,
    flavour: Flavour = None,
    engine: Engine = None,
    source: TorchSource = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Check every runtime present against the recorded float64 outputs; exit code 1 when one is off."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.verify import verify_bundle

        tolerance = _tolerance(bundle, atol, rtol)
        return verify_bundle(
            bundle,
            backends=backend or (),
            tolerance=tolerance,
            source=source,
            cuda_graph=cuda_graph,
            flavour=flavour,
            engine=engine,
            progress=progress,
        )

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit bench exported/lenet --batch 1,8,32 --threads 1 --json > bench.json")
def bench(
    bundle: BundlePath,
    batch: Annotated[str, typer.Option(metavar="N[,N...]", help="Batch sizes.")] = "1,8,32",
    threads: Annotated[
        Optional[int], typer.Option(min=1, max=1024, show_default="all cores", help="Threads of each runtime.")
    ] = None,
    seconds: Annotated[float, typer.Option(help="Recorded time per runtime, batch and boundary.")] = 1.0,
    budget_ms: Annotated[
        Optional[float], typer.Option(help="Exit code 1 when an end-to-end median of the first batch is above this.")
    ] = None,
    cuda_graph: CudaGraph = False,
    layers: Annotated[bool, typer.Option("--layers", help="Then also what each layer takes: ort-cpu, tensorrt.")] = False,
    backend: Backends = None,
    flavour: Flavour = None,
    engine: Engine = None,
    source: TorchSource = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Time every runtime present, taking turns; raw samples are in the JSON."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.bench import bench_bundle
        from edgekit.errors import UsageError
        from edgekit.tensors import batch_sizes

        if budget_ms is not None and not 0 < budget_ms < float("inf"):
            raise UsageError(f"--budget-ms {budget_ms:g} is not a time; give milliseconds above 0")
        if not 0 < seconds <= 3600:
            raise UsageError(f"--seconds {seconds:g} is not a time between 0 and 3600; give seconds like 0.5")
        return bench_bundle(
            bundle,
            backends=backend or (),
            batches=batch_sizes(batch),
            threads=threads,
            seconds=seconds,
            budget_ms=budget_ms,
            source=source,
            cuda_graph=cuda_graph,
            flavour=flavour,
            engine=engine,
            layers=layers,
            progress=progress,
        )

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit build exported/lenet --batch 1:8:32 --output lenet.plan")
def build(
    bundle: BundlePath,
    flavour: Flavour = None,
    batch: Annotated[
        Optional[list[str]],
        typer.Option(metavar="MIN:OPT:MAX", show_default="1:8:32", help="Batch sizes to build for, or one size; repeatable."),
    ] = None,
    workspace: Annotated[
        Optional[int], typer.Option(min=1, metavar="MIB", show_default="all there is", help="Scratch memory a layer may use.")
    ] = None,
    level: Annotated[int, typer.Option(min=0, max=5, help="How long to search for faster kernels.")] = 3,
    hardware_compatible: Annotated[
        bool, typer.Option("--hardware-compatible", help="For every GPU from Ampere on; usually slower.")
    ] = False,
    version_compatible: Annotated[
        bool, typer.Option("--version-compatible", help="For later releases of the same major version of TensorRT.")
    ] = False,
    tf32: Annotated[bool, typer.Option("--tf32", help="Let float32 products be rounded to 10 bits; faster.")] = False,
    cuda_graph: Annotated[
        bool, typer.Option("--cuda-graph", help="TensorRT-RTX: build what bench --cuda-graph can record.")
    ] = False,
    output: Annotated[Optional[Path], typer.Option(help="The engine's file; in edgekit's cache if left out.")] = None,
    rebuild: Annotated[bool, typer.Option("--rebuild", help="Build even if a fitting engine is there.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Build a TensorRT engine for this machine; exit code 1 when it computes in another precision than the bundle's."""

    def action(progress: Progress) -> Report:
        from edgekit.backends.tensorrt.options import BuildOptions
        from edgekit.commands.build import build_bundle
        from edgekit.tensors import BatchRange

        options = BuildOptions(
            profiles=tuple(dict.fromkeys(BatchRange.parse(text) for text in batch or ())),
            workspace_mib=workspace,
            level=level,
            hardware_compatible=hardware_compatible,
            version_compatible=version_compatible,
            tf32=tf32,
            cuda_graph=cuda_graph,
        )
        return build_bundle(bundle, flavour=flavour, options=options, output=output, rebuild=rebuild, progress=progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit inspect exported/lenet")
def inspect(
    target: Annotated[
        str, typer.Argument(metavar="BUNDLE|FILE.onnx|SOURCE", help="What to look into.", autocompletion=_model_names)
    ],
    input_shape: InputShapes = None,
    weights: Weights = None,
    runs: Runs = Path("runs"),
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Layers with shapes, parameters and MACs; operator counts; how many batch norms are left."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.inspect import inspect_target

        return inspect_target(target, input_shapes=tuple(input_shape or ()), weights=weights, runs=runs)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit predict exported/lenet shirt.png boot.png")
def predict(
    bundle: BundlePath,
    images: Annotated[list[Path], typer.Argument(metavar="IMAGE...", help="Pictures of any size.")],
    backend: Annotated[str, typer.Option(help="The runtime to use.", autocompletion=_backend_names)] = "ort-cpu",
    flavour: Flavour = None,
    engine: Engine = None,
    top: Annotated[int, typer.Option(min=1, help="How many labels to show.")] = 3,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Label pictures through the bundle's own preprocessing."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.predict import predict_images

        return predict_images(bundle, images, backend=backend, flavour=flavour, engine=engine, top=top, progress=progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit models --json")
def models(json: Json = False, debug: Debug = False) -> None:
    """The models edgekit ships."""

    def action(progress: Progress) -> Report:
        from edgekit.models import MODELS
        from edgekit.reports.catalogue import ModelRow, ModelsReport
        from edgekit.tensors import shape_text

        return ModelsReport(tuple(ModelRow(info.name, shape_text(info.input_shape), info.summary) for info in MODELS.values()))

    _carry_out(action, json, debug)


@data_app.command(epilog="Example: edgekit data fetch fashion-mnist")
def fetch(
    name: Annotated[str, typer.Argument(help="The dataset: fashion-mnist.", autocompletion=lambda: ["fashion-mnist"])],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find or fetch a dataset and check its sha256."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.data import fetch_data

        return fetch_data(name, progress)

    _carry_out(action, json, debug)


@app.command(epilog="Example: edgekit doctor")
def doctor(json: Json = False, debug: Debug = False) -> None:
    """Every runtime: present or not, what it would really run on, what is wrong, what mends it; and which backends work."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.doctor import doctor as examine

        return examine(progress)

    _carry_out(action, json, debug)


# typer brings its own copy of click, or uses the installed one: this is UsageError in either
_TyperUsageError: Any = typer.BadParameter.__bases__[0]


def main() -> NoReturn:
    """The entry point: under ``--json`` wrong usage too is one JSON document."""
    try:
        code = app(standalone_mode=False)
        if sys.stdout is not None:
            sys.stdout.flush()  # help is written without
    except typer.Abort:
        sys.exit(130)
    except _TyperUsageError as problem:
        if "--json" in sys.argv:
            from edgekit.cli.outcome import print_error

            with suppress(typer.Exit):  # stdout takes no document, which has been said
                print_error("UsageError", problem.format_message())
        try:
            problem.show()
        except OSError:
            from edgekit.cli.outcome import give_up

            give_up(sys.stderr)
        sys.exit(2)
    except OSError as problem:  # of --help and --version, and where stderr takes no sentence: commands print by themselves
        from edgekit.cli.outcome import say_unwritten

        say_unwritten(problem)
        sys.exit(2)
    sys.exit(code if isinstance(code, int) else 0)


def _carry_out(action: Callable[[Progress], Report], json: bool, debug: bool) -> NoReturn:
    from edgekit.cli.outcome import carry_out

    carry_out(action, json, debug)


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    from edgekit.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers; write it like 0.485,0.456,0.406") from None


def _tolerance(bundle: Path, atol: float | None, rtol: float | None) -> Tolerance | None:
    if atol is None and rtol is None:
        return None
    import msgspec

    from edgekit.bundle.folder import open_bundle
    from edgekit.errors import UsageError

    if rtol is not None and not rtol < 1:
        raise UsageError(f"--rtol {rtol:g} would let anything pass; give a number below 1")
    if atol is not None and not atol < float("inf"):
        raise UsageError(f"--atol {atol:g} would let anything pass; give a number")
    changes = {key: value for key, value in (("atol", atol), ("rtol", rtol)) if value is not None}
    return msgspec.structs.replace(open_bundle(bundle).variant.tolerance, **changes)
