"""``edgekit quantize``: write a bundle with one more file of its network: in int8, in float16, or with its preprocessing."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import msgspec

from edgekit.budgets import Budget
from edgekit.bundle.described import WORTH, speed_in_words
from edgekit.bundle.folder import Bundle, check_replaceable, open_bundle
from edgekit.bundle.manifest import SIGNATURES, Speed
from edgekit.bundle.signed import signatures_of
from edgekit.bundle.variants import VariantDraft, with_variant
from edgekit.errors import BundleError, OutputError
from edgekit.files import as_path, check_writable
from edgekit.latency.loop import Candidate, interleave
from edgekit.machine.cpu import OF_TIMES, machine_facts
from edgekit.machine.packages import needs, versions_of
from edgekit.progress import SILENT, Progress
from edgekit.reports.quantize import AccuracyChange, QuantizeReport
from edgekit.tensors import fixed_batch, sample_feed
from edgekit.variants import Outcome, Wanted, convert

TIMED_SECONDS = 0.5
MOST_TIMINGS = 3
"""Timings that are made until one is not noisy."""
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
    speed = Speed(None, outcome.untimed) if outcome.untimed else _timed(opened, outcome)
    written = with_variant(opened, _with_speed(outcome.draft, speed), root)
    return _report(opened, written, outcome, accuracy, speed, wanted)


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


def _with_speed(draft: VariantDraft, speed: Speed) -> VariantDraft:
    """The draft with its file's speed, which its conversion records."""
    variant = draft.variant
    if variant.conversion is None:
        return draft
    timed = msgspec.structs.replace(variant.conversion, speed=speed)
    return draft._replace(variant=msgspec.structs.replace(variant, conversion=timed))


def _timed(bundle: Bundle, outcome: Outcome) -> Speed:
    """Median latency of the first file over the new one's, in ONNX Runtime on this CPU, taking turns, one batch.

    A noisy timing gives no figure.
    """
    from edgekit.onnx.run import open_unoptimised

    size = fixed_batch(bundle.manifest.inputs) or 1
    feed = sample_feed([spec.with_free_batch() for spec in bundle.manifest.inputs], size)
    contents = {"first": bundle.onnx_bytes(), "new": outcome.draft.files[outcome.draft.variant.file]}
    runs = [
        Candidate(name, partial(open_unoptimised(content, bundle.onnx_of(), level="all"), feed), {})
        for name, content in contents.items()
    ]
    runtime = " ".join(next(iter(versions_of(("onnxruntime", "onnxruntime-gpu")).items()), ("onnxruntime",)))
    known = machine_facts()
    machine = {name: known[name] for name in OF_TIMES if name in known}
    noisy = ""
    for _ in range(MOST_TIMINGS):
        rows = interleave(runs, size, "end-to-end", TIMED_SECONDS)
        noisy = next((row.noise for row in rows if row.noise.startswith("noisy")), "")
        if not noisy:
            return Speed(rows[0].median_ms / rows[1].median_ms, "", size, runtime, machine)
    return Speed(None, f"the timing was {noisy}; edgekit bench measures it", size, runtime, machine)


def _report(
    before: Bundle, written: Bundle, outcome: Outcome, accuracy: AccuracyChange | None, speed: Speed, wanted: Wanted
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
        speed_up=speed.times,
        budget=wanted.budget or "",
        within_budget=_within(outcome.budget, accuracy),
        notes=(
            *outcome.draft.notes,
            *_notes(variant.name, speed, before.variant().name, accuracy),
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


def _notes(name: str, speed: Speed, first: str, accuracy: AccuracyChange | None) -> Iterator[str]:
    if speed.times is None or speed.times < WORTH:
        yield speed_in_words(name, speed, first)
    if accuracy is None:
        yield "its accuracy was not measured, because the test set is not known here; edgekit evaluate measures it"
