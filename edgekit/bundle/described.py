"""The variants of a bundle in figures, and where it comes from in words: for its card, ``edgekit inspect`` and the report."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

import msgspec

from edgekit.accuracy import share_interval
from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Manifest, Speed, Variant
from edgekit.bundle.provenance import Provenance, Training
from edgekit.bundle.signed import signatures_of
from edgekit.machine.cpu import SETS
from edgekit.reports.inspect import VariantRow
from edgekit.reports.report import described as machine_in_words
from edgekit.tolerance import apart

WORTH = 1.05
"""A file that is not so many times as fast as the first one is not worth its loss where it was timed."""


class Pays(NamedTuple):
    """Where a file of a precision is faster than float32; ``cpus``: on which CPUs, unless it was timed on one."""

    where: str = ""
    cpus: str = ""


PAYS = {
    "float32": Pays("everywhere"),
    "float16": Pays("GPUs"),
    "bfloat16": Pays("GPUs"),
    "int8": Pays("GPUs with TensorRT", "CPUs with VNNI or AMX where layers are large"),
}
NOT_TIMED = Speed(None, "the bundle records no timing; edgekit bench measures it")


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
    speed = _speed(variant)
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
        pays=_pays(variant.precision, speed),
        speed="" if speed is None else speed_in_words(variant.name, speed, manifest.variants[0].name),
        speed_up=None if speed is None else speed.times,
        in_float=conversion.kept if conversion else (),
    )


def _speed(variant: Variant) -> Speed | None:
    """What is known of a converted file's speed; None for any other file."""
    if variant.conversion is None:
        return None
    return NOT_TIMED if variant.conversion.speed is msgspec.UNSET else variant.conversion.speed


def _pays(precision: str, speed: Speed | None) -> str:
    """Where a file is faster: of CPUs the one that it was timed on, and only where it was not, those that its precision suits."""
    known = PAYS.get(precision, Pays())
    cpus = known.cpus
    if speed is not None and speed.times is not None:
        cpus = f"{'' if speed.times >= WORTH else 'not '}the CPU it was timed on ({_times(speed.times)} times as fast)"
    return "; ".join(filter(None, (known.where, cpus)))


def speed_in_words(name: str, speed: Speed, first: str) -> str:
    """A sentence: how fast the file ``name`` was beside the ``first`` one and where, or why that is not known."""
    if speed.times is None:
        return f"the speed of {name} was not measured: {_in_a_line(speed.reason)}"
    verdict = "pays" if speed.times >= WORTH else "is not worth it"
    sets = f" ({speed.machine[SETS]})" if speed.machine.get(SETS) else ""
    return _in_a_line(
        f"{name} {verdict} for this network where it was made: {_times(speed.times)} times as fast as {first} in "
        f"{speed.runtime}, batch {speed.batch}, on {machine_in_words(speed.machine)}{sets}"
    )


def _times(times: float) -> str:
    """The figure with as many digits as tell it apart from what is worth it."""
    return apart(times, WORTH, 2, "f")[0] if times < WORTH else f"{times:.2f}"


def _in_a_line(text: str) -> str:
    """Text of a manifest from anywhere as one line."""
    return " ".join(text.split())


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
