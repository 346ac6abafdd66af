"""Draft: all that a bundle is written from, for a PyTorch model and for an ONNX file from elsewhere alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from edgekit.bundle.card import model_card
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import (
    CARD,
    EVIDENCE,
    GOLDEN,
    MODEL,
    SCHEMA,
    Allowance,
    Evidence,
    Golden,
    GoldenPart,
    GoldenPicture,
    Manifest,
    Source,
    Variant,
    reads_from,
)
from edgekit.bundle.provenance import Provenance
from edgekit.bundle.ranges import RangeTable
from edgekit.machine.packages import tool_versions
from edgekit.preprocess import Preprocess
from edgekit.recipe import DataRecipe
from edgekit.reports.export import FoldReport
from edgekit.tensors import TensorSpec
from edgekit.tolerance import Tolerance
from edgekit.version import __version__


class Draft(NamedTuple):
    """All that a bundle is written from.

    ``files`` holds the bytes of every variant's file, and of the weights if the bundle includes them. ``reference`` describes
    which model computed the golden float64 outputs. ``original_error`` is the original's own error in its dtype; None if its
    outputs are their own reference. ``measured_in`` names the runtime that computed the variants' errors.
    ``parts`` are the kinds of golden samples, ``evidence`` describes the arrays ``measured``, ``pictures`` the
    picture files among ``files``. ``learned``: the ranges of a training for int8, of which the bundle gets a file too;
    ``data``: the data set that judges it.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    source: Source
    opset: int
    fold: FoldReport
    golden: GoldenArrays
    golden_kind: Literal["test-set", "random"]
    reference: str
    original_error: float | None
    variants: tuple[Variant, ...]
    files: Mapping[str, bytes]
    measured_in: str
    preprocess: Preprocess | None = None
    labels: tuple[str, ...] = ()
    test_accuracy: float | None = None
    notes: tuple[str, ...] = ()
    parts: tuple[GoldenPart, ...] = ()
    evidence: Evidence | None = None
    measured: EvidenceArrays | None = None
    pictures: tuple[GoldenPicture, ...] = ()
    learned: RangeTable | None = None
    data: DataRecipe | None = None
    provenance: Provenance = Provenance()

    def manifest(self) -> Manifest:
        """The manifest without the files' sha256, which ``write`` adds."""
        samples = len(next(iter(self.golden.inputs.values())))
        return Manifest(
            schema=SCHEMA,
            reads_from=reads_from(self.preprocess, self.inputs),
            name=self.name,
            inputs=self.inputs,
            outputs=self.outputs,
            preprocess=self.preprocess,
            labels=self.labels,
            source=self.source,
            opset=self.opset,
            fold=self.fold,
            test_accuracy=self.test_accuracy,
            golden=Golden(GOLDEN, samples, self.golden_kind, 0, self.original_error, self.reference, self.parts, self.pictures),
            variants=self.variants,
            tools=tool_versions(),
            notes=self.notes,
            files={},
            evidence=self.evidence,
            provenance=self.provenance,
        )

    @property
    def arrays(self) -> EvidenceArrays | None:
        """What was measured, as it is written: with the first file's error."""
        error = self.variants[0].error
        if self.measured is None or error is None:
            return self.measured
        return msgspec.structs.replace(self.measured, error=np.array([error]))

    def contents(self, manifest: Manifest) -> dict[str, bytes]:
        """File name -> bytes of every file but the manifest; the model card describes ``manifest``."""
        measured = {} if self.arrays is None else {EVIDENCE: self.arrays.to_npz()}
        return {**self.files, **measured, GOLDEN: self.golden.to_npz(), CARD: model_card(manifest).encode()}


def exported_variant(precision: str, tolerance: Tolerance, error: float, trained_for: str = "") -> Variant:
    """The variant that ``edgekit export`` writes: named after its dtype, in ``model.onnx``.

    ``trained_for``: the precision that its folded network was trained on for.
    """
    made_by = {"command": "export", "edgekit": __version__, **({"trained_for": trained_for} if trained_for else {})}
    return Variant(precision, MODEL, precision, Allowance(tolerance), error, None, made_by)
