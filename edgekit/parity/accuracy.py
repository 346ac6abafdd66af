"""A labelled set through a Session, and the paired test of two that saw the same pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.backends.contract import InRanges, Session
from edgekit.preprocess import Intake
from edgekit.reports.predict import Numbers
from edgekit.tensors import Array, batches_of, fixed_batch, joined_outputs, real_samples

TOP = 5
SUM, SURE = 1e-3, 0.5
NO_CLASS = -1
"""The prediction for a picture whose outputs are not finite."""
FLIPS = 2e-3
"""Share of the test set by which a file's accuracy may differ from the original's."""


def meaning_of(reference: Array) -> Numbers:
    """What the outputs of a classifier are, told by its recorded outputs, float64 N x classes.

    Probabilities are not negative and sum to 1 in every sample. Scores are within 0..1, and some are above a half, which logits
    that happen to be small and positive are not. Anything else needs a softmax.
    """
    if reference.ndim != 2 or not np.isfinite(reference).all() or reference.min(initial=0.0) < -SUM:
        return "softmax of the output"
    if np.abs(reference.sum(1) - 1).max(initial=0.0) <= SUM and reference.shape[1] > 1:
        return "the model's own probabilities"
    within = reference.max(initial=0.0) <= 1 + SUM
    return "the model's own scores" if within and reference.max(initial=0.0) > SURE else "softmax of the output"


class Answers(NamedTuple):
    """What a runtime says of pictures: the class, its probability, and whether the label is among the ``TOP`` likeliest."""

    predicted: NDArray[np.int64]
    in_top: NDArray[np.bool_]
    confidence: NDArray[np.float64]


BATCH = 250


def classes_of(run: Callable[[Array], Array], images: NDArray[np.uint8], intake: Intake) -> NDArray[np.int64] | None:
    """The class of each of ``images``, uint8 N x C x H x W, which ``run`` is given by ``intake``, ``BATCH`` at a time.

    ``run`` gives an output of N x classes; None for one of another rank, which names no class.
    """
    parts = []
    for start in range(0, len(images), BATCH):
        outputs = run(intake.normalise(images[start : start + BATCH]))
        if outputs.ndim != 2:
            return None
        parts.append(outputs.argmax(1))
    return np.concatenate(parts).astype(np.int64)


def answers(outputs: Array, labels: NDArray[np.int64], *, probabilities: bool) -> Answers:
    """Judge ``outputs``, N x classes, by ``labels``, int64 N; ``probabilities``: they are so already, and no softmax is taken.

    A sample whose largest output is NaN or infinite is of no class, ``NO_CLASS``, with no confidence, and in no top; -inf beside
    it is a mask.
    """
    wide = outputs.astype(np.float64)
    finite = np.isfinite(wide.max(1))  # NaN where any is
    wide[~finite] = -1.0
    predicted = wide.argmax(1)
    ranks = (wide > wide[np.arange(len(wide)), labels][:, None]).sum(1)
    shares = wide if probabilities else _softmax(wide)
    confidence = np.where(finite, shares[np.arange(len(wide)), predicted], 0.0)
    return Answers(np.where(finite, predicted, NO_CLASS), (ranks < TOP) & finite, confidence)


def _softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = np.exp(logits - logits.max(1, keepdims=True))
    return np.asarray(shifted / shifted.sum(1, keepdims=True))


def outputs_of(session: Session, name: str, inputs: Array, output: str) -> Array:
    """The ``output`` of a session for all ``inputs``, in batches that it takes, without those of filling samples."""
    size = batch_for(session, len(inputs))
    parts = [real_samples(session.run(feed), size, real) for feed, real in batches_of({name: inputs}, size)]
    return joined_outputs(parts)[output]


def batch_for(session: Session, samples: int) -> int:
    """The batch size in which a session takes ``samples`` samples: all at once, or else its largest that they fill."""
    fixed = fixed_batch(session.inputs)
    if fixed is not None:
        return fixed
    ranges = session.ranges if isinstance(session, InRanges) else ()
    if not ranges or any(samples in allowed for allowed in ranges):
        return samples
    filled = [allowed.max for allowed in ranges if allowed.max < samples]
    return max(filled) if filled else min(allowed.min for allowed in ranges)


def confusion(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> tuple[tuple[int, ...], ...]:
    """How many pictures of each class (rows) are taken for each class (columns); those of no class are in no column."""
    named = predicted != NO_CLASS
    counts = np.bincount(labels[named] * classes + predicted[named], minlength=classes * classes).reshape(classes, classes)
    return tuple(tuple(int(count) for count in row) for row in counts)


def order_of(classes: Sequence[str], labels: Sequence[str]) -> list[int] | str:
    """The place of each of ``classes`` among ``labels``; or the first name that is none of them.

    A class has the label's name, or else its name without case, with _ for what no folder's name may hold, or its number.
    """
    for names in (labels, [*map(_folder_name, labels)], [*map(str, range(len(labels)))]):
        known = {name: place for place, name in enumerate(names) if names.count(name) == 1}  # a name of two labels means neither
        places = [known.get(name if names is labels else _folder_name(name)) for name in classes]
        if None not in places:
            return [place for place in places if place is not None]
    exact = {_folder_name(label) for label in labels}
    return next((name for name in classes if _folder_name(name) not in exact), classes[0])


def _folder_name(label: str) -> str:
    """How a label may be spelt as a folder's name."""
    return re.sub(r"[^\w.+]+", "_", label.casefold()).strip("_")
