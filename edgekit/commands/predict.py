"""``edgekit predict``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.backends import open_backend
from edgekit.backends.choose import check_flavour_fits, flavour_asked
from edgekit.backends.contract import Backend
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.errors import BundleError
from edgekit.progress import SILENT, Progress
from edgekit.reports.predict import Guess, Prediction, PredictReport
from edgekit.tensors import Array


def predict_images(
    root: Path,
    images: Sequence[Path],
    *,
    backend: str | None = None,
    flavour: str | None = None,
    engine: Path | None = None,
    top: int = 3,
    progress: Progress = SILENT,
) -> PredictReport:
    """Labels through ONNX Runtime on the CPU, or the runtime named."""
    from edgekit.commands.predict import predict

    bundle = open_bundle(root)
    files = bundle.model_files()
    kind = backend or "ort-cpu"
    flavour = flavour_asked(flavour, engine)
    check_flavour_fits(flavour, (kind,))
    with open_backend(kind, files, batches=(1,), flavour=flavour, engine=engine, progress=progress) as opened:
        return predict(bundle, opened, images, top)


def predict(bundle: Bundle, backend: Backend, images: Sequence[Path], top: int = 3) -> PredictReport:
    """The ``top`` most probable labels of every picture; raises BundleError for a bundle that does not classify pictures."""
    preprocess, labels = bundle.manifest.preprocess, bundle.manifest.labels
    if preprocess is None or not labels or len(bundle.manifest.inputs) != 1:
        raise BundleError(
            f"bundle {bundle.root} records no preprocessing or labels, so it cannot be given pictures; "
            "export it with --mean, --std and --labels"
        )
    name, output = bundle.manifest.inputs[0].name, bundle.manifest.outputs[0].name
    predictions = []
    for image in images:
        pixels = preprocess.open(image)[None]
        logits = backend.run({name: preprocess.normalise(pixels)})[output][0]
        if logits.shape != (len(labels),):
            raise BundleError(f"bundle {bundle.root} has {len(labels)} label(s) for an output of {logits.shape}; export it again")
        if not np.isfinite(logits).all():
            raise BundleError(f"bundle {bundle.root} gives numbers that are not finite for {image}; run edgekit verify on it")
        predictions.append(Prediction(str(image), guesses(logits, labels, top)))
    return PredictReport(str(bundle.root), backend.name, tuple(predictions))


def guesses(logits: Array, labels: Sequence[str], top: int) -> tuple[Guess, ...]:
    """Softmax in float64, best first."""
    shifted = np.exp(logits.astype(np.float64) - logits.max())
    probabilities = shifted / shifted.sum()
    best = np.argsort(-probabilities, kind="stable")[:top]
    return tuple(Guess(labels[index], float(probabilities[index])) for index in best)
