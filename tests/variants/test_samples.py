"""Calibration samples are training pictures: from a recipe, a folder or an .npz file, and never those that judge the result."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np
import pytest
from PIL import Image

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.errors import DataError, EdgekitError, ModelError, UsageError
from edgekit.recipe import DataRecipe
from edgekit.variants.samples import FEW, samples_of
from tests.command_line import recipe_text


def picture(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (28, 28), np.uint8)
    Image.fromarray(pixels).save(path)


@pytest.fixture
def opened(bundle: Path) -> Bundle:
    return open_bundle(bundle)


@pytest.fixture(scope="module")
def divided(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 40 training and 20 test pictures of two classes; two of the training pictures are test pictures, renamed."""
    root = tmp_path_factory.mktemp("divided")
    for index in range(40):
        picture(root / "train" / "ab"[index % 2] / f"{index}.png", 1000 + index)
    for index in range(20):
        picture(root / "test" / "ab"[index % 2] / f"{index}.png", 2000 + index)
    for name in "ab":
        first = sorted((root / "test" / name).iterdir())[0]
        shutil.copy(first, root / "train" / name / "renamed.png")
    return root


def recipe(root: Path) -> DataRecipe:
    return DataRecipe(dataset="image-folder", path=str(root), resize=28, color="grey")


def test_training_pictures_of_a_data_set_are_taken_without_those_of_its_test_set(opened: Bundle, divided: Path) -> None:
    samples = samples_of(opened, None, 256, recipe(divided))
    assert samples.size == 40  # and not the two that are test pictures too
    assert samples.recipe == recipe(divided)
    assert (samples.source, samples.calibrated, samples.notes) == ("40 training pictures of image-folder", True, ())
    assert samples.feed["input"].shape == (40, 1, 28, 28)
    assert samples.feed["input"].dtype == np.float32


def test_as_many_as_asked_for_are_spread_over_the_training_set(opened: Bundle, divided: Path) -> None:
    some, all_of_them = (samples_of(opened, None, count, recipe(divided)) for count in (32, 256))
    assert some.size == 32
    assert some.sha256() != all_of_them.sha256() == samples_of(opened, None, 256, recipe(divided)).sha256()


def test_a_recipe_says_where_the_pictures_are(opened: Bundle, divided: Path, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(recipe_text(divided))
    assert samples_of(opened, tmp_path / "x.toml").sha256() == samples_of(opened, None, 256, recipe(divided)).sha256()


def test_a_folder_of_pictures_is_taken_flat_or_in_classes(opened: Bundle, tmp_path: Path) -> None:
    for index in range(40):
        picture(tmp_path / "flat" / f"{index}.png", index)
        picture(tmp_path / "classes" / "ab"[index % 2] / f"{index}.png", index)
    flat, classes = (samples_of(opened, tmp_path / name) for name in ("flat", "classes"))
    assert flat.size == classes.size == 40
    assert (flat.source, classes.source) == ("40 pictures of the folder flat", "40 pictures of the folder classes")
    pixels = np.asarray(Image.open(tmp_path / "flat" / "0.png"), np.float32) / 255
    preprocess = opened.manifest.preprocess
    assert preprocess is not None
    assert np.allclose(flat.feed["input"][0, 0], (pixels - preprocess.mean[0]) / preprocess.std[0], atol=1e-5)


def test_of_a_divided_folder_the_training_half_is_taken(opened: Bundle, divided: Path) -> None:
    assert samples_of(opened, divided).size == 42


def test_a_folder_that_holds_test_pictures_is_refused_by_their_content(opened: Bundle, divided: Path) -> None:
    with pytest.raises(DataError, match="2 of 42 calibration samples are test pictures"):
        samples_of(opened, divided, 256, recipe(divided))


def test_golden_pictures_are_refused_whatever_they_are_called(repository: Path, tmp_path: Path) -> None:
    shipped = open_bundle(repository / "exported" / "lenet")
    golden = shipped.golden().inputs["input"]
    other = np.random.default_rng(0).standard_normal((60, 1, 28, 28)).astype(np.float32)
    np.savez(tmp_path / "some.npz", pictures=np.concatenate([other, golden[3:5]]))
    with pytest.raises(DataError, match="2 of 62 calibration samples are test pictures"):
        samples_of(shipped, tmp_path / "some.npz")
    np.savez(tmp_path / "others.npz", pictures=other)
    assert samples_of(shipped, tmp_path / "others.npz").size == 60
    np.savez(tmp_path / "noisy.npz", pictures=np.concatenate([other, golden[3:5] + np.float32(1e-4)]))
    with pytest.raises(DataError, match="2 of 62 calibration samples are test pictures"):
        samples_of(shipped, tmp_path / "noisy.npz")
    shutil.copy(repository / "exported" / "lenet" / "picture-0.png", tmp_path / "mine.png")
    (tmp_path / "folder").mkdir()
    shutil.move(tmp_path / "mine.png", tmp_path / "folder")
    with pytest.raises(DataError, match="1 of 1 calibration samples are test pictures"):
        samples_of(shipped, tmp_path / "folder")


def test_a_bundle_that_knows_no_data_asks_for_it_in_one_sentence(opened: Bundle) -> None:
    with pytest.raises(UsageError, match=r"does not say where training pictures are; give --calibrate a recipe, a folder"):
        samples_of(opened)


def test_random_numbers_are_no_calibration(opened: Bundle) -> None:
    samples = samples_of(opened, "random")
    assert (samples.source, samples.calibrated) == ("random numbers", False)
    assert samples.sha256() == samples_of(opened, "random").sha256()
    golden = {sample.tobytes() for sample in opened.golden().inputs["input"]}
    assert any(sample.tobytes() not in golden for sample in samples.feed["input"])


@pytest.mark.parametrize(("count", "noted"), [(FEW - 1, True), (FEW, False)])
def test_few_samples_are_noted(opened: Bundle, tmp_path: Path, count: int, noted: bool) -> None:
    np.savez(tmp_path / "x.npz", input=np.random.default_rng(0).random((count, 1, 28, 28), np.float32))
    notes = samples_of(opened, tmp_path / "x.npz").notes
    assert notes == ((f"only {count} calibration samples: the ranges may be too narrow for other pictures",) if noted else ())


@pytest.mark.parametrize(("factor", "noted"), [(0.0, True), (1e-6, True), (1e6, True), (1.0, False)])
def test_samples_of_another_range_than_the_golden_ones_are_noted(
    opened: Bundle, tmp_path: Path, factor: float, noted: bool
) -> None:
    pictures = np.random.default_rng(0).random((FEW, 1, 28, 28), np.float32)
    np.savez(tmp_path / "x.npz", input=pictures * np.float32(factor))
    notes = samples_of(opened, tmp_path / "x.npz").notes
    assert any("are they preprocessed in another way?" in note for note in notes) is noted


def test_a_file_that_unpacks_to_more_than_is_read_is_refused_before_it_is_unpacked(
    opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    np.savez_compressed(tmp_path / "bomb.npz", input=np.zeros((4000, 1, 28, 28), np.float32))
    monkeypatch.setattr("edgekit.variants.samples.MOST_BYTES", 1 << 20)
    monkeypatch.setattr(np, "load", lambda *anything, **settings: pytest.fail("it was unpacked"))
    with pytest.raises(
        DataError, match=r"bomb\.npz cannot be read: it unpacks to 12 MiB, and at most 1 MiB are read; give fewer samples"
    ):
        samples_of(opened, tmp_path / "bomb.npz")


GOOD = np.zeros((40, 1, 28, 28), np.float32)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"a": GOOD, "b": GOOD}, "has no array 'input', which is an input; it has a, b"),
        ({}, "has no array 'input', which is an input; it has none"),
        ({"input": np.zeros((40, 3, 28, 28), np.float32)}, "takes float32 batch x 1 x 28 x 28, but was given float32 40x3x28x28"),
        ({"input": GOOD.astype(np.float64)}, "but was given float64"),
        ({"input": np.full_like(GOOD, np.nan)}, "holds numbers that are not finite"),
        ({"input": GOOD[:0]}, "hold no samples"),
        ({"input": np.float32(1)}, "hold no samples"),
    ],
)
def test_arrays_that_do_not_fit_are_refused_by_name(
    opened: Bundle, tmp_path: Path, arrays: dict[str, np.ndarray], message: str
) -> None:
    np.savez(tmp_path / "x.npz", **arrays)  # type: ignore[arg-type]
    with pytest.raises((DataError, ModelError), match=message):
        samples_of(opened, tmp_path / "x.npz")


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: os.symlink(path, path)], ids=["pipe", "folder", "loop"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    opened: Bundle, tmp_path: Path, make: Callable[[Path], None]
) -> None:
    place = tmp_path / "x.npz"
    make(place)
    with pytest.raises(DataError, match=r"x\.npz cannot be read: .*; give an \.npz file of arrays") as caught:
        samples_of(opened, place)
    assert "Errno" not in str(caught.value)


class Trap:
    """An object that does harm when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return Path.touch, (Path("sprung"),)  # type: ignore[return-value]


def test_pickled_objects_are_never_unpacked(opened: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("x.npz", input=np.array([Trap()], object))
    with pytest.raises(
        DataError, match=r"x\.npz cannot be read: it holds Python objects, which are not read; write arrays of numbers"
    ):
        samples_of(opened, "x.npz")
    assert not Path("sprung").exists()
    np.load("x.npz", allow_pickle=True)["input"]
    assert Path("sprung").exists()  # the trap works


@pytest.mark.parametrize("name", ["missing.npz", "text.npz", "missing", "empty", "text"])
def test_what_is_no_source_of_samples_is_refused_in_a_sentence(opened: Bundle, tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").mkdir()
    for text in ("text", "text.npz"):
        (tmp_path / text).write_text("no pictures")
    with pytest.raises(EdgekitError, match=name) as problem:
        samples_of(opened, tmp_path / name)
    assert problem.value.remedy


def test_a_bundle_without_preprocessing_asks_for_arrays(opened: Bundle, tmp_path: Path) -> None:
    bare = msgspec.structs.replace(opened, manifest=msgspec.structs.replace(opened.manifest, preprocess=None))
    picture(tmp_path / "pictures" / "0.png", 0)
    with pytest.raises(DataError, match=r"has no preprocessing.*give --calibrate an .npz file"):
        samples_of(bare, tmp_path / "pictures")
