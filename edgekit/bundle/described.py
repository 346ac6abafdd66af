"""The variants of a bundle in figures, for its model card and for ``edgekit inspect``."""

from __future__ import annotations

from edgekit.accuracy import share_interval
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Manifest, Variant
from edgekit.reports.inspect import VariantRow

PAYS = {
    "float32": "everywhere",
    "float16": "GPUs",
    "bfloat16": "GPUs",
    "int8": "GPUs with TensorRT, CPUs with VNNI",
}
"""Where a file of a precision is faster than float32."""


def pictures_of(bundle: Bundle) -> int | None:
    """The number of test pictures that accuracies are of, as the export recorded it; None if it did not."""
    evidence = bundle.evidence()
    return len(evidence.truth) if evidence is not None and evidence.truth is not None else None


def variant_rows(manifest: Manifest, pictures: int | None = None) -> tuple[VariantRow, ...]:
    """A row for each variant; ``pictures``: the number of test pictures that accuracies are shares of, None if not known."""
    return tuple(_row(manifest, variant, pictures) for variant in manifest.variants)


def _row(manifest: Manifest, variant: Variant, pictures: int | None) -> VariantRow:
    accuracy = manifest.accuracies.get(variant.name)
    conversion = variant.conversion
    calibration = conversion.calibration if conversion else None
    entry = manifest.files.get(variant.file)
    return VariantRow(
        name=variant.name,
        precision=variant.precision,
        bytes=entry.size if entry else 0,
        accuracy=accuracy,
        interval=share_interval(accuracy, pictures) if accuracy is not None and pictures else None,
        error=variant.error,
        snr_db=variant.allowance.snr_db,
        converted=conversion.converted if conversion else None,
        kept=len(conversion.kept) if conversion else None,
        calibrated=calibration.calibrated if calibration else None,
        pays=PAYS.get(variant.precision, ""),
    )
