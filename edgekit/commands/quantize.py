"""``edgekit quantize``: write a bundle with one more file of its network: in int8, in float16, or with its preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from edgekit.budgets import Budget
from edgekit.bundle.folder import Bundle, check_replaceable, open_bundle
from edgekit.bundle.manifest import SIGNATURES
from edgekit.bundle.signed import signatures_of
from edgekit.bundle.variants import with_variant
from edgekit.errors import BundleError, OutputError
from edgekit.files import as_path, check_writable
from edgekit.latency.loop import Candidate, interleave
from edgekit.machine.packages import needs
from edgekit.progress import SILENT, Progress
from edgekit.reports.quantize import AccuracyChange, QuantizeReport
from edgekit.tensors import fixed_batch, sample_feed
from edgekit.variants import Outcome, Wanted, convert

TIMED_SECONDS = 0.5
WORTH = 1.05
"""A file that is not so many times as fast as float32 is not worth its loss on this machine."""
NO_WISHES = Wanted()
BY_PYTORCH = ("with-preprocessing",)
"""Variants whose reference is the new file in float64, which PyTorch computes."""


def quantize(
    bundle: Path | str,
    to: str = "int8",
    wanted: Wanted = NO_WISHES,
    *,
    output: Path | str | None = None,
    drop_signature: bool = False,
    progress: Progress = SILENT,
) -> QuantizeReport:
    """Write ``bundle`` with one more variant as the folder ``output``, or in its own place, whole or not at all.

    A variant of that precision is replaced. A signed bundle is refused unless ``drop_signature``: its signature is not of the one
    that is written. Raises BundleError for a damaged bundle, ModelError for a network that cannot be
    converted, DataError for calibration samples that do not fit or that are test pictures, and UsageError for a wrong wish.
    """
    needs("onnx", "onnxruntime", extra="cpu")
    if to in BY_PYTORCH:
        needs("torch", extra="train")
    opened = open_bundle(bundle)
    root = opened.root if output is None else as_path(output, "output", OutputError)
    in_place = root.resolve() == opened.root.resolve()
    check_replaceable(root, dropped=SIGNATURES if in_place else ())
    check_writable(root.parent)
    _check_unsigned(opened, drop_signature)
    outcome = convert(opened, to, wanted, progress)
    outcome, accuracy = with_accuracy(opened, outcome)
    speed_up = None if outcome.untimed else _speed_up(opened, outcome)
    written = with_variant(opened, outcome.draft, root)
    return _report(opened, written, outcome, accuracy, speed_up, wanted)


def _check_unsigned(bundle: Bundle, drop_signature: bool) -> None:
    signatures = signatures_of(bundle)
    if signatures and not drop_signature:
        raise BundleError(
            f"bundle {bundle.root} is signed ({', '.join(signatures)}), and with one more file it is another bundle",
            "add --drop-signature, and sign what is written",
        )


def with_accuracy(bundle: Bundle, outcome: Outcome) -> tuple[Outcome, AccuracyChange | None]:
    """The outcome with the file's accuracy, and what it does to the test set, where that is on this machine."""
    from edgekit.variants.pictures import tested_pictures

    tested, variant = tested_pictures(bundle, outcome.data), outcome.draft.variant
    if not tested:
        return outcome, None
    change = tested.change(outcome.draft.files[variant.file], variant)
    judged = msgspec.structs.replace(variant, accuracy=change.after)
    return outcome._replace(draft=outcome.draft._replace(variant=judged)), change


def _speed_up(bundle: Bundle, outcome: Outcome) -> float:
    """Median latency of the first file over the new one's, in ONNX Runtime on this CPU, taking turns, one batch."""
    from edgekit.onnx.run import open_unoptimised

    size = fixed_batch(bundle.manifest.inputs) or 1
    feed = sample_feed([spec.with_free_batch() for spec in bundle.manifest.inputs], size)
    contents = {"first": bundle.onnx_bytes(), "new": outcome.draft.files[outcome.draft.variant.file]}
    runs = [
        Candidate(name, partial(open_unoptimised(content, bundle.onnx_of(), level="all"), feed), {})
        for name, content in contents.items()
    ]
    first, new = (row.median_ms for row in interleave(runs, size, "end-to-end", TIMED_SECONDS))
    return first / new


def _report(
    before: Bundle, written: Bundle, outcome: Outcome, accuracy: AccuracyChange | None, speed_up: float | None, wanted: Wanted
) -> QuantizeReport:
    variant = written.variant(outcome.draft.variant.name)
    conversion = variant.conversion
    calibration = conversion.calibration if conversion else None
    return QuantizeReport(
        bundle=str(written.root),
        variant=variant.name,
        file=variant.file,
        onnx_sha256=written.sha256_of(variant.name),
        onnx_bytes=written.manifest.files[variant.file].size,
        bytes_before=before.manifest.files[before.variant().file].size,
        converted=conversion.converted if conversion else 0,
        snr_db=outcome.snr_db,
        asked_db=variant.allowance.snr_db,
        calibration=calibration.source if calibration else "",
        attempts=outcome.attempts,
        kept=conversion.kept if conversion else (),
        sensitivity=outcome.sensitivity,
        accuracy=() if accuracy is None else (accuracy,),
        speed_up=speed_up,
        budget=wanted.budget or "",
        within_budget=_within(outcome.budget, accuracy),
        notes=(
            *outcome.draft.notes,
            *_notes(variant.name, outcome.untimed, speed_up, accuracy),
            *_undecided(outcome.budget, accuracy),
        ),
    )


def _within(budget: Budget | None, accuracy: AccuracyChange | None) -> bool | None:
    """Whether the budget, which the file was made for, holds on the test set too, where that is known; None without a budget."""
    if budget is None:
        return None
    return budget.points is None or accuracy is None or 100 * (accuracy.before - accuracy.after) <= budget.points


def _undecided(budget: Budget | None, accuracy: AccuracyChange | None) -> Iterator[str]:
    points = budget.points if budget else None
    if points is not None and accuracy is not None and -100 * accuracy.high <= points < -100 * accuracy.low:
        yield f"whether more than {points:g} points are lost cannot be decided with {accuracy.pictures} pictures"


def _notes(name: str, untimed: str, speed_up: float | None, accuracy: AccuracyChange | None) -> Iterator[str]:
    if speed_up is None:
        yield f"{name} was not timed: {untimed}"
    elif speed_up < WORTH:
        yield f"{name} is not worth it for this network here: {speed_up:.2f} times as fast as float32 in ONNX Runtime on this CPU"
    if accuracy is None:
        yield "its accuracy was not measured, because the test set is not known here; edgekit evaluate measures it"
