"""``edgekit bench``: latency of one bundle or several on every backend present, taking turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TypeAlias

import msgspec

from edgekit.bundle.folder import open_bundle
from edgekit.commands.further import Further, layers_of, load_of, open_way, starts_of
from edgekit.commands.ways import USUAL_TIMING, Way, fitting, short_names, ways_of
from edgekit.latency.control import controls_of
from edgekit.latency.loop import Timing, overhead_us, time_sessions
from edgekit.latency.prediction import prediction_interval
from edgekit.latency.turns import Thing, Turns, in_turns
from edgekit.machine.cpu import cores
from edgekit.machine.records import all_facts
from edgekit.progress import SILENT, Progress
from edgekit.reports.bench import BenchReport, Between, NamedBundle
from edgekit.reports.fresh import Fresh
from edgekit.setups import Setup

NOTHING_FURTHER = Further()
Bundles: TypeAlias = "Path | str | Sequence[Path | str]"


def bench(
    bundle: Bundles,
    setups: Setup | str | Iterable[Setup | str] = (),
    timing: Timing = USUAL_TIMING,
    *,
    budget_ms: float | None = None,
    further: Further = NOTHING_FURTHER,
    progress: Progress = SILENT,
) -> BenchReport:
    """Time a bundle, or several, on every backend present or by ``setups``; all take turns, each with inputs of its own.

    ``budget_ms`` bounds the end-to-end median of the first batch size. ``further`` adds layers, load, starts and another budget.
    ``timing.processes`` adds medians of fresh processes, and where the next run's median will fall.

    Raises BundleError for a damaged bundle, UsageError for a batch that one of them does not take, and MissingError for a setup
    that cannot run on this machine.
    """
    places = [bundle] if isinstance(bundle, (Path, str)) else list(bundle)
    opened = [open_bundle(Path(place)) for place in places]
    timing = fitting(timing, opened)
    ways, skipped = ways_of(opened, setups, timing.batches, progress)
    further.check(ways)
    overhead, facts = overhead_us(), all_facts()
    with ExitStack() as stack:
        ready = [stack.enter_context(open_way(way, timing, progress)) for way in ways]
        rows, comparisons = time_sessions(ready, timing, progress)
        layers = layers_of(ways, ready, rows, timing) if further.layers else ()
        load = load_of(ways, ready, further.load, timing, progress) if further.load else None
    starts = starts_of(ways, timing, progress) if further.start else ()
    between, controls = _between(ways, timing, progress) if timing.processes else ((), ())
    for one in opened if timing.processes or further.start else ():
        one.check_unchanged()  # each process has opened it anew
    of_bundle = {way.name: way.label for way in ways}
    return BenchReport(
        bundle=str(places[0]),
        onnx_sha256=ways[0].bundle.sha256_of(ways[0].setup.variant),
        machine=facts,
        threads=max(way.setup.threads or cores() for way in ways),
        overhead_us=overhead,
        rows=tuple(msgspec.structs.replace(row, bundle=of_bundle[row.backend]) for row in rows),
        comparisons=comparisons,
        skipped=skipped,
        budget_ms=budget_ms,
        layers=layers,
        bundles=tuple(
            NamedBundle(label, str(place), one.sha256)
            for label, place, one in zip(short_names([one.root for one in opened]), places, opened, strict=True)
        ),
        between=between,
        controls=controls,
        load=load,
        starts=starts,
        budget=further.bound,
        seconds=timing.seconds,
        seed=timing.seed,
    )


def _between(ways: Sequence[Way], timing: Timing, progress: Progress) -> tuple[tuple[Between, ...], tuple[Between, ...]]:
    """Fresh processes of every way and row, and beside them of the reference network, by which days can be compared."""
    things = [Thing(way.name, way.bundle.root, way.setup, *place) for way in ways for place in timing.places()]
    everything = (*things, *controls_of(way.setup for way in ways))
    timed = in_turns(everything, Turns(timing.processes, timing.seconds, timing.seed), progress)
    measured = tuple(_of_processes(thing, own) for thing, own in zip(everything, timed, strict=True))
    return measured[: len(things)], measured[len(things) :]


def _of_processes(thing: Thing, processes: Sequence[Fresh]) -> Between:
    low, high = prediction_interval([one.median_ms for one in processes])
    return Between(thing.label, thing.setup, thing.batch, thing.boundary, low, high, tuple(processes))
