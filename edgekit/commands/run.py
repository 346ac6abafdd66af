"""``edgekit run``: train, export, verify, bench. A step whose inputs have not changed is skipped and says so."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekit.backends import GROUP, absence, table
from edgekit.bundle.allowance import asks_too_much
from edgekit.bundle.folder import check_replaceable, open_bundle
from edgekit.bundle.manifest import CARD, GOLDEN, MANIFEST, MODEL, WEIGHTS
from edgekit.commands.bench import bench
from edgekit.commands.export import EXPORTED, export
from edgekit.commands.quantize import quantize
from edgekit.commands.train import processes, train
from edgekit.commands.verify import verify
from edgekit.errors import OutputError, RecipeError, UsageError
from edgekit.files import as_path, fingerprints, write_bytes
from edgekit.latency.loop import Timing
from edgekit.machine.launcher import launched
from edgekit.machine.packages import needs, tool_versions, versions_of
from edgekit.parity.manifest import TOLERANCE
from edgekit.progress import SILENT, Progress
from edgekit.recipe import BenchRecipe, Recipe, TrainRecipe, VariantRecipe, load_recipe
from edgekit.reports.base import Report
from edgekit.reports.quantize import QuantizeReport
from edgekit.reports.run import RunReport
from edgekit.setups import EVERY, Setup
from edgekit.tolerance import Tolerance
from edgekit.training.code import source_files
from edgekit.training.folder import INT8_RANGES, INT8_WEIGHTS, RUN_REPORT, RUN_WEIGHTS, RUNS, Begin
from edgekit.training.steps import Step, take_steps
from edgekit.variants import Wanted


class Job(NamedTuple):
    """A recipe with the places that its steps read and write."""

    recipe: Recipe
    path: Path
    runs: Path
    root: Path
    device: str
    begin: Begin
    progress: Progress

    @property
    def run(self) -> Path:
        """The folder of the training."""
        return self.runs / self.recipe.name


def run(
    recipe: Path | str,
    *,
    runs: Path = RUNS,
    output: Path | None = None,
    device: str = "auto",
    restart: bool = False,
    progress: Progress = SILENT,
) -> RunReport:
    """Train, export, verify, bench; a step whose inputs and outputs are as it left them is skipped.

    An interrupted training goes on; ``restart`` discards it. Raises UsageError where it would be lost unasked, because what it
    depends on has changed.
    """
    path = as_path(recipe, "recipe", RecipeError)
    with processes():
        if launched():
            raise UsageError(
                "edgekit run works in one process, and torchrun has started several",
                f"train with it first, torchrun ... -m edgekit train {path}, and then edgekit run {path}",
            )
    loaded = load_recipe(path)  # a mistyped path is told before a remedy of gigabytes
    needs("torch", "torchvision", "onnx", "onnxscript", extra="train")
    root = EXPORTED / loaded.name if output is None else as_path(output, "output", OutputError)
    job = Job(loaded, path, as_path(runs, "runs"), root, device, "restart" if restart else "update", progress)
    check_replaceable(job.root)
    return RunReport(str(path), str(job.root), take_steps(_steps(job), job.run, progress))


def _steps(job: Job) -> tuple[Step, ...]:
    bundle = (job.root / MANIFEST, *(job.root / name for name in (MODEL, GOLDEN, WEIGHTS, CARD)))
    recipe, run = job.recipe, job.run
    trained = (run / RUN_WEIGHTS, run / RUN_REPORT, *_int8_files(job))
    return (
        Step("train", partial(_training_inputs, job), partial(_train, job), trained),
        Step("export", partial(_export_inputs, job), partial(_export, job), bundle),
        Step("verify", partial(_bundle_inputs, job, recipe.verify), partial(_verify, job), (run / "verify.json",)),
        Step("bench", partial(_bundle_inputs, job, recipe.bench), partial(_bench, job), (run / "bench.json",), repeatable=False),
    )


def _train(job: Job) -> tuple[Report, str]:
    report = train(job.recipe, job.run, device=job.device, begin=job.begin, progress=job.progress)
    bar = f", below the bar of {report.min_accuracy:.4f}" if not report.passed else ""
    int8 = f", in int8 {report.int8.trained:.4f}" if report.int8 is not None else ""
    return report, f"test accuracy {report.test_accuracy:.4f}{int8}{bar} after {report.seconds:.0f} s of training"


def _training_inputs(job: Job) -> dict[str, Any]:
    from edgekit import data
    from edgekit.training.key import dependencies
    from edgekit.training.untrained import build_model

    recipe = job.recipe
    initial = build_model(recipe, data.picture_shape(recipe.data)).module
    pictures = (recipe.data.without_place(), data.fingerprint(recipe.data, job.progress))
    known = {**dependencies(recipe, pictures, initial), "bars": recipe.train.bars, "--device": job.device}
    return known if recipe.train.int8 is None else {**known, "train.int8": recipe.train.int8}


def _int8_files(job: Job) -> tuple[Path, ...]:
    """What the training for int8 leaves, where there is one."""
    return (job.run / INT8_WEIGHTS, job.run / INT8_RANGES) if job.recipe.train.int8 is not None else ()


def _export(job: Job) -> tuple[Report, str]:
    report = export(str(job.path), job.root, runs=job.runs, progress=job.progress)
    learned = job.recipe.train.int8 is not None  # the export has then written that file
    added = [_quantize(job, variant) for variant in job.recipe.variants if not (learned and variant.to == "int8")]
    variants = "".join(f", {each.variant} at {each.snr_db:.1f} dB" for each in added)
    return report, f"{len(report.fold.folded)} of {report.fold.before} batch norms folded, {job.root}{variants}"


def _quantize(job: Job, variant: VariantRecipe) -> QuantizeReport:
    wanted = Wanted(variant.calibrate, variant.samples, variant.keep, variant.budget, job.recipe.data)
    return quantize(job.root, variant.to, wanted, progress=job.progress)


def _export_inputs(job: Job) -> dict[str, Any]:
    return {
        "the recipe": msgspec.structs.replace(job.recipe, bench=BenchRecipe(), train=TrainRecipe()),
        "versions of packages": tool_versions(),
        "the model's code": fingerprints(source_files(job.recipe.model.name)),
        "the weights": fingerprints((job.run / RUN_WEIGHTS, *_int8_files(job))),
    }


def _verify(job: Job) -> tuple[Report, str]:
    """What a receiver's ``edgekit verify`` does; a bar of the recipe that no bundle may choose is accepted here, and told."""
    wide = "" if job.recipe.verify == Tolerance() else asks_too_much(open_bundle(job.root).manifest.variants[0])
    report = verify(job.root, allow=(TOLERANCE,) if wide else (), progress=job.progress)
    write_bytes(job.run / "verify.json", report.to_json())
    worst = max(diff.normalised for parity in report.parities for diff in parity.outputs)
    names = [parity.backend for parity in report.parities]
    own = f", by the recipe's own bar ({wide}): whoever verifies this bundle must add --allow {TOLERANCE}" if wide else ""
    return report, f"{agreement(names, report.passed)}, worst error {worst:.1e} of the scale{own}"


def agreement(backends: Sequence[str], passed: bool) -> str:
    """A clause that says whether one backend, or several, agree with the reference."""
    verbs = ("agrees", "DOES NOT agree") if len(backends) == 1 else ("agree", "DO NOT agree")
    return f"{', '.join(backends)} {verbs[not passed]}"


def _bench(job: Job) -> tuple[Report, str]:
    settings = job.recipe.bench
    timing = Timing(settings.batch, settings.seconds)
    setup = Setup(EVERY, threads=settings.threads)
    report = bench(job.root, (setup,), timing, budget_ms=settings.budget_ms, progress=job.progress)
    write_bytes(job.run / "bench.json", report.to_json())
    first = [row for row in report.rows if row.batch == report.rows[0].batch and row.boundary == "end-to-end"]
    medians = ", ".join(f"{row.backend} {row.median_ms:.3g} ms" for row in first)
    noisy = next((f" ({row.noise})" for row in first if row.noise.startswith("noisy")), "")
    return report, f"batch {report.rows[0].batch} end-to-end: {medians}{noisy}"


def _bundle_inputs(job: Job, settings: msgspec.Struct) -> dict[str, Any]:
    return {
        "the recipe": settings,
        "versions of packages": tool_versions() | _backend_versions(),
        "the backends here": [str(absence(Setup(name)) or "") for name in table()],
        "the bundle": fingerprints((job.root / MANIFEST,)),
    }


def _backend_versions() -> dict[str, str]:
    """Versions of the packages that backends need, and of those that bring a backend."""
    brought = {entry.dist.name: entry.dist.version for entry in entry_points(group=GROUP) if entry.dist}
    return versions_of(package.name for row in table().values() for package in row.packages) | brought
