"""The order of the steps: train, export, verify, bench. A step whose inputs have not changed is skipped and says so."""

from __future__ import annotations

import hashlib
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

import edgekit.models
from edgekit.backends import KINDS, absence
from edgekit.bundle.folder import check_replaceable
from edgekit.bundle.manifest import CARD, GOLDEN, MANIFEST, MODEL, WEIGHTS
from edgekit.commands.bench import bench_bundle
from edgekit.commands.train import train_recipe
from edgekit.commands.verify import verify_bundle
from edgekit.files import sha256_of, write_bytes
from edgekit.machine.packages import needs, tool_versions
from edgekit.models import MODELS
from edgekit.progress import SILENT, Progress
from edgekit.recipe import BenchRecipe, Recipe
from edgekit.recipe import load as load_recipe
from edgekit.reports.base import Report
from edgekit.reports.run import RunReport, StepReport
from edgekit.training.folder import RUNS

STEPS = "steps.json"


class Step(NamedTuple):
    """One step of a recipe: ``key`` is everything its result depends on, by name, ``outputs`` what it leaves behind.

    A failure of a step that is not ``repeatable``, because it measures the machine, is tried again.
    """

    name: str
    key: Callable[[], dict[str, Any]]
    action: Callable[[], tuple[Report, str]]
    outputs: tuple[Path, ...]
    repeatable: bool = True


def run_recipe(
    path: Path, *, runs: Path = RUNS, output: Path | None = None, device: str = "auto", progress: Progress = SILENT
) -> RunReport:
    """Train, export, verify, bench; a step whose inputs and outputs are as it left them is skipped."""
    needs("torch", "torchvision", "onnx", "onnxscript", extra="train")
    recipe = load_recipe(path)
    run, root = runs / recipe.name, output or Path("exported") / recipe.name
    check_replaceable(root)
    record = _read_steps(run / STEPS)
    reports: list[StepReport] = []
    for step in _steps(recipe, path, run, root, runs, device, progress):
        key = {name: _hash(value) for name, value in ({"edgekit": edgekit.__version__} | step.key()).items()}
        old = record.get(step.name)
        why = _why_again(old, key, step) if old else ""
        if old and not why:
            report = StepReport(step.name, "skipped", old["ok"], 0.0, f"unchanged: {old['detail']}")
        else:
            started = time.perf_counter()
            result, detail = step.action()
            seconds = round(time.perf_counter() - started, 1)
            report = StepReport(step.name, "done", result.passed, seconds, f"{why}: {detail}" if why else detail)
            record[step.name] = {"key": key, "outputs": _fingerprints(step.outputs), "ok": report.ok, "detail": detail}
            write_bytes(run / STEPS, msgspec.json.format(msgspec.json.encode(record), indent=2))
        progress.say(f"{report.step}: {report.status}{'' if report.ok else ' FAILED'}, {report.detail}")
        reports.append(report)
        if not report.ok:
            break
    return RunReport(str(path), str(root), tuple(reports))


def _hash(value: Any) -> str:
    return hashlib.sha256(msgspec.json.encode(value, order="deterministic")).hexdigest()


def _why_again(old: dict[str, Any], key: dict[str, str], step: Step) -> str:
    """Why what was done is done again; nothing where it is as it was left."""
    if not isinstance(old["key"], dict):  # one hash of everything
        return "again, since an earlier edgekit did it"
    changed = [name for name, value in key.items() if old["key"].get(name) != value]
    if changed:
        return f"again, since {' and '.join(changed)} changed"
    if old["outputs"] != _fingerprints(step.outputs):
        return "again, since what it left was changed or lost"
    return "" if old["ok"] or step.repeatable else "again, since it had failed"


def _steps(recipe: Recipe, path: Path, run: Path, root: Path, runs: Path, device: str, progress: Progress) -> tuple[Step, ...]:
    from edgekit import data

    def do_train() -> tuple[Report, str]:
        from edgekit.training.checkpoint import resumable

        report = train_recipe(recipe, run, device=device, resume=resumable(recipe, run), restart=True, progress=progress)
        bar = f", below the bar of {report.min_accuracy:.4f}" if not report.passed else ""
        return report, f"test accuracy {report.test_accuracy:.4f}{bar} after {report.seconds:.0f} s of training"

    def do_export() -> tuple[Report, str]:
        from edgekit.commands.export import export_source
        from edgekit.sources.module import ExportOptions

        report = export_source(str(path), ExportOptions(output=root), runs=runs, progress=progress)
        return report, f"{len(report.fold.folded)} of {report.fold.before} batch norms folded, {root}"

    def do_verify() -> tuple[Report, str]:
        report = verify_bundle(root, tolerance=recipe.verify, progress=progress)
        write_bytes(run / "verify.json", report.to_json())
        worst = max(diff.normalised for parity in report.parities for diff in parity.outputs)
        names = ", ".join(parity.candidate for parity in report.parities)
        return report, f"{names} {'agree' if report.passed else 'DO NOT agree'}, worst error {worst:.1e} of the scale"

    def do_bench() -> tuple[Report, str]:
        settings = recipe.bench
        report = bench_bundle(
            root,
            batches=settings.batch,
            threads=settings.threads,
            seconds=settings.seconds,
            budget_ms=settings.budget_ms,
            progress=progress,
        )
        write_bytes(run / "bench.json", report.to_json())
        first = [row for row in report.rows if row.batch == report.rows[0].batch and row.boundary == "end-to-end"]
        return report, f"batch {report.rows[0].batch} end-to-end: " + ", ".join(
            f"{row.backend} {row.median_ms:.3g} ms" for row in first
        )

    manifest, weights = root / MANIFEST, run / "weights.safetensors"
    tools, code = tool_versions(), _model_code(recipe.model.name)

    def training_inputs() -> dict[str, Any]:
        settings = [recipe.data, recipe.model, recipe.train]
        return {"the recipe": settings, "the data": data.fingerprint(recipe.data), "the model's code": code, "--device": device}

    def export_inputs() -> dict[str, Any]:
        settings = msgspec.structs.replace(recipe, bench=BenchRecipe())
        return {
            "the recipe": settings,
            "versions of packages": tools,
            "the model's code": code,
            "the weights": _fingerprints((weights,)),
        }

    def bundle_inputs(settings: msgspec.Struct) -> dict[str, Any]:
        here = [absence(kind) for kind in KINDS]
        return {
            "the recipe": settings,
            "versions of packages": tools,
            "the runtimes here": here,
            "the bundle": _fingerprints((manifest,)),
        }

    return (
        Step("train", training_inputs, do_train, (weights, run / "train.json")),
        Step("export", export_inputs, do_export, (manifest, *(root / name for name in (MODEL, GOLDEN, WEIGHTS, CARD)))),
        Step("verify", lambda: bundle_inputs(recipe.verify), do_verify, (run / "verify.json",)),
        Step("bench", lambda: bundle_inputs(recipe.bench), do_bench, (run / "bench.json",), repeatable=False),
    )


def _model_code(name: str) -> list[str]:
    """Fingerprints of the source files a model is made by: edgekit's own, or the import path's module and those beside it."""
    if name in MODELS:
        return _fingerprints(sorted(Path(edgekit.models.__file__).parent.glob("*.py")))
    relative = Path(*name.partition(":")[0].split("."))
    for place in (Path.cwd(), *map(Path, sys.path)):
        for module in (place / relative.with_suffix(".py"), place / relative / "__init__.py"):
            if module.is_file():
                return _fingerprints(sorted(module.parent.glob("*.py")))
    return []


def _read_steps(path: Path) -> dict[str, dict[str, Any]]:
    """What earlier runs did; a damaged record only means that everything is done again."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, dict[str, Any]])
    except (OSError, msgspec.DecodeError):
        return {}


def _fingerprints(paths: Sequence[Path]) -> list[str]:
    return [sha256_of(path) if path.is_file() else "" for path in paths]
