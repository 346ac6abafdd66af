"""``edgekit bench``."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from edgekit.backends import RUNTIMES, open_backend
from edgekit.backends.choose import check_graph, choose, flavour_asked, model_files
from edgekit.backends.contract import Backend
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.errors import UsageError
from edgekit.machine.cpu import cores, machine_facts
from edgekit.machine.gpu import gpu_facts
from edgekit.machine.packages import needs_onnx
from edgekit.progress import SILENT, Progress
from edgekit.reports.bench import BenchReport, LatencyReport, LayersReport


def bench_bundle(
    root: Path | str,
    *,
    backends: Sequence[str] = (),
    batches: Sequence[int] = (1, 8, 32),
    threads: int | None = None,
    seconds: float = 1.0,
    budget_ms: float | None = None,
    source: str | None = None,
    cuda_graph: bool = False,
    flavour: str | None = None,
    engine: Path | None = None,
    layers: bool = False,
    progress: Progress = SILENT,
) -> BenchReport:
    """Latency of every runtime present, or just ``backends``, interleaved.

    ``cuda_graph`` is how TensorRT of the ``flavour`` runs its engine, or the ``engine`` that ``build_bundle`` wrote; ``layers``:
    then also what each layer takes.
    """
    from edgekit.latency.loop import bench, overhead_us

    bundle = open_bundle(Path(root))
    files = model_files(bundle, source)
    flavour = flavour_asked(flavour, engine)
    kinds, skipped = choose(files, backends, flavour)
    check_graph(cuda_graph, kinds)
    if layers:
        needs_onnx()
        able = [kind for kind, runtime in RUNTIMES.items() if runtime.by_layer]
        if not set(able) & set(kinds):
            raise UsageError(f"--layers: {', '.join(kinds)} cannot tell its layers; add --backend {' or '.join(able)}")
    count = threads or cores()
    overhead = overhead_us()
    facts = machine_facts() | gpu_facts()
    with ExitStack() as stack:
        opened: list[Backend] = [
            stack.enter_context(
                open_backend(
                    kind,
                    files,
                    threads=count,
                    batches=batches,
                    cuda_graph=cuda_graph,
                    flavour=flavour,
                    engine=engine,
                    progress=progress,
                )
            )
            for kind in kinds
        ]
        rows, comparisons = bench(opened, batches, seconds=seconds, progress=progress)
        told = _layers(bundle, opened, rows, seconds) if layers else ()
    return BenchReport(str(root), bundle.onnx_sha256, facts, count, overhead, rows, comparisons, tuple(skipped), budget_ms, told)


def _layers(bundle: Bundle, opened: Sequence[Backend], rows: Sequence[LatencyReport], seconds: float) -> tuple[LayersReport, ...]:
    from edgekit.latency.layers import layer_reports
    from edgekit.onnx.read import read_nodes

    return layer_reports(opened, rows, read_nodes(bundle.onnx), seconds)
