"""Write the numbers of ``docs/results.md`` and ``docs/precision.md`` from ``benchmarks/results``: none is typed by hand.

python docs/results.py           rewrites the parts between the markers
python docs/results.py --check   exits with 1 if such a part is not up to date
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arguments import asked_to_check

ROOT = Path(__file__).parent.parent
sys.path.append(str(ROOT / "benchmarks"))

import fault_injection  # noqa: E402
import fold_zoo  # noqa: E402
import gpu_table  # noqa: E402
import precision_table  # noqa: E402
import train_table  # noqa: E402
import truth_table  # noqa: E402
import variant_faults  # noqa: E402

from edgekit.recipe import load_recipe  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
SPEED, KEYS, TRUTH = "train_speed.json", "train_keys.json", "bench_truth.json"
"""Result files that have their sections once they are there."""
MARKERS = re.compile(r"(<!-- numbers -->\n).*?(<!-- /numbers -->)", re.DOTALL)


def read(name: str) -> dict[str, Any]:
    """The document in a result file."""
    document: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return document


def accuracy_table() -> list[str]:
    """The lines of the table of trainings."""
    results = read("accuracy.json")
    rows = [
        "| recipe | parameters | epochs | training time (median) | fastest epoch | float32 | int8 |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, result in sorted(results.items()):
        times = (f"{statistics.median(result['seconds']):.0f} s", f"{result['fastest_epoch']:.1f} s")
        cells = (f"`{name}`", f"{result['parameters']:,}", str(result["epochs"]), *times)
        rows.append(f"| {' | '.join((*cells, _accuracy(result), _int8(result['int8'])))} |")
    missing = sorted({path.stem for path in (ROOT / "recipes").glob("*.toml")} - set(results))
    unmeasured = [f"Not measured yet as the recipes are today: {', '.join(missing)}."] if missing else []
    return [*rows, "", *machines(results), *unmeasured]


def machines(results: dict[str, Any]) -> list[str]:
    """A line for each machine, with the recipes that were measured on it."""
    on: dict[str, list[str]] = {}
    for name, result in sorted(results.items()):
        machine = result["machine"]
        on.setdefault(f"{machine['cores']} cores of {machine['cpu']}, torch {result['facts']['torch']}", []).append(f"`{name}`")
    return [f"On {where}: {', '.join(names)}." for where, names in on.items()]


def _accuracy(result: dict[str, Any]) -> str:
    """Mean and spread of several seeds, or one seed with its 95 % interval."""
    if len(result["seeds"]) > 1:
        low, high = min(result["accuracies"]), max(result["accuracies"])
        return f"{result['mean']:.4f} ({low:.4f} to {high:.4f} in {len(result['seeds'])} seeds)"
    low, high = result["interval"]
    return f"{result['mean']:.4f} (95 % interval {low:.4f} to {high:.4f})"


def _int8(result: dict[str, Any]) -> str:
    if "refused" in result:
        return "none: no layer for it"
    points = (100 * result[key] for key in ("low", "high"))
    return "{:.4f} ({:+.2f} to {:+.2f} points), {:.1f} dB".format(result["accuracy"], *points, result["snr_db"])


def before_speed(lenet: dict[str, Any]) -> list[str]:
    """The lines on the time of an epoch, as long as ``train_speed.py`` has not run."""
    if (RESULTS / SPEED).is_file():
        return []
    return [
        f"- A LeNet epoch took 1/{lenet['speedup_over_tutorial']:.1f} of the tutorial loop's time with the recipe of edgekit 0.2 "
        "(Adam, flips; DataLoader with two workers, ToTensor, Adam, batch 256; best epochs of interleaved runs).",
        "  `benchmarks/train_speed.py` measures it anew, with the time to the tutorial's accuracy; it has not run on a quiet",
        "  machine yet. The training times in the table were taken beside other work.",
    ]


def training_speed() -> list[str]:
    """The section on edgekit's loop against the tutorial's; nothing where it has not been measured."""
    if not (RESULTS / SPEED).is_file():
        return []
    measured = read(SPEED)
    steps = ["", *train_table.steps(measured["profile"])] if "profile" in measured else []
    return ["## Training speed", "", *train_table.speed(measured), *steps, ""]


def training_keys() -> list[str]:
    """The section on what each key of ``[train]`` does; nothing where it has not been measured."""
    if not (RESULTS / KEYS).is_file():
        return []
    pictures = load_recipe(ROOT / "recipes" / "edgenet.toml").data.holdout
    return ["## What each key of a training does", "", *train_table.keys(read(KEYS), pictures), ""]


def numbers() -> str:
    """The text between the markers."""
    lenet, start = read("train_lenet.json"), read("start_up.json")
    peaks = lenet["peak_mib_after_each_epoch"]["lenet-scratch"]
    lines = [
        "## Accuracy and time",
        "",
        "Test accuracies of the exported ONNX files. 5,000 training pictures were held out for every choice; nothing was "
        "chosen on the test set.",
        "int8: the first seed's file, the change as a 95 % interval, and its SNR. A training that took much longer than its "
        "epochs times the fastest one shared the machine with other work.",
        "",
        *accuracy_table(),
        "",
        *before_speed(lenet),
        f"- On the hand-written batch norm an epoch took {lenet['scratch_over_lenet']:.2f} times as long as on `nn.BatchNorm`; "
        f"its process peaked at {peaks[0]} MiB after one epoch and at {peaks[-1]} MiB after {len(peaks)}.",
        f"- `edgekit --help` takes {start['median_seconds']['edgekit --help']:.2f} s, of which "
        f"{start['median_seconds']['python']:.2f} s are the Python interpreter's.",
        "",
        *training_speed(),
        *training_keys(),
        "## What each tool leaves of batch norm",
        "",
        "In a zoo of models with random weights, all four tensors of each norm randomised. `benchmarks/fold_zoo.py` defines what",
        "is counted.",
        "",
        fold_zoo.summary(),
        "",
        "## What verify catches",
        "",
        "Bundles damaged on purpose by `benchmarks/fault_injection.py`, with every checksum made right again.",
        "[What verify proves](what-verify-proves.md) says what that means.",
        "",
        fault_injection.summary(read("fault_injection.json")),
        "",
        "The same of int8 and float16 files, by `benchmarks/variant_faults.py`. A step is 1/127 of the largest output.",
        "",
        variant_faults.summary(read("variant_faults.json")),
        "",
        "## On a GPU",
        "",
        gpu_table.summary(),
        "",
    ]
    return "\n".join(lines)


def precision_numbers() -> str:
    """The text between the markers of ``docs/precision.md``."""
    return f"\n{precision_table.summary(read('precision.json'), read('precision_avx2.json'))}\n\n"


def fine_tuning_numbers() -> str:
    """The text between the markers of ``docs/fine-tuning.md``."""
    results = read("fine_tuning.json")
    kinds = [kind for kind, value in results.items() if isinstance(value, dict) and "ways" in value]
    lines = [
        "EdgeNet, trained on seven classes of Fashion-MNIST and fine-tuned for the three others with stages as above: 300",
        "pictures in three classes, or all 18,000; accuracy on 3,000 test pictures, with its 95 % interval.",
        "",
        f"| three classes | {' | '.join(results[kinds[0]]['ways'])} | few of all |",
        f"|---|{'---|' * (len(results[kinds[0]]['ways']) + 1)}",
    ]
    for kind in kinds:
        cells = ["{:.4f} ({:.3f} to {:.3f})".format(way["accuracy"], *way["interval"]) for way in results[kind]["ways"].values()]
        lines.append(f"| {', '.join(results[kind]['classes'])} | {' | '.join(cells)} | {results[kind]['share']:.3f} |")
    return "\n" + "\n".join(lines) + "\n\n"


def training_for_int8_numbers() -> str:
    """The text between the markers of ``docs/training-int8.md``."""
    results = read("train_int8.json")["cases"]
    head = ("network", "float32 before", "int8, calibrated", "int8, trained", "trained less calibrated, points", "float32 after")
    lines = [
        "Fashion-MNIST, trained briefly and then for int8 by `benchmarks/train_int8.py`; accuracy on 10,000 test pictures, and",
        "the 95 % interval of the difference between the two int8 files on the same pictures. `float32 after` has seen the same",
        "further epochs: what it gains is further training, and not int8.",
        "",
        f"| {' | '.join(head)} |",
        "|---" * len(head) + "|",
    ]
    for name, row in results.items():
        shares = [f"{row[key]:.4f}" for key in ("before", "calibrated", "trained")]
        difference = f"{100 * (row['trained'] - row['calibrated']):+.2f} ({100 * row['low']:+.2f} to {100 * row['high']:+.2f})"
        after = f"{row['after']:.4f}"
        lines.append(f"| {' | '.join((name, *shares, difference, after))} |")
    for name, row in results.items():
        settings = row["settings"]
        lines += [
            "",
            f"{name}: {row['parameters']:,} parameters, {row['training_pictures']:,} training pictures; {row['float_epochs']} "
            f"epochs in float ({row['float_seconds']:.0f} s), {settings['epochs']} for int8 at {settings['learning_rate']:g} "
            f"({row['seconds']:.0f} s, one thread of a busy machine). {_won(row)} int8 leaves {row['snr_db']:.1f} dB of the "
            f"float network's signal; PyTorch and ONNX Runtime are {row['apart']:.2f} steps apart.",
        ]
    return "\n" + "\n".join(lines) + "\n\n"


def _won(row: dict[str, Any]) -> str:
    """What training for int8 has won over calibration, beyond what further training gives the float network too."""
    if row["low"] <= 0 <= row["high"]:
        return "It wins nothing over calibration that the test pictures can tell."
    won, further = 100 * (row["trained"] - row["calibrated"]), 100 * (row["after"] - row["before"])
    rest = f"{won - further:+.2f} are left that int8 itself wins, which so many pictures do not tell from chance"
    if abs(won - further) > 100 * (row["high"] - row["low"]) / 2:
        rest = f"{won - further:+.2f} are left that int8 itself wins"
    return f"It changes int8 by {won:+.2f} points. The float network gains {further:+.2f} by the same epochs: {rest}."


def raw_picture_numbers() -> str:
    """The text between the markers of ``docs/raw-pictures.md``."""
    results = read("raw_pictures.json")
    versions, trt, ways = results["versions"], results["tensorrt"], ("resize", "nodes")
    names = {"onnxruntime": "ONNX Runtime", "onnx": "ONNX's reference evaluator", "openvino": "OpenVINO"}
    lines = [
        f"The most of 255 grey levels off Pillow {versions['pillow']}, for noise of seven sizes (`benchmarks/raw_pictures.py`):",
        "",
        "| runtime | `Resize`, `antialias=1`, `exclude_outside=1` | the nodes of `with-preprocessing` |",
        "|---|---|---|",
    ]
    for key, name in names.items():
        most = [f"{results['levels'][way][key]['most']:.0f}" for way in ways]
        lines.append(f"| {name} {versions[key]} | {' | '.join(most)} |")
    words = {(False, False): "refused", (True, False): "parsed; no engine", (True, True): "parsed; an engine is built, not run"}
    cells = [words[trt[way]["parsed"], trt[way]["built"]] for way in ways]
    lines.append(f"| TensorRT for RTX {versions['tensorrt-rtx']} | {' | '.join(cells)} |")
    rows = results["processor_ms"].items()
    times = [f"{name} {row['with-preprocessing']:.1f} ms (its first file {row['first file']:.1f} ms)" for name, row in rows]
    lines += ["", f"A picture of 640 x 480 takes one processor ({results['machine']['cpu']}): {', '.join(times)}."]
    return "\n" + "\n".join(lines) + "\n\n"


def comparing_numbers() -> str:
    """The text between the markers of ``docs/comparing.md``."""
    lines = list(truth_table.gate_lines(read("gate_truth.json")))
    record = read(TRUTH) if (RESULTS / TRUTH).is_file() else None
    lines += ["", "## Whether the median is right", "", *truth_table.bench_lines(record)]
    return "\n" + "\n".join(lines) + "\n\n"


PAGES: dict[str, Callable[[], str]] = {
    "results.md": numbers,
    "precision.md": precision_numbers,
    "comparing.md": comparing_numbers,
    "fine-tuning.md": fine_tuning_numbers,
    "training-int8.md": training_for_int8_numbers,
    "raw-pictures.md": raw_picture_numbers,
}


def updated(page: Path, write: Callable[[], str]) -> tuple[str, str]:
    """The page as it is, and as the result files want it; ends the program where it has no markers."""
    text = page.read_text(encoding="utf-8")
    if not MARKERS.search(text):
        sys.exit(f"{page} has no <!-- numbers --> ... <!-- /numbers --> part; add these two markers")
    return text, MARKERS.sub(lambda match: match.group(1) + write() + match.group(2), text)


def main() -> None:
    """Write the pages, or check them against the result files."""
    check = asked_to_check(__doc__)
    pages = {ROOT / "docs" / name: updated(ROOT / "docs" / name, write) for name, write in PAGES.items()}
    late = [f"docs/{page.name}" for page, (text, wanted) in pages.items() if text != wanted]
    if check:
        sys.exit(f"{' and '.join(late)}: not up to date with benchmarks/results; run python docs/results.py" if late else 0)
    for page, (_, wanted) in pages.items():
        page.write_text(wanted, encoding="utf-8")


if __name__ == "__main__":
    main()
