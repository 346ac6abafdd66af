"""What every runtime computes on this machine's NVIDIA GPU and how long it takes, with batch norm folded and unfolded.

    python benchmarks/gpu_report.py               # every bundle in exported/; --bundle, --batch, --seconds, --limit SECONDS
    python benchmarks/gpu_report.py --with-cpu    # torch and ort-cpu too, to speedups with
    python benchmarks/gpu_report.py --on-cpu --results trial.json     # the same path where there is no GPU

It takes '.[train,gpu]' and writes ``benchmarks/results/<gpu>.json``, anew after each bundle; then ``benchmarks/readme.py`` puts
its table into the README. What is not here is skipped by name. What fails is named, the rest goes on, and the exit code is 1.

A bundle's other side (unfolded, where the bundle is folded) is exported from its PyTorch weights. Each side is verified against
the bundle's golden outputs and timed with all runtimes in turns; torch and torch-cuda run the original module beside either.
"Folded over unfolded" is a measurement of its own, in which the two sides of one runtime take turns: times that were not
taken in turns make no ratio. In the file, ``blocks_ms`` holds the median of each block; ``--raw FOLDER`` keeps every call.
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
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, TypeVar

import msgspec

from edgekit.backends import KINDS, RUNTIMES, absence, on_gpu, open_backend, present
from edgekit.backends.contract import Backend
from edgekit.bundle.folder import Bundle, open_bundle, write_bundle
from edgekit.bundle.manifest import MANIFEST, SCHEMA
from edgekit.cli.outcome import give_up, say_unwritten
from edgekit.commands.bench import bench_bundle
from edgekit.commands.verify import verify_bundle
from edgekit.errors import EdgekitError, Interrupted, OutputError, UsageError, first_line
from edgekit.files import check_writable, destination, write_bytes, write_text
from edgekit.latency.loop import BOUNDARIES, Candidate, interleave
from edgekit.latency.statistics import speedups
from edgekit.machine.cpu import cores, machine_facts
from edgekit.machine.gpu import cuda_problem, gpu_facts
from edgekit.machine.packages import tool_versions, versions_of
from edgekit.reports.base import Report
from edgekit.reports.bench import BenchReport, LatencyReport
from edgekit.reports.verify import ParityReport, VerifyReport
from edgekit.tensors import batch_sizes, sample_feed

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
NETWORKS = ("folded", "unfolded")
ON_CPU = tuple(kind for kind, runtime in RUNTIMES.items() if not runtime.on_gpu)
ORIGINAL = ("torch", "torch-cuda")  # they run the original module whatever the file holds, so they have no folded side
GPU_PACKAGES = ("tensorrt", "tensorrt-rtx", "cuda-bindings")
GRAPH = "CUDA graph"
PROBE_SECONDS = 0.01
NONE_YET = "No GPU's numbers are here yet; on a machine that has one, `python benchmarks/gpu_report.py` makes them."
FOLDERS = re.compile(r"(?<![\w:/.])/(?:[^\s/:'\"]+/)+")

Value = TypeVar("Value")


class Settings(NamedTuple):
    """How to measure: ``left_out`` says of a runtime why it takes no part, or nothing; ``raw`` is where full reports go.

    ``gpu``: its facts; nothing in a trial on the CPU, whatever is in the machine.
    """

    batches: tuple[int, ...]
    seconds: float
    left_out: Callable[[str], str]
    raw: Path | None
    gpu: Mapping[str, str] = {}


class Way(NamedTuple):
    """A runtime and how it runs: TensorRT with a CUDA graph is another way."""

    kind: str
    graph: bool = False

    @property
    def name(self) -> str:
        return runtime_name(self.kind, {GRAPH: "on"} if self.graph else {})


def tell(text: str, code: int = 1) -> None:
    """On stdout; where nobody reads it any more, as behind ``| head``, the run ends there with ``code``, whatever it was at."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        give_up(sys.stdout)
        sys.exit(code)
    except OSError as problem:
        say_unwritten(problem)
        sys.exit(2)


class Journal:
    """Of one bundle: says how far it is, and keeps what failed by its name."""

    def __init__(self, bundle: str, raw: Path | None = None) -> None:
        self.bundle, self.raw = bundle, raw
        self.failed: dict[str, str] = {}

    def say(self, line: str) -> None:
        tell(f"{self.bundle}: {line}")

    def attempt(self, what: str, action: Callable[[], Value]) -> Value | None:
        """What ``action`` gives; where it fails, None, and the report goes on."""
        try:
            return action()
        except EdgekitError as problem:
            self.failed[what] = without_folders(str(problem))
        except Exception as problem:  # a defect; but a GPU is not at hand every day, and the rest is still wanted
            traceback.print_exc()
            self.failed[what] = without_folders(f"{type(problem).__name__}: {first_line(problem)}")
        self.say(f"{what} FAILED: {self.failed[what]}")
        return None

    def keep(self, what: str, report: Report) -> None:
        if self.raw is not None:
            write_bytes(self.raw / f"{slug(f'{self.bundle} {what}')}.json", report.to_json())


def run_all(roots: Mapping[str, Path], settings: Settings, limit: float, results: Path) -> dict[str, Any]:
    """Every bundle; the file is whole after each of them, and names those that were not reached."""
    document = {
        "gpu_report": 1, "gpu": dict(settings.gpu), "machine": machine_facts(),
        "versions": tool_versions() | versions_of(GPU_PACKAGES), "threads": cores(),
        "seconds": settings.seconds, "batches": list(settings.batches),
        "bundles": {name: {"not_measured": "the run ended before it"} for name in roots},
    }  # fmt: skip
    started = time.monotonic()
    for index, (name, root) in enumerate(roots.items()):
        if time.monotonic() - started > limit:
            document["bundles"][name] = {"not_measured": f"the limit of {limit:g} s was reached"}
        else:
            journal = Journal(name, settings.raw)
            try:
                found = journal.attempt("the bundle", partial(measure, root, settings, journal))
            except KeyboardInterrupt:
                kept = f"{results} holds what was measured before it" if index else f"{results} was not written"
                raise Interrupted(f"stopped by Ctrl-C at the bundle {name}; {kept}") from None
            document["bundles"][name] = {**(found or {}), "failed": journal.failed}
        write_text(results, text_of(document) + "\n")
    return document


def measure(root: Path, settings: Settings, journal: Journal) -> dict[str, Any]:
    """One bundle, folded and unfolded."""
    bundle = open_bundle(root)
    files = bundle.model_files()
    if files.torch_model is None:
        return {"not_measured": "its PyTorch model cannot be rebuilt from the bundle, so it has no other side"}
    left_out = {kind: settings.left_out(kind) for kind in KINDS}
    here, reasons = present(files, [kind for kind in KINDS if not left_out[kind]])
    skipped = {kind: without_folders(reason) for kind, reason in (left_out | reasons).items() if reason}
    found: dict[str, Any] = {"model": files.torch_model, "skipped": skipped}
    with TemporaryDirectory() as folder:
        sides = both_sides(bundle, Path(folder))
        ways = [Way(kind) for kind in here] + [Way("tensorrt", graph=True)] * ("tensorrt" in here)
        for network, one in sides.items():
            found[network] = measure_side(one, network, ways, settings, journal)
        able = [way for way in ways if all(way.name in found[network]["facts"] for network in NETWORKS)]
        found["folded_over_unfolded"] = list(ratios(sides, able, settings, journal))
    return found


def both_sides(bundle: Bundle, folder: Path) -> dict[str, Bundle]:
    """The bundle itself, and the same network folded if that is not, unfolded if it is."""
    own, other = NETWORKS if bundle.manifest.fold.folded else NETWORKS[::-1]
    sides = {own: bundle, other: other_side(bundle, folder / other, fold_bn=other == "folded")}
    return {network: sides[network] for network in NETWORKS}


def other_side(bundle: Bundle, root: Path, *, fold_bn: bool) -> Bundle:
    """The same weights exported anew, beside the bundle's own golden file, weights and card."""
    from edgekit.fold import fold
    from edgekit.graphs.write import export_onnx
    from edgekit.models.factory import build_module, load_weights

    files, manifest = bundle.model_files(), bundle.manifest
    assert files.torch_model is not None
    assert files.torch_weights is not None
    module = build_module(files.torch_model, files.torch_args)
    load_weights(module, files.torch_weights)
    graph, report = fold(module, manifest.inputs, fold_bn=fold_bn)
    content = export_onnx(graph, report, manifest.inputs, manifest.outputs, opset=manifest.opset)
    contents = {name: (bundle.root / name).read_bytes() for name in manifest.files} | {bundle.variant.file: content}
    return write_bundle(root, msgspec.structs.replace(manifest, schema=SCHEMA, fold=report), contents)


def measure_side(bundle: Bundle, network: str, ways: Sequence[Way], settings: Settings, journal: Journal) -> dict[str, Any]:
    """Parity of every way, one by one; then the latency of those that ran at all."""
    import onnx

    from edgekit.onnx.read import batch_norms

    checked = {way: journal.attempt(f"{network} {way.name} parity", partial(check, bundle, way)) for way in ways}
    parity = []
    for way, report in checked.items():
        if report is not None:
            journal.keep(f"{network} {way.name} parity", report)
            parity += [parity_row(one) for one in report.parities]
            journal.say(f"{network} {way.name}: error {worst(parity[-1])}")
    latency = list(timed(bundle, network, [way for way, report in checked.items() if report is not None], settings, journal))
    folding = bundle.manifest.fold
    return {
        "onnx_sha256": bundle.onnx_sha256,
        "batch_norm_nodes": batch_norms(onnx.load(bundle.onnx)),
        "norms_folded": len(folding.folded),
        "norms_kept": len(folding.kept),
        "parity": parity,
        "facts": {runtime_name(row.backend, row.facts): row.facts for row in latency},
        "latency": [latency_row(row) for row in latency],
    }


def check(bundle: Bundle, way: Way) -> VerifyReport:
    """What is timed with a graph must be right with one."""
    return verify_bundle(bundle.root, backends=[way.kind], cuda_graph=way.graph)


def timed(bundle: Bundle, network: str, ways: Sequence[Way], settings: Settings, journal: Journal) -> Iterator[LatencyReport]:
    """All in turns; what runs as a graph is another engine's use and has a measurement of its own."""
    for graph in (False, True):
        kinds = [way.kind for way in ways if way.graph is graph]
        if not kinds:
            continue
        names = ", ".join(way.name for way in ways if way.graph is graph)
        journal.say(f"{network}: timing {names}")
        bench = partial(bench_bundle, bundle.root, batches=settings.batches, cuda_graph=graph)
        report = bench_those_that_can(bench, kinds, f"{network} {GRAPH}" if graph else network, settings.seconds, journal)
        if report is not None:
            journal.keep(f"{network} {GRAPH} latency" if graph else f"{network} latency", report)
            yield from report.rows


def bench_those_that_can(
    bench: Callable[..., BenchReport], kinds: Sequence[str], name: str, seconds: float, journal: Journal
) -> BenchReport | None:
    """All of them; where one fails it is found by a short measurement of each alone, and the others go on without it."""
    together = Journal(journal.bundle)
    report = together.attempt(f"{name} latency", partial(bench, backends=kinds, seconds=seconds))
    if report is not None:
        return report
    probes = {kind: partial(bench, backends=[kind], seconds=PROBE_SECONDS) for kind in kinds}
    able = [kind for kind, probe in probes.items() if journal.attempt(f"{name} {kind} latency", probe) is not None]
    if len(able) == len(kinds):  # each can alone
        journal.failed |= together.failed
    if not able or len(able) == len(kinds):
        return None
    return journal.attempt(f"{name} latency", partial(bench, backends=able, seconds=seconds))


def ratios(sides: Mapping[str, Bundle], ways: Sequence[Way], settings: Settings, journal: Journal) -> Iterator[dict[str, Any]]:
    """The two sides in turns, inputs resident, for each way that runs what the file holds."""
    for way in ways:
        if way.kind not in ORIGINAL:
            action = partial(ratios_of, sides, way, settings, journal)
            yield from journal.attempt(f"folded over unfolded {way.name}", action) or []


def ratios_of(sides: Mapping[str, Bundle], way: Way, settings: Settings, journal: Journal) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        opened = {
            network: stack.enter_context(
                open_backend(way.kind, bundle.model_files(), batches=settings.batches, cuda_graph=way.graph)
            )
            for network, bundle in sides.items()
        }
        name = runtime_name(way.kind, opened["folded"].facts)
        rows = [{"runtime": name, **ratio(opened, batch, settings.seconds)} for batch in settings.batches]
    journal.say(f"folded over unfolded {name}: {ratio_cell(rows, name, settings.batches)}")
    return rows


def ratio(opened: Mapping[str, Backend], batch: int, seconds: float) -> dict[str, Any]:
    """Time of the folded network over that of the unfolded one: below 1 folding is worth it."""
    feed = sample_feed(opened["folded"].inputs, batch)
    candidates = [
        Candidate(network, opened[network].bind(feed), dict(opened[network].facts), on_gpu(opened[network]))
        for network in NETWORKS
    ]
    rows = interleave(candidates, batch, "device", seconds)
    (found,) = speedups(rows)  # time of the first over that of the second
    blocks = {f"{row.backend}_blocks_ms": block_medians(row) for row in rows}
    noise = {row.backend: row.noise for row in rows if row.noise != "stable"}
    return {
        "batch": batch,
        "ratio": short(found.speedup),
        "low": short(found.low),
        "high": short(found.high),
        "noise": noise,
    } | blocks


def parity_row(report: ParityReport) -> dict[str, Any]:
    return {
        "runtime": runtime_name(report.candidate, report.facts),
        "samples": report.samples,
        "passed": report.passed,
        "outputs": msgspec.to_builtins(report.outputs),
        "facts": report.facts,
    }


def latency_row(row: LatencyReport) -> dict[str, Any]:
    """In ms; ``own_clock_ms`` is the median by the GPU's own clock, an upper bound where ``launch_bound``.

    A percentile is null where it takes more calls.
    """
    return {
        "runtime": runtime_name(row.backend, row.facts),
        "batch": row.batch,
        "boundary": row.boundary,
        "median_ms": short(row.median_ms),
        "low_ms": short(row.median_low_ms),
        "high_ms": short(row.median_high_ms),
        "percentiles_ms": {f"{one.percent:g}": None if one.ms is None else short(one.ms) for one in row.percentiles},
        "own_clock_ms": short(statistics.median(row.device_ms)) if row.device_ms else None,
        "launch_bound": row.launch_bound,
        "cov": short(row.cov),
        "noise": row.noise,
        "calls": row.count,
        "blocks_ms": block_medians(row),
    }


def block_medians(row: LatencyReport) -> list[float]:
    return [short(statistics.median(block)) for block in row.samples_ms]


def runtime_name(kind: str, facts: Mapping[str, str]) -> str:
    return f"{kind}, {GRAPH}" if facts.get(GRAPH) == "on" else kind


def short(number: float) -> float:
    """To five digits: what is noise need not be kept."""
    return float(f"{number:.5g}")


def slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")


def without_folders(sentence: str) -> str:
    """Paths of this machine become names of files: the results are for others."""
    return FOLDERS.sub("", sentence)


def text_of(value: Any, indent: str = "") -> str:
    """JSON with a line for each row of a table."""
    deeper = indent + " "
    if isinstance(value, dict) and any(isinstance(one, dict | list) for one in value.values()):
        lines = [f"{deeper}{json.dumps(key)}: {text_of(one, deeper)}" for key, one in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"
    if isinstance(value, list) and value and isinstance(value[0], dict):
        return "[\n" + ",\n".join(deeper + json.dumps(one) for one in value) + f"\n{indent}]"
    return json.dumps(value)


def passed(document: Mapping[str, Any]) -> bool:
    """Something was checked, every check holds, and nothing failed."""
    bundles = document["bundles"].values()
    checks = [row["passed"] for bundle in bundles for network in NETWORKS for row in bundle.get(network, {}).get("parity", [])]
    return bool(checks) and all(checks) and not any(bundle.get("failed") for bundle in bundles)


def summary(folder: Path = RESULTS) -> str:
    """Markdown: the table of each GPU that was measured, or how to measure one."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
    tables = [table(one) for one in documents if one.get("gpu_report") and one["gpu"]]
    return "\n\n".join(tables) or NONE_YET


def table(document: Mapping[str, Any]) -> str:
    """Markdown: what the GPU is, a row for each bundle, runtime and side, and what is not in the rows."""
    batches = document["batches"]
    return "\n".join(
        [
            what_it_is(document),
            "",
            f"| bundle | runtime | batch norm | error | {' | '.join(f'batch {batch}' for batch in batches)} | folded/unfolded |",
            "|---|---|---|---|" + "---|" * (len(batches) + 1),
            *(row for name, bundle in document["bundles"].items() for row in table_rows(name, bundle, batches)),
            "",
            *(f"- {line}" for line in beside_the_rows(document["bundles"])),
        ]
    )


def what_it_is(document: Mapping[str, Any]) -> str:
    gpu, machine = document["gpu"], document["machine"]
    where = f"{machine['cores']} core(s) of {machine['cpu']}"
    if gpu:
        told = [f"compute capability {gpu['compute capability']}", f"CUDA {gpu['cuda driver']}"]
        told += [f"driver {gpu['driver']}"] if gpu["driver"] else []
        where = f"{gpu['gpu']} ({', '.join(told)}) beside {where}"
    tools = ", ".join(f"{name} {version}" for name, version in document["versions"].items())
    return (
        f"**{where}**; {tools}. Medians in ms, device / end-to-end, in brackets by the GPU's own clock (≤: at most, it "
        "waited for the host to queue the calls); ~: noisy, the file says why. Error: of the scale, against float64. "
        "Folded/unfolded: device times measured in turns, for each batch; -: the two cannot be told apart (1 is in the 95 % "
        "interval)."
    )


def table_rows(name: str, bundle: Mapping[str, Any], batches: Sequence[int]) -> Iterator[str]:
    """The two sides of a runtime one below the other."""
    sides = {network: bundle[network] for network in NETWORKS if network in bundle}
    rows = [row for side in sides.values() for row in (*side["parity"], *side["latency"])]
    for runtime in dict.fromkeys(row["runtime"] for row in rows):
        for network, side in sides.items():
            if network == "folded" and runtime in ORIGINAL:
                continue
            error = next((worst(row) for row in side["parity"] if row["runtime"] == runtime), "failed")
            times = [time_cell(side["latency"], runtime, batch) for batch in batches]
            gain = ratio_cell(bundle["folded_over_unfolded"], runtime, batches) if network == "folded" else ""
            yield f"| {' | '.join([name, runtime, norms(network, side), error, *times, gain])} |"


def norms(network: str, side: Mapping[str, Any]) -> str:
    total = side["norms_folded"] + side["norms_kept"]
    return f"{side['norms_folded']} of {total} folded" if network == "folded" else "unfolded"


def worst(row: Mapping[str, Any]) -> str:
    """The largest error of the outputs, or what is wrong with one that has none."""
    output = max(row["outputs"], key=lambda one: one["normalised"])
    return f"{'' if row['passed'] else '**FAIL** '}{output['problem'] or format(output['normalised'], '.1e')}"


def time_cell(rows: Sequence[Mapping[str, Any]], runtime: str, batch: int) -> str:
    found = {row["boundary"]: row for row in rows if row["runtime"] == runtime and row["batch"] == batch}
    if not found:
        return ""
    device, whole = (
        f"{ms(found[boundary]['median_ms'])}{'~' * (found[boundary]['noise'] != 'stable')}" for boundary in BOUNDARIES
    )
    own, at_most = found["device"]["own_clock_ms"], "≤" * found["device"].get("launch_bound", False)
    return f"{device} / {whole}" if own is None else f"{device} [{at_most}{ms(own)}] / {whole}"


def ratio_cell(rows: Sequence[Mapping[str, Any]], runtime: str, batches: Sequence[int]) -> str:
    found = {row["batch"]: row for row in rows if row["runtime"] == runtime}
    told = [found[batch] for batch in batches if batch in found]
    return ", ".join("-" if row["low"] <= 1 <= row["high"] else f"{row['ratio']:.2f}" for row in told)


def ms(value: float) -> str:
    return f"{value:.3g}" if value < 1000 else f"{value:.0f}"


def beside_the_rows(bundles: Mapping[str, Any]) -> Iterator[str]:
    """What is not measured, once for each reason; what failed, one by one."""
    reasons: dict[str, list[str]] = {}
    for name, bundle in bundles.items():
        if "not_measured" in bundle:
            reasons.setdefault(bundle["not_measured"], []).append(name)
        for kind, reason in bundle.get("skipped", {}).items():
            reasons.setdefault(reason, []).append(kind)
    for reason, names in reasons.items():
        yield f"Not measured: {', '.join(dict.fromkeys(names))}: {reason}."
    for name, bundle in bundles.items():
        for what, sentence in bundle.get("failed", {}).items():
            yield f"**Failed**: {name}, {what}: {sentence}."


def why_left_out(kind: str, *, on_cpu: bool, with_cpu: bool, only: Sequence[str]) -> str:
    """What the command line leaves out; what is not here says so itself."""
    if only:
        return "" if kind in only else "left out by --backend"
    if kind in ON_CPU:
        return "" if on_cpu or with_cpu else "left out, --with-cpu adds it"
    return (absence(kind) or "left out by --on-cpu") if on_cpu else ""


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, action="append", help="this one instead of all in exported/; repeatable")
    parser.add_argument("--backend", action="append", choices=KINDS, default=[], help="this runtime alone; repeatable")
    parser.add_argument("--batch", default="1,8,32,128", help="batch sizes")
    parser.add_argument("--seconds", type=float, default=1.0, help="of recorded calls for each runtime, batch and boundary")
    parser.add_argument("--limit", type=float, default=1e9, help="seconds after which no further bundle is begun")
    parser.add_argument("--results", type=Path, help="another file than benchmarks/results/<gpu>.json")
    parser.add_argument("--raw", type=Path, help="a folder for the full reports, with every call")
    parser.add_argument("--with-cpu", action="store_true", help="torch and ort-cpu as well")
    parser.add_argument("--on-cpu", action="store_true", help="torch and ort-cpu instead, to --results: a trial of this script")
    options = parser.parse_args(arguments)
    if options.on_cpu and options.results is None:
        parser.error("--on-cpu measures no GPU, so it needs --results FILE")
    on_gpu = [kind for kind in options.backend if kind not in ON_CPU]
    if options.on_cpu and on_gpu:
        parser.error(
            f"--on-cpu runs {' and '.join(ON_CPU)} alone, so --backend {on_gpu[0]} cannot go with it; leave one of them out"
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
        parser.error(f"--bundle {strange[0]} is not a bundle, it has no {MANIFEST}; give a folder that edgekit export wrote")
    return options


def check_is_report(results: Path) -> None:
    """Raise OutputError where something else than an earlier report would be lost."""
    if not os.path.isfile(results):  # what is no file is told by who writes it, and a pipe would never end
        return
    try:
        ours = "gpu_report" in json.loads(results.read_bytes())
    except (OSError, ValueError, TypeError):
        ours = False
    if not ours:
        raise OutputError(f"cannot write {results}: it is there and no report of this script's; choose another --results")


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    problem = "" if options.on_cpu else cuda_problem()
    if problem:
        what = problem.partition("; ")[0]  # what to use instead is another command's
        print(f"error: {what}; see edgekit doctor, or try this script out with --on-cpu --results FILE", file=sys.stderr)
        return 2
    gpu = {} if options.on_cpu else gpu_facts()
    results = options.results or RESULTS / f"{slug(gpu['gpu'])}.json"
    left_out = partial(why_left_out, on_cpu=options.on_cpu, with_cpu=options.with_cpu, only=options.backend)
    settings = Settings(options.batches, options.seconds, left_out, options.raw, gpu)
    try:
        check_is_report(results)
        for folder in (destination(results).parent, *([options.raw] if options.raw else [])):
            check_writable(folder)
        document = run_all(dict(zip(options.names, options.roots, strict=True)), settings, options.limit, results)
    except EdgekitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 130 if isinstance(error, Interrupted) else 2
    verdict = 0 if passed(document) else 1
    tell(f"\n{table(document)}\n\nwrote {results}", verdict)
    return verdict


if __name__ == "__main__":
    sys.exit(main())
