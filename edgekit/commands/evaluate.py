"""``edgekit evaluate``: the accuracy of every runtime on a labelled set, and whether they differ."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from edgekit.accuracy import accuracy_of, paired
from edgekit.backends import row_of
from edgekit.backends.choose import choose, open_named
from edgekit.backends.contract import Opened
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.data.gallery import Gallery, thumbnail
from edgekit.data.labelled import BATCH, Batch, LabelledSet, of_folder, of_recipe
from edgekit.data.listing import of_first_frames
from edgekit.data.sheet import MADE_BY, contact_sheet
from edgekit.errors import BundleError, DataError, OutputError, UsageError
from edgekit.files import as_path, read_bytes, write_bytes
from edgekit.parity.accuracy import FLIPS, NO_CLASS, Answers, answers, confusion, meaning_of, order_of, outputs_of
from edgekit.parity.other_cpu import measured_elsewhere
from edgekit.preprocess import Preprocess, no_picture
from edgekit.progress import SILENT, Progress
from edgekit.recipe import Recipe, load_recipe
from edgekit.reports.evaluate import AccuracyRow, EvaluateReport, PairedRow, Thumbnail, WrongPicture
from edgekit.setups import Setup, labels, taking
from edgekit.spelling import did_you_mean
from edgekit.tensors import fixed_batch

ORIGINAL = "the original"
ON_SHEET = 64
NO_NUMBERS = "outputs are not finite"
SHEET = "wrong.png"
LISTED = 12
"""Labels that a message lists."""


class Bars(NamedTuple):
    """What the caller asks for: the least top-1, and the most that may be lost; shares of 1, None: anything."""

    min_accuracy: float | None = None
    max_drop: float | None = None


NO_BARS = Bars()


def evaluate(
    bundle: Path | str,
    data: Path | str | None = None,
    setups: Setup | str | Iterable[Setup | str] = (),
    *,
    bars: Bars = NO_BARS,
    wrong: Path | str | None = None,
    progress: Progress = SILENT,
) -> EvaluateReport:
    """Judge every backend present, or ``setups``, on the pictures of ``data``: a folder of class folders, or a recipe's test set.

    Without ``data`` it is Fashion-MNIST's test set, for a bundle that was trained on it. ``wrong`` is a folder for a contact
    sheet of the pictures that the first backend gets wrong. On the test set that the bundle was exported with, each accuracy must
    be the recorded one but for a few flips.

    Raises BundleError for a bundle that does not classify pictures, DataError for pictures that do not fit it, UsageError for a
    bar on what is lost without anything to compare with, and MissingError for a setup that cannot run here.
    """
    opened = open_bundle(bundle)
    preprocess = classifier(opened)
    sheet = None if wrong is None else _place_of_sheet(as_path(wrong, "wrong", OutputError))
    choice = choose(opened, setups, progress=progress)
    pictures = labelled_set(opened, preprocess, data, progress)
    _check_one_meaning(pictures.classes, opened.manifest.labels)
    order = order_of(pictures.classes, opened.manifest.labels)
    if isinstance(order, str):
        raise _no_class(order, pictures.name, opened.manifest.labels)
    _check_comparable(opened, pictures, len(choice.setups), bars)
    seen = _run(opened, choice.setups, pictures, np.asarray(order, np.int64), progress)
    report = _report(opened, pictures, seen, bars)
    if sheet is not None:
        write_bytes(sheet, _sheet(pictures, report.wrong[:ON_SHEET]))
        report = msgspec.structs.replace(report, sheet=str(sheet))
    return msgspec.structs.replace(report, skipped=choice.skipped)


def _no_class(name: str, where: str, labels: Sequence[str]) -> DataError:
    listed = ", ".join(labels[:LISTED]) + (", ..." if len(labels) > LISTED else "")
    return DataError(
        f"the bundle has no class {name!r}, which {where} has{did_you_mean(name, labels)}",
        f"name the folders like the bundle's labels ({listed}), with - or _ for what a folder cannot be called, "
        "or by their numbers",
    )


def _check_comparable(bundle: Bundle, pictures: LabelledSet, setups: int, bars: Bars) -> None:
    """Raise UsageError for a bar on what is lost where nothing is there to lose it against."""
    if bars.max_drop is not None and setups < 2 and _original(bundle, pictures) is None:
        raise UsageError(
            f"--max-drop has nothing to compare with: the bundle does not record the original's predictions of {pictures.name}",
            "add --backend torch to compare with PyTorch, or evaluate on the test set that the bundle was trained with",
        )


def _check_one_meaning(classes: Sequence[str], labels: Sequence[str]) -> None:
    """Raise DataError for a class whose name is that of several labels, as "crane" is of a bird and of a machine in ImageNet."""
    for name in classes:
        places = [place for place, label in enumerate(labels) if label == name]
        places = places or [place for place, label in enumerate(labels) if label.casefold() == name.casefold()]
        if len(places) > 1:
            numbers = ", ".join(map(str, places))
            raise DataError(
                f"the class {name!r} may be any of the bundle's labels {numbers}", "name all folders by the labels' numbers"
            )


def classifier(bundle: Bundle) -> Preprocess:
    """The preprocessing of a bundle that classifies pictures; raises BundleError for another."""
    manifest = bundle.manifest
    shape = manifest.outputs[0].shape
    unlike = no_picture([(spec.dtype, spec.shape) for spec in manifest.inputs])
    if manifest.preprocess is None and unlike is not None:
        raise BundleError(f"bundle {bundle.root} cannot be given pictures: {unlike.reason}", unlike.remedy)
    if manifest.preprocess is None or not manifest.labels or len(manifest.inputs) != 1 or len(shape) != 2:
        raise BundleError(
            f"bundle {bundle.root} does not classify pictures: it has no labels, no preprocessing or another output",
            "export it with --mean, --std and --labels",
        )
    return manifest.preprocess


def labelled_set(bundle: Bundle, preprocess: Preprocess, data: Path | str | None, progress: Progress) -> LabelledSet:
    """The pictures of ``data``, or of the recorded recipe's test set; raises DataError where they are not known or not here."""
    if data is not None:
        path = as_path(data, "data", DataError)
        if path.suffix == ".toml":
            return of_recipe(load_recipe(path).data, preprocess, progress)
        if not path.is_dir():
            raise DataError(f"{path} is no folder of pictures and no recipe", "give a folder with a folder for each class")
        return of_folder(path, preprocess)
    recorded = bundle.manifest.source.recipe
    try:
        recipe = None if recorded is None else msgspec.convert(recorded, Recipe)
    except (msgspec.ValidationError, ValueError):
        recipe = None
    if recipe is None or recipe.data.dataset == "image-folder":
        why = (
            "records no data set"
            if recipe is None
            else "was trained on pictures of your own, whose folder a bundle does not record"
        )
        raise DataError(f"bundle {bundle.root} {why}", "give --data RECIPE for the recipe's test set, or --data FOLDER")
    return of_recipe(recipe.data, preprocess, progress)


class _Seen(NamedTuple):
    """What was run on the pictures: their names and labels, and for each setup its name, answers and seconds.

    ``several`` are the names of the pictures with several frames.
    """

    names: list[str]
    several: list[str]
    labels: NDArray[np.int64]
    setups: Sequence[tuple[str, Setup]]
    answers: list[Answers]
    seconds: list[float]
    gallery: Gallery


def _run(bundle: Bundle, setups: Sequence[Setup], pictures: LabelledSet, order: NDArray[np.int64], progress: Progress) -> _Seen:
    """Every setup on every batch: each picture is decoded once."""
    names = labels(setups)
    seconds = [0.0] * len(setups)
    parts: list[list[Answers]] = [[] for _ in setups]
    truth, files, several, gallery = [], list[str](), list[str](), Gallery()
    with ExitStack() as stack, progress.task("evaluating", pictures.size) as advance:
        ready = [
            stack.enter_context(open_named(name, _taking(bundle, setup), bundle, progress))
            for name, setup in zip(names, setups, strict=True)
        ]
        probabilities = _gives_probabilities(bundle)
        for batch in pictures.batches():
            truth.append(order[batch.labels])
            files += batch.names
            several += batch.several
            for place, opened in enumerate(ready):
                began = perf_counter()
                outputs = _outputs(bundle, opened, batch)
                seconds[place] += perf_counter() - began
                parts[place].append(answers(outputs, truth[-1], probabilities=probabilities))
            first = parts[0][-1]
            gallery.see(batch, truth[-1], first.predicted, first.confidence)
            advance(len(batch.names), "")
    joined = [Answers(*(np.concatenate(pieces) for pieces in zip(*each, strict=True))) for each in parts]
    return _Seen(files, several, np.concatenate(truth), tuple(zip(names, setups, strict=True)), joined, seconds, gallery)


def _taking(bundle: Bundle, setup: Setup) -> Setup:
    size = fixed_batch(bundle.manifest.inputs) or BATCH
    return setup if row_of(setup.backend).in_ranges else taking(setup, (size,))


def _outputs(bundle: Bundle, opened: Opened, batch: Batch) -> NDArray[np.float64]:
    manifest, intake = bundle.manifest, bundle.intake(opened.setup.variant)
    assert intake is not None
    inputs = intake.normalise(batch.images)
    outputs = outputs_of(opened.session, opened.session.inputs[0].name, inputs, manifest.outputs[0].name)
    if outputs.shape != (len(inputs), len(manifest.labels)):
        raise BundleError(f"{opened.name} gives {outputs.shape} for {len(inputs)} pictures", "run edgekit verify on the bundle")
    return outputs


def _gives_probabilities(bundle: Bundle) -> bool:
    return meaning_of(bundle.golden().float64[bundle.manifest.outputs[0].name]) != "softmax of the output"


def _report(bundle: Bundle, pictures: LabelledSet, seen: _Seen, bars: Bars) -> EvaluateReport:
    classes, notes = bundle.manifest.labels, list(of_first_frames(seen.several))
    original = _original(bundle, pictures)
    if original is None:
        notes.append("the bundle does not record the original's predictions of these pictures, so that no flips are counted")
    rows = tuple(_row(seen, place, original, len(classes)) for place in range(len(seen.setups)))
    rows = tuple(msgspec.structs.replace(row, recorded=_recorded(bundle, pictures, row.setup)) for row in rows)
    variants = dict.fromkeys(setup.variant for _, setup in seen.setups)
    elsewhere = {name: measured_elsewhere(bundle.variant(name)) for name in variants}
    notes += filter(None, elsewhere.values())
    faults = (*_relabelled(seen, original, classes), *_unlike_recorded([row for row in rows if not elsewhere[row.setup.variant]]))
    return EvaluateReport(
        str(bundle.root),
        pictures.name,
        len(seen.labels),
        classes,
        rows,
        tuple(_paired(seen, original)),
        _wrong(seen, classes),
        notes=tuple(notes),
        min_accuracy=bars.min_accuracy,
        max_drop=bars.max_drop,
        faults=faults,
        thumbnails=tuple(_thumbnails(seen.gallery, classes)),
    )


def _relabelled(seen: _Seen, original: Original | None, classes: Sequence[str]) -> Iterator[str]:
    """A sentence if the bundle's labels put pictures into other classes than at export."""
    if original is None:
        return
    moved = np.flatnonzero(original.truth != seen.labels)
    if len(moved):
        here, before = seen.labels[moved[0]], original.truth[moved[0]]
        yield (
            f"the labels were changed since the export: {len(moved):,} of {len(seen.labels):,} pictures are of another class "
            f"by them ({classes[here]!r} is class {here} in manifest.json, and was class {before})"
        )


def _unlike_recorded(rows: Sequence[AccuracyRow]) -> Iterator[str]:
    """A sentence for each row whose accuracy is not the recorded one, but for a few flips."""
    for row in rows:
        if row.recorded is not None and abs(row.top1 - row.recorded) > FLIPS:
            yield (
                f"{row.backend}: the manifest records {row.recorded:.2%} on this test set, and with the bundle's file, labels "
                f"and preprocessing it is {row.top1:.2%}, so the bundle was changed; edgekit verify names most changes"
            )


def _paired(seen: _Seen, original: Original | None) -> Iterator[PairedRow]:
    """Every setup against the original, or against the first setup where the original's predictions are not known.

    The original is judged by the classes that the pictures had at export, and the setups by the bundle's labels of today.
    """
    names = [name for name, _ in seen.setups]
    right = [each.predicted == seen.labels for each in seen.answers]
    first, reference = (names[0], right[0]) if original is None else (ORIGINAL, original.predicted == original.truth)
    for name, mine in list(zip(names, right, strict=True))[original is None :]:
        test = paired(reference, mine)
        yield PairedRow(first, name, test.only_first, test.only_second, test.difference, test.low, test.high, test.p)


class Original(NamedTuple):
    """The original's classes of the test set's pictures, and the right ones, as the export recorded them, int64 N each."""

    predicted: NDArray[np.int64]
    truth: NDArray[np.int64]


def _original(bundle: Bundle, pictures: LabelledSet) -> Original | None:
    """What the original said of these very pictures, where the bundle records that."""
    described, evidence = bundle.manifest.evidence, bundle.evidence()
    if described is None or evidence is None or described.data != pictures.fingerprint:
        return None
    if evidence.predicted is None or evidence.truth is None or len(evidence.predicted) != pictures.size:
        return None
    return Original(evidence.predicted, evidence.truth)


def _recorded(bundle: Bundle, pictures: LabelledSet, setup: Setup) -> float | None:
    """The accuracy that the manifest records for the setup's variant on these very pictures; None if it records none."""
    manifest = bundle.manifest
    if manifest.evidence is None or manifest.evidence.data is None or manifest.evidence.data != pictures.fingerprint:
        return None
    variant = bundle.variant(setup.variant)
    return variant.accuracy if variant.accuracy is not None or variant != manifest.variants[0] else manifest.test_accuracy


def _row(seen: _Seen, place: int, original: Original | None, classes: int) -> AccuracyRow:
    (name, setup), mine = seen.setups[place], seen.answers[place]
    accuracy = accuracy_of(mine.predicted, seen.labels, classes)
    return AccuracyRow(
        backend=name,
        setup=setup,
        top1=accuracy.overall,
        top5=float(mine.in_top.mean()) if classes > 5 else None,
        balanced=accuracy.balanced,
        per_class=accuracy.per_class,
        confusion=confusion(mine.predicted, seen.labels, classes),
        flips=None if original is None else int((mine.predicted != original.predicted).sum()),
        not_finite=int((mine.predicted == NO_CLASS).sum()),
        pictures_per_second=len(seen.labels) / max(seen.seconds[place], 1e-9),
    )


def _wrong(seen: _Seen, classes: Sequence[str]) -> tuple[WrongPicture, ...]:
    first = seen.answers[0]
    wrong = np.flatnonzero(first.predicted != seen.labels)
    surest = wrong[np.argsort(-first.confidence[wrong], kind="stable")]
    rows = []
    for index in surest:
        label, answer = classes[seen.labels[index]], _taken_for(int(first.predicted[index]), classes)
        rows.append(WrongPicture(seen.names[index], label, answer, float(first.confidence[index])))
    return tuple(rows)


def _taken_for(answer: int, classes: Sequence[str]) -> str:
    return NO_NUMBERS if answer == NO_CLASS else classes[answer]


def _thumbnails(gallery: Gallery, classes: Sequence[str]) -> Iterator[Thumbnail]:
    for seen in gallery.chosen():
        image, answer = thumbnail(seen.image), _taken_for(seen.predicted, classes)
        if image is not None:
            yield Thumbnail(seen.name, classes[seen.label], answer, seen.confidence, seen.predicted == seen.label, image)


def _place_of_sheet(folder: Path) -> Path:
    """Where the sheet goes; raises OutputError for a file that is no sheet of edgekit's."""
    place = folder / SHEET
    if place.exists() and MADE_BY.encode() not in read_bytes(place, "sheet")[:4096]:
        raise OutputError(f"{place} is there already, and edgekit did not make it", "give --wrong another folder")
    return place


def _sheet(pictures: LabelledSet, wrong: Sequence[WrongPicture]) -> bytes:
    wanted = {each.name for each in wrong}
    images: dict[str, NDArray[np.uint8]] = {}
    for batch in pictures.batches():
        images.update((name, image) for name, image in zip(batch.names, batch.images, strict=True) if name in wanted)
    chosen = [each for each in wrong if each.name in images]
    captions = [(each.label, f"-> {each.predicted}", f"{each.confidence:.1%}", each.name[-16:]) for each in chosen]
    return contact_sheet([images[each.name] for each in chosen], captions)
