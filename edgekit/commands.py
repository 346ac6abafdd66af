"""What each command does, composed of the verbs; everything heavy is imported inside the function that needs it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from edgekit.backends import RUNTIMES, Backend, ModelFiles, absence, check_flavour, open_backend, present
from edgekit.build_options import BuildOptions
from edgekit.bundle import Bundle, open_bundle
from edgekit.cuda import gpu_facts
from edgekit.errors import BROKEN, BundleError, MissingError, UsageError, broken_import
from edgekit.extras import pip_install
from edgekit.machine import cores, machine_facts
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe, Tolerance
from edgekit.reports import (
    BenchReport,
    BuildReport,
    DataReport,
    InspectReport,
    LatencyReport,
    LayersReport,
    PredictReport,
    Skipped,
    TrainReport,
    VerifyReport,
)

RUNS = Path("runs")
USUAL = BuildOptions()


def train_recipe(
    recipe: Recipe,
    run: Path,
    *,
    device: str = "auto",
    resume: bool = False,
    restart: bool = False,
    progress: Progress = SILENT,
) -> TrainReport:
    """Load the data and train into ``run``."""
    needs("torch", "torchvision", extra="train")
    from edgekit import data
    from edgekit.train import train

    return train(recipe, data.load(recipe.data, progress), run, device=device, resume=resume, restart=restart, progress=progress)


def verify_bundle(
    root: Path | str,
    *,
    backends: Sequence[str] = (),
    tolerance: Tolerance | None = None,
    source: str | None = None,
    cuda_graph: bool = False,
    flavour: str | None = None,
    engine: Path | None = None,
    progress: Progress = SILENT,
) -> VerifyReport:
    """Every runtime present, or just ``backends``, against the golden outputs; ``source`` names the PyTorch side.

    ``cuda_graph`` is how TensorRT runs; ``flavour`` which of it, where more than one is installed; ``engine`` a plan that
    ``build_bundle`` wrote.
    """
    from edgekit.verify import verify

    bundle = open_bundle(Path(root))
    files = _model_files(bundle, source)
    flavour = _flavour(flavour, engine)
    kinds, skipped = _choose(files, backends, flavour)
    _check_graph(cuda_graph, kinds)
    samples = bundle.manifest.golden.samples

    def open_one(kind: str) -> Backend:
        # the engine that is verified is the one that is built, timed and shipped: in the batches it takes
        batches = () if RUNTIMES[kind].in_ranges else (1, samples)
        return open_backend(
            kind, files, batches=batches, cuda_graph=cuda_graph, flavour=flavour, engine=engine, progress=progress
        )

    return verify(bundle, open_one, kinds, skipped, tolerance=tolerance, progress=progress)


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
    from edgekit.bench import bench, overhead_us

    bundle = open_bundle(Path(root))
    files = _model_files(bundle, source)
    flavour = _flavour(flavour, engine)
    kinds, skipped = _choose(files, backends, flavour)
    _check_graph(cuda_graph, kinds)
    if layers:
        _needs_onnx()
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


def build_bundle(
    root: Path | str,
    *,
    flavour: str | None = None,
    options: BuildOptions = USUAL,
    output: Path | None = None,
    rebuild: bool = False,
    progress: Progress = SILENT,
) -> BuildReport:
    """A TensorRT engine for this machine, in the cache or at ``output``; ``flavour`` is the first that can build here."""
    from edgekit.build import build_bundle_engine
    from edgekit.trt.flavour import find

    bundle = open_bundle(Path(root))
    _needs_onnx()
    return build_bundle_engine(bundle, find(flavour), options, output=output, rebuild=rebuild, progress=progress)


def inspect_target(
    target: str, *, input_shapes: Sequence[str] = (), weights: Path | None = None, runs: Path = RUNS
) -> InspectReport:
    """A bundle, an ONNX file, or any source."""
    path = Path(target)
    is_bundle = (path / "manifest.json").is_file()
    if is_bundle or path.suffix == ".onnx":
        _needs_onnx()
        from edgekit.inspect import onnx_table

        return onnx_table(open_bundle(path).onnx if is_bundle else path)
    if path.is_dir() and not (path / "recipe.json").is_file():
        open_bundle(path)  # raises: neither a bundle nor a run
    needs("torch", extra="train")
    from edgekit.models.layers import module_table
    from edgekit.source import load_source

    found = load_source(target, runs=runs, input_shapes=input_shapes, weights=weights, trained=False)
    return module_table(target, found.module, found.inputs)


def predict_images(
    root: Path,
    images: Sequence[Path],
    *,
    backend: str | None = None,
    flavour: str | None = None,
    engine: Path | None = None,
    top: int = 3,
    progress: Progress = SILENT,
) -> PredictReport:
    """Labels through ONNX Runtime on the CPU, or the runtime named."""
    from edgekit.predict import predict

    bundle = open_bundle(root)
    files = bundle.model_files()
    kind = backend or "ort-cpu"
    flavour = _flavour(flavour, engine)
    _check_flavour(flavour, (kind,))
    with open_backend(kind, files, batches=(1,), flavour=flavour, engine=engine, progress=progress) as opened:
        return predict(bundle, opened, images, top)


def fetch_data(name: str, progress: Progress = SILENT) -> DataReport:
    """Find or fetch a dataset, and check all of it."""
    from edgekit.data import fashion_mnist

    if name != "fashion-mnist":
        raise UsageError(f"no dataset {name!r} to fetch; there is fashion-mnist")
    folder = fashion_mnist.locate(progress=progress)
    train, test = fashion_mnist.load(folder)
    return DataReport(name, str(folder), len(train), len(test), fashion_mnist.CLASSES)


def needs(*packages: str, extra: str | None = None) -> None:
    """Raise MissingError unless every package is installed; the remedy is all of ``extra``, or just what is missing."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        remedy = pip_install(extra) if extra else f"pip install {' '.join(missing)}"
        raise MissingError(f"this needs {', '.join(missing)}, which is not installed; {remedy}")


def _needs_onnx() -> None:
    """Looked at before a file is: a package that is broken is not the file's fault."""
    needs("onnx")
    try:
        import onnx

        _ = onnx.load_model_from_string
    except BROKEN as problem:
        raise MissingError(broken_import("onnx", problem)) from problem


def _model_files(bundle: Bundle, source: str | None) -> ModelFiles:
    """The bundle's files; with ``source`` the PyTorch model is built by it, and filled with the bundle's weights."""
    files = bundle.model_files()
    if source is None:
        return files
    if bundle.weights is None:
        raise BundleError(f"bundle {bundle.root} holds no PyTorch weights; export it again without --no-keep-weights")
    return files._replace(torch_model=source, torch_args=bundle.manifest.source.args, torch_weights=bundle.weights)


def _layers(bundle: Bundle, opened: Sequence[Backend], rows: Sequence[LatencyReport], seconds: float) -> tuple[LayersReport, ...]:
    from edgekit.layer_times import layer_reports, read_nodes

    return layer_reports(opened, rows, read_nodes(bundle.onnx), seconds)


def _check_graph(cuda_graph: bool, kinds: Sequence[str]) -> None:
    if cuda_graph and "tensorrt" not in kinds:
        raise UsageError("--cuda-graph is for tensorrt, which does not take part here; leave it out, or see edgekit doctor")


def _flavour(asked: str | None, engine: Path | None) -> str | None:
    """The one asked for, or that of the engine; raises UsageError where these are two."""
    if engine is None:
        return asked
    from edgekit.engines import flavour_of_engine

    found = flavour_of_engine(engine)
    if asked not in (None, found):
        raise UsageError(f"--flavour {asked}: {engine} is an engine of {found}; leave out one of the two")
    return found


def _check_flavour(flavour: str | None, backends: Sequence[str]) -> None:
    check_flavour(flavour)
    if flavour is not None and backends and "tensorrt" not in backends:
        raise UsageError(
            f"--flavour and --engine are for tensorrt, which is not among {', '.join(backends)}; add --backend tensorrt"
        )


def _choose(files: ModelFiles, backends: Sequence[str], flavour: str | None = None) -> tuple[list[str], tuple[Skipped, ...]]:
    """Runtimes asked for must be present; where none is asked for, those that are not present are named."""
    _check_flavour(flavour, backends)
    if backends:
        for kind in backends:
            problem = absence(kind, files, flavour)
            if problem:
                raise MissingError(f"{kind} cannot run here: {problem}")
        return list(dict.fromkeys(backends)), ()
    kinds, reasons = present(files, flavour=flavour)
    if flavour is not None and "tensorrt" in reasons:
        raise MissingError(f"tensorrt cannot run here: {reasons['tensorrt']}")
    if not kinds:
        raise MissingError(f"no runtime works here; see edgekit doctor, or {pip_install('cpu')}")
    return kinds, tuple(Skipped(kind, reason) for kind, reason in reasons.items())
