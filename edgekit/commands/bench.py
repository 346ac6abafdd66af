"""``edgekit bench``: latency of every backend present, with the backends taking turns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from pathlib import Path

from edgekit.backends import table
from edgekit.backends.choose import Choice, choose, open_named
from edgekit.backends.contract import Opened
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.errors import UsageError
from edgekit.latency.loop import Timing, overhead_us, time_sessions
from edgekit.machine.cpu import cores, machine_facts
from edgekit.machine.gpu import gpu_facts
from edgekit.machine.packages import needs_onnx
from edgekit.progress import SILENT, Progress
from edgekit.reports.bench import BenchReport, LatencyReport, LayersReport
from edgekit.setups import Setup, filled, labels, taking
from edgekit.tensors import fixed_batch

USUAL_TIMING = Timing()


def bench(
    bundle: Path | str,
    setups: Setup | str | Iterable[Setup | str] = (),
    timing: Timing = USUAL_TIMING,
    *,
    budget_ms: float | None = None,
    layers: bool = False,
    progress: Progress = SILENT,
) -> BenchReport:
    """Time a bundle on every backend present, or by ``setups``; the backends take turns.

    ``budget_ms`` bounds the end-to-end median of the first batch size. ``layers`` adds the time of each layer, from the backends
    that measure it. Raises BundleError for a damaged bundle, and MissingError for a setup that cannot run on this machine.
    """
    opened = open_bundle(Path(bundle))
    timing = _fitting(timing, opened)
    choice = choose(opened, setups)
    if layers:
        _check_layers(choice)
    overhead, facts = overhead_us(), machine_facts() | gpu_facts()
    with ExitStack() as stack:
        ready = []
        for name, setup in zip(labels(choice.setups), choice.setups, strict=True):
            complete = taking(_with_threads(setup), timing.batches)
            ready.append(stack.enter_context(open_named(name, complete, opened, progress)))
        rows, comparisons = time_sessions(ready, timing, progress)
        by_layer = _layers(opened, ready, rows, timing) if layers else ()
    return BenchReport(
        bundle=str(bundle),
        onnx_sha256=opened.sha256_of(choice.setups[0].variant),
        machine=facts,
        threads=max(setup.threads or cores() for setup in choice.setups),
        overhead_us=overhead,
        rows=rows,
        comparisons=comparisons,
        skipped=choice.skipped,
        budget_ms=budget_ms,
        layers=by_layer,
    )


def _fitting(timing: Timing, bundle: Bundle) -> Timing:
    """The timing with the one batch size of a bundle that takes no other; raises UsageError where another was asked for."""
    fixed = fixed_batch(bundle.manifest.inputs)
    if fixed is None or timing.batches == (fixed,):
        return timing
    if timing.batches != USUAL_TIMING.batches:
        raise UsageError(f"bundle {bundle.root} takes batches of {fixed} only", f"give --batch {fixed}, or leave it out")
    return Timing((fixed,), timing.seconds)


def _with_threads(setup: Setup) -> Setup:
    """The setup with an explicit number of threads, because a report is read on other machines too."""
    return filled(setup, threads=cores())


def _check_layers(choice: Choice) -> None:
    needs_onnx()
    able = [name for name, row in table().items() if row.by_layer]
    named = [setup.backend for setup in choice.setups]
    if not set(able) & set(named):
        raise UsageError(f"--layers: {', '.join(named)} cannot time layers", f"add --backend {' or '.join(able)}")


def _layers(bundle: Bundle, ready: Sequence[Opened], rows: Sequence[LatencyReport], timing: Timing) -> tuple[LayersReport, ...]:
    from edgekit.latency.layers import layer_reports
    from edgekit.onnx.read import read_nodes

    variants = dict.fromkeys(timed.setup.variant for timed in ready)
    nodes = bundle.reading(lambda place: {variant: read_nodes(bundle.onnx_of(variant)) for variant in variants})
    return layer_reports(ready, rows, nodes, timing.seconds)
