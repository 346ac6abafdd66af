"""Inject faults into bundles, and see which ones ``edgekit verify`` catches.

    python benchmarks/fault_injection.py                  # about 40 minutes on two cores; resumes where it was stopped
    python benchmarks/fault_injection.py --only lenet     # one bundle
    python benchmarks/fault_injection.py --summary        # the table, from the result file

Campaigns, each judged by the outputs and the golden way alone: every checksum in a bundle is rewritten, so that none tells.

- faults: a changed ``model.onnx`` (``benchmarks/faults.py``). "With an effect": on 10,000 test pictures, or on 1,024 fresh inputs
  where there is no data, some output moves by more than 8 times the recorded noise floor of its channel. "Changes predictions":
  the largest value of some output moves where the original has more than the floor between the two.
- places: faults that verify catches, and whether ``--bisect`` names the node that was changed.
- manifests: a falsified ``manifest.json`` (``benchmarks/falsified.py``).
- clean runs: nothing changed, over bundles, runtimes, threads and optimisation levels; every failure is a false alarm.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from falsified import FALSIFIED
from faults import KINDS, injected

from edgekit import data
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.commands.bisect import LEVELS, bisect
from edgekit.commands.export import export
from edgekit.commands.verify import verify
from edgekit.errors import EdgekitError, first_line
from edgekit.machine.cpu import machine_facts
from edgekit.onnx.run import open_unoptimised
from edgekit.recipe import Recipe
from edgekit.sources import ExportOptions
from edgekit.tensors import Array, sample_feed
from edgekit.tolerance import channel_scales

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "fault_injection.json"
COMMITTED = ("lenet", "lenet-scratch", "densenet")
TORCHVISION = ("mobilenet_v3_small", "shufflenet_v2_x0_5", "regnet_y_400mf")
EACH = 6
"""Faults of each kind in each bundle, where the bundle has a place for the kind."""
THREADS = (1, 2, 3, 4, 5, 6, 8)
PICTURES, FRESH, EFFECT = 10_000, 1_024, 8.0


class Subject(NamedTuple):
    """A bundle, its model, and the inputs on which an effect counts with the outputs that belong to them."""

    name: str
    bundle: Bundle
    model: onnx.ModelProto
    inputs: Array
    outputs: Array
    floors: Array


@lru_cache(maxsize=1)
def subject(name: str, work: Path) -> Subject:
    root = ROOT / "exported" / name if name in COMMITTED else work / name
    if not root.exists():
        export(f"torchvision.models:{name}", root, ExportOptions(input_shapes=("1x3x64x64",)))
    bundle = open_bundle(root)
    inputs, content = inputs_of(bundle), bundle.onnx_of().read_bytes()
    evidence, manifest = bundle.evidence(), bundle.manifest
    assert evidence is not None
    floors = evidence.floors[manifest.outputs[0].name][0]
    return Subject(name, bundle, onnx.load_from_string(content), inputs, run(content, bundle, inputs), floors)


def inputs_of(bundle: Bundle) -> Array:
    """The recipe's test set, or fresh normal numbers."""
    manifest = bundle.manifest
    if manifest.source.recipe is not None and manifest.preprocess is not None:
        recipe = msgspec.convert(manifest.source.recipe, Recipe)
        pictures = data.golden_pictures(recipe.data, manifest.preprocess, PICTURES)
        return manifest.preprocess.normalise(pictures.images)
    return next(iter(sample_feed(manifest.inputs, FRESH, seed=12345).values()))


def run(content: bytes, bundle: Bundle, inputs: Array) -> Array:
    """The first output for all ``inputs``, in batches."""
    session = open_unoptimised(content, Path("model.onnx"), level="all")
    name, output = bundle.manifest.inputs[0].name, bundle.manifest.outputs[0].name
    parts = [session({name: inputs[start : start + 128]})[output] for start in range(0, len(inputs), 128)]
    return np.concatenate(parts)


def effect(subject: Subject, outputs: Array) -> tuple[float, int]:
    """How far outputs moved, in noise floors; and how many predictions changed."""
    with np.errstate(invalid="ignore", over="ignore"):
        moved = channel_scales(outputs.astype(np.float64) - subject.outputs, 1) / subject.floors
        rows, before, after = np.arange(len(outputs)), subject.outputs.argmax(1), outputs.argmax(1)
        margin = subject.outputs[rows, before] - subject.outputs[rows, after]
    changed = int(((before != after) & (margin > 2 * subject.floors.max())).sum())
    return (float(moved.max()) if np.isfinite(outputs).all() else 1e300), changed


def damaged(
    bundle: Bundle, root: Path, falsify: Callable[[dict[str, Any]], object], model: bytes | None = None, file: str = "model.onnx"
) -> Path:
    """A copy of a bundle with a falsified manifest and perhaps another ``model``, with every checksum made right again."""
    shutil.copytree(bundle.root, root)
    if model is not None:
        (root / file).write_bytes(model)
    manifest = json.loads((root / "manifest.json").read_text())
    falsify(manifest)
    for name in manifest["files"]:
        content = (root / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


def with_model(bundle: Bundle, root: Path, model: bytes) -> Path:
    """A copy of a bundle with another model and nothing else changed but checksums."""
    return damaged(bundle, root, lambda manifest: None, model)


def judged(root: Path) -> tuple[bool, float, str]:
    """Whether verify catches it, how far the outputs were of what is allowed, and what verify said first."""
    try:
        report = verify(root, ("ort-cpu",))
    except EdgekitError as problem:
        return True, 0.0, first_line(problem)
    worst = max(output.of_limit for parity in report.parities for output in parity.outputs)
    said = [check.text for check in report.checks if check.outcome == "fail"]
    return not report.passed, worst, said[0] if said else ""


def faults_of(subject: Subject, known: set[str]) -> Iterator[dict[str, Any]]:
    """Every fault of a subject that is not ``known`` yet."""
    for kind in KINDS:
        for number in range(EACH):
            key = f"{subject.name}/{kind}/{number}"
            if key in known:
                continue
            rng = np.random.default_rng(zlib.crc32(key.encode()))
            for changed, where in injected(subject.model, kind, rng):
                yield fault(subject, key, changed, where)


def fault(subject: Subject, key: str, changed: onnx.ModelProto, where: str) -> dict[str, Any]:
    content = changed.SerializeToString()
    try:
        moved, predictions = effect(subject, run(content, subject.bundle, subject.inputs))
    except EdgekitError as problem:
        return {"key": key, "where": where, "refused": first_line(problem)}
    with tempfile.TemporaryDirectory() as folder:
        root = with_model(subject.bundle, Path(folder) / "bundle", content)
        caught, of_limit, said = judged(root)
    return {
        "key": key, "where": where, "effect": round(moved, 2), "predictions": predictions, "caught": caught,
        "of_limit": float(f"{of_limit:.3g}"), "said": said,
    }  # fmt: skip


def places_of(subject: Subject, known: set[str]) -> Iterator[dict[str, Any]]:
    """One fault of each kind: whether bisect names its node."""
    for kind in KINDS:
        key = f"{subject.name}/{kind}"
        rng = np.random.default_rng(zlib.crc32(f"place of {key}".encode()))
        for changed, where in injected(subject.model, kind, rng) if key not in known else ():
            with tempfile.TemporaryDirectory() as folder:
                root = with_model(subject.bundle, Path(folder) / "bundle", changed.SerializeToString())
                if judged(root)[0]:
                    yield place(key, where, root, changed)


def place(key: str, where: str, root: Path, changed: onnx.ModelProto) -> dict[str, Any]:
    try:
        culprit = bisect(root, ("ort-cpu",)).culprit
    except EdgekitError as problem:
        return {"key": key, "where": where, "found": first_line(problem), "right": False}
    culprit_name = culprit.node if culprit else ""
    last = {node.name for node in changed.graph.node if node.name.startswith("fault")}
    named = {where.split("[", maxsplit=1)[0].split(" ", maxsplit=1)[0], *(last if where == "behind the output" else ())}
    return {"key": key, "where": where, "found": culprit_name, "right": culprit_name in named}


def manifests_of(subject: Subject, known: set[str]) -> Iterator[dict[str, Any]]:
    """Every falsified manifest of a bundle that has all that can be falsified."""
    for name, falsify in FALSIFIED.items() if subject.name in COMMITTED else ():
        key = f"{subject.name}/{name}"
        if key not in known:
            with tempfile.TemporaryDirectory() as folder:
                caught, _, said = judged(damaged(subject.bundle, Path(folder) / "bundle", falsify))
            yield {"key": key, "caught": caught, "said": said}


def clean_of(subject: Subject, known: set[str]) -> Iterator[dict[str, Any]]:
    """Runs of a bundle as it is, by every backend here that has a CPU to itself."""
    levels = [f"ort-cpu optimisation={level} threads={threads}" for level in LEVELS for threads in THREADS]
    source = "" if subject.name in COMMITTED else f" source=torchvision.models:{subject.name}"
    for text in (*levels, *(f"torch threads={threads}{source}" for threads in THREADS)):
        key = f"{subject.name}/{text}"
        if key not in known:
            report = verify(subject.bundle.root, (text,))
            worst = max(output.of_limit for parity in report.parities for output in parity.outputs)
            yield {"key": key, "passed": report.passed, "of_limit": float(f"{worst:.3g}")}


CAMPAIGNS: dict[str, Callable[[Subject, set[str]], Iterator[dict[str, Any]]]] = {
    "clean": clean_of,
    "manifests": manifests_of,
    "places": places_of,
    "faults": faults_of,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one bundle's name")
    parser.add_argument("--summary", action="store_true", help="print the table of the result file")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgekit-fault-injection")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    document: dict[str, Any] = json.loads(given.result.read_text()) if given.result.exists() else {}
    if not given.summary:
        for name in (*COMMITTED, *TORCHVISION) if given.only is None else (given.only,):
            for campaign, rows_of in CAMPAIGNS.items():
                began, rows = time.monotonic(), document.setdefault(campaign, [])
                for row in rows_of(subject(name, given.work), {row["key"] for row in rows}):
                    rows.append(row)
                    given.result.write_text(json.dumps({"machine": machine_facts(), **document}, indent=1) + "\n")
                print(name, campaign, f"{time.monotonic() - began:.0f} s", flush=True)
    print(summary(document))
    for row in missed(document):
        print(row)


def rows_with_effect(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [row for row in document["faults"] if row.get("effect", 0) > EFFECT]


def missed(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """What was not caught, not found, or a false alarm."""
    yield from (row for row in rows_with_effect(document) if not row["caught"])
    yield from (row for row in document["places"] if not row["right"])
    yield from (row for row in document["manifests"] if not row["caught"])
    yield from (row for row in document["clean"] if not row["passed"])


def summary(document: dict[str, Any]) -> str:
    """The table for docs/what-verify-proves.md, from the result file's ``document``."""
    faults, clean = document["faults"], document["clean"]
    effective = rows_with_effect(document)
    changing = [row for row in faults if row.get("predictions")]
    bundles = sorted({row["key"].split("/")[0] for row in faults})
    alarms = sum(not row["passed"] for row in clean)
    bound = 1 - 0.05 ** (1 / max(1, len(clean)))  # of a true rate under which no alarm in so many runs is likelier than 5 %
    rows = [
        ("faults that change a prediction", sum(row["caught"] for row in changing), len(changing), "caught"),
        ("faults with an effect", sum(row["caught"] for row in effective), len(effective), "caught"),
        ("falsified manifests", sum(row["caught"] for row in document["manifests"]), len(document["manifests"]), "caught"),
        ("faults that were caught", sum(row["right"] for row in document["places"]), len(document["places"]), "named by node"),
        ("clean runs", len(clean) - alarms, len(clean), "without an alarm"),
    ]
    lines = ["| campaign | result | share |", "|---|---|---|"]
    lines += [f"| {name} | {good} of {count} {verb} | {good / max(1, count):.1%} |" for name, good, count, verb in rows]
    kinds = len({row["key"].split("/")[1] for row in faults})
    said = f"No alarm in {len(clean)} clean runs bounds the rate of false alarms by {bound:.1%} with 95 % confidence."
    lines += [
        "",
        f"{len(faults)} faults of {kinds} kinds in {', '.join(bundles)}. With an effect: some output of 10,000 test pictures, "
        f"or of 1,024 fresh inputs, moves by more than {EFFECT:g} times its noise floor. {said if not alarms else ''}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
