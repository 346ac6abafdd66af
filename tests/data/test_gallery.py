"""The pictures that a report shows: chosen while the set is decoded, and small."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from edgekit.data.gallery import RIGHT, SIDE, WRONG, Gallery, thumbnail
from edgekit.data.labelled import Batch


def seen(labels: list[int], predicted: list[int], confidence: list[float], sizes: tuple[int, ...] = (7,)) -> Gallery:
    """A gallery that was shown these answers in batches of ``sizes``, which take turns."""
    gallery, start, turn = Gallery(), 0, 0
    while start < len(labels):
        rows = slice(start, start + sizes[turn % len(sizes)])
        count = len(labels[rows])
        images = np.zeros((count, 1, 4, 4), np.uint8) + np.arange(start, start + count, dtype=np.uint8)[:, None, None, None]
        names = tuple(f"p{index}" for index in range(start, start + count))
        truth, answers = np.asarray(labels[rows]), np.asarray(predicted[rows])
        gallery.see(Batch(images, truth, names), truth, answers, np.asarray(confidence[rows]))
        start, turn = rows.stop, turn + 1
    return gallery


@pytest.mark.parametrize("sizes", [(7,), (1, 40), (100,)])
def test_the_surest_wrong_pictures_are_chosen_whatever_the_batches(sizes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(0)
    confidence = rng.permutation(100) / 100
    labels, predicted = [0] * 100, [place % 2 for place in range(100)]
    chosen = seen(labels, predicted, confidence.tolist(), sizes).chosen()
    wrong = [each for each in chosen if each.predicted != each.label]
    surest = sorted((place for place in range(100) if place % 2), key=lambda place: -confidence[place])[:WRONG]
    assert [each.name for each in wrong] == [f"p{place}" for place in surest]
    assert [int(each.image[0, 0, 0]) for each in wrong] == surest
    assert len(chosen) == WRONG + RIGHT


def test_right_pictures_are_of_as_many_classes_as_there_are_places() -> None:
    labels = [0] * 50 + list(range(1, 20))
    chosen = seen(labels, labels, [0.5] * len(labels)).chosen()
    assert [each.label for each in chosen] == list(range(RIGHT))


def test_few_pictures_are_all_shown() -> None:
    assert [each.name for each in seen([0, 1, 0], [0, 1, 1], [0.5] * 3).chosen()] == ["p2", "p0", "p1"]


@pytest.mark.parametrize(("channels", "side"), [(1, 28), (3, 32), (3, 224), (1, 300)])
def test_a_thumbnail_is_a_small_picture_that_can_be_opened(channels: int, side: int) -> None:
    content = thumbnail(np.random.default_rng(0).integers(0, 256, (channels, side, side // 2), np.uint8))
    assert content is not None
    assert len(content) < 4096
    with Image.open(io.BytesIO(content)) as image:
        assert max(image.size) == min(side, SIDE)
        assert image.size[1] == min(side, SIDE)
