"""The variants of a bundle in figures, and where it comes from in words: for its card, ``edgekit inspect`` and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgekit.accuracy import share_interval
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Manifest, Variant
from edgekit.bundle.provenance import Provenance, Training
from edgekit.bundle.signed import signatures_of
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


NOT_RECORDED = "not recorded"
CHANGED = ", from which tracked files differed"


def origin_of(bundle: Bundle) -> dict[str, str]:
    """Where a bundle comes from, fact -> words, and whether it is signed; what the manifest does not record is left out."""
    manifest = bundle.manifest
    facts = dict(_provenance(manifest.origin))
    facts["sha256 of the weights"] = manifest.source.weights_sha256
    facts["made with"] = _versions(manifest.tools)
    return facts | {"signature": _signature(bundle)}


def _provenance(origin: Provenance) -> Iterator[tuple[str, str]]:
    yield "licence", origin.license or NOT_RECORDED
    known = {"author": origin.author, "created": origin.created, "exported at commit": _commit(origin)}
    yield from ((name, text) for name, text in known.items() if text)
    if origin.data is not None:
        yield "data set", f"{origin.data.name}, {origin.data.sha256 or 'its hash is not recorded'}"
    if origin.training is not None:
        yield from _training(origin.training)


def _training(training: Training) -> Iterator[tuple[str, str]]:
    seed = "" if training.seed is None else f", seed {training.seed}"
    yield "training", f"{training.epochs} epochs{seed}"
    known = {
        "trained at commit": _commit(training),
        "trained with": _versions(training.versions),
        "sha256 of the weights before training": training.initial_sha256,
    }
    yield from ((name, text) for name, text in known.items() if text)


def _commit(origin: Provenance | Training) -> str:
    return f"{origin.commit}{CHANGED if origin.changed else ''}" if origin.commit else ""


def _versions(tools: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in tools.items())


def _signature(bundle: Bundle) -> str:
    """Only ``edgekit verify --public-key`` checks one: a signature without its key says nothing."""
    signatures = signatures_of(bundle)
    if not signatures:
        return "none"
    return f"{', '.join(signatures)}, not checked here: edgekit verify {bundle.root} --public-key FILE checks by whom it is"
