"""From an ONNX file made elsewhere to a Draft: fold, and compare with the original in ONNX Runtime."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import onnx

from edgekit.bundle.draft import Draft, exported_variant
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import MODEL, Source, Variant
from edgekit.bundle.provenance import Provenance
from edgekit.errors import ModelError, UsageError
from edgekit.files import check_name, sha256_of
from edgekit.onnx.arithmetic import precision_of_file
from edgekit.onnx.exact import SECONDS, Inexact, run_file_exact
from edgekit.onnx.fold import Folding, fold_onnx
from edgekit.onnx.free import OnnxSource, open_onnx
from edgekit.onnx.read import opset_of, precision_of
from edgekit.onnx.rounding import rounding_unit
from edgekit.onnx.run import UNOPTIMISED, open_unoptimised, run_in_batches
from edgekit.onnx.witness import RuntimeWitness
from edgekit.parity.allowances import HALVES
from edgekit.parity.compare import compare_output
from edgekit.parity.inputs import Recorded, check_telling, only_steady, rows_of, without_data
from edgekit.parity.noise import jittered
from edgekit.preprocess import Preprocess
from edgekit.progress import Advance
from edgekit.reports.export import FoldReport
from edgekit.sources import ExportOptions
from edgekit.sources.description import Description, by_metadata, by_options, check_labels, metadata
from edgekit.sources.image_metadata import check_agrees
from edgekit.sources.measuring import noise_of_file, not_reached
from edgekit.sources.narrow import (
    NarrowFile,
    Rounding,
    note_of_steps,
    tolerance_in_half,
    tolerance_in_steps,
    with_noise,
    with_rounding,
)
from edgekit.sources.provenance import provenance_of
from edgekit.sources.selfcheck import Unverified, check_draft
from edgekit.tensors import Array, worst_error
from edgekit.tolerance import Tolerance

JUDGED = 4  # samples, each of another kind, on which ONNX Runtime is asked about every node
AMPLIFIED = 16  # times what one unit in the last place of the inputs changes that a float64 reference may differ
PROVED_ON = 2  # golden inputs on which folding is proved in float64
FLOAT64_LIMIT, FLOAT64_CEILING = 1e-12, 1e-9
IN_FLOAT64 = "the original ONNX file in float64 (recorded)"
ITSELF = "the original ONNX file in its own dtype, unoptimised (recorded)"
RANDOM = "the golden inputs are made up, because the model's data is not known"
_PLAUSIBLE = {"float16": 5e-2, "bfloat16": 3e-1, "float64": 1e-9}  # the largest plausible error of scale of an original


class OnnxOrigin(NamedTuple):
    """An ONNX file to export, with the options."""

    path: Path
    options: ExportOptions

    @property
    def name(self) -> str:
        """The file's name, if a folder can have that name."""
        return self.path.stem if check_name(self.path.stem) else "model"

    @np.errstate(invalid="ignore", over="ignore")  # infinite values, which masks have, are compared and said
    def draft(self, advance: Advance) -> Draft:
        """Open, fold and compare; raises EdgekitError if the file or its folded copy could not be verified."""
        source = open_onnx(self.path)
        description = _described(source, self.options)
        provenance_of(self.options)  # what is wrong there is said before the long work
        advance(1, "golden outputs")
        reference = _reference(source, description.preprocess)
        check_telling(reference.golden)
        advance(1, "folding")
        folding = fold_onnx(source.model, fold_bn=self.options.fold_bn is not False)
        report = _proved(source, folding, reference)
        advance(1, "measuring rounding noise")
        try:
            return self._verified(source, description, folding, report, reference)
        except Unverified as problem:
            if reference.error is None:
                raise
            return self._verified(source, description, folding, report, reference.in_its_own_dtype(problem.reason))

    def _verified(
        self, source: OnnxSource, description: Description, folding: Folding, report: FoldReport, reference: Reference
    ) -> Draft:
        """The draft against ``reference``; raises Unverified unless it passes the comparisons of ``edgekit verify``."""
        outputs = _run_folded(source, folding, reference.golden)
        error = reference.recorded.error(outputs)
        provenance = provenance_of(self.options)
        content = _labelled(folding.model, self.path, description, provenance).SerializeToString(deterministic=True)
        narrow = NarrowFile(content, str(self.path), reference.recorded, source.batch)
        variant = _variant(precision_of_file(content), narrow, reference, outputs, error)
        _check_outputs(source, outputs, reference, variant.allowance.tolerance, bool(report.folded))
        rounding = Rounding(narrow, variant.precision)
        noise = noise_of_file(content, reference.recorded, source.batch, rounding)
        variant = with_rounding(variant, rounding, reference.recorded, noise.arrays)
        variant = with_noise(variant, reference.recorded, noise.arrays)
        reach = not_reached(content, reference.recorded, source.batch)
        draft = Draft(
            name=self.name,
            inputs=source.inputs,
            outputs=source.outputs,
            source=Source(self.path.name, {}, None, sha256_of(self.path), None),
            opset=opset_of(folding.model),
            fold=msgspec.structs.replace(report, error_exported=error),
            golden=reference.golden,
            golden_kind="random",
            reference=reference.name,
            original_error=reference.error,
            variants=(variant,),
            files={MODEL: content},
            measured_in=UNOPTIMISED,
            preprocess=description.preprocess,
            labels=description.labels,
            notes=(*_notes(source, reference, variant, content), *description.notes, *reach),
            parts=reference.recorded.parts,
            evidence=noise.described,
            measured=noise.arrays,
            provenance=provenance,
        )
        check_draft(draft, str(self.path))
        return draft


def _labelled(model: onnx.ModelProto, path: Path, description: Description, provenance: Provenance) -> onnx.ModelProto:
    """``model`` with edgekit's own metadata, in place of what an earlier export has left there; other metadata stays."""
    document = metadata(path.name, sha256_of(path), description.preprocess, description.labels, provenance)
    ours = {key.casefold() for key in document}
    others = [
        entry for entry in model.metadata_props if not entry.key.startswith("edgekit.") and entry.key.casefold() not in ours
    ]
    del model.metadata_props[:]
    model.metadata_props.extend(others)
    for key, value in sorted(document.items()):
        model.metadata_props.add(key=key, value=value)
    return model


def origin_of_file(path: Path, options: ExportOptions) -> OnnxOrigin:
    """The origin of a bundle; raises UsageError for options that set what an ONNX file holds itself, such as shapes."""
    settings: dict[str, object] = {"--input-shape": options.input_shapes, "--weights": options.weights}
    settings |= {"--opset": options.opset, "--arg": options.args}
    wrong = [name for name, value in settings.items() if value]
    if wrong:
        raise UsageError(f"{wrong[0]} does not go with an ONNX file, which is exported as it is", f"leave out {wrong[0]}")
    return OnnxOrigin(path, options)


def _described(source: OnnxSource, options: ExportOptions) -> Description:
    """Labels and preprocessing of the command line, or else of the file's own metadata."""
    given = by_options(options, source.inputs)
    check_labels(given.labels, source.outputs)
    entries = {item.key: item.value for item in source.original.metadata_props}
    if given.preprocess:
        check_agrees(given.preprocess, entries, source.inputs[0])
    own = by_metadata(entries, source.inputs, source.outputs)
    unused = ("the preprocessing", "the labels")[given.preprocess is None] if given.preprocess or given.labels else " "
    notes = tuple(text for text in own.notes if not (given.preprocess and given.labels) and not text.startswith(unused))
    return Description(given.preprocess or own.preprocess, given.labels or own.labels, notes)


class Reference(NamedTuple):
    """The outputs that the folded file is compared with, and their ``name`` in reports.

    ``error`` is the original's own error in its dtype; None if the original cannot be run in float64. ``witness`` knows the
    kernels that ONNX Runtime agreed with. ``itself`` is the reference in the file's own ``dtype``.
    """

    name: str
    recorded: Recorded
    error: float | None
    note: str
    witness: RuntimeWitness
    itself: Recorded
    dtype: str

    def in_its_own_dtype(self, reason: str) -> Reference:
        """The reference in the file's own dtype, with ``reason`` against float64 in its note."""
        note = f"the reference is the original ONNX file in ONNX Runtime, {self.dtype}, with graph optimisations off"
        return self._replace(name=ITSELF, recorded=self.itself, error=None, note=f"{note}; not in float64: {reason}")

    @property
    def golden(self) -> GoldenArrays:
        """The golden arrays."""
        return self.recorded.arrays


def _reference(source: OnnxSource, preprocess: Preprocess | None) -> Reference:
    """The original in float64 if ONNX Runtime agrees with every node and output; otherwise as ONNX Runtime computes it.

    Samples on which rounding alone moves the outputs far, told by inputs moved by a unit in the last place, are left out first:
    what is left out so can hide no kernel that is wrong.
    """
    feed, parts = without_data(source.inputs, preprocess, rows_of(source.inputs, partial(_takes, source)))
    own = source.run(feed)
    wide = {name: array.astype(np.float64) for name, array in own.items()}
    check_telling(GoldenArrays(feed, wide, own, None))  # before the work that it would make vain
    moved = source.run(jittered(feed))
    steady = only_steady(Recorded(GoldenArrays(feed, wide, moved, None), parts))
    rounding = steady.error(steady.arrays.original)
    original = {name: array.astype(own[name].dtype) for name, array in steady.arrays.float64.items()}
    itself = steady._replace(arrays=msgspec.structs.replace(steady.arrays, original=original))
    dtype = precision_of(source.original)
    witness = RuntimeWitness(source.model, source.path, samples=min(JUDGED, len(itself.parts)))
    reference = Reference(IN_FLOAT64, itself, None, "the reference is the original ONNX file in float64", witness, itself, dtype)
    try:
        exact = _in_float64(source, itself, witness)
        recorded = itself._replace(arrays=msgspec.structs.replace(itself.arrays, float64=exact))
        error = recorded.error(original)
        if not error <= max(_PLAUSIBLE.get(dtype, 5e-5), AMPLIFIED * rounding):
            raise Inexact(f"an output differs from ONNX Runtime by {error:.1e} of the scale, though no node does")
    except Inexact as problem:
        return reference.in_its_own_dtype(str(problem))._replace(witness=witness.believed())
    return reference._replace(recorded=recorded, error=error, witness=witness.believed())


def _takes(source: OnnxSource, feed: Mapping[str, Array]) -> bool:
    try:
        source.run(feed)
    except ModelError:
        return False
    return True


def _in_float64(source: OnnxSource, itself: Recorded, witness: RuntimeWitness) -> dict[str, Array]:
    """The float64 outputs of the golden samples; the ``witness`` judges the first sample of each of the first parts.

    Raises Inexact, also for an output of another shape.
    """
    starts = np.cumsum([0, *itself.sizes])[: witness.samples]
    order = np.concatenate([starts, np.setdiff1d(np.arange(sum(itself.sizes)), starts)])
    feed = {name: array[order] for name, array in itself.arrays.inputs.items()}
    ordered = run_file_exact(source.model, feed, SECONDS, source.batch or 1, witness)
    if any(ordered[name].shape != array.shape for name, array in itself.arrays.original.items()):
        raise Inexact("an output has another shape than in ONNX Runtime")
    back = np.argsort(order)
    return {name: ordered[name].astype(np.float64)[back] for name in itself.arrays.original}


def _proved(source: OnnxSource, folding: Folding, reference: Reference) -> FoldReport:
    """The report with the float64 error of folding, before rounding; raises ModelError if rounding does not explain the error.

    For a model that amplifies rounding the limit is eight times its own dtype's error, scaled down to float64.
    """
    if folding.exact is None or reference.error is None:
        return folding.report
    try:
        feed, expected = (
            {name: array[: source.batch or PROVED_ON] for name, array in part.items()}
            for part in (reference.golden.inputs, reference.golden.float64)
        )
        folded = run_file_exact(folding.exact, feed, math.inf, source.batch or 1, reference.witness)
        error = worst_error(folded, expected)
    except Inexact as problem:
        raise ModelError(
            f"{source.path} runs in float64, but its folded copy does not: {problem}",
            "export with --no-fold-bn and report the file",
        ) from None
    noise = 8 * reference.error * rounding_unit("float64") / rounding_unit(precision_of(source.original))
    if not error <= min(max(FLOAT64_LIMIT, noise), FLOAT64_CEILING):
        raise ModelError(
            f"folding {source.path} changed its outputs by {error:.1e} of their scale in float64",
            "export with --no-fold-bn and report the file",
        )
    return msgspec.structs.replace(folding.report, error_float64=error)


def _run_folded(source: OnnxSource, folding: Folding, golden: GoldenArrays) -> dict[str, Array]:
    """The folded file's outputs on the golden inputs, one by one; ``check_draft`` runs it in the batches that verify takes."""
    return run_in_batches(open_unoptimised(folding.model, source.path), golden.inputs, source.batch or 1, source.path)


def _check_outputs(
    source: OnnxSource, outputs: Mapping[str, Array], reference: Reference, tolerance: Tolerance, folded: bool
) -> None:
    """Raise Unverified if an output is outside of the bundle's own tolerance."""
    for name, expected in reference.golden.float64.items():
        diff = compare_output(name, outputs[name], expected, reference.recorded.bar(name, tolerance.rtol))
        if diff.within(tolerance):
            continue
        source.check_independent(reference.golden.inputs)  # dependent samples explain a difference better than folding does
        change = f"{diff.normalised:.1e} of its scale, beyond {tolerance.rtol:.1e}"
        if diff.top1 is not None and diff.top1 < tolerance.top1:
            change += f", and the largest value of {1 - diff.top1:.0%} of the samples moved"
        if not folded:
            raise Unverified(
                f"output {name!r} of {source.path} is off by {change}", "such a file cannot be verified: use a wider dtype"
            )
        raise Unverified(
            f"folding {source.path} changed output {name!r} by {change}", "export with --no-fold-bn and report the file"
        )


def _variant(precision: str, narrow: NarrowFile, reference: Reference, outputs: Mapping[str, Array], error: float) -> Variant:
    """The variant of the file's ``precision``; its tolerance is that of PyTorch models, or wider by the original's own error."""
    own = reference.error
    if precision == "int8":
        return exported_variant("int8", tolerance_in_steps(narrow, outputs), error)
    if precision in HALVES:
        return exported_variant(precision, tolerance_in_half(narrow, outputs, error if own is None else own), error)
    return exported_variant(precision, Tolerance(rtol=max(Tolerance().rtol, 4 * (own or 0.0))), error)


def _notes(source: OnnxSource, reference: Reference, variant: Variant, content: bytes) -> tuple[str, ...]:
    notes = [reference.note, RANDOM]
    if source.batch is not None:
        notes.append(f"the file takes batches of {source.batch} only, and so does the bundle: {source.unfreed}")
    elif source.fixed is not None:
        notes.append(
            f"the file takes batches of {source.fixed} only; its batch axis was freed, and the freed file agreed with the "
            "original in batches of several sizes"
        )
    if reference.witness.overflow:
        notes.append(
            f"node {reference.witness.overflow!r} overflows float16 on golden inputs, here as in the original: what depends on "
            "infinite values is compared with these"
        )
    tolerance = variant.allowance.tolerance
    if variant.precision == "int8":
        notes.append(note_of_steps(content, tolerance))
    elif variant.precision == "float32" and tolerance.rtol > Tolerance().rtol:
        notes.append(
            f"the model amplifies rounding: its tolerance is {tolerance.rtol:.1e}, 4 times its own error, which edgekit verify "
            "takes only with --allow tolerance"
        )
    if tolerance.top1 < 1:
        notes.append(f"in {variant.precision}, {tolerance.top1:.0%} of the samples keep the place of their largest value")
    return tuple(notes)
