"""``edgekit predict``: labels of pictures."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from edgekit.backends import USUAL_BACKEND
from edgekit.backends.choose import choose, open_named
from edgekit.backends.contract import Session
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.errors import BundleError
from edgekit.progress import SILENT, Progress
from edgekit.reports.predict import Guess, Prediction, PredictReport
from edgekit.setups import Setup, taking
from edgekit.tensors import Array


def predict(
    bundle: Path | str,
    images: Path | str | Iterable[Path | str],
    setup: Setup | str = USUAL_BACKEND,
    *,
    top: int = 3,
    progress: Progress = SILENT,
) -> PredictReport:
    """Label pictures through the bundle's own preprocessing: the ``top`` most probable labels of each.

    With ``every`` as the backend the first that is present is taken. Raises BundleError for a bundle that does not classify
    pictures.
    """
    opened = open_bundle(Path(bundle))
    chosen = taking(choose(opened, setup).setups[0], (1,))
    pictures = (images,) if isinstance(images, (Path, str)) else tuple(images)
    with open_named(chosen.backend, chosen, opened, progress) as ready:
        predictions = tuple(label(opened, ready.session, Path(picture), top) for picture in pictures)
    return PredictReport(str(opened.root), chosen.backend, predictions, chosen)


def label(bundle: Bundle, session: Session, image: Path, top: int) -> Prediction:
    """The ``top`` most probable labels of one picture."""
    preprocess, labels = bundle.manifest.preprocess, bundle.manifest.labels
    if preprocess is None or not labels or len(bundle.manifest.inputs) != 1:
        raise BundleError(
            f"bundle {bundle.root} records no preprocessing or labels, so it cannot be given pictures",
            "export it with --mean, --std and --labels",
        )
    name, output = bundle.manifest.inputs[0].name, bundle.manifest.outputs[0].name
    pixels = preprocess.open(image)[None]
    logits = session.run({name: preprocess.normalise(pixels)})[output][0]
    if logits.shape != (len(labels),):
        raise BundleError(f"bundle {bundle.root} has {len(labels)} label(s) for an output of {logits.shape}", "export it again")
    if not np.isfinite(logits).all():
        raise BundleError(f"bundle {bundle.root} gives numbers that are not finite for {image}", "run edgekit verify on it")
    return Prediction(str(image), guesses(logits, labels, top))


def guesses(logits: Array, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    """Softmax in float64, best first."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Guess(labels[index], float(probabilities[index])) for index in best)
