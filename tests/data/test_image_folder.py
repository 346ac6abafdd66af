"""Pictures in folders: split, decoded, measured."""

from __future__ import annotations

import contextlib
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgekit.data import channel_statistics, fingerprint, golden_pictures, image_folder, load_dataset
from edgekit.data.pictures import spread
from edgekit.errors import DataError
from edgekit.preprocess import Preprocess
from edgekit.recipe import DataRecipe


def draw(path: Path, value: int, size: tuple[int, int] = (6, 6), mode: str = "L") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", size, value).convert(mode).save(path)


def folder_of(root: Path, count: int = 12, classes: tuple[str, ...] = ("cat", "dog")) -> Path:
    """``count`` pictures per class, each of one grey value that no other has."""
    for label, name in enumerate(classes):
        for index in range(count):
            draw(root / name / f"{index:02}.png", 1 + label * count + index)
    return root


def values(images: NDArray[np.uint8]) -> list[int]:
    assert (images == images[:, :1, :1, :1]).all()
    greys: list[int] = images[:, 0, 0, 0].tolist()
    return greys


def test_train_and_test_folders_are_used_as_they_are(tmp_path: Path) -> None:
    for split, base in (("train", 10), ("test", 100)):
        for label, name in enumerate(("cat", "dog", "emu")):
            for index in range(2):
                draw(tmp_path / split / name / f"{index}.png", base + 10 * label + index)
    train, test, classes = image_folder.load(tmp_path, "grey", (6, 6))
    assert classes == ("cat", "dog", "emu")
    assert values(train.images) == [10, 11, 20, 21, 30, 31]
    assert values(test.images) == [100, 101, 110, 111, 120, 121]
    assert train.labels.tolist() == test.labels.tolist() == [0, 0, 1, 1, 2, 2]


def test_a_share_of_one_folder_is_set_aside_without_overlap(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    train, test, _ = image_folder.load(tmp_path, "grey", (6, 6), 0.25)
    assert sorted(values(train.images) + values(test.images)) == list(range(1, 81))
    assert 8 <= len(test) <= 32
    assert all((value > 40) == label for value, label in zip(values(test.images), test.labels, strict=True))


def test_adding_pictures_moves_none_between_training_and_test(tmp_path: Path) -> None:
    folder_of(tmp_path, 20)
    train, test, _ = image_folder.load(tmp_path, "grey", (6, 6), 0.3)
    for index in range(30):
        draw(tmp_path / "cat" / f"0{index}-new.png", 100 + index)
        draw(tmp_path / "ant" / f"{index}.png", 150 + index)
    more_train, more_test, _ = image_folder.load(tmp_path, "grey", (6, 6), 0.3)
    assert set(values(train.images)) < set(values(more_train.images))
    assert set(values(test.images)) < set(values(more_test.images))


def test_moving_the_folder_changes_nothing(tmp_path: Path) -> None:
    first = image_folder.load(folder_of(tmp_path / "a", 40), "grey", (6, 6))
    second = image_folder.load(folder_of(tmp_path / "somewhere" / "else", 40), "grey", (6, 6))
    assert values(first[1].images) == values(second[1].images)


def test_a_larger_share_keeps_the_test_pictures_of_a_smaller_one(tmp_path: Path) -> None:
    folder_of(tmp_path, 30)
    small = image_folder.load(tmp_path, "grey", (6, 6), 0.2)[1]
    large = image_folder.load(tmp_path, "grey", (6, 6), 0.5)[1]
    assert set(values(small.images)) < set(values(large.images))


def test_golden_pictures_of_a_folder_are_those_of_its_test_set(tmp_path: Path) -> None:
    folder_of(tmp_path, 30)
    recipe = DataRecipe("image-folder", path=str(tmp_path), resize=8, test_fraction=0.4)
    loaded = load_dataset(recipe)
    golden = golden_pictures(recipe, loaded.preprocess, 5)
    chosen = spread(len(loaded.test), 5)
    assert np.array_equal(golden.images, loaded.test.images[chosen])
    assert np.array_equal(golden.labels, loaded.test.labels[chosen])


def test_a_folder_is_rgb_and_measured_unless_the_recipe_says_otherwise(tmp_path: Path) -> None:
    folder_of(tmp_path, 30)
    loaded = load_dataset(DataRecipe("image-folder", path=str(tmp_path), resize=(8, 4)))
    assert loaded.train.images.shape[1:] == (3, 8, 4)
    assert (loaded.preprocess.mean, loaded.preprocess.std) == channel_statistics(loaded.train.images)
    assert loaded.classes == ("cat", "dog")


def test_files_that_are_no_pictures_and_hidden_folders_are_passed_over(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", 3)
    folder_of(tmp_path / "test", 3)
    for folder in ("train", "test"):
        draw(tmp_path / folder / ".thumbnails" / "1.png", 99)
        (tmp_path / folder / "cat" / "notes.txt").write_text("meow")
        draw(tmp_path / folder / "cat" / "._00.png", 99)
    train, test, classes = image_folder.load(tmp_path, "grey", (6, 6))
    assert classes == ("cat", "dog")
    assert len(train) == len(test) == 6


def upright(tmp_path: Path, image: Image.Image, name: str, color: str = "rgb", **options: Any) -> NDArray[np.uint8]:
    """A picture among others, as ``load`` gives it at 4 rows by 2 columns."""
    for split in ("train", "test"):
        for other in ("cat", "dog"):
            draw(tmp_path / split / other / "z.png", 9, (31, 17))
    image.save(tmp_path / "train" / "cat" / name, **options)
    train, _, _ = image_folder.load(tmp_path, color, (4, 2))  # type: ignore[arg-type]  # the color is a Literal
    picture: NDArray[np.uint8] = train.images[0]
    return picture


@pytest.mark.parametrize("mode", ["L", "RGB", "P", "1", "RGBA", "LA", "CMYK"])
@pytest.mark.parametrize(("color", "channels"), [("grey", 1), ("rgb", 3)])
def test_pictures_of_every_mode_and_size_become_one_shape(mode: str, color: str, channels: int, tmp_path: Path) -> None:
    image = Image.new("L", (13, 9), 255).convert(mode)
    pixels = upright(tmp_path, image, "a.tiff" if mode == "CMYK" else "a.png", color)
    assert pixels.shape == (channels, 4, 2)
    assert (pixels == 255).all()


def test_transparent_pixels_are_black(tmp_path: Path) -> None:
    colours = np.full((4, 2, 4), (200, 100, 50, 255), np.uint8)
    colours[0, 0, 3] = 0
    pixels = upright(tmp_path, Image.fromarray(colours), "a.png")
    assert pixels[:, 0, 0].tolist() == [0, 0, 0]
    assert pixels[:, 3, 1].tolist() == [200, 100, 50]


@pytest.mark.parametrize("suffix", ["png", "tiff"])
def test_sixteen_bit_greys_are_scaled_not_clipped(suffix: str, tmp_path: Path) -> None:
    deep = np.array([[0, 257], [200, 200], [0x8080, 0x8080], [65535, 65535]], np.uint16)
    pixels = upright(tmp_path, Image.fromarray(deep), f"a.{suffix}", "grey")
    assert pixels[0].tolist() == [[0, 1], [1, 1], [128, 128], [255, 255]]


def test_a_dark_sixteen_bit_picture_stays_dark(tmp_path: Path) -> None:
    assert upright(tmp_path, Image.fromarray(np.full((4, 2), 200, np.uint16)), "a.png", "grey").max() == 1


def test_a_rotated_photograph_is_turned_upright(tmp_path: Path) -> None:
    stored = np.array([[10, 20, 30, 40], [50, 60, 70, 80]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright: turn 90 degrees clockwise
    pixels = upright(tmp_path, Image.fromarray(stored), "a.png", "grey", exif=exif)
    assert pixels[0].tolist() == [[50, 10], [60, 20], [70, 30], [80, 40]]


def encoded(kind: str) -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3)).astype(np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"])
def test_a_truncated_picture_is_named(kind: str, tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    bad = tmp_path / "dog" / f"broken.{kind.lower()}"
    content = encoded(kind)
    for keep in (0, 3, 20, len(content) // 2):
        bad.write_bytes(content[:keep])
        with pytest.raises(DataError) as caught:
            image_folder.load(tmp_path, "rgb", (6, 6))
        assert str(bad) in str(caught.value)


@settings(deadline=None, max_examples=60)
@given(kind=st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP"]), place=st.floats(0, 1), byte=st.integers(0, 255))
def test_a_damaged_picture_is_decoded_or_refused_but_never_crashes(
    kind: str, place: float, byte: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    content = bytearray(encoded(kind))
    content[int(place * min(len(content) - 1, 200))] = byte
    path = tmp_path_factory.getbasetemp() / f"damaged-{os.getpid()}.{kind.lower()}"
    path.write_bytes(content)
    preprocess = Preprocess("rgb", 6, 6, (0.5,) * 3, (0.5,) * 3)
    with contextlib.suppress(DataError):
        assert preprocess.open(path).shape == (3, 6, 6)


def test_an_empty_class_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path)
    (tmp_path / "emu").mkdir()
    with pytest.raises(DataError, match=r"class folder .*emu has no pictures"):
        image_folder.load(tmp_path, "grey", (6, 6))


@pytest.mark.parametrize("classes", [(), ("cat",)])
def test_fewer_than_two_classes_are_an_error(classes: tuple[str, ...], tmp_path: Path) -> None:
    folder_of(tmp_path, classes=classes)
    with pytest.raises(DataError, match=rf"has {len(classes)} class folder\(s\)"):
        image_folder.load(tmp_path, "grey", (6, 6))


def test_a_class_only_in_the_test_folder_is_named(tmp_path: Path) -> None:
    folder_of(tmp_path / "train", 2)
    folder_of(tmp_path / "test", 2, ("cat", "dog", "emu"))
    with pytest.raises(DataError, match=r"has classes that .*train lacks: emu"):
        image_folder.load(tmp_path, "grey", (6, 6))


def test_too_few_pictures_for_two_halves_are_an_error(tmp_path: Path) -> None:
    folder_of(tmp_path, 1)
    with pytest.raises(DataError, match=r"gives \d (training|test) picture\(s\); add pictures or set data.test_fraction"):
        image_folder.load(tmp_path, "grey", (6, 6))


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    recipe = DataRecipe("image-folder", path=str(tmp_path / "none"), resize=8)
    with pytest.raises(DataError, match=r"none does not exist; check data\.path"):
        load_dataset(recipe)
    with pytest.raises(DataError, match=r"none does not exist; check data\.path"):
        fingerprint(recipe)


def test_the_fingerprint_changes_with_the_pictures(tmp_path: Path) -> None:
    folder_of(tmp_path)
    recipe = DataRecipe("image-folder", path=str(tmp_path), resize=8)
    first = fingerprint(recipe)
    assert fingerprint(recipe) == first
    (tmp_path / "cat" / "notes.txt").write_text("meow")
    assert fingerprint(recipe) == first
    draw(tmp_path / "cat" / "new.png", 3)
    second = fingerprint(recipe)
    assert second != first
    (tmp_path / "cat" / "new.png").rename(tmp_path / "dog" / "new.png")
    assert fingerprint(recipe) not in (first, second)


def test_class_folders_of_one_name_in_two_spellings_of_unicode_are_refused(tmp_path: Path) -> None:
    folder_of(tmp_path, classes=("caf\u00e9", "cafe\u0301", "bar"))
    if len(os.listdir(tmp_path)) == 2:
        pytest.skip("this file system takes the two for one name")
    with pytest.raises(DataError, match="two class folders that are both called caf\u00e9, in two spellings of Unicode; move"):
        image_folder.load(tmp_path, "grey", (6, 6))
