"""Reports -> tables on a console, and progress bars."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from edgekit.reports.base import Report, Skipped
from edgekit.reports.bench import BenchReport, Comparison, LayersReport
from edgekit.reports.build import BuildReport
from edgekit.reports.catalogue import DataReport, ModelsReport
from edgekit.reports.doctor import DoctorReport
from edgekit.reports.export import ExportReport, FoldReport
from edgekit.reports.inspect import InspectReport
from edgekit.reports.predict import PredictReport
from edgekit.reports.run import RunReport
from edgekit.reports.train import TrainReport
from edgekit.reports.verify import VerifyReport
from edgekit.tensors import shape_text

WIDEST_INTERVAL = 1.5
MOST_LAYERS = 15
_SIDES = {"before": "", "after": " (behind it)", "beside": " (beside it)"}
PASS, FAIL = "[green]pass[/green]", "[red]FAIL[/red]"


def render(report: Report, console: Console) -> None:
    """Print ``report`` as tables."""
    _RENDERERS[type(report)](report, console)


def table(title: str, *columns: str, numbers: Sequence[str] = ()) -> Table:
    """An empty table; the columns named in ``numbers`` align right."""
    made = Table(title=escape(title) or None, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        made.add_column(column, justify="right" if column in numbers else "left", overflow="fold")
    return made


def _train(report: TrainReport, console: Console) -> None:
    console.print(
        f"{escape(report.run)}: {report.model}, {report.parameters:,} parameters, test accuracy "
        f"[bold]{report.test_accuracy:.4f}[/bold] after {report.seconds:.1f} s "
        f"(bar {report.min_accuracy:.4f}: {PASS if report.passed else FAIL})",
        highlight=False,
    )


def _fold(report: FoldReport, console: Console) -> None:
    rows = table(
        f"normalisations: {len(report.folded)} of {report.before} folded, {len(report.kept)} left",
        "normalisation", "kind", "folded into / kept because",
    )  # fmt: skip
    for fold in report.folded:
        where = escape(", ".join(fold.into)) or "nothing: it changes nothing"
        rows.add_row(fold.norm, fold.kind, f"[green]{where}[/green]{_SIDES[fold.side]}")
    for kept in report.kept:
        rows.add_row(kept.norm, kept.kind, f"[yellow]kept:[/yellow] {escape(kept.reason)}")
    if report.before:
        console.print(rows)
    if report.error_float64 is not None:
        console.print(f"folded against unfolded in float64: {report.error_float64:.1e} of the scale", highlight=False)


def _export(report: ExportReport, console: Console) -> None:
    _fold(report.fold, console)
    console.print(
        f"against the original in float64 on {report.golden}: the original in its own dtype {report.float32_error:.1e}, "
        f"what was exported {report.exported_error:.1e} of the scale (in {report.measured_in})"
        if report.float32_error is not None
        else f"folded file against the original on {report.golden}: {report.exported_error:.1e} of the scale "
        f"(both in {report.measured_in})",
        highlight=False,
    )
    for note in report.notes:
        console.print(f"[yellow]note:[/yellow] {escape(note)}", highlight=False)
    console.print(
        f"wrote [bold]{escape(report.bundle)}[/bold]: ONNX opset {report.opset}, {report.onnx_bytes / 1e6:.2f} MB",
        highlight=False,
    )


def _build(report: BuildReport, console: Console) -> None:
    console.print(f"{escape(report.bundle)} in {report.flavour} {report.version}", style="bold", highlight=False)
    rows = table("", "layer", "precision", "count", numbers=("count",))
    for layer in report.layers:
        rows.add_row(layer.kind, layer.precision, str(layer.count))
    console.print(rows)
    precision = report.precision
    verdict = PASS if report.passed else FAIL
    console.print(
        f"precision: {precision.asked} asked for, {', '.join(precision.found) or 'none'} found in the {precision.read_from}, "
        f"TF32 {report.facts['TF32']}: {verdict} ({precision.typing})",
        highlight=False,
    )
    if precision.note:
        console.print(f"[yellow]note:[/yellow] {escape(precision.note)}", highlight=False)
    for problem in precision.problems:
        console.print(f"[red]{escape(problem)}[/red]", highlight=False)
    cold = (
        f", {report.cold_seconds:.2f} s without it" if report.cold_seconds is not None and report.timing_cache == "reused" else ""
    )
    took = (
        f"the engine took {report.seconds:.2f} s when it was built" if report.cached else f"the build took {report.seconds:.2f} s"
    )
    console.print(f"{took}; timing cache: {report.timing_cache.replace(': ', ', ')}{cold}", highlight=False)
    sizes = ", ".join(map(str, report.options.profiles)) or "fixed"
    kept = f"{'found' if report.cached else 'wrote'} {report.engine}" if report.engine else "the engine was not kept"
    console.print(f"{escape(kept)}: batch {sizes}, {report.engine_bytes / 1e6:.2f} MB", highlight=False)


def _verify(report: VerifyReport, console: Console) -> None:
    rows = table(
        f"parity of {report.bundle}, against {report.parities[0].reference if report.parities else 'nothing'}",
        "runtime", "output", "samples", "max |y - r|", "of scale", "allowed", "top-1", "",
        numbers=("samples", "max |y - r|", "of scale", "allowed", "top-1"),
    )  # fmt: skip
    for parity in report.parities:
        for diff in parity.outputs:
            rows.add_row(
                parity.candidate,
                escape(diff.name),
                str(parity.samples),
                diff.problem or f"{diff.max_abs:.2e}",
                "-" if diff.problem else f"{diff.normalised:.2e}",
                f"{diff.limit:.2e}",
                "-" if diff.top1 is None else f"{diff.top1:.2%}",
                PASS if diff.within(parity.tolerance) else FAIL,
            )
    console.print(rows)
    _skipped(report.skipped, console)


def _bench(report: BenchReport, console: Console) -> None:
    speedups = {(one.backend, one.batch, one.boundary): one for one in report.comparisons}
    rows = table(
        f"latency of {report.bundle} in ms, {report.threads} thread(s), interleaved",
        "batch", "boundary", "runtime", "median (95 %)", "P90", "P99", "calls", "speed-up (95 %)", "",
        numbers=("batch", "median (95 %)", "P90", "P99", "calls", "speed-up (95 %)"),
    )  # fmt: skip
    noisy: list[str] = []
    for row in report.rows:
        against = speedups.get((row.backend, row.batch, row.boundary))
        if row.noise != "stable":
            noisy.append(f"[{len(noisy) + 1}] {row.noise}")
        rows.add_row(
            str(row.batch),
            row.boundary,
            row.backend,
            f"{row.median_ms:.3g} ({row.median_low_ms:.3g} .. {row.median_high_ms:.3g})",
            *(f"- ({one.samples_needed})" if one.ms is None else f"{one.ms:.3g}" for one in row.percentiles),
            str(row.count),
            "1" if against is None else _speedup(against),
            "" if row.noise == "stable" else f"[yellow]{escape(f'[{len(noisy)}]')}[/yellow]",
        )
    console.print(rows)
    for line in noisy:
        console.print(f"[yellow]{escape(line)}[/yellow]", highlight=False)
    for line in (
        *_own_clock(report, "<=" if console.options.ascii_only else "≤"),
        "device: inputs resident, work complete. end-to-end: host array in, host array out.",
        "speed-up: over the first runtime, median of the per-round ratios. - (n): withheld, it takes n calls.",
        f"{report.machine.get('cpu', 'unknown CPU')}, {report.machine.get('cores', '?')} core(s); "
        f"the timing loop itself costs {report.overhead_us:.2f} us a call.",
    ):
        console.print(line, highlight=False)
    if report.budget_ms is not None:
        verdict = PASS if report.passed else FAIL
        console.print(
            f"budget of {report.budget_ms:g} ms for batch {report.rows[0].batch} end-to-end: {verdict}", highlight=False
        )
    for layers in report.layers:
        _layers(layers, console)
    _skipped(report.skipped, console)


def _own_clock(report: BenchReport, at_most: str) -> Iterator[str]:
    for row in report.rows:
        if row.device_ms:
            sign = f"{at_most} " * row.launch_bound
            yield f"{row.backend}, batch {row.batch}: {sign}{statistics.median(row.device_ms):.3g} ms by the GPU's own clock."
    if any(row.launch_bound for row in report.rows):
        yield f"{at_most}: the GPU waited for the host to queue the calls; it takes no longer than that."


def _layers(report: LayersReport, console: Console) -> None:
    shown = sorted(report.layers, key=lambda layer: -layer.median_ms)[:MOST_LAYERS]
    rows = table(
        f"layers on {report.backend}, batch {report.batch}, the slowest first",
        "layer", "operator", "ONNX nodes", "median ms", "share", numbers=("median ms", "share"),
    )  # fmt: skip
    for layer in shown:
        rows.add_row(
            escape(layer.name),
            escape(layer.operator),
            escape(", ".join(layer.nodes)),
            f"{layer.median_ms:.3g}",
            f"{layer.share:.1%}",
        )
    console.print(rows)
    rest = len(report.layers) - len(shown)
    more = f"{rest} more layer{' is' if rest == 1 else 's are'} in the JSON; " if rest else ""
    every = "its one layer takes" if len(report.layers) == 1 else f"all {len(report.layers)} take"
    console.print(
        f"{more}{every} {report.total_ms:.3g} ms a call by {report.backend}'s profiler, which slows "
        f"calls down ({report.calls} calls of its own).",
        highlight=False,
    )


def _speedup(one: Comparison) -> str:
    """Withheld when its interval is too wide to mean anything."""
    value = f"{one.speedup:.2f}" if one.high <= WIDEST_INTERVAL * one.low else "-"
    return f"{value} ({one.low:.2f} .. {one.high:.2f})"


def _skipped(skipped: Sequence[Any], console: Console) -> None:
    """One line for each reason: without a driver it is the same for all that need one."""
    for reason in dict.fromkeys(one.reason for one in skipped):
        names = ", ".join(one.backend for one in skipped if one.reason == reason)
        console.print(f"[dim]not present: {names}: {escape(reason)}[/dim]", highlight=False)


def _inspect(report: InspectReport, console: Console) -> None:
    rows = table(report.source, "layer", "operator", "output", "parameters", "MACs", numbers=("parameters", "MACs"))
    for layer in report.layers:
        counts = [f"{count:,}" if count else "" for count in (layer.parameters, layer.macs)]
        rows.add_row(escape(layer.name), layer.op, shape_text(layer.output_shape), *counts)
    console.print(rows)
    for title, specs in (("input", report.inputs), ("output", report.outputs)):
        for name, text in specs.items():
            console.print(f"{title} {escape(name)}: {text}", highlight=False)
    console.print(f"operators: {', '.join(f'{op} {count}' for op, count in report.ops.items())}", highlight=False)
    console.print(
        f"{report.parameters:,} parameters, {report.macs:,} MACs a sample, {report.batch_norms} batch norm(s)", highlight=False
    )


def _predict(report: PredictReport, console: Console) -> None:
    rows = table(f"{report.bundle} on {report.backend}", "picture", "label", "probability", numbers=("probability",))
    for prediction in report.predictions:
        for index, guess in enumerate(prediction.guesses):
            rows.add_row(escape(prediction.image) if index == 0 else "", escape(guess.label), f"{guess.probability:.1%}")
    console.print(rows)


def _run(report: RunReport, console: Console) -> None:
    rows = table(report.recipe, "step", "", "seconds", "check", "result", numbers=("seconds",))
    for step in report.steps:
        rows.add_row(step.step, step.status, f"{step.seconds:.1f}", PASS if step.ok else FAIL, escape(step.detail))
    console.print(rows)


def _models(report: ModelsReport, console: Console) -> None:
    rows = table("models", "name", "input", "about")
    for model in report.models:
        rows.add_row(model.name, model.input, model.summary)
    console.print(rows)
    console.print("or any import path: edgekit export torchvision.models:resnet18 --input-shape 1x3x224x224", highlight=False)


def _data(report: DataReport, console: Console) -> None:
    console.print(
        f"{report.dataset}: {report.train:,} + {report.test:,} pictures of {len(report.classes)} classes, "
        f"checked, in {escape(report.folder)}",
        highlight=False,
    )


def _doctor(report: DoctorReport, console: Console) -> None:
    rows = table("runtimes", "name", "", "version", "runs on", "problem", "remedy")
    marks = {"ok": "[green]ok[/green]", "absent": "[dim]absent[/dim]", "broken": "[red]BROKEN[/red]"}
    for finding in report.findings:
        rows.add_row(
            finding.name, marks[finding.status], finding.version, finding.runs_on, escape(finding.problem), escape(finding.remedy)
        )
    console.print(rows)
    works = ", ".join(kind for kind, absence in report.backends.items() if not absence) or "none"
    console.print(f"backends that work here: {works}", highlight=False)
    _skipped([Skipped(kind, absence) for kind, absence in report.backends.items() if absence], console)
    console.print(", ".join(f"{key} {value}" for key, value in report.machine.items()), highlight=False)


_RENDERERS: dict[type[Report], Callable[[Any, Console], None]] = {
    TrainReport: _train,
    FoldReport: _fold,
    ExportReport: _export,
    BuildReport: _build,
    VerifyReport: _verify,
    BenchReport: _bench,
    InspectReport: _inspect,
    PredictReport: _predict,
    RunReport: _run,
    ModelsReport: _models,
    DataReport: _data,
    DoctorReport: _doctor,
}
