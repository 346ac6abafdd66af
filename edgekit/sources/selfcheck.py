"""Verify a Draft before anything is written: no bundle leaves an export that its own ``edgekit verify`` would fail."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import onnx

from edgekit.backends import USUAL_BACKEND
from edgekit.backends.contract import Opened
from edgekit.backends.fake import FakeSession
from edgekit.bundle.allowance import asks_too_much
from edgekit.bundle.draft import Draft
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import MODEL, Manifest
from edgekit.errors import ModelError
from edgekit.onnx.declared import declared
from edgekit.onnx.run import open_every_value, open_unoptimised, ort_version, run_in_batches
from edgekit.onnx.scales import scales_unknown
from edgekit.onnx.steps import narrowing_node, rounding_node
from edgekit.onnx.widen import inlined
from edgekit.onnx.witness import error_of_scale
from edgekit.parity.bars import bars_as_written, bars_of
from edgekit.parity.evidenced import Evidenced
from edgekit.parity.figure_claims import errors, evidence
from edgekit.parity.graph_claims import kept_norms, shapes
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import jittered
from edgekit.parity.rounding import support_of
from edgekit.parity.run import parity
from edgekit.setups import Setup
from edgekit.tensors import Array, Feed, fixed_batch
from edgekit.tolerance import ToleranceChange

_SAMPLES = 8  # on which the nodes are compared, once a draft has failed


class Unverified(ModelError):
    """A draft would fail its own ``edgekit verify``."""


def check_draft(draft: Draft, source: str) -> None:
    """Raise Unverified, which names the output and the first node that differs, if verify would fail the bundle.

    The optimised file is run in memory as ``edgekit verify --backend ort-cpu`` runs it; ``source`` is what the draft was made
    from. A tolerance that verify takes only with ``--allow tolerance`` passes, because a note of the export says so, unless the
    file rounds to steps, where no tolerance is right.
    """
    manifest, content = draft.manifest(), draft.files[draft.variants[0].file]
    problem, wide = _difference(draft, manifest, content) or _contradiction(draft, manifest, content), ""
    if not problem:
        wide = asks_too_much(manifest.variants[0])
        if not wide:
            return
    model = onnx.load_from_string(content)
    steps = rounding_node(model)
    if problem or steps:
        node = first_node_apart(draft) or steps or narrowing_node(model)
        raise Unverified(
            f"{source} cannot be verified: {problem or f'rounding to steps makes its tolerance too wide ({wide})'}"
            + (f", and the first node whose values differ is {node}" if node else ""),
            "compute without rounding to steps there, or export the model before it was quantised" if steps else "",
        )


def _difference(draft: Draft, manifest: Manifest, content: bytes) -> str:
    """The output that is outside of its bar, and by how much, with the optimisations or as written; empty if none is."""
    variant, facts = manifest.variants[0], {"onnxruntime": ort_version()}
    usual = bars_of(manifest, variant, draft.measured, ToleranceChange(), trusting=True).on(USUAL_BACKEND, facts)
    ways = {"with its": ("all", usual)}
    if variant.allowance.rounding is not None:  # what an exported file has that runs as it was recorded
        recorded, own = Recorded(draft.golden, draft.parts), draft.golden.original
        run = partial(_as_written, batch=fixed_batch(draft.inputs))
        support, trusting = (
            support_of(variant, recorded, draft.measured, content, scales_unknown(content), run),
            bool(asks_too_much(variant)),
        )
        bars = bars_as_written(manifest, variant, ToleranceChange(), trusting=trusting, own=own, support=support)
        ways["without"] = "off", bars
    for way, (level, bars) in ways.items():
        session = FakeSession(open_unoptimised(content, Path(MODEL), level=level), draft.inputs, draft.outputs, facts)
        report = parity(Opened(USUAL_BACKEND, Setup(USUAL_BACKEND), session), draft.golden, bars, draft.reference)
        diff = next((each for each in report.outputs if not each.within(report.tolerance)), None)
        if diff is not None:
            off = diff.problem or diff.beyond or f"off by {diff.normalised:.1e} of its scale"
            return f"in ONNX Runtime {way} optimisations output {diff.name!r} is {off}"
    return ""


def _as_written(content: bytes, feed: Feed, batch: int | None) -> dict[str, Array]:
    """What a file that takes batches of ``batch`` samples only, or of any number, gives where it runs node by node."""
    return run_in_batches(open_unoptimised(content, Path(MODEL)), feed, batch, Path(MODEL))


def _contradiction(draft: Draft, manifest: Manifest, content: bytes) -> str:
    """What the claims of the manifest about its numbers are contradicted by; empty if by nothing."""
    seen = Evidenced(Bundle(Path(), manifest, ""), draft.golden, draft.arrays, declared(content))
    checks = (*evidence(seen), *errors(seen), *kept_norms(seen), *shapes(seen))
    return next((check.text for check in checks if check.outcome == "fail"), "")


def first_node_apart(draft: Draft) -> str:
    """The first node of the file whose values differ by more than the tolerance when the inputs move by rounding; empty if none.

    If moved inputs show nothing, the values with ONNX Runtime's optimisations are held against those without.
    """
    variant = draft.variants[0]
    size = fixed_batch(draft.inputs) or _SAMPLES
    feed = {name: array[:size] for name, array in draft.golden.inputs.items()}
    model = inlined(onnx.load_from_string(draft.files[variant.file]))
    try:
        plain = open_every_value(model, Path(MODEL))
        values = plain(feed)
        others = [plain(jittered(feed, 1)), open_every_value(model, Path(MODEL), level="all")(feed)]
    except ModelError:
        return ""
    for other in others:
        for node in model.graph.node:
            for name in node.output:
                if name in values and name in other and _apart(values[name], other[name], variant.allowance.tolerance.rtol):
                    return f"{node.op_type} {node.name or name}"
    return ""


def _apart(value: Array, other: Array, rtol: float) -> bool:
    return bool(value.size) and not error_of_scale(other, value) <= rtol
