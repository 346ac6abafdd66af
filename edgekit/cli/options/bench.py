"""The words of bench and tune, and what they stand for; importing this imports nothing heavy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgekit.cli.options.completion import backend_names
from edgekit.cli.options.numbers import Range
from edgekit.cli.options.shared import flag, number, option

if TYPE_CHECKING:
    from edgekit.commands.further import Further
    from edgekit.latency.load import Load
    from edgekit.latency.loop import Row, Timing
    from edgekit.reports.tune import Metric


AGAINST, LOAD = "Against another", "Under load"
BundlePaths = Annotated[
    list[Path], typer.Argument(metavar="BUNDLE", help="A folder that edgekit export wrote, or several that take turns.")
]
BatchSizes = Annotated[str, option("--batch", metavar="N[,N...]", help="Batch sizes.")]
Seconds = Annotated[
    float,
    number("--seconds", metavar="S", taken=Range(above=0, most=3600), help="Recorded time per backend, batch and boundary."),
]
BudgetMs = Annotated[
    Optional[float],
    number(
        "--budget-ms",
        metavar="MS",
        taken=Range(above=0),
        help="Exit code 1 when an end-to-end median of the first batch is above this.",
    ),
]
Start = Annotated[bool, flag("--start", help="Also the start in fresh processes: load, first calls, memory; on a GPU too.")]
Layers = Annotated[bool, flag("--layers", help="Also time each layer, on backends that can, such as ort-cpu.")]
Processes = Annotated[
    int,
    number(
        "--processes",
        metavar="N",
        taken=Range(3, 100, also=0),
        show_default="none",
        help="Also time N fresh processes: where the next run's median will fall.",
    ),
]
Seed = Annotated[
    Optional[int],
    number(
        "--seed",
        metavar="N",
        taken=Range(0),
        show_default="by chance; the report says it",
        help="Draws the order of processes, and the arrivals of requests.",
    ),
]
LIMITS = Range(above=0, below=100)
"""Percentages that ``--limit`` takes."""
Limit = Annotated[
    Optional[str],
    option("--limit", panel=AGAINST, metavar=f"P% [{LIMITS.text}]", show_default="5%", help="How much slower it may be."),
]
Pairs = Annotated[
    Optional[int],
    number(
        "--pairs",
        panel=AGAINST,
        metavar="N",
        taken=Range(2, 20),
        show_default="8, or 10 where several rows decide",
        help="Pairs of processes; while undecided as many again, up to 20 in all.",
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


def metric(name: str) -> Metric:
    """``--metric``; raises UsageError for another word."""
    from edgekit.errors import UsageError
    from edgekit.reports.tune import METRICS
    from edgekit.spelling import did_you_mean

    for known in METRICS:
        if name == known:
            return known
    raise UsageError(f"--metric {name!r} is none of {', '.join(METRICS)}", f"give one of them{did_you_mean(name, METRICS)}")


def timing(batch: str, seconds: float, processes: int, rows: Sequence[str] | None, seed: int | None) -> Timing:
    """``--batch``, ``--seconds``, ``--processes``, ``--row`` and ``--seed``; raises UsageError that quotes the word at fault."""
    from edgekit.latency.loop import Row, Timing
    from edgekit.tensors import batch_sizes

    read = tuple(map(_row, rows or ())) or (Row(),)
    return Timing(batch_sizes(batch), seconds, processes, read, seed)


def _row(text: str) -> Row:
    from edgekit.errors import UsageError
    from edgekit.latency.loop import BOUNDARIES, Row
    from edgekit.numerals import whole
    from edgekit.tensors import LARGEST_BATCH

    boundary, _, size = text.partition(":")
    batch = whole(size)
    if boundary not in BOUNDARIES or batch is None or not 1 <= batch <= LARGEST_BATCH:
        raise UsageError(f"--row {text!r} is no boundary and batch", f"write it like {BOUNDARIES[-1]}:1 or {BOUNDARIES[0]}:8")
    return Row(batch, boundary)


def percentage(text: str | None) -> float:
    """``--limit``: ``5%``, which is also what None is, -> 0.05; raises UsageError for what is none of ``LIMITS``."""
    from edgekit.errors import UsageError
    from edgekit.latency.against import LIMIT
    from edgekit.numerals import decimal

    if text is None:
        return LIMIT
    number, percent, rest = text.partition("%")
    value = decimal(number)
    if not percent or rest or value is None or not LIMITS.takes(value):
        raise UsageError(f"--limit {text!r} is no percentage {LIMITS.sentence}", "write it like 5%")
    return value / 100


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


def load(concurrency: str | None, rate: str | None, **kinds: str | None) -> Load | None:
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
    return Load(callers, rate=None if rate is None else parse_rate(rate), **given)


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
