"""Write the numbers of ``docs/results.md`` and ``docs/precision.md`` from ``benchmarks/results``: none is typed by hand.

python docs/results.py           rewrites the parts between the markers
python docs/results.py --check   exits with 1 if such a part is not up to date
"""

from __future__ import annotations

import json
import re
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

RESULTS = ROOT / "benchmarks" / "results"
MARKERS = re.compile(r"(<!-- numbers -->\n).*?(<!-- /numbers -->)", re.DOTALL)


def read(name: str) -> dict[str, Any]:
    """The document in a result file."""
    document: dict[str, Any] = json.loads((RESULTS / name).read_text())
    return document


def accuracy_table() -> list[str]:
    """The lines of the table of trainings."""
    rows = ["| recipe | epochs | test accuracy | seeds | training time |", "|---|---|---|---|---|"]
    for name, result in sorted(read("accuracy.json").items()):
        spread = f" (spread {result['spread']:.4f})" if len(result["seeds"]) > 1 else ""
        seconds = max(result["seconds"])
        rows.append(
            f"| `{name}` | {result['epochs']} | {result['mean']:.4f}{spread} | {len(result['seeds'])} | {seconds:.0f} s |"
        )
    return rows


def numbers() -> str:
    """The text between the markers."""
    lenet, start = read("train_lenet.json"), read("start_up.json")
    machine = lenet["machine"]
    peaks = lenet["peak_mib_after_each_epoch"]["lenet-scratch"]
    lines = [
        "## Accuracy and time",
        "",
        f"Measured on {machine['cores']} cores of an {machine['cpu']}, torch {lenet['torch']}:",
        "",
        *accuracy_table(),
        "",
        f"- A LeNet epoch takes 1/{lenet['speedup_over_tutorial']:.1f} of the tutorial loop's time "
        "(DataLoader with two workers, ToTensor, Adam, batch 256; best epochs of interleaved runs).",
        f"- On the hand-written batch norm an epoch takes {lenet['scratch_over_lenet']:.2f} times as long as on `nn.BatchNorm`; "
        f"its process peaks at {peaks[0]} MiB after one epoch and at {peaks[-1]} MiB after {len(peaks)}.",
        f"- `edgekit --help` takes {start['median_seconds']['edgekit --help']:.2f} s, of which "
        f"{start['median_seconds']['python']:.2f} s are the Python interpreter's.",
        "",
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
        "## On a GPU",
        "",
        gpu_table.summary(),
        "",
    ]
    return "\n".join(lines)


def precision_numbers() -> str:
    """The text between the markers of ``docs/precision.md``."""
    return f"\n{precision_table.summary(read('precision.json'), read('precision_without_vnni.json'))}\n\n"


PAGES: dict[str, Callable[[], str]] = {"results.md": numbers, "precision.md": precision_numbers}


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
