"""Measure the error and the latency of every backend on this machine's NVIDIA GPU, with batch norm folded and unfolded.

    python benchmarks/gpu_report.py               # every bundle in exported/; --bundle, --batch, --seconds, --limit SECONDS
    python benchmarks/gpu_report.py --with-cpu    # backends on the CPU too, such as torch and ort-cpu, for comparison
    python benchmarks/gpu_report.py --on-cpu --results trial.json     # a trial of this script on a machine without a GPU

This script needs '.[train,gpu]'. It writes ``benchmarks/results/<gpu>.json`` after each bundle; ``docs/results.py`` puts the
table of that file into ``docs/results.md``. A backend that is absent is skipped by name. A measurement that fails is named, the
others continue, and the exit code is 1.

A bundle's other side (unfolded, if the bundle is folded) is exported from the bundle's PyTorch weights. ``--sides FOLDER``
keeps that export, or uses the one that an earlier run has left there, so that a board without PyTorch measures what another
machine has exported. Each side is verified against the bundle's golden outputs and timed, with all backends taking turns;
torch and torch-cuda run the original module for either side. "Folded over unfolded" is a measurement of its own, in which the
two sides of one backend take turns, because times taken one after the other make no ratio. In the file, ``blocks_ms`` holds
the median of each block; ``--raw FOLDER`` keeps every call.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import msgspec
from gpu_table import NETWORKS, ORIGINAL, RESULTS, markdown, ratio_cell, worst

from edgekit.backends import absence, row_of, table
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import Bundle, open_bundle, write_bundle
from edgekit.bundle.manifest import MANIFEST
from edgekit.cli.outcome import check_output, give_up, say_unwritten
from edgekit.commands.bench import bench
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, EdgekitError, Interrupted, UsageError, first_line
from edgekit.files import check_writable, write_bytes, write_text
from edgekit.latency.loop import Timing
from edgekit.machine.cpu import cores, machine_facts
from edgekit.machine.gpu import cuda_absence, gpu_facts
from edgekit.machine.packages import tool_versions, versions_of
from edgekit.models import MODELS
from edgekit.reports.base import Report
from edgekit.reports.bench import BenchReport, LatencyReport
from edgekit.reports.verify import ParityReport
from edgekit.setups import Setup
from edgekit.tensors import batch_sizes

ROOT = Path(__file__).parent.parent
GRAPH = "cuda_graph"
"""The option that replays a backend's work as a CUDA graph; backends that have the option are measured with and without."""
PROBE_SECONDS = 0.01
BEGINS = b'{\n "gpu_report"'
"""How a result file begins; another file of that name stays."""
ORIGINALS = ("weights.safetensors", "golden.npz")
"""What the two sides of a network have in common."""
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:'\"]+/)+")

Value = TypeVar("Value")


class Settings(NamedTuple):
    """How to measure: ``left_out`` gives the reason why a backend takes no part, or ""; ``raw`` is the folder of full reports.

    ``gpu`` holds the GPU's facts; empty in a trial on the CPU. ``sides`` is the folder where other sides are kept.
    """

    timing: Timing
    left_out: Callable[[str], str]
    raw: Path | None
    gpu: Mapping[str, str] = {}
    sides: Path | None = None


def tell(text: str, code: int = 1) -> None:
    """Print on stdout; if stdout is closed, as behind ``| head``, the run ends with ``code``."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        give_up(sys.stdout)
        sys.exit(code)
    except OSError as problem:
        say_unwritten(problem)
        sys.exit(2)


class Journal:
    """Prints the progress of one bundle, and collects its failed measurements by name."""

    def __init__(self, bundle: str, raw: Path | None = None) -> None:
        self.bundle, self.raw = bundle, raw
        self.failed: dict[str, str] = {}

    def say(self, line: str) -> None:
        tell(f"{self.bundle}: {line}")

    def attempt(self, step: str, action: Callable[[], Value]) -> Value | None:
        """The result of ``action``; if it fails, None, and the failure is recorded under ``step``."""
        try:
            return action()
        except EdgekitError as problem:
            self.failed[step] = without_folders(str(problem))
        except Exception as problem:  # a defect; the other measurements continue, because time on a GPU is scarce
            traceback.print_exc()
            self.failed[step] = without_folders(f"{type(problem).__name__}: {first_line(problem)}")
        self.say(f"{step} FAILED: {self.failed[step]}")
        return None

    def keep(self, step: str, report: Report) -> None:
        if self.raw is not None:
            write_bytes(self.raw / f"{slug(f'{self.bundle} {step}')}.json", report.to_json())


def run_all(roots: Mapping[str, Path], settings: Settings, limit: float, results: Path) -> dict[str, Any]:
    """Measure every bundle; after each bundle the file is complete, and names the bundles that were not reached."""
    packages = [package.name for row in table().values() for package in row.packages]
    document: dict[str, Any] = {
        "gpu_report": 1, "gpu": dict(settings.gpu), "machine": machine_facts(),
        "versions": tool_versions() | versions_of(packages), "threads": cores(),
        "seconds": settings.timing.seconds, "batches": list(settings.timing.batches),
        "bundles": {name: {"not_measured": "the run ended before it"} for name in roots},
    }  # fmt: skip
    started = time.monotonic()
    for index, (name, root) in enumerate(roots.items()):
        if time.monotonic() - started > limit:
            document["bundles"][name] = {"not_measured": f"the limit of {limit:g} s was reached"}
        else:
            journal = Journal(name, settings.raw)
            try:
                measured = journal.attempt("the bundle", partial(measure, root, settings, journal))
            except KeyboardInterrupt:
                saved = f"{results} holds the bundles before it" if index else f"{results} was not written"
                raise Interrupted(f"stopped by Ctrl-C at the bundle {name}; {saved}") from None
            document["bundles"][name] = {**(measured or {}), "failed": journal.failed}
        write_text(results, text_of(document) + "\n")
    return document


def measure(root: Path, settings: Settings, journal: Journal) -> dict[str, Any]:
    """Measure one bundle, folded and unfolded."""
    bundle = open_bundle(root)
    files = bundle.files()
    if files.factory not in MODELS or files.weights is None:
        return {"not_measured": "its PyTorch model cannot be rebuilt from the bundle, so it has no other side"}
    setups, skipped = setups_here(files, settings.left_out)
    document: dict[str, Any] = {"model": files.factory, "skipped": skipped}
    with TemporaryDirectory() as folder:
        sides = both_sides(bundle, (settings.sides or Path(folder)) / journal.bundle)
        for network, side in sides.items():
            document[network] = measure_side(side, network, setups, settings, journal)
        able = [setup for setup in setups if all(str(setup) in document[network]["facts"] for network in NETWORKS)]
        document["folded_over_unfolded"] = list(ratios(sides, able, settings.timing, journal))
    return document


def setups_here(files: ModelFiles, left_out: Callable[[str], str]) -> tuple[list[Setup], dict[str, str]]:
    """(the setups that can run ``files`` on this machine, CUDA graphs last; backend -> why it takes no part)."""
    reasons = {name: left_out(name) or str(absence(Setup(name), files) or "") for name in table()}
    present = [row for row in table().values() if not reasons[row.name]]
    setups = [Setup(row.name) for row in present]
    setups += [Setup(row.name, options={GRAPH: True}) for row in present if GRAPH in row.options.__struct_fields__]
    return setups, {name: without_folders(reason) for name, reason in reasons.items() if reason}


def both_sides(bundle: Bundle, folder: Path) -> dict[str, Bundle]:
    """The bundle, and its other side: unfolded if the bundle is folded, folded if it is not."""
    own, other = NETWORKS if bundle.manifest.fold.folded else NETWORKS[::-1]
    root, fold_bn = folder / other, other == "folded"
    there = os.path.lexists(root)
    sides = {own: bundle, other: kept_side(bundle, root, fold_bn) if there else other_side(bundle, root, fold_bn=fold_bn)}
    return {network: sides[network] for network in NETWORKS}


def kept_side(bundle: Bundle, root: Path, fold_bn: bool) -> Bundle:
    """The other side that was exported before; raises BundleError for one of another network."""
    side = open_bundle(root)
    original, other = ({name: bundle.manifest.files.get(name) for name in ORIGINALS} for bundle in (bundle, side))
    if original != other or bool(side.manifest.fold.folded) is not fold_bn:
        raise BundleError(f"{root.parent.name}/{root.name} in --sides is not the other side of {bundle.root}", "remove it")
    return side


def other_side(bundle: Bundle, root: Path, *, fold_bn: bool) -> Bundle:
    """A bundle of the same weights, exported anew, with the golden file, weights and card of ``bundle``."""
    from edgekit.fold import fold
    from edgekit.graphs.write import export_onnx
    from edgekit.models.factory import build_module
    from edgekit.models.weights import load_weights

    files, manifest = bundle.files(), bundle.manifest
    assert files.weights is not None
    module = build_module(files.factory, files.args)
    load_weights(module, files.weights)
    graph, report = fold(module, manifest.inputs, fold_bn=fold_bn)
    content = export_onnx(graph, report, manifest.inputs, manifest.outputs, opset=manifest.opset)
    contents = {name: (bundle.root / name).read_bytes() for name in manifest.files} | {files.onnx.name: content}
    return write_bundle(root, msgspec.structs.replace(manifest, fold=report), contents)


def measure_side(bundle: Bundle, network: str, setups: Sequence[Setup], settings: Settings, journal: Journal) -> dict[str, Any]:
    """Parity of every setup, each by itself; then the latency of the setups that ran."""
    from edgekit.onnx.read import NAMES, batch_norms, read_onnx

    parity, able = [], []
    for setup in setups:
        # a setup that is timed with a CUDA graph must also be right with one
        report = journal.attempt(f"{network} {setup} parity", partial(verify, bundle.root, [setup]))
        if report is not None:
            able.append(setup)
            journal.keep(f"{network} {setup} parity", report)
            parity += [parity_row(row) for row in report.parities]
            journal.say(f"{network} {setup}: error {worst(parity[-1])}")
    latency = list(timed(bundle, network, able, settings.timing, journal))
    folding, files = bundle.manifest.fold, bundle.files()
    return {
        "onnx_sha256": files.onnx_sha256,
        "batch_norm_nodes": batch_norms(read_onnx(files.onnx, NAMES)),
        "norms_folded": len(folding.folded),
        "norms_kept": len(folding.kept),
        "parity": parity,
        "facts": {name_of(row.setup): row.facts for row in latency},
        "latency": [latency_row(row) for row in latency],
    }


def timed(bundle: Bundle, network: str, setups: Sequence[Setup], timing: Timing, journal: Journal) -> Iterator[LatencyReport]:
    """Time setups of the same options in turns; CUDA graphs are measured separately, because they use the engine differently."""
    groups: dict[str, list[Setup]] = {}
    for setup in setups:
        groups.setdefault(" ".join((network, *setup.words()[1:])), []).append(setup)
    for name, group in groups.items():
        journal.say(f"{network}: timing {', '.join(map(str, group))}")
        report = bench_those_that_can(partial(bench, bundle.root), group, timing, name, journal)
        if report is not None:
            journal.keep(f"{name} latency", report)
            yield from report.rows


def bench_those_that_can(
    bench: Callable[[Sequence[Setup], Timing], BenchReport], setups: Sequence[Setup], timing: Timing, name: str, journal: Journal
) -> BenchReport | None:
    """Time all setups together; if that fails, time each alone to find the failing ones, and time the others together."""
    together = Journal(journal.bundle)
    report = together.attempt(f"{name} latency", partial(bench, setups, timing))
    if report is not None:
        return report
    short_timing = msgspec.structs.replace(timing, seconds=PROBE_SECONDS)
    probes = {setup: partial(bench, [setup], short_timing) for setup in setups}
    able = [setup for setup, probe in probes.items() if journal.attempt(f"{name} {setup.backend} latency", probe) is not None]
    if len(able) == len(setups):  # each setup can run alone
        journal.failed |= together.failed
    if not able or len(able) == len(setups):
        return None
    return journal.attempt(f"{name} latency", partial(bench, able, timing))


def ratios(sides: Mapping[str, Bundle], setups: Sequence[Setup], timing: Timing, journal: Journal) -> Iterator[dict[str, Any]]:
    """Folded over unfolded, inputs resident, for each setup that runs the ONNX file: ``edgekit bench FOLDED UNFOLDED``."""
    roots = [sides[network].root for network in NETWORKS]
    for setup in setups:
        if setup.backend not in ORIGINAL:
            report = journal.attempt(f"folded over unfolded {setup}", partial(bench, roots, [setup], timing))
            if report is not None:
                rows = list(ratio_rows(report, setup))
                journal.say(f"folded over unfolded {setup}: {ratio_cell(rows, str(setup), timing.batches)}")
                yield from rows


def ratio_rows(report: BenchReport, setup: Setup) -> Iterator[dict[str, Any]]:
    """Time of the folded network over time of the unfolded one at each batch size; below 1, folding is faster."""
    for comparison in report.comparisons:
        if comparison.boundary != "device":
            continue
        pair = [row for row in report.rows if (row.batch, row.boundary) == (comparison.batch, "device")]
        sides = dict(zip(NETWORKS, pair, strict=True))
        yield {
            "backend": str(setup),
            "batch": comparison.batch,
            "ratio": short(comparison.speedup),
            "low": short(comparison.low),
            "high": short(comparison.high),
            "noise": {network: row.noise for network, row in sides.items() if row.noise != "stable"},
            **{f"{network}_blocks_ms": block_medians(row) for network, row in sides.items()},
        }


def parity_row(report: ParityReport) -> dict[str, Any]:
    return {
        "backend": name_of(report.setup),
        "samples": report.samples,
        "passed": report.passed,
        "outputs": msgspec.to_builtins(report.outputs),
        "facts": report.facts,
    }


def latency_row(row: LatencyReport) -> dict[str, Any]:
    """A row of latencies in ms; ``own_clock_ms`` is the median by the GPU's own clock, an upper bound if ``launch_bound``.

    A percentile is null if there were too few calls for it.
    """
    return {
        "backend": name_of(row.setup),
        "batch": row.batch,
        "boundary": row.boundary,
        "median_ms": short(row.median_ms),
        "low_ms": short(row.median_low_ms),
        "high_ms": short(row.median_high_ms),
        "percentiles_ms": {f"{part.percent:g}": None if part.ms is None else short(part.ms) for part in row.percentiles},
        "own_clock_ms": short(statistics.median(row.device_ms)) if row.device_ms else None,
        "launch_bound": row.launch_bound,
        "cov": short(row.cov),
        "noise": row.noise,
        "calls": row.count,
        "blocks_ms": block_medians(row),
    }


def block_medians(row: LatencyReport) -> list[float]:
    return [short(statistics.median(block)) for block in row.samples_ms]


def name_of(setup: Setup) -> str:
    """The name of a row: the backend and its options, without the variant, threads and batches, which all rows share."""
    return str(Setup(setup.backend, options=setup.options))


def short(number: float) -> float:
    """``number`` to five digits; further digits are noise."""
    return float(f"{number:.5g}")


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def without_folders(sentence: str) -> str:
    """``sentence`` with paths of this machine shortened to file names, because others read the results."""
    return FOLDERS.sub("", sentence)


def text_of(value: Any, indent: str = "") -> str:
    """``value`` as JSON with one line for each row of a table."""
    deeper = indent + " "
    if isinstance(value, dict) and any(isinstance(item, dict | list) for item in value.values()):
        lines = [f"{deeper}{json.dumps(key)}: {text_of(item, deeper)}" for key, item in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(deeper + json.dumps(row) for row in value) + f"\n{indent}]"
    return json.dumps(value)


def passed(document: Mapping[str, Any]) -> bool:
    """Whether anything was checked, every check passed, and nothing failed."""
    bundles = document["bundles"].values()
    checks = [row["passed"] for bundle in bundles for network in NETWORKS for row in bundle.get(network, {}).get("parity", [])]
    return bool(checks) and all(checks) and not any(bundle.get("failed") for bundle in bundles)


def why_left_out(backend: str, *, on_cpu: bool, with_cpu: bool, only: Sequence[str]) -> str:
    """Why the command line leaves a backend out, or ""; an absent backend gives its own reason."""
    if only:
        return "" if backend in only else "left out by --backend"
    if not row_of(backend).on_gpu:
        return "" if on_cpu or with_cpu else "left out, --with-cpu adds it"
    return str(absence(Setup(backend)) or "left out by --on-cpu") if on_cpu else ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="a bundle, instead of all in exported/; repeatable")
    parser.add_argument("--backend", action="append", choices=tuple(table()), default=[], help="only this backend; repeatable")
    parser.add_argument("--batch", default="1,8,32,128", help="batch sizes")
    parser.add_argument(
        "--seconds", type=float, default=1.0, help="duration of recorded calls for each backend, batch and boundary"
    )
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further bundle is begun")
    parser.add_argument("--results", type=Path, help="the result file, instead of benchmarks/results/<gpu>.json")
    parser.add_argument("--raw", type=Path, help="a folder for the full reports, with every call")
    parser.add_argument("--sides", type=Path, help="a folder that keeps the other sides, and from which they are taken again")
    parser.add_argument("--with-cpu", action="store_true", help="also measure the backends on the CPU")
    parser.add_argument(
        "--on-cpu", action="store_true", help="measure only the backends on the CPU, into --results: a trial of this script"
    )
    options = parser.parse_args(arguments)
    if options.on_cpu and options.results is None:
        parser.error("--on-cpu measures no GPU, so it needs --results FILE")
    on_gpu = [name for name in options.backend if row_of(name).on_gpu]
    if options.on_cpu and on_gpu:
        alone = " and ".join(name for name, row in table().items() if not row.on_gpu)
        parser.error(
            f"--on-cpu runs {alone} alone, so --backend {on_gpu[0]} cannot go with it; leave out --on-cpu or that backend"
        )
    try:
        options.batches = batch_sizes(options.batch)
    except UsageError as problem:
        parser.error(str(problem))
    if not 0 < options.seconds <= 3600:
        parser.error(f"--seconds takes a time above 0 and up to 3600, not {options.seconds:g}")
    if not options.limit > 0:
        parser.error(f"--limit takes seconds above 0, not {options.limit:g}")
    options.roots = options.bundle or sorted(path.parent for path in (ROOT / "exported").glob("*/manifest.json"))
    options.names = [os.path.basename(os.path.realpath(root)) for root in options.roots]
    if not options.names or len(set(options.names)) < len(options.names):
        parser.error(f"the bundles need names of their own, not {', '.join(options.names) or 'none'}; make one with edgekit run")
    strange = [root for root in options.roots if not os.path.isfile(root / MANIFEST)]
    if strange:
        parser.error(
            f"--bundle {strange[0]} is not a bundle, because {MANIFEST} is missing; give a folder that edgekit export wrote"
        )
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    missing = None if options.on_cpu else cuda_absence()
    if missing:  # the absence's own remedy is for commands that can do without a GPU
        remedy = "see edgekit doctor, or try this script out with --on-cpu --results FILE"
        print(f"error: {missing.reason}; {remedy}", file=sys.stderr)
        return 2
    gpu = {} if options.on_cpu else gpu_facts()
    results = options.results or RESULTS / f"{slug(gpu['gpu'])}.json"
    left_out = partial(why_left_out, on_cpu=options.on_cpu, with_cpu=options.with_cpu, only=options.backend)
    settings = Settings(Timing(options.batches, options.seconds), left_out, options.raw, gpu, options.sides)
    try:
        check_output("--results", results, None, BEGINS)
        if options.raw:
            check_writable(options.raw)
        document = run_all(dict(zip(options.names, options.roots, strict=True)), settings, options.limit, results)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 2
    verdict = 0 if passed(document) else 1
    tell(f"\n{markdown(document)}\n\nwrote {results}", verdict)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
