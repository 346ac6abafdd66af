"""The claims of a manifest that are held against the bundle's files, by their codes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from edgekit.parity.evidenced import Evidenced
from edgekit.parity.figure_claims import accuracy, errors, evidence
from edgekit.parity.graph_claims import conversion, kept_norms, opset, precision, shapes
from edgekit.parity.metadata_claims import labels, license_, model, preprocess, weights
from edgekit.parity.picture_claims import pictures
from edgekit.reports.verify import Check

CLAIMS: dict[str, Callable[[Evidenced], Iterator[Check]]] = {
    "opset": opset,
    "shapes": shapes,
    "weights": weights,
    "model": model,
    "license": license_,
    "labels": labels,
    "preprocess": preprocess,
    "kept-norms": kept_norms,
    "precision": precision,
    "conversion": conversion,
    "errors": errors,
    "evidence": evidence,
    "accuracy": accuracy,
    "pictures": pictures,
}
