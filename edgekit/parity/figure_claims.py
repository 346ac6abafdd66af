"""What a manifest says in figures, held against what was recorded: errors, rounding noise, accuracy."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from packaging.version import InvalidVersion, Version

from edgekit.bundle.allowance import held_to_noise
from edgekit.bundle.variants import own_outputs
from edgekit.parity.accuracy import FLIPS
from edgekit.parity.evidenced import Evidenced, told
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import most_noise
from edgekit.reports.verify import Check
from edgekit.tensors import Array

WITH_EVIDENCE = (0, 2)
"""The first release that records noise floors."""


def errors(seen: Evidenced) -> Iterator[Check]:
    """The recorded errors are what the golden arrays and recorded outputs show, and what was measured at export."""
    yield from _own_errors(seen)
    golden, variant = seen.manifest.golden, seen.manifest.variants[0]
    if not golden.parts:
        return
    recorded = Recorded(seen.golden, golden.parts)
    measured = None if seen.arrays is None else seen.arrays.error
    problem = "evidence.npz has not the file's error, which edgekit export records there" if measured is None else ""
    if not problem and golden.original_error is not None:
        true = recorded.error(seen.golden.original)
        if not np.isclose(golden.original_error, true, rtol=1e-3, atol=0):
            problem = (
                f"the original's own error is {golden.original_error:.1e} in the manifest, and {true:.1e} in the golden arrays"
            )
    for said in (variant.error, seen.manifest.fold.error_exported):
        if not problem and said is not None and measured is not None and not np.isclose(said, measured[0], rtol=1e-9, atol=0):
            problem = f"the manifest says the file's error is {said:.1e} of scale, and evidence.npz says {measured[0]:.1e}"
    yield told("errors", problem)


def _own_errors(seen: Evidenced) -> Iterator[Check]:
    """The recorded error of each converted file is that of the outputs that it has recorded."""
    if not seen.manifest.golden.parts:
        return
    recorded = Recorded(seen.golden, seen.manifest.golden.parts)
    for variant in seen.manifest.variants:
        own = own_outputs(seen.bundle, variant.name)
        if own is None or variant.error is None:
            continue
        true = recorded.error(own)
        problem = (
            f"{variant.name}: the manifest says the file's error is {variant.error:.1e} of scale, and {true:.1e} by the outputs "
            "that it has recorded"
        )
        yield told("errors", "" if np.isclose(variant.error, true, rtol=1e-3, atol=0) else problem)


def evidence(seen: Evidenced) -> Iterator[Check]:
    """A bundle of this edgekit has its noise floors, of the size of rounding, from runtimes that it names, and its metadata."""
    measures = _release(seen.declared.metadata.get("edgekit.version", "0.0")) >= WITH_EVIDENCE
    described, floors = seen.manifest.evidence, seen.arrays.floors if seen.arrays else {}
    problem = ""
    if (measures or seen.manifest.golden.parts) and not floors:
        problem = "the noise floors that edgekit export measures are missing"
    elif floors and not measures:
        problem = "the file has none of the metadata that edgekit export writes"
    elif described is not None and floors and not described.runtimes:
        problem = "no runtime is named whose noise the floors are"
    else:
        barred = floors if held_to_noise(seen.manifest, seen.manifest.variants[0]) else {}
        wide = next((name for name in barred if _inflated(seen, name, floors[name])), None)
        problem = f"the noise floors of {wide!r} are far above what the original itself rounds" if wide is not None else ""
    yield told("evidence", problem)


def _release(version: str) -> tuple[int, ...]:
    """The numbers of a version; of what is no version, those of a release that records noise floors."""
    try:
        return Version(version).release
    except InvalidVersion:
        return WITH_EVIDENCE


def _inflated(seen: Evidenced, name: str, floors: Array) -> bool:
    """Whether the floors of an output are above what an export records, part by part."""
    sizes = [part.samples for part in seen.manifest.golden.parts]
    reference, original = seen.golden.float64[name], seen.golden.original[name]
    most = most_noise(reference, original, sizes)
    return any(floor.max(initial=0.0) > (1 + 1e-9) * limit for floor, limit in zip(floors, most, strict=True))


def accuracy(seen: Evidenced) -> Iterator[Check]:
    """The accuracy is what the original's predictions of the test set have, but for a few flips."""
    arrays, claims = seen.arrays, (seen.manifest.test_accuracy, seen.manifest.variants[0].accuracy)
    said = [claim for claim in claims if claim is not None]
    if not said:
        return
    if arrays is None or arrays.predicted is None or arrays.truth is None:
        yield Check("accuracy", "unchecked", "the accuracy: the bundle does not record the original's predictions")
        return
    true = float((arrays.predicted == arrays.truth).mean())
    wrong = next((claim for claim in said if abs(claim - true) > FLIPS), None)
    problem = "" if wrong is None else f"the accuracy is {wrong:.4f} in the manifest, and {true:.4f} by the recorded predictions"
    yield told("accuracy", problem)
    if others := [variant.name for variant in seen.manifest.variants[1:] if variant.accuracy is not None]:
        yield Check("accuracy", "unchecked", f"the accuracy of {' and '.join(others)}: edgekit evaluate measures it")
