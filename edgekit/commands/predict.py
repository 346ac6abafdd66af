"""``edgekit predict``: labels of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from glob import has_magic
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

from edgekit.bundle.folder import open_bundle
from edgekit.data.listing import list_pictures, matching, of_first_frames
from edgekit.decoding.frames import watched_frames
from edgekit.errors import BundleError, DataError, printable
from edgekit.files import as_paths
from edgekit.model import Model, meaning_in, model_of
from edgekit.progress import SILENT, Progress
from edgekit.reports.predict import Prediction, PredictReport
from edgekit.reports.train import LeftOut
from edgekit.setups import Setup


def predict(
    bundle: Path | str,
    images: Path | str | Iterable[Path | str],
    setup: Setup | str | None = None,
    *,
    top: int = 3,
    progress: Progress = SILENT,
) -> PredictReport:
    """Label pictures through the bundle's own preprocessing: the ``top`` most probable labels of each.

    ``images`` are picture files, folders (all pictures below them) and glob patterns (``**`` goes into folders). A picture that
    cannot be read has a ``problem`` in the report in place of labels. Where the recorded outputs are probabilities or scores,
    the model's outputs are taken as they are; else their softmax is.

    Without a ``setup`` it is what ``edgekit tune`` chose for the bundle on this machine, or ONNX Runtime on the CPU. With
    ``every`` as the backend the first present is taken.

    A path or pattern without a picture has a row that says so; where none has any it is a DataError. Raises BundleError for a
    bundle that does not classify pictures.
    """
    opened = open_bundle(bundle)
    meaning = meaning_in(opened)
    if isinstance(meaning, BundleError):
        raise meaning
    asked = picture_files(as_paths(images, "picture", DataError))
    for row in asked.left_out:
        progress.say(f"left out: {row.count} x {row.reason}, like {row.example}")
    predictions, several = [], []
    with (
        model_of(opened, setup, progress, meaning) as model,
        progress.task("labelling pictures", len(asked.problems)) as advance,
    ):
        for picture, problem in asked.problems.items():
            with watched_frames() as frames:
                predictions.append(Prediction(str(picture), (), problem) if problem else _label(model, picture, top))
            several += [printable(str(picture))] * frames.several
            advance(1, picture.name)
    notes = of_first_frames(several)
    for text in notes:
        progress.say(f"note: {text}")
    return PredictReport(str(opened.root), model.backend, tuple(predictions), model.setup, meaning, asked.left_out, notes)


def _label(model: Model, picture: Path, top: int) -> Prediction:
    """The most probable labels of one picture, or why it has none."""
    try:
        return Prediction(str(picture), model.predict(picture, top=top).guesses)
    except DataError as problem:
        return Prediction(str(picture), (), str(problem))


class Asked(NamedTuple):
    """The pictures to label, each once and in order, with what keeps it from being labelled; and what was left out."""

    problems: dict[Path, str]
    left_out: tuple[LeftOut, ...]


def picture_files(paths: Iterable[Path | str]) -> Asked:
    """What paths, folders and patterns name; one that names no picture stands for itself, with the problem.

    Raises DataError where none names a picture.
    """
    problems: dict[Path, str] = {}
    left_out: list[LeftOut] = []
    spelt: dict[str, Path] = {}
    refusal = None
    for path in map(Path, paths):
        try:
            pictures, others = _named(path)
            left_out += others
            problems |= dict.fromkeys((picture for picture in pictures if not _is_again(picture, spelt)), "")
        except DataError as problem:
            refusal = refusal or problem
            problems.setdefault(path, str(problem))
    if refusal and all(problems.values()):
        raise refusal
    return Asked(problems, tuple(left_out))


def _is_again(picture: Path, spelt: dict[str, Path]) -> bool:
    """Whether a picture before was this file, in another spelling of Unicode that the file system takes for the same name."""
    first = spelt.setdefault(normalize("NFC", str(picture)), picture)
    return first != picture and first.exists() and picture.exists() and first.samefile(picture)


def _named(path: Path) -> tuple[Sequence[Path], Sequence[LeftOut]]:
    """The pictures that one path, folder or pattern names, and what else they hold or match; DataError where there are none."""
    folder = path.is_dir()
    if not folder and path.exists():
        return (path,), ()
    if not folder and not has_magic(str(path)):
        raise DataError(f"picture {path} does not exist", "check the path")
    listing = list_pictures(path) if folder else matching(path)
    if not listing.pictures:
        raise DataError(f"{path} has no pictures", "give picture files, folders of them, or a pattern that matches some")
    return [picture.path for picture in listing.pictures], listing.left_out
