"""What a manifest says of a variant with inputs of its own, held against the golden samples of these."""

from __future__ import annotations

import numpy as np

from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Golden, Variant
from edgekit.parity.inputs import FEWEST, Recorded, is_constant
from edgekit.reports.verify import Check

OWN_INPUTS = "own-inputs"


def own_inputs(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    """A check for each variant with inputs of its own: its samples tell something, its error and its labels are theirs."""
    checks = []
    for variant in bundle.manifest.variants:
        if variant.golden:
            problem = _problem(variant, variant.golden, bundle.golden(variant.name)) or _other_labels(bundle, variant, golden)
            checks.append(Check(OWN_INPUTS, "fail" if problem else "pass", f"{variant.name}: {problem}" if problem else ""))
    return checks


def _problem(variant: Variant, described: Golden, mine: GoldenArrays) -> str:
    if described.samples < FEWEST:
        return f"{described.samples} golden samples are fewer than {FEWEST}, and show little"
    if all(map(is_constant, mine.float64.values())):
        return "the recorded outputs are the same for every golden input, and prove nothing"
    if not described.parts or variant.error is None:
        return ""
    true = Recorded(mine, described.parts).error(mine.original)
    if np.isclose(variant.error, true, rtol=1e-3, atol=0):
        return ""
    return f"the manifest says the file's error is {variant.error:.1e} of scale, and {true:.1e} by the outputs recorded with it"


def _other_labels(bundle: Bundle, variant: Variant, golden: GoldenArrays) -> str:
    """A sentence for the first golden picture whose label is another by the variant's own reference than by the bundle's."""
    assert variant.golden
    known = {picture.file: picture for picture in bundle.manifest.golden.pictures}
    name = bundle.manifest.outputs[0].name
    mine = bundle.golden(variant.name).float64[name]
    for picture in variant.golden.pictures:
        first = known.get(picture.file)
        if first is None:
            return f"{picture.file} is no golden picture of the bundle"
        if mine.ndim == 2 and mine[picture.sample].argmax() != golden.float64[name][first.sample].argmax():
            return f"{picture.file} has another label by its own reference than by the bundle's"
    return ""
