"""The words that commands share, each declared once, and how they become Setups. Importing this imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from edgekit.commands.further import Further
    from edgekit.commands.report import Format
    from edgekit.latency.load import Load
    from edgekit.latency.loop import Row, Timing
    from edgekit.reports.tune import Metric
    from edgekit.setups import Setup
    from edgekit.tolerance import ToleranceChange


def device_names() -> list[str]:
    """The values of ``--device``."""
    return ["auto", "cpu", "cuda"]


def backend_names() -> list[str]:
    """The names that ``--backend`` may begin with."""
    from edgekit.backends import table
    from edgekit.setups import TUNED

    return [*table(), TUNED]


def flavour_names() -> list[str]:
    """The values of ``--flavour``, from the backends that have the option."""
    from edgekit.backends import table, takers
    from edgekit.backends.words import choices

    return list(dict.fromkeys(word for name in takers("flavour") for word in choices(table()[name].options, "flavour")))


def model_names(incomplete: str) -> list[str]:
    """Models that edgekit ships."""
    from edgekit.models import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


def dataset_names() -> list[str]:
    """Datasets that can be fetched."""
    from edgekit.commands.data import FETCHED

    return list(FETCHED)


def check_names() -> list[str]:
    """The checks of the manifest that ``--allow`` accepts."""
    from edgekit.parity.manifest import CODES

    return list(CODES)


def report_formats() -> list[str]:
    """The values of ``report --format``."""
    from edgekit.commands.report import FORMATS

    return list(FORMATS)


def builder_names() -> list[str]:
    """Backends that ``edgekit build`` builds for."""
    from edgekit.commands.build import builders

    return list(builders())


def variant_names(context: typer.Context, incomplete: str) -> list[str]:
    """Variants of the bundle that the command line names before; none where there is no such bundle."""
    from edgekit.bundle.manifest import MANIFEST, decode_manifest
    from edgekit.errors import EdgekitError

    # "--variant" has no value yet, so that nothing was made of the words before it
    bundles = context.params.get("bundle") or ()
    words = (*(bundles if isinstance(bundles, (list, tuple)) else [bundles]), context.params.get("target"), *context.args)
    folder = next((word for word in words if word), None)
    if folder is None:
        return []
    path = Path(folder) / MANIFEST
    try:
        names = [variant.name for variant in decode_manifest(path.read_bytes(), path).variants]
    except (EdgekitError, OSError, ValueError):
        return []
    return [name for name in names if name.startswith(incomplete)]


NO_RECIPES = ("pyproject.toml", "ruff.toml", "Cargo.toml")
"""Files of this ending that stand at the top of many a folder, and are for other programs."""


def recipe_paths(incomplete: str) -> list[str]:
    """Recipes (``*.toml``) and what leads to them, without hidden entries, whose path begins with ``incomplete``.

    A shell puts a space after the only path that it is given, behind which Tab goes no further: a folder that is the only one is
    replaced by what is in it.
    """
    head, slash, _ = incomplete.rpartition("/")
    try:
        entries = sorted(Path(f"{head}{slash}" or ".").iterdir())
    except OSError:
        return []
    paths = [f"{head}{slash}{entry.name}{'/' * entry.is_dir()}" for entry in entries if not entry.name.startswith(".")]
    fitting = [path for path in paths if path.startswith(incomplete) and path.endswith(("/", ".toml"))]
    offered = [path for path in fitting if path.rpartition("/")[2] not in NO_RECIPES]
    if len(offered) == 1 and offered[0].endswith("/"):
        return recipe_paths(offered[0]) or offered
    return offered


def source_names(incomplete: str) -> list[str]:
    """Values of ``SOURCE`` that can be listed: models, recipes and folders."""
    return model_names(incomplete) + recipe_paths(incomplete)


MODEL, RUNNING, WRITTEN, REPORT = "The model", "What runs it", "What is written", "The report"
AGAINST, LOAD = "Against another", "Under load"
ORIGIN, FORMS = "Whose it is", "In other formats too"
"""Groups of options in ``--help``."""


def flag(name: str, panel: str | None = None, *, help: str) -> Any:
    """An option that takes no value, and is shown without one."""
    return typer.Option(name, help=help, metavar="", rich_help_panel=panel)


def option(*names: str, panel: str | None = None, **settings: Any) -> Any:
    """An option of the group ``panel``."""
    return typer.Option(*names, rich_help_panel=panel, **settings)


Json = Annotated[bool, flag("--json", REPORT, help="Print one JSON document on stdout, and nothing else.")]
Debug = Annotated[bool, flag("--debug", REPORT, help="Show the traceback of an error.")]
Output = Annotated[
    Optional[Path], option("--output", panel=REPORT, metavar="FILE", help="Also write the JSON report to this file.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", metavar="", rich_help_panel=REPORT, help="Also tell why a backend is not present."),
]
AllRows = Annotated[
    bool, typer.Option("--verbose", "-v", metavar="", rich_help_panel=REPORT, help="Show every row of the table.")
]
Csv = Annotated[
    Optional[Path], option("--csv", panel=REPORT, metavar="FILE", help="Also write a row for each label to this file.")
]
JsonLines = Annotated[bool, flag("--jsonl", REPORT, help="Print a line of JSON for each picture, and nothing else.")]
BundleFolder = Annotated[
    Optional[Path], option("--output", metavar="FOLDER", show_default="exported/NAME", help="Where the bundle is written.")
]
Runs = Annotated[Path, option("--runs", metavar="FOLDER", help="Where the folders of trainings are.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that edgekit export wrote.")]
BundlePaths = Annotated[
    list[Path], typer.Argument(metavar="BUNDLE", help="A folder that edgekit export wrote, or several that take turns.")
]
BatchSizes = Annotated[str, option("--batch", metavar="N[,N...]", help="Batch sizes.")]
Seconds = Annotated[float, option("--seconds", metavar="S", help="Recorded time per backend, batch and boundary.")]
BudgetMs = Annotated[
    Optional[float],
    option("--budget-ms", metavar="MS", help="Exit code 1 when an end-to-end median of the first batch is above this."),
]
Start = Annotated[bool, flag("--start", help="Also the start in fresh processes: load, first calls, memory; on a GPU too.")]
Layers = Annotated[bool, flag("--layers", help="Also time each layer, on backends that can, such as ort-cpu.")]
Processes = Annotated[
    int,
    option(
        "--processes",
        metavar="N",
        show_default="none",
        help="Also time N fresh processes: where the next run's median will fall.",
    ),
]
Seed = Annotated[int, option("--seed", metavar="N", min=0, help="Draws the order of processes, and the arrivals of requests.")]
Limit = Annotated[
    Optional[str], option("--limit", panel=AGAINST, metavar="P%", show_default="5%", help="How much slower it may be.")
]
Pairs = Annotated[
    Optional[int],
    option(
        "--pairs",
        panel=AGAINST,
        metavar="N",
        show_default="8, or 10 where several rows decide",
        help="Pairs of processes; as many again, up to 20 in all, where they leave it undecided.",
    ),
]
Undecided = Annotated[
    Optional[str],
    option("--undecided", panel=AGAINST, metavar="pass", show_default="exit code 3", help="Exit code 0 without a verdict."),
]
Against = Annotated[
    Optional[Path],
    option(
        "--against",
        panel=AGAINST,
        metavar="BUNDLE|FILE",
        help="Is the bundle slower than this one, or than in this JSON of --processes? By pairs of fresh processes.",
    ),
]
AgainstBackends = Annotated[
    Optional[list[str]],
    option(
        "--against-backend",
        panel=AGAINST,
        metavar="SETUP",
        help="What runs the other; as often as --backend.",
        show_default="the same",
        autocompletion=backend_names,
    ),
]
Rows = Annotated[
    Optional[list[str]],
    option(
        "--row",
        metavar="BOUNDARY:BATCH",
        show_default="end-to-end and the first batch",
        help="Which rows --processes and --against are about, like device:8; repeatable.",
    ),
]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (*.toml).", autocompletion=recipe_paths)]
RecipeOrRun = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|RUN", help="A recipe (*.toml), or the folder of a finished run to repeat.", autocompletion=recipe_paths
    ),
]
TensorBoardFolder = Annotated[
    Path | None,
    option("--tensorboard", metavar="FOLDER", help="Write TensorBoard's event files there, a training to a folder."),
]
SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A recipe, a run directory, a model's name, an import path package.module:factory, or an ONNX file.",
        autocompletion=source_names,
    ),
]
InputShapes = Annotated[
    Optional[list[str]],
    option(
        "--input-shape",
        panel=MODEL,
        metavar="SHAPE",
        help="Shape of an input, the batch first: 1x3x224x224 or NAME=1x16; repeatable.",
    ),
]
Arguments = Annotated[
    Optional[list[str]],
    option("--arg", panel=MODEL, metavar="NAME=VALUE", help="An argument of the model's factory; repeatable."),
]
Weights = Annotated[
    Optional[Path],
    option(
        "--weights",
        panel=MODEL,
        metavar="FILE[:KEY]",
        help="Its weights: safetensors or a checkpoint of torch.save; KEY says which of several in it.",
    ),
]
Device = Annotated[str, option("--device", metavar="DEVICE", help="auto, cpu or cuda.", autocompletion=device_names)]
Backends = Annotated[
    Optional[list[str]],
    option(
        "--backend",
        panel=RUNNING,
        metavar="SETUP",
        help="Only this backend, perhaps with its options: 'ort-cpu threads=4'; repeatable.",
        show_default="every one present",
        autocompletion=backend_names,
    ),
]
Required = Annotated[
    Optional[list[str]],
    option(
        "--require",
        panel=RUNNING,
        metavar="SETUP",
        help="Exit code 2 where this backend cannot run, instead of leaving it out; repeatable, or EDGEKIT_REQUIRE='A;B'.",
        autocompletion=backend_names,
    ),
]
Allowed = Annotated[
    Optional[list[str]],
    option(
        "--allow",
        panel=REPORT,
        metavar="CHECK",
        help="Accept that this check of the manifest fails, such as few-samples; repeatable.",
        autocompletion=check_names,
    ),
]
Backend = Annotated[
    Optional[str],
    option(
        "--backend",
        panel=RUNNING,
        metavar="SETUP",
        show_default="tuned where tuned, else ort-cpu",
        help="The backend, perhaps with its options: 'ort-cpu threads=4'.",
        autocompletion=backend_names,
    ),
]
Variant = Annotated[
    Optional[str],
    option(
        "--variant",
        panel=RUNNING,
        metavar="NAME",
        show_default="the first",
        help="Which of the bundle's files, like float16.",
        autocompletion=variant_names,
    ),
]
Threads = Annotated[
    Optional[int],
    option(
        "--threads",
        panel=RUNNING,
        metavar="N",
        min=1,
        max=1024,
        show_default="all cores",
        help="CPU threads of each backend; as threads=N in --backend.",
    ),
]
Flavour = Annotated[
    Optional[str],
    option(
        "--flavour",
        panel=RUNNING,
        metavar="NAME",
        help="Which TensorRT: tensorrt or tensorrt-rtx.",
        show_default="the first that works here",
        autocompletion=flavour_names,
    ),
]
CudaGraph = Annotated[bool, flag("--cuda-graph", RUNNING, help="TensorRT records its work once and replays it: fewer launches.")]
Engine = Annotated[
    Optional[Path],
    option(
        "--engine",
        panel=RUNNING,
        metavar="FILE",
        help="TensorRT's engine (*.plan) from edgekit build; it is run as it is, or refused.",
        show_default="found or built",
    ),
]
Builder = Annotated[
    Optional[str],
    option(
        "--backend",
        panel=RUNNING,
        metavar="SETUP",
        show_default="the first that builds",
        help="What to build for.",
        autocompletion=builder_names,
    ),
]
BatchRanges = Annotated[
    Optional[list[str]],
    option("--batch", metavar="MIN:OPT:MAX", show_default="1:8:32", help="Batch sizes to build for, or one; repeatable."),
]
Workspace = Annotated[
    Optional[int], option("--workspace", min=1, metavar="MIB", show_default="all there is", help="Scratch memory of a layer.")
]
Level = Annotated[
    Optional[int],
    option("--level", min=0, max=5, metavar="N", show_default="3", help="How long to search for faster kernels."),
]
TorchSource = Annotated[
    Optional[str],
    option(
        "--source",
        panel=RUNNING,
        metavar="NAME",
        help="Model or import path of the PyTorch side; it gets the bundle's weights.",
        autocompletion=model_names,
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
    Optional[int], option("--samples", metavar="N", min=1, max=100_000, show_default="256", help="How many of them.")
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
Budgets = Annotated[
    Optional[list[str]],
    option(
        "--budget",
        metavar="KEY=VALUE",
        help="What it may cost, like accuracy=-0.3pt, p99=5ms, memory=200MB or throughput=100/s; repeatable.",
    ),
]
Bounds = Annotated[
    Optional[str],
    option(
        "--budget",
        metavar="KEY=VALUE",
        help="Exit code 1 where it does not hold: median=5ms, p90=5ms or p99=5ms, end to end, of the first batch or under load.",
    ),
]
Concurrency = Annotated[
    Optional[str],
    option(
        "--concurrency",
        panel=LOAD,
        metavar="N[,N...]",
        show_default="none; 1 with --rate",
        help="Also so many callers at once, each asking again when it has its answer.",
    ),
]
Sessions = Annotated[
    Optional[str],
    option(
        "--sessions",
        panel=LOAD,
        metavar="KIND",
        show_default="shared",
        help="shared: all callers use one; own: each has its own.",
        autocompletion=lambda: ["shared", "own"],
    ),
]
Rate = Annotated[
    Optional[str],
    option(
        "--rate",
        panel=LOAD,
        metavar="R/s|auto",
        help="Also requests at this rate, latency from when each is due; auto: the highest that holds --budget.",
    ),
]
Arrivals = Annotated[
    Optional[str],
    option(
        "--arrivals",
        panel=LOAD,
        metavar="KIND",
        show_default="poisson",
        help="poisson: as of many users; constant: as of a camera.",
        autocompletion=lambda: ["poisson", "constant"],
    ),
]
InPlace = Annotated[
    Optional[Path],
    option("--output", panel=WRITTEN, metavar="FOLDER", show_default="BUNDLE itself", help="Where the bundle is written."),
]
Opset = Annotated[Optional[int], option("--opset", metavar="N", min=18, max=26, show_default="20", help="ONNX opset.")]
KeepWeights = Annotated[
    bool,
    flag("--keep-weights/--no-keep-weights", WRITTEN, help="Also write the PyTorch weights, for verify and bench."),
]
GoldenPictures = Annotated[
    bool,
    flag("--golden-pictures/--no-golden-pictures", WRITTEN, help="Also write a few test pictures, for verify to label."),
]
PublicKey = Annotated[
    Optional[Path],
    option(
        "--public-key",
        metavar="FILE",
        help="Exit code 2 unless the bundle is signed with this key: OpenSSH's, or a PEM file of model-signing's.",
    ),
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


def required(texts: Sequence[str] | None) -> list[str]:
    """``--require``'s texts, or those of the environment variable EDGEKIT_REQUIRE, between semicolons."""
    return list(texts or filter(None, map(str.strip, os.environ.get("EDGEKIT_REQUIRE", "").split(";"))))


def setups(
    texts: Sequence[str] | None, *, variant: str | None = None, threads: int | None = None, **options: Any
) -> tuple[Setup, ...]:
    """``--backend``'s texts, or every backend, with the shared words filled in where a text does not say; paths become text."""
    from edgekit.setups import EVERY, Setup, filled

    words = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    parsed = [filled(Setup.parse(text), variant, threads) for text in texts or (EVERY,)]
    return spread(parsed, {name: value for name, value in words.items() if value is not None and value is not False})


def one_setup(text: str | None, **words: Any) -> Setup | None:
    """``--backend``'s one text with the words filled in; None where nothing is said, for what was tuned here or is usual."""
    from edgekit.backends import USUAL_BACKEND

    if text is None and not any(words.values()):
        return None
    return setups([text or USUAL_BACKEND], **words)[0]


def spread(setups: Sequence[Setup], words: Mapping[str, Any]) -> tuple[Setup, ...]:
    """Give the words of the command line to those setups whose backend has them; raises UsageError where none has."""
    import msgspec

    from edgekit.backends import checked, row_of, takers
    from edgekit.errors import UsageError
    from edgekit.setups import EVERY, TUNED, Setup

    whole = {EVERY: set(words), TUNED: set[str]()}
    fields = {
        setup.backend: whole[setup.backend] if setup.backend in whole else set(row_of(setup.backend).options.__struct_fields__)
        for setup in setups
    }
    for name, value in words.items():
        if not any(name in own for own in fields.values()):
            able, word = takers(name), name.replace("_", "-")
            for backend in able:
                checked(Setup(backend, options={name: value}))  # its spelling comes first
            named = ", ".join(setup.backend for setup in setups)
            raise UsageError(
                f"--{word} is for {' and '.join(able)}, which {'are' if len(able) > 1 else 'is'} not among {named}",
                f"add --backend {able[0]}",
            )
    return tuple(
        msgspec.structs.replace(
            setup, options={name: value for name, value in words.items() if name in fields[setup.backend]} | setup.options
        )
        for setup in setups
    )


def build_setup(text: str | None, *, variant: str | None = None, **given: Any) -> Setup:
    """``--backend``'s text of a build, or the first backend that builds, with the words of ``edgekit build`` that were given."""
    import msgspec

    from edgekit.commands.build import builders
    from edgekit.setups import Setup, filled

    setup = filled(Setup.parse(text or builders()[0]), variant)
    options = {name: value for name, value in given.items() if value is not None and value is not False}
    return msgspec.structs.replace(setup, options={**options, **setup.options})


def arguments(texts: Sequence[str] | None) -> dict[str, Any]:
    """``--arg``'s texts by their names; raises UsageError for one that is none, or is given twice.

    A value is a number, ``true`` or ``false`` as JSON writes them, or else a string, which may stand in double quotes.
    """
    import msgspec

    from edgekit.errors import UsageError

    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, word = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--arg {text!r} is not an argument", "write it like num_classes=10")
        if name in values:
            raise UsageError(f"--arg gives {name!r} twice", "give it once")
        try:
            value = msgspec.json.decode(word)
        except (msgspec.DecodeError, UnicodeEncodeError):
            value = word
        values[name] = value if isinstance(value, (bool, int, float, str)) else word
    return values


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """``0.485,0.456`` -> floats; raises UsageError that names ``option``."""
    from edgekit.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers; write it like 0.485,0.456,0.406") from None


def report_format(text: str, *, beside_json: bool = False) -> Format:
    """``--format`` of a report; raises UsageError for another, and for one that goes to stdout beside ``--json``."""
    from edgekit.commands.report import FORMATS
    from edgekit.errors import UsageError
    from edgekit.spelling import did_you_mean

    if text not in FORMATS:
        raise UsageError(f"--format {text!r} is none{did_you_mean(text, list(FORMATS))}", f"choose one of: {', '.join(FORMATS)}")
    if beside_json and text not in ("html", "json"):
        raise UsageError(f"--json and --format {text} both say what goes to stdout", "give one of them, or --output FILE")
    return text


def check_one_form(json: bool, jsonl: bool) -> None:
    """Raise UsageError for ``--json`` beside ``--jsonl``."""
    from edgekit.errors import UsageError

    if json and jsonl:
        raise UsageError("--json and --jsonl both say what goes to stdout", "give one of them")


def tolerance(atol: float | None, rtol: float | None) -> ToleranceChange:
    """``--atol`` and ``--rtol``; raises UsageError for one that would let anything pass."""
    from edgekit.errors import UsageError
    from edgekit.tolerance import ToleranceChange

    if rtol is not None and not rtol < 1:
        raise UsageError(f"--rtol {rtol:g} would let anything pass; give a number below 1")
    if atol is not None and not atol < float("inf"):
        raise UsageError(f"--atol {atol:g} would let anything pass; give a number")
    return ToleranceChange(atol, rtol)


def share(option: str, value: float | None) -> float | None:
    """A share of 1; raises UsageError for what is none."""
    from edgekit.errors import UsageError

    if value is not None and not 0 <= value <= 1:
        raise UsageError(f"{option} {value:g} is not a share", "give a share like 0.9 for 90 %")
    return value


def budget(milliseconds: float | None) -> float | None:
    """``--budget-ms``; raises UsageError for what is no time."""
    from edgekit.errors import UsageError

    if milliseconds is not None and not 0 < milliseconds < float("inf"):
        raise UsageError(f"--budget-ms {milliseconds:g} is not a time; give milliseconds above 0")
    return milliseconds


def metric(name: str) -> Metric:
    """``--metric``; raises UsageError for another word."""
    from edgekit.errors import UsageError
    from edgekit.reports.tune import METRICS
    from edgekit.spelling import did_you_mean

    for known in METRICS:
        if name == known:
            return known
    raise UsageError(f"--metric {name!r} is none of {', '.join(METRICS)}", f"give one of them{did_you_mean(name, METRICS)}")


def metric_names() -> list[str]:
    """The values of ``--metric``."""
    from edgekit.reports.tune import METRICS

    return list(METRICS)


def timing(batch: str, seconds: float, processes: int, rows: Sequence[str] | None, seed: int) -> Timing:
    """``--batch``, ``--seconds``, ``--processes``, ``--row`` and ``--seed``; raises UsageError that quotes the word at fault."""
    from edgekit.latency.loop import Row, Timing
    from edgekit.tensors import batch_sizes

    read = tuple(map(_row, rows or ())) or (Row(),)
    return Timing(batch_sizes(batch), duration(seconds), processes, read, seed)


def _row(text: str) -> Row:
    from edgekit.errors import UsageError
    from edgekit.latency.loop import BOUNDARIES, Row
    from edgekit.tensors import LARGEST_BATCH

    boundary, _, size = text.partition(":")
    if boundary not in BOUNDARIES or not (size.isdecimal() and len(size) < 6 and 1 <= int(size) <= LARGEST_BATCH):
        raise UsageError(f"--row {text!r} is no boundary and batch", f"write it like {BOUNDARIES[-1]}:1 or {BOUNDARIES[0]}:8")
    return Row(int(size), boundary)


def percentage(text: str | None) -> float:
    """``--limit``: ``5%``, which is also what None is, -> 0.05; raises UsageError for what is none above 0 and below 100."""
    from edgekit.errors import UsageError
    from edgekit.latency.against import LIMIT

    if text is None:
        return LIMIT
    number, percent, rest = text.partition("%")
    try:
        share = float(number) / 100
    except ValueError:
        share = -1.0
    if not percent or rest or not 0 < share < 1:
        raise UsageError(f"--limit {text!r} is no percentage between 0% and 100%", "write it like 5%")
    return share


def undecided(text: str | None) -> bool:
    """Whether ``--undecided`` says that no verdict passes."""
    from edgekit.errors import UsageError

    if text not in (None, "pass"):
        raise UsageError(f"--undecided {text!r} is not known", "write --undecided pass, or leave it out for exit code 3")
    return text == "pass"


def check_with_against(**given: Any) -> None:
    """Raise UsageError for words that say nothing without ``--against``."""
    from edgekit.errors import UsageError

    for name, value in given.items():
        if value is not None:
            raise UsageError(f"--{name.replace('_', '-')} is for a comparison", "add --against BUNDLE")


def check_without_against(bundles: Sequence[Path], **given: Any) -> Path:
    """The one bundle of a comparison; raises UsageError for several, and for words that say nothing beside ``--against``."""
    from edgekit.errors import UsageError

    if len(bundles) > 1:
        raise UsageError(f"--against compares one bundle, and {len(bundles)} are given", "give one, or leave out --against")
    for name, value in given.items():
        if value:
            raise UsageError(f"--{name.replace('_', '-')} is not for a comparison", "leave it out, or leave out --against")
    return bundles[0]


def check_outside(output: Path | None, bundles: Sequence[Path]) -> None:
    """Raise OutputError for a report that would lie in one of the bundles."""
    from edgekit.files import check_outside as check
    from edgekit.files import destination

    if output is not None:
        for bundle in bundles:
            check(destination(output), bundle)


def load(concurrency: str | None, rate: str | None, seed: int, **kinds: str | None) -> Load | None:
    """``--concurrency``, ``--rate``, ``--sessions`` and ``--arrivals``; None where no load is asked for.

    Raises UsageError that quotes the word at fault, and for words that say nothing without the others.
    """
    from typing import get_args

    from edgekit.errors import UsageError
    from edgekit.latency.load import Load, parse_callers, parse_rate
    from edgekit.reports import load as report
    from edgekit.spelling import did_you_mean

    for name, allowed in (("sessions", get_args(report.Sessions)), ("arrivals", get_args(report.Arrivals))):
        word = kinds[name]
        if word is not None and word not in allowed:
            raise UsageError(f"--{name} {word!r} is none of {' and '.join(allowed)}", f"give one{did_you_mean(word, allowed)}")
    if kinds["arrivals"] and rate is None:
        raise UsageError("--arrivals is for requests at a rate", "add --rate 100/s, or leave it out")
    if concurrency is None and rate is None:
        if kinds["sessions"]:
            raise UsageError("--sessions is for callers at once", "add --concurrency 1,2,4, or leave it out")
        return None
    given: Any = {name: word for name, word in kinds.items() if word}
    callers = parse_callers(concurrency or "1")
    return Load(callers, rate=None if rate is None else parse_rate(rate), seed=seed, **given)


def further(budget: str | None, load: Load | None, *, layers: bool, start: bool) -> Further:
    """What ``edgekit bench`` measures further; the budget is the load's where there is one.

    Raises UsageError for a budget that is none, and for a search without one.
    """
    import msgspec

    from edgekit.budgets import parse_budget
    from edgekit.commands.further import Further
    from edgekit.reports.percentile import BOUNDED

    limit = None if budget is None else parse_budget(budget, BOUNDED)
    if load is None:
        return Further(layers, None, start, limit)
    loaded = msgspec.structs.replace(load, budget=limit)
    loaded.check()
    return Further(layers, loaded, start)


def check_samples(output: Path | None, bundles: Sequence[Path]) -> None:
    """Raise OutputError where no file of samples could be written beside a report."""
    from edgekit.cli.outcome import check_output
    from edgekit.reports.samples import ZIP, samples_path

    for bundle in bundles if output is not None else ():
        assert output is not None
        check_output("--output", samples_path(output), bundle, begins=ZIP)


def duration(seconds: float) -> float:
    """``--seconds``; raises UsageError for what is no time to measure in."""
    from edgekit.errors import UsageError

    if not 0 < seconds <= 3600:
        raise UsageError(f"--seconds {seconds:g} is not a time between 0 and 3600; give seconds like 0.5")
    return seconds
