"""``edgekit predict``: labels of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from glob import has_magic
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np

from edgekit.backends import USUAL_BACKEND
from edgekit.backends.choose import choose, open_named
from edgekit.backends.contract import Session
from edgekit.backends.tuned import choice_for
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.data.listing import list_pictures, matching
from edgekit.errors import BundleError, DataError
from edgekit.parity.accuracy import meaning_of
from edgekit.preprocess import Preprocess, no_picture
from edgekit.progress import SILENT, Progress
from edgekit.reports.predict import Guess, Numbers, Prediction, PredictReport
from edgekit.reports.train import LeftOut
from edgekit.setups import Setup, taking
from edgekit.tensors import Array, fixed_batch


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
    opened = open_bundle(Path(bundle))
    preprocess = _classifier(opened)
    chosen = taking(choose(opened, setup or _usual(opened, progress)).setups[0], (fixed_batch(opened.manifest.inputs) or 1,))
    asked = picture_files((images,) if isinstance(images, (Path, str)) else images)
    for row in asked.left_out:
        progress.say(f"left out: {row.count} x {row.reason}, like {row.example}")
    output = opened.manifest.outputs[0].name
    meaning = meaning_of(opened.golden().float64[output])
    predictions = []
    with (
        open_named(chosen.backend, chosen, opened, progress) as ready,
        progress.task("labelling pictures", len(asked.problems)) as advance,
    ):
        for picture, problem in asked.problems.items():
            labelled = None if problem else _label(opened, ready.session, preprocess, picture, (meaning, top))
            predictions.append(labelled or Prediction(str(picture), (), problem))
            advance(1, picture.name)
    return PredictReport(str(opened.root), chosen.backend, tuple(predictions), chosen, meaning, asked.left_out)


def _usual(bundle: Bundle, progress: Progress) -> Setup | str:
    """What ``edgekit tune`` chose here, which is said, or else the usual backend."""
    choice = choice_for(bundle)
    if choice.setup is not None:
        progress.say(f"run by {choice.setup}, as edgekit tune chose for this machine")
    elif choice.note:
        progress.say(f"note: {choice.note}")
    return choice.setup or USUAL_BACKEND


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


def _classifier(bundle: Bundle) -> Preprocess:
    """The bundle's preprocessing; raises BundleError unless the bundle takes one picture and names its classes."""
    preprocess = bundle.manifest.preprocess
    unlike = no_picture([(spec.dtype, spec.shape) for spec in bundle.manifest.inputs])
    if preprocess is None and unlike is not None:
        raise BundleError(f"bundle {bundle.root} cannot be given pictures: {unlike.reason}", unlike.remedy)
    if preprocess is None or not bundle.manifest.labels or len(bundle.manifest.inputs) != 1:
        raise BundleError(
            f"bundle {bundle.root} records no preprocessing or labels, so it cannot be given pictures",
            "export it with --mean, --std and --labels",
        )
    return preprocess


def _label(bundle: Bundle, session: Session, preprocess: Preprocess, image: Path, wanted: tuple[Numbers, int]) -> Prediction:
    """The most probable labels of one picture, or why it has none."""
    (meaning, top), labels = wanted, bundle.manifest.labels
    name, output = bundle.manifest.inputs[0].name, bundle.manifest.outputs[0].name
    try:
        pixels = np.repeat(preprocess.open(image)[None], fixed_batch(bundle.manifest.inputs) or 1, axis=0)
    except DataError as problem:
        return Prediction(str(image), (), str(problem))
    numbers = session.run({name: preprocess.normalise(pixels)})[output][0]
    if numbers.shape != (len(labels),):
        raise BundleError(f"bundle {bundle.root} has {len(labels)} label(s) for an output of {numbers.shape}", "export it again")
    if not np.isfinite(numbers.max()):  # NaN where any is; -inf beside a finite number is a mask
        return Prediction(str(image), (), "the model's outputs for this picture are not finite; run edgekit verify on the bundle")
    shares = softmax(numbers) if meaning == "softmax of the output" else numbers
    return Prediction(str(image), guesses(shares, labels, top))


def softmax(logits: Array) -> Array:
    """Softmax of one vector, in float64."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    shares: Array = shifted / shifted.sum()
    return shares


def guesses(probabilities: Array, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    """The ``top`` most probable labels, best first; of equals the first in ``labels`` comes first."""
    best = np.argsort(-probabilities.astype(np.float64), kind="stable")[:top]
    return tuple(Guess(labels[index], float(probabilities[index])) for index in best)
