"""The commands that time. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from edgekit.cli.action import carry_out
from edgekit.cli.options import bench as bench_options
from edgekit.cli.options import shared as options
from edgekit.cli.options.bench import (
    Against,
    AgainstBackends,
    Arrivals,
    BatchSizes,
    Bounds,
    BudgetMs,
    Budgets,
    BundlePaths,
    Concurrency,
    Layers,
    Limit,
    Pairs,
    Processes,
    Rate,
    Rows,
    Seconds,
    Seed,
    Sessions,
    Start,
    Undecided,
)
from edgekit.cli.options.completion import metric_names, recipe_paths
from edgekit.cli.options.numbers import Range
from edgekit.cli.options.shared import (
    Backends,
    BundlePath,
    CudaGraph,
    Debug,
    Engine,
    Flavour,
    Json,
    Output,
    Threads,
    TorchSource,
    Variant,
    Verbose,
)

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report


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
    seed: Seed = None,
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

        bench_options.check_outside(output, [*bundle[1:], *filter(None, [against])])
        timing = bench_options.timing(batch, seconds, processes, row, seed)
        ways = partial(
            options.setups,
            variant=variant, threads=threads, cuda_graph=cuda_graph, flavour=flavour, engine=engine, source=source,
        )  # fmt: skip
        if against is None:
            bench_options.check_with_against(
                against_backend=against_backend, limit=limit, pairs=pairs, undecided=undecided, row=None if processes else row
            )
            load = bench_options.load(concurrency, rate, sessions=sessions, arrivals=arrivals)
            further = bench_options.further(budget, load, layers=layers, start=start)
            bench_options.check_samples(output, bundle)
            return bench_bundles(bundle, ways(backend), timing, budget_ms=budget_ms, further=further, progress=progress)

        from edgekit.commands.against import Terms, usual_setups
        from edgekit.commands.against import against as compare

        first = bench_options.check_without_against(
            bundle,
            budget_ms=budget_ms, layers=layers, processes=processes, start=start, budget=budget, concurrency=concurrency,
            sessions=sessions, rate=rate, arrivals=arrivals,
        )  # fmt: skip
        setups = ways(backend or usual_setups())
        others = ways(against_backend) if against_backend else ()
        terms = Terms(bench_options.percentage(limit), pairs, others, bench_options.undecided(undecided))
        return compare(first, against, setups, timing, terms=terms, progress=progress)

    carry_out(action, json, debug, output=output, bundle=bundle[0], verbose=verbose)


def tune(
    bundle: BundlePath,
    budget: Budgets = None,
    metric: Annotated[
        str, options.option("--metric", metavar="NAME", help="median, p99 or throughput.", autocompletion=metric_names)
    ] = "median",
    batch: Annotated[int, options.number("--batch", metavar="N", taken=Range(1, 65536), help="The batch size.")] = 1,
    data: Annotated[
        Optional[Path],
        options.option(
            "--data",
            metavar="RECIPE|FOLDER",
            help="Pictures for accuracies.",
            show_default="the test set it was exported with",
            autocompletion=recipe_paths,
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

        goal = Goal(bench_options.metric(metric), batch, tuple(budget or ()))
        setups = options.setups(backend, variant=variant, threads=threads)
        return tune_bundle(bundle, setups, goal, data=data, progress=progress)

    carry_out(action, json, debug, output=output, bundle=bundle, verbose=verbose)
