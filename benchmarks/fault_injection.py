"""Inject faults into bundles, and see which ones ``edgekit verify`` catches.

    python benchmarks/fault_injection.py                  # about 40 minutes on two cores; resumes where it was stopped
    python benchmarks/fault_injection.py --only lenet     # one bundle
    python benchmarks/fault_injection.py --summary        # the table, from the result file

Three campaigns, each judged by the outputs and the golden way alone: every checksum in a bundle is rewritten, so that none tells.

- faults: a changed ``model.onnx`` (``benchmarks/faults.py``). "With an effect": on 10,000 test pictures, or on 1,024 fresh inputs
  where there is no data, some output moves by more than 8 times the recorded noise floor of its channel. "Changes predictions":
  the largest value of some output moves where the original has more than the floor between the two.
- manifests: a falsified ``manifest.json``.
- clean runs: nothing changed, over bundles, runtimes, threads and batch sizes; every failure is a false alarm.
"""

from __future__ import annotations

import argparse
import json
import shutil
import tempfile
import time
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import numpy as np
import onnx
from faults import KINDS, injected

from edgekit import data
from edgekit.bundle.folder import Bundle, open_bundle
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
EACH = 4
"""Faults of each kind in each bundle, where the bundle has a place for the kind."""
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


def damaged(bundle: Bundle, root: Path, change: Callable[[Path, dict[str, Any]], None]) -> Path:
    """A copy of a bundle after ``change``, with every checksum made right again."""
    import hashlib

    shutil.copytree(bundle.root, root)
    manifest = json.loads((root / "manifest.json").read_text())
    change(root, manifest)
    for name in manifest["files"]:
        content = (root / name).read_bytes()
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


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
        root = damaged(subject.bundle, Path(folder) / "bundle", lambda root, _: written(root / "model.onnx", content))
        caught, of_limit, said = judged(root)
    return {
        "key": key, "where": where, "effect": round(moved, 2), "predictions": predictions, "caught": caught,
        "of_limit": float(f"{of_limit:.3g}"), "said": said,
    }  # fmt: skip


def written(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", help="one bundle's name")
    parser.add_argument("--summary", action="store_true", help="print the table of the result file")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "edgekit-fault-injection")
    parser.add_argument("--result", type=Path, default=RESULT)
    given = parser.parse_args()
    rows = json.loads(given.result.read_text())["faults"] if given.result.exists() else []
    if not given.summary:
        for name in (*COMMITTED, *TORCHVISION) if given.only is None else (given.only,):
            began = time.monotonic()
            for row in faults_of(subject(name, given.work), {row["key"] for row in rows}):
                rows.append(row)
                given.result.write_text(json.dumps({"machine": machine_facts(), "faults": rows}, indent=1) + "\n")
            print(name, f"{time.monotonic() - began:.0f} s")
    summary(rows)


def summary(rows: list[dict[str, Any]]) -> None:
    judged_rows = [row for row in rows if "refused" not in row]
    effective = [row for row in judged_rows if row["effect"] > EFFECT]
    changing = [row for row in judged_rows if row["predictions"]]
    for title, chosen in (("with an effect", effective), ("change predictions", changing)):
        caught = sum(row["caught"] for row in chosen)
        print(f"{title}: {caught} of {len(chosen)} caught ({caught / max(1, len(chosen)):.2%})")
    print(f"without an effect: {len(judged_rows) - len(effective)}, refused by ONNX Runtime: {len(rows) - len(judged_rows)}")
    missed = [row for row in effective if not row["caught"]]
    for kind, count in Counter(row["key"].split("/")[1] for row in missed).most_common():
        print(f"  {count} missed: {kind}")
    for row in missed:
        numbers = f"effect {row['effect']}, of limit {row['of_limit']}, predictions {row['predictions']}"
        print(f"    {row['key']} {row['where']}: {numbers}")


if __name__ == "__main__":
    main()
