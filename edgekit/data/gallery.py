"""The few pictures of a labelled set that a report shows, as small files."""

from __future__ import annotations

import io
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgekit.data.labelled import Batch

WRONG, RIGHT = 12, 12
SIDE = 64
"""Pixels of the longer side of a thumbnail, at most."""
LOSSLESS_BYTES = 2048
"""A PNG that is larger becomes a JPEG: 24 of them have to fit into a page."""


class Seen(NamedTuple):
    """A picture, uint8 C x H x W, the numbers of its class and of what it is taken for, and the probability of that."""

    name: str
    label: int
    predicted: int
    confidence: float
    image: NDArray[np.uint8]


class Gallery:
    """Chooses while the set is decoded, batch by batch: no picture is decoded twice, and few are held."""

    def __init__(self) -> None:
        self._wrong: list[Seen] = []
        self._of_class: dict[int, Seen] = {}
        self._more: list[Seen] = []

    def see(self, batch: Batch, labels: NDArray[np.int64], predicted: NDArray[np.int64], confidence: NDArray[np.float64]) -> None:
        """Look at the answers to a batch, N each; ``labels`` and ``predicted`` are numbers of the bundle's classes."""

        def seen(place: int) -> Seen:
            answer = int(predicted[place]), float(confidence[place])
            return Seen(batch.names[place], int(labels[place]), *answer, batch.images[place].copy())

        wrong = np.flatnonzero(predicted != labels)
        surest = wrong[np.argsort(-confidence[wrong], kind="stable")][:WRONG]
        self._wrong = sorted([*self._wrong, *map(seen, surest.tolist())], key=lambda each: -each.confidence)[:WRONG]
        for place in np.flatnonzero(predicted == labels).tolist():
            if len(self._of_class) + len(self._more) >= 2 * RIGHT:
                break
            if labels[place] not in self._of_class and len(self._of_class) < RIGHT:
                self._of_class[int(labels[place])] = seen(place)
            elif len(self._more) < RIGHT:
                self._more.append(seen(place))

    def chosen(self) -> tuple[Seen, ...]:
        """The surest wrong pictures, then right ones: the first of each class, and others where there are few classes."""
        firsts = sorted(self._of_class.values(), key=lambda each: each.label)
        return (*self._wrong, *[*firsts, *self._more][:RIGHT])


def thumbnail(image: NDArray[np.uint8]) -> bytes | None:
    """A PNG or JPEG of a picture, uint8 C x H x W, of at most ``SIDE`` pixels a side; None without Pillow."""
    if find_spec("PIL") is None:
        return None
    from PIL import Image

    picture = Image.fromarray(image[0] if len(image) == 1 else np.ascontiguousarray(image.transpose(1, 2, 0)))
    picture.thumbnail((SIDE, SIDE))
    content = _file(picture, "PNG", optimize=True)
    return content if len(content) <= LOSSLESS_BYTES else _file(picture, "JPEG", quality=80)


def _file(picture: object, kind: str, **how: object) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **how)  # type: ignore[attr-defined]
    return buffer.getvalue()
