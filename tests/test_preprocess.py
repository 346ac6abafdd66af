"""Pixels to network input: one formula, the same in numpy and in the training loop."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgekit.data.pictures import Pictures
from edgekit.preprocess import Preprocess, no_picture, of_bytes
from edgekit.training.augment import Augmentation
from edgekit.training.batches import Batches

RGB = Preprocess("rgb", 5, 7, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6))


def pixels(channels: int = 3, count: int = 6, seed: int = 0) -> NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, (count, channels, 5, 7)).astype(np.uint8)


def batches(preprocess: Preprocess, images: NDArray[np.uint8]) -> Batches:
    return Batches(Pictures(images, np.arange(len(images))), preprocess, torch.device("cpu"))


def test_normalise_is_the_formula_per_channel() -> None:
    images, got = pixels(), RGB.normalise(pixels())
    assert got.dtype == np.float32
    assert got.shape == images.shape
    for channel in range(3):
        exact = (images[:, channel].astype(np.float64) / 255 - RGB.mean[channel]) / RGB.std[channel]
        assert np.abs(got[:, channel] - exact).max() < 1e-6
        other = (images[:, channel].astype(np.float64) / 255 - RGB.mean[channel] * 1.01) / RGB.std[channel]
        assert np.abs(got[:, channel] - other).max() > 1e-6


@settings(deadline=None, max_examples=25)
@given(
    mean=st.floats(-2, 2, allow_nan=False),
    std=st.floats(1e-3, 4, allow_nan=False),
    seed=st.integers(0, 1000),
)
def test_training_batches_equal_normalise_to_the_last_bit(mean: float, std: float, seed: int) -> None:
    preprocess = Preprocess("grey", 5, 7, (mean,), (std,))
    images = pixels(1, seed=seed)
    index = np.array([3, 0, 5, 5])
    taken, labels = batches(preprocess, images).take(torch.from_numpy(index))
    assert taken.dtype == torch.float32
    assert taken.numpy().tobytes() == preprocess.normalise(images[index]).tobytes()
    assert labels.tolist() == index.tolist()


def test_flipped_pictures_are_mirrored_left_to_right_and_the_others_are_not() -> None:
    images = pixels()
    flipped = torch.tensor([True, False, True, False, False, True])
    taken, labels = batches(RGB, images).take(torch.arange(6), Augmentation(flipped))
    expected = RGB.normalise(np.where(flipped.numpy()[:, None, None, None], images[..., ::-1], images))
    assert np.array_equal(taken.numpy(), expected)
    assert not np.array_equal(taken.numpy(), RGB.normalise(images))
    assert labels.tolist() == list(range(6))


def test_taking_a_batch_leaves_the_pictures_alone() -> None:
    images = pixels()
    source = batches(RGB, images.copy())
    first = source.take(torch.arange(6))[0].clone()
    assert torch.equal(source.take(torch.arange(6))[0], first)
    assert np.array_equal(source.images.numpy(), images)


@pytest.mark.parametrize(
    ("mean", "std"),
    [
        ((0.5,), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, 0.5), (0.5,)),
        ((), ()),
        ((0.5, 0.5, math.nan), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, math.inf), (0.5, 0.5, 0.5)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, 0.0)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, -1.0)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, math.nan)),
        ((0.5, 0.5, 0.5), (0.5, 0.5, math.inf)),
    ],
)
def test_impossible_mean_and_std_are_refused(mean: tuple[float, ...], std: tuple[float, ...]) -> None:
    with pytest.raises(ValueError, match="mean"):
        Preprocess("rgb", 5, 7, mean, std)


def test_an_empty_picture_size_is_refused() -> None:
    with pytest.raises(ValueError, match="height and width"):
        Preprocess("grey", 0, 7, (0.5,), (0.5,))


def test_a_file_is_opened_at_height_by_width(tmp_path: Path) -> None:
    wide = np.zeros((5, 7, 3), np.uint8)
    wide[0, 6] = (10, 20, 30)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    opened = RGB.open(tmp_path / "wide.png")
    assert opened.shape == (3, 5, 7)
    assert opened[:, 0, 6].tolist() == [10, 20, 30]
    Image.fromarray(wide).resize((70, 50)).save(tmp_path / "large.png")
    assert RGB.open(tmp_path / "large.png").shape == (3, 5, 7)


def test_shrinking_averages_instead_of_dropping_pixels(tmp_path: Path) -> None:
    checks = (np.indices((64, 64)).sum(0) % 2 * 255).astype(np.uint8)
    Image.fromarray(checks).save(tmp_path / "checks.png")
    small = Preprocess("grey", 8, 8, (0.0,), (1.0,)).open(tmp_path / "checks.png")
    assert np.abs(small.astype(int) - 127).max() <= 8


@pytest.mark.parametrize(
    ("mean", "std", "of_255"),
    [
        ((0.485,), (0.229,), ()),
        ((0.0,), (1.0,), ()),
        ((123.675,), (58.395,), ("mean", "std")),
        ((0.5,), (127.5,), ("std",)),
        ((123.675,), (0.229,), ("mean",)),
        ((0.0,), (255.0,), ("mean", "std")),
        ((104.0, 117.0, 123.0), (1.0, 1.0, 1.0), ("mean", "std")),
    ],
)
def test_each_of_mean_and_std_has_its_unit(mean: tuple[float, ...], std: tuple[float, ...], of_255: tuple[str, ...]) -> None:
    assert of_bytes(mean, std) == of_255


@pytest.mark.parametrize(
    ("inputs", "reason", "remedy"),
    [
        ([("uint8", ("N", 3, 8, 8))], "its input is uint8 N x 3 x 8 x 8, not float32", "casts it to uint8"),
        ([("float16", ("N", 1, 8, 8))], "its input is float16", "casts it to float16"),
        ([("float32", ("N", 8, 8, 3))], "with the channels last", "x.permute(0, 2, 3, 1)"),
        ([("float32", ("N", 16))], "no picture", "edgekit.load"),
        ([("float32", ("N", 4, 8, 8))], "no picture", "edgekit.load"),
        ([("float32", ("N", 3, 8, 8))] * 2, "it has 2 inputs", "edgekit.load"),
    ],
)
def test_a_model_that_takes_no_pictures_is_told_why(
    inputs: list[tuple[str, tuple[int | str, ...]]], reason: str, remedy: str
) -> None:
    unlike = no_picture(inputs)
    assert unlike is not None
    assert reason in unlike.reason
    assert remedy in unlike.remedy


def test_a_model_of_float32_pictures_takes_them() -> None:
    assert no_picture([("float32", ("N", 3, 8, 8))]) is None
    assert no_picture([("float32", (1, 1, 8, 8))]) is None
