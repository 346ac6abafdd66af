"""Augmentation: each picture is moved, mirrored and erased as was drawn for it, and as the formulas say."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from edgekit.errors import RecipeError
from edgekit.recipe import TrainRecipe
from edgekit.training.augment import ERASED_AREA, Augmentation, draw

SIZE = (7, 9)


def drawn(epoch: int = 0, pictures: int = 500, size: tuple[int, int] = SIZE, **settings: Any) -> Augmentation:
    generator = torch.Generator().manual_seed(1_000_003 + epoch)
    return draw(TrainRecipe(**settings), pictures, size, epoch, generator, torch.device("cpu"))


def pictures(count: int, channels: int = 2) -> Tensor:
    return torch.randint(0, 256, (count, channels, *SIZE), dtype=torch.uint8, generator=torch.Generator().manual_seed(3))


def test_nothing_is_drawn_where_nothing_is_asked_for() -> None:
    assert drawn() == Augmentation(None, None, None)
    images = pictures(4)
    assert torch.equal(Augmentation().moved(images), images)


@given(st.integers(1, 6), st.integers(0, 50))
def test_a_crop_is_a_window_of_the_picture_padded_by_reflection(pad: int, seed: int) -> None:
    images = pictures(5)
    shift = torch.randint(-pad, pad + 1, (5, 2), generator=torch.Generator().manual_seed(seed))
    moved = Augmentation(shift=shift).moved(images)
    assert moved.is_contiguous()
    for image, (down, right), window in zip(images.numpy(), shift.tolist(), moved.numpy(), strict=True):
        padded = np.pad(image, ((0, 0), (pad, pad), (pad, pad)), mode="reflect")
        expected = padded[:, pad + down : pad + down + SIZE[0], pad + right : pad + right + SIZE[1]]
        assert np.array_equal(window, expected)


def test_shifts_reach_every_distance_and_no_further() -> None:
    shift = drawn(pad=2).shift
    assert shift is not None
    assert [sorted(set(axis.tolist())) for axis in shift.unbind(1)] == [[-2, -1, 0, 1, 2]] * 2


def test_alternating_flips_show_each_picture_both_ways_in_two_epochs_and_random_ones_do_not() -> None:
    alternating = [drawn(epoch, flip="alternating").flipped for epoch in (0, 1, 2)]
    assert torch.equal(alternating[0], ~alternating[1])  # type: ignore[arg-type, operator]  # they are tensors, as asked for
    assert torch.equal(alternating[0], alternating[2])  # type: ignore[arg-type]  # the same
    random = [drawn(epoch, flip=True).flipped for epoch in (0, 1)]
    assert not torch.equal(random[0], ~random[1])  # type: ignore[arg-type, operator]  # the same
    for flipped in (*alternating, *random):
        assert flipped is not None
        assert 0.4 < flipped.double().mean() < 0.6


def test_a_share_of_the_pictures_loses_a_rectangle_of_a_size_within_bounds() -> None:
    size = (40, 40)
    box = drawn(pictures=4000, size=size, erase=0.25).box
    assert box is not None
    top, bottom, left, right = box.unbind(1)
    area = (bottom - top) * (right - left) / (size[0] * size[1])
    assert (area > 0).double().mean() == pytest.approx(0.25, abs=0.03)
    assert (box >= 0).all()
    assert (torch.stack((bottom, right)) <= 40).all()
    erased = area[area > 0]
    assert erased.max() < ERASED_AREA[1] * 1.2  # the sides are whole pixels
    assert 0.12 < erased.mean() < 0.22
    assert len({*top.tolist()}) > 20


def test_a_rectangle_is_set_to_the_mean_and_the_rest_is_left() -> None:
    box = torch.tensor([[1, 3, 2, 6], [0, 0, 0, 0]])
    images = torch.ones(2, 3, *SIZE)
    erased = Augmentation(box=box).erased(images.clone())
    expected = images.clone()
    expected[0, :, 1:3, 2:6] = 0
    assert torch.equal(erased, expected)


def test_pictures_are_taken_with_what_was_drawn_for_them() -> None:
    whole = drawn(flip=True, pad=1, erase=0.5)
    index = torch.tensor([7, 3, 3])
    part = whole.of(index)
    for before, after in zip(whole, part, strict=True):
        assert before is not None
        assert after is not None
        assert torch.equal(before[index], after)


def test_a_pad_that_no_reflection_fills_is_refused() -> None:
    assert drawn(pad=6).shift is not None
    with pytest.raises(RecipeError, match=r"train\.pad = 7 is not below the pictures' side of 7; lower it"):
        drawn(pad=7)
