"""Hold the outputs that trtexec --exportOutput wrote against the golden ones.

    python3 compare.py VARIANT OUT.json [OUT.json ...]

One file a batch, in their order. Exit code 0: every output passes; 1: one does not; 2: a file is not what it should be.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

DIGITS = 5e-6  # trtexec writes six digits: half a unit of the last one is at most this share of the number
BARE = re.compile(r"(?<=[\[,\s])(-?)(nan|inf)(?=[,\s\]])")


def outputs_of(path: Path) -> dict[str, Any]:
    """Output -> its values, float64 in the order of its elements; trtexec writes nan and inf as C++ does."""
    text = BARE.sub(lambda word: "NaN" if word[2] == "nan" else f"{word[1]}Infinity", path.read_text(encoding="utf-8"))
    return {entry["name"]: np.array(entry["values"], np.float64) for entry in json.loads(text)}


def judged(value: Any, reference: Any, bar: dict[str, Any], sizes: list[int]) -> tuple[bool, str]:
    """Whether an output (samples x ...) is inside of its bar, and what was found; ``sizes`` are the samples of the parts."""
    allowed, scales, start = np.zeros_like(reference), np.zeros(len(reference)), 0
    for size in sizes:
        part = reference[start : start + size]
        scales[start : start + size] = np.abs(part[np.isfinite(part)]).max(initial=0)
        start += size
    scales = scales.reshape(-1, *[1] * (reference.ndim - 1))
    allowed = bar["rtol"] * scales + DIGITS * np.abs(np.where(np.isfinite(reference), reference, 0))
    with np.errstate(invalid="ignore"):
        apart = np.where(np.isinf(reference) & (value == reference), 0.0, np.abs(value - reference))
    held, first = slice(bar["held"]), slice(sizes[0])
    same, snr = same_largest(value[held], reference[held], bar, scales[held]), snr_db(apart[first], reference[first])
    inside = bool((apart[held] <= allowed[held]).all()) and same >= bar["top1"] and snr >= (bar["snr_db"] or -np.inf)
    error = float((apart[held] / np.where(scales[held] > 0, scales[held], 1)).max(initial=0))
    return inside, f"error {error:.1e} of scale (at most {bar['rtol']:.1e}), same largest value {same:.1%}, SNR {snr:.1f} dB"


def same_largest(value: Any, reference: Any, bar: dict[str, Any], scales: Any) -> float:
    """The share of samples (N x classes) whose largest value is where the reference has it, or a tie with it."""
    if reference.ndim != 2 or reference.shape[1] < 2:
        return 1.0
    chosen = np.take_along_axis(reference, value.argmax(1)[:, None], 1)
    behind = reference.max(1, keepdims=True) - chosen
    return float((behind <= 2 * bar["tie"] * scales).mean())


def snr_db(apart: Any, reference: Any) -> float:
    """10 log10(sum r^2 / sum (y - r)^2) in dB; infinite without a difference."""
    signal, noise = float(np.square(reference[np.isfinite(reference)]).sum()), float(np.square(apart).sum())
    if noise == 0:
        return np.inf
    return float(10 * np.log10(signal / noise)) if signal > 0 and np.isfinite(noise) else -np.inf


def main(variant: str, *paths: str) -> int:
    """Print a line for each output, and return the exit code."""
    here = Path(__file__).parent
    variants = json.loads((here / "golden.json").read_text(encoding="utf-8"))["variants"]
    if variant not in variants:
        raise ValueError(f"there is no variant {variant!r}: choose one of {', '.join(variants)}")
    entry = variants[variant]
    if len(paths) != entry["batches"]:
        raise ValueError(f"give the outputs of every batch in their order: {entry['batches']} files")
    found, passed, samples = [outputs_of(Path(path)) for path in paths], True, entry["samples"]
    for spec in entry["outputs"]:
        files = [here / entry["folder"] / f"batch-{batch}" / "outputs" / spec["file"] for batch in range(entry["batches"])]
        reference = np.concatenate([np.fromfile(file, "<f8").reshape(spec["shape"]) for file in files])
        value = np.concatenate([each[spec["name"]].reshape(spec["shape"]) for each in found])
        inside, text = judged(value[:samples], reference[:samples], entry, entry["parts"])  # behind them are copies
        print(f"{'pass' if inside else 'FAIL'}  {spec['name']}: {text}")
        passed &= inside
    return 0 if passed else 1


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    try:
        sys.exit(main(*sys.argv[1:]))
    except (OSError, ValueError, KeyError, TypeError) as problem:  # crafted JSON raises any of them
        reason = f"no output of trtexec: {problem!r}" if isinstance(problem, (KeyError, TypeError)) else problem
        print(f"compare.py: {reason}", file=sys.stderr)
        sys.exit(2)
