"""What a manifest says of a variant with inputs of its own, held against the golden samples of these."""

from __future__ import annotations

import numpy as np

from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Golden, Variant
from edgekit.onnx.bodies import has_functions
from edgekit.onnx.contained import first_lacking
from edgekit.parity.inputs import FEWEST, Recorded, is_constant
from edgekit.reports.verify import Check
from edgekit.tensors import differences, largest
from edgekit.tolerance import finite_scale

OWN_INPUTS = "own-inputs"
RESIZED = 2e-2
"""Of scale: what the few pixels that the file resizes otherwise than Pillow, by a grey level, do to the outputs at most."""


def own_inputs(bundle: Bundle, golden: GoldenArrays) -> list[Check]:
    """A check for each variant with inputs of its own, whose reference is its own file's too.

    It holds the bundle's first file whole, which is held to the bundle's reference; its samples tell something, its error is
    theirs, and of the bundle's golden pictures it says what the bundle's reference says.
    """
    checks = []
    for variant in bundle.manifest.variants:
        if variant.golden:
            problem = (
                _other_network(bundle, variant)
                or _problem(variant, variant.golden, bundle.golden(variant.name))
                or _other_answers(bundle, variant, golden)
            )
            checks.append(Check(OWN_INPUTS, "fail" if problem else "pass", f"{variant.name}: {problem}" if problem else ""))
            if has_functions(bundle.onnx_bytes()):
                unchecked = f"whether {variant.file} holds {bundle.variant().file}, whose functions it has written out"
                checks.append(Check(OWN_INPUTS, "unchecked", unchecked))
    return checks


def _other_network(bundle: Bundle, variant: Variant) -> str:
    """What its file lacks of the bundle's first one, of which it must be an extension."""
    if variant == bundle.manifest.variants[0]:
        return "the first file takes what the bundle says, and has no inputs of its own"
    first = bundle.onnx_bytes()
    lacking = "" if has_functions(first) else first_lacking(bundle.onnx_bytes(variant.name), first)
    return f"it has inputs of its own, and its file has not {lacking} as {bundle.variant().file} has" if lacking else ""


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


def _other_answers(bundle: Bundle, variant: Variant, golden: GoldenArrays) -> str:
    """A sentence for the first golden picture of which its own reference says something else than the bundle's."""
    assert variant.golden
    known = {picture.file: picture for picture in bundle.manifest.golden.pictures}
    for picture in variant.golden.pictures:
        first = known.get(picture.file)
        if first is None:
            return f"{picture.file} is no golden picture of the bundle"
        for name, mine in bundle.golden(variant.name).float64.items():
            ours, theirs = mine[picture.sample], golden.float64[name][first.sample]
            if mine.ndim == 2 and ours.argmax() != theirs.argmax():
                return f"{picture.file} has another label by its own reference than by the bundle's"
            error = largest(differences(ours, theirs)) / (finite_scale(golden.float64[name]) or 1.0)
            if not error <= RESIZED:
                return f"{picture.file} gives {name!r} by its own reference that is {error:.1e} of scale off the bundle's"
    return ""
