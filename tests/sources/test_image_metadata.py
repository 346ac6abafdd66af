"""The pixels that an ONNX file's metadata ask for, held against ``--mean`` and ``--std``."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from edgekit.errors import UsageError
from edgekit.preprocess import Preprocess
from edgekit.sources.image_metadata import check_agrees, stated
from edgekit.tensors import BATCH, TensorSpec

COLOUR = TensorSpec("x", "float32", (BATCH, 3, 8, 8))
GREY = TensorSpec("x", "float32", (BATCH, 1, 8, 8))
IMAGENET = Preprocess("rgb", 8, 8, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
BYTES = Preprocess("rgb", 8, 8, (0.0,) * 3, (0.003922,) * 3)  # as people type 1/255
FORMAT, RANGE, GAMMA = "Image.BitmapPixelFormat", "Image.NominalPixelRange", "Image.ColorSpaceGamma"


@pytest.mark.parametrize(
    ("given", "metadata", "fault"),
    [
        (IMAGENET, {FORMAT: "Bgr8"}, "wants pixels as Bgr8"),
        (IMAGENET, {FORMAT: "BGR8", RANGE: "NominalRange_0_255"}, "wants pixels as BGR8"),
        (BYTES, {FORMAT: "Bgr8", RANGE: "NominalRange_0_255"}, "wants pixels as Bgr8"),
        (IMAGENET, {FORMAT: "Rgb8", RANGE: "NominalRange_0_255"}, "--std 0.003922,0.003922,0.003922"),
        (IMAGENET, {RANGE: "Normalized_1_1"}, "--mean 0.5,0.5,0.5 --std 0.5,0.5,0.5"),
        (IMAGENET, {GAMMA: "Linear"}, "wants linear light"),
        (IMAGENET, {FORMAT: "Rgb8", RANGE: "Another"}, "wants pixels of Another"),
        (IMAGENET, {"edgekit.preprocess": msgspec.json.encode(BYTES).decode()}, "its edgekit.preprocess is --mean 0,0,0"),
    ],
)
def test_options_that_contradict_the_file_are_refused(given: Preprocess, metadata: dict[str, str], fault: str) -> None:
    with pytest.raises(UsageError) as caught:
        check_agrees(given, metadata, COLOUR)
    assert fault in str(caught.value)
    assert "correct the file's metadata" in str(caught.value)


@pytest.mark.parametrize(
    ("given", "metadata"),
    [
        (IMAGENET, {}),
        (IMAGENET, {FORMAT: "Rgb8"}),
        (BYTES, {FORMAT: "Rgb8", RANGE: "NominalRange_0_255"}),
        (BYTES, {RANGE: "NominalRange_0_255"}),
        (IMAGENET, {"edgekit.preprocess": msgspec.json.encode(IMAGENET).decode()}),
        (IMAGENET, {"edgekit.preprocess": "{"}),
    ],
)
def test_options_that_agree_with_the_file_pass(given: Preprocess, metadata: dict[str, str]) -> None:
    check_agrees(given, metadata, COLOUR)


def test_a_grey_file_is_held_to_grey() -> None:
    grey = Preprocess("grey", 8, 8, (0.5,), (0.5,))
    check_agrees(grey, {FORMAT: "Gray8", RANGE: "Normalized_1_1"}, GREY)
    with pytest.raises(UsageError, match="wants pixels as Rgb8"):
        check_agrees(grey, {FORMAT: "Rgb8"}, GREY)


def test_the_range_of_video_is_made() -> None:
    preprocess = stated({FORMAT: "Gray8", RANGE: "NominalRange_16_235"}, GREY).preprocess
    assert preprocess is not None
    made = preprocess.normalise(np.array([[[[0, 255]]]], np.uint8))
    assert made.ravel() == pytest.approx([16, 235], abs=1e-4)


def test_a_range_that_is_not_known_is_noted() -> None:
    assert "wants pixels of 16_235 (Image.NominalPixelRange)" in stated({RANGE: "16_235"}, GREY).note
