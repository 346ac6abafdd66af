"""What a manifest says of its golden pictures, held against the picture files and the golden samples."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator

import numpy as np

from edgekit.bundle.manifest import GoldenPicture
from edgekit.errors import DataError
from edgekit.parity.evidenced import Evidenced
from edgekit.parity.pixels import undone
from edgekit.preprocess import Preprocess
from edgekit.reports.verify import Check

NEXT_LEVEL = 1.01
"""Levels of 255 by which releases of Pillow may resize differently."""


def pictures(seen: Evidenced) -> Iterator[Check]:
    """The golden pictures, decoded, resized and normalised, are their golden samples, and have the labels that they should."""
    described, mine = seen.manifest.golden.pictures, seen.manifest.preprocess
    if mine is None:
        return
    if not described:
        yield Check("pictures", "unchecked", "decoding and resizing: the bundle holds no golden pictures")
        return
    if importlib.util.find_spec("PIL") is None:
        yield Check("pictures", "unchecked", "the golden pictures: Pillow is not installed")
        return
    odd: dict[str, list[str]] = {}
    for picture in described:
        problem = _odd_picture(seen, picture, mine)
        if problem:
            odd.setdefault(problem, []).append(picture.file)
        else:
            yield Check("pictures", "pass")
    for problem, files in odd.items():
        yield Check("pictures", "fail", f"{', '.join(files)}: {problem}")


def _odd_picture(seen: Evidenced, picture: GoldenPicture, preprocess: Preprocess) -> str:
    inputs, reference = (next(iter(arrays.values())) for arrays in (seen.golden.inputs, seen.golden.float64))
    try:
        pixels = seen.bundle.reading(lambda place: preprocess.open(place / picture.file))
    except DataError as problem:
        return str(problem)
    sample = undone(inputs[picture.sample : picture.sample + 1], preprocess)
    if sample is None or sample.shape[1:] != pixels.shape or np.abs(sample[0] - pixels).max() > NEXT_LEVEL:
        return "preprocessed as the manifest says, it is not the golden sample: the picture or the preprocessing was changed"
    if reference.ndim == 2 and reference[picture.sample].argmax() != picture.label:
        return f"of class {picture.label} in the manifest, and of another in the reference"
    return ""
