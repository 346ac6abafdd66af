"""Training and test pictures of a folder: divided by the user, or set aside by content."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgekit.data import fingerprint, golden_pictures, image_folder, load_dataset, picture_shape
from edgekit.data.decode import Decoding
from edgekit.data.image_folder import load_folder
from edgekit.data.listing import Picture
from edgekit.errors import DataError
from edgekit.progress import Progress
from edgekit.recipe import DataRecipe
from tests.data.test_image_folder import draw, folder_of, values

GREY = Decoding("grey", (6, 6))


def divided(root: Path, train: str, test: str, counts: tuple[int, int] = (4, 3)) -> Path:
    for name, count, base in ((train, counts[0], 0), (test, counts[1], 100)):
        for label, kind in enumerate(("cat", "dog")):
            for index in range(count):
                draw(root / name / kind / f"{index}.png", base + 20 * label + index)
    return root


@pytest.mark.parametrize(
    ("train", "test"),
    [("train", "test"), ("train", "val"), ("Train", "Test"), ("TRAIN", "VAL"), ("training", "testing"), ("train", "valid"),
     ("Training", "Validation")],
)  # fmt: skip
def test_halves_are_known_by_their_usual_names_in_any_case(tmp_path: Path, train: str, test: str) -> None:
    loaded = load_folder(divided(tmp_path, train, test), GREY)
    assert loaded.classes == ("cat", "dog")
    assert values(loaded.train.images) == [0, 1, 2, 3, 20, 21, 22, 23]
    assert values(loaded.test.images) == [100, 101, 102, 120, 121, 122]


def test_a_validation_folder_beside_a_test_folder_is_not_used_and_said(tmp_path: Path) -> None:
    divided(divided(tmp_path, "train", "test"), "train", "val")
    loaded = load_folder(tmp_path, GREY)
    assert len(loaded.test) == 6
    assert [(row.reason, row.count, row.example) for row in loaded.left_out] == [
        ("in val, which is not used beside test", 6, "val/cat/0.png")
    ]


@pytest.mark.parametrize(
    ("folders", "reason"),
    [
        (("train/cat", "train/dog", "Train/cat", "test/cat"), "has both Train and train; keep one of them"),
        (("train/cat", "train/dog"), "has train and no test or val beside it"),
        (("val/cat", "test/cat"), "has val and no train beside it"),
        (("train", "test"), "has train and test, which are named like halves of a data set and hold no class folders"),
        (("train", "test", "bus"), "has train and test, which are named like halves"),
        (("cat/train", "cat/test", "dog/train", "dog/test"), "cat is divided inside the class"),
    ],
)
def test_names_of_halves_that_leave_it_open_what_is_meant_are_refused(
    tmp_path: Path, folders: tuple[str, ...], reason: str
) -> None:
    for folder in folders:
        for index in range(9):
            draw(tmp_path / folder / f"{index}.png", index)
    with pytest.raises(DataError, match=reason):
        load_folder(tmp_path, GREY)


def test_a_class_may_be_called_train_among_others(tmp_path: Path) -> None:
    loaded = load_folder(folder_of(tmp_path, 40, ("bus", "train", "tram")), GREY)
    assert loaded.classes == ("bus", "train", "tram")


def test_copies_of_a_picture_are_in_the_same_half(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    for path in sorted((tmp_path / "cat").iterdir()):
        shutil.copy(path, path.with_name(f"copy-{path.name}"))
    loaded = load_folder(tmp_path, GREY)
    assert not set(values(loaded.train.images)) & set(values(loaded.test.images))
    assert len(loaded.train) + len(loaded.test) == 120


def test_renaming_pictures_moves_none(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    before = load_folder(tmp_path, GREY)
    for path in sorted((tmp_path / "cat").iterdir()):
        path.rename(path.with_name(f"renamed-{path.name}"))
    assert sorted(values(load_folder(tmp_path, GREY).test.images)) == sorted(values(before.test.images))


@pytest.mark.parametrize("grey", range(200, 216))
def test_the_only_picture_of_a_class_is_trained_on(tmp_path: Path, grey: int) -> None:
    folder_of(tmp_path, 40)
    draw(tmp_path / "emu" / "1.png", grey)
    loaded = load_folder(tmp_path, GREY)
    assert loaded.train.labels.tolist().count(2) == 1
    assert 2 not in loaded.test.labels


def test_only_the_lowest_picture_of_a_class_is_given_up(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    for index in range(4):
        draw(tmp_path / "emu" / f"{index}.png", 200 + index)
    loaded = load_folder(tmp_path, GREY, 0.98)
    assert loaded.train.labels.tolist().count(2) == 1
    assert loaded.test.labels.tolist().count(2) == 3


@pytest.mark.parametrize("only", ["ant", "emu"])
def test_a_copy_of_a_picture_that_is_given_up_is_trained_on_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, only: str
) -> None:
    folder_of(tmp_path, 9)
    for name in (f"{only}/only.png", "cat/copy.png"):
        draw(tmp_path / name, 200)
    first_digits = {"only.png": "0", "copy.png": "0", "00.png": "1"}

    def hashes(root: Path, pictures: tuple[Picture, ...], progress: Progress) -> dict[str, str]:
        return {row.name: first_digits.get(row.path.name, "f") * 64 for row in pictures}

    monkeypatch.setattr(image_folder, "digests", hashes)
    split = image_folder.split_folder(tmp_path, 0.5)
    assert {f"{only}/only.png", "cat/copy.png"} <= {picture.name for picture in split.train.pictures}
    assert {picture.name for picture in split.test.pictures} == {"cat/00.png", "dog/00.png"}


def test_a_class_without_training_pictures_in_a_divided_set_is_refused(tmp_path: Path) -> None:
    divided(tmp_path, "train", "test")
    draw(tmp_path / "test" / "emu" / "1.png", 3)
    (tmp_path / "train" / "emu").mkdir()
    with pytest.raises(DataError, match="has no training picture of class emu"):
        load_folder(tmp_path, GREY)


def test_every_bad_picture_is_named_at_once(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    for name in ("cat/03.png", "dog/04.png", "dog/05.png"):
        (tmp_path / name).write_bytes(b"xx")
    with pytest.raises(DataError, match="3 of 80 pictures cannot be used") as caught:
        load_folder(tmp_path, GREY)
    assert all(name in str(caught.value) for name in ("cat/03.png", "dog/04.png", "dog/05.png"))
    assert "\n" not in str(caught.value)


def test_of_many_bad_pictures_the_first_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    for index in range(25):
        (tmp_path / "cat" / f"{index:02}.png").write_bytes(b"xx" + bytes([index]))
    with pytest.raises(DataError, match=r"25 of 80 pictures cannot be used.*; and 15 more; replace or remove them"):
        load_folder(tmp_path, GREY)


def test_bad_pictures_are_skipped_where_the_recipe_says_so(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    for index in range(0, 40, 3):
        (tmp_path / "dog" / f"{index:02}.png").write_bytes(b"xx" + bytes([index]))
    recipe = DataRecipe("image-folder", path=str(tmp_path), resize=6, color="grey", skip_bad=True)
    loaded = load_dataset(recipe)
    assert sorted(values(loaded.train.images) + values(loaded.test.images)) == [
        value for value in range(1, 81) if value <= 40 or (value - 41) % 3
    ]
    (row,) = loaded.report().left_out
    assert (row.reason, row.count) == ("cannot be decoded", 14)
    golden = golden_pictures(recipe, loaded.preprocess, 4)
    assert set(values(golden.images)) <= set(values(loaded.test.images))
    assert len(golden) == 4


def test_a_class_whose_pictures_are_all_bad_is_refused_even_then(tmp_path: Path) -> None:
    folder_of(tmp_path, 40)
    for index in range(9):
        (tmp_path / "emu").mkdir(exist_ok=True)
        (tmp_path / "emu" / f"{index}.png").write_bytes(b"xx" + bytes([index]))
    with pytest.raises(DataError, match="has no training picture of class emu"):
        load_folder(tmp_path, GREY._replace(skip_bad=True))


def test_a_change_behind_a_link_changes_the_fingerprint(tmp_path: Path) -> None:
    folder_of(tmp_path / "store", 3)
    (tmp_path / "data").mkdir()
    for name in ("cat", "dog"):
        (tmp_path / "data" / name).symlink_to(tmp_path / "store" / name)
    recipe = DataRecipe("image-folder", path=str(tmp_path / "data"), resize=6)
    before = fingerprint(recipe)
    draw(tmp_path / "store" / "cat" / "00.png", 77)
    assert fingerprint(recipe) != before


def test_pictures_that_are_not_used_do_not_change_the_fingerprint(tmp_path: Path) -> None:
    whole, halves = folder_of(tmp_path / "whole", 3), divided(divided(tmp_path / "halves", "train", "test"), "train", "val")
    for root, unused in ((whole, "beside.png"), (halves, "val/cat/more.png"), (halves, "train/beside.png")):
        recipe = DataRecipe("image-folder", path=str(root), resize=6)
        before = fingerprint(recipe)
        draw(root / unused, 222)
        assert fingerprint(recipe) == before
    before = fingerprint(recipe)
    draw(halves / "test" / "cat" / "more.png", 223)
    assert fingerprint(recipe) != before


def test_the_shape_of_pictures_is_known_before_any_file_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.data.listing.sha256_of", lambda path: pytest.fail("a picture was hashed"))
    recipe = DataRecipe("image-folder", path=str(folder_of(tmp_path, 3)), resize=(6, 8), color="grey")
    assert picture_shape(recipe) == (1, 6, 8, 2)
    draw(tmp_path / "cat" / "train" / "1.png", 1)
    draw(tmp_path / "cat" / "val" / "1.png", 1)
    with pytest.raises(DataError, match="is divided inside the class"):
        picture_shape(recipe)


def test_the_fingerprint_is_of_the_content_and_not_of_times(tmp_path: Path) -> None:
    recipe = DataRecipe("image-folder", path=str(folder_of(tmp_path, 3)), resize=6)
    before = fingerprint(recipe)
    os.utime(tmp_path / "cat" / "00.png", ns=(1, 1))
    assert fingerprint(recipe) == before


def test_the_report_counts_classes_what_was_left_out_and_the_majority(tmp_path: Path) -> None:
    divided(tmp_path, "train", "test", (4, 3))
    for index in range(3):
        draw(tmp_path / "test" / "dog" / f"more-{index}.png", 150 + index)
    (tmp_path / "train" / "cat" / "notes.txt").write_text("meow")
    report = load_dataset(DataRecipe("image-folder", path=str(tmp_path), resize=6, color="grey")).report()
    assert [(row.name, row.training, row.test) for row in report.classes] == [("cat", 4, 3), ("dog", 4, 6)]
    assert [(row.reason, row.count) for row in report.left_out] == [("no picture format that is read: .txt", 1)]
    assert report.majority == pytest.approx(6 / 9, abs=1e-4)
    assert "cat 4 + 3, dog 4 + 6; the most frequent class is 66.7% of the test pictures" in report.lines()[0]


@pytest.mark.parametrize(("brightest", "noted"), [(31, True), (32, False)])
def test_a_set_that_fills_less_than_an_eighth_of_the_range_is_noted(tmp_path: Path, brightest: int, noted: bool) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            for index in range(2):
                draw(tmp_path / split / name / f"{index}.png", brightest - 2 * label - index)
    report = load_dataset(DataRecipe("image-folder", path=str(tmp_path), resize=6, color="grey")).report()
    advice = "where grey files use less .* let data.white name the brightest value .*; convert deeper colours to 8 bits"
    assert any(re.search(advice, note) for note in report.notes) == noted


def test_white_of_the_recipe_reaches_the_pixels_and_the_preprocessing(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            (tmp_path / split / name).mkdir(parents=True)
            for index in range(2):
                deep = np.full((6, 6), 4095 - index - 50 * label, np.uint16)
                Image.fromarray(deep).save(tmp_path / split / name / f"{index}.png")
    loaded = load_dataset(DataRecipe("image-folder", path=str(tmp_path), resize=6, color="grey", white=4095.0))
    assert loaded.train.images.min() > 240
    assert loaded.preprocess.white == 4095.0
    assert image_folder.load(tmp_path, "grey", (6, 6))[0].images.max() == 16


def test_pictures_in_both_halves_of_a_divided_set_are_noted(tmp_path: Path) -> None:
    divided(tmp_path, "train", "test")
    recipe = DataRecipe("image-folder", path=str(tmp_path), resize=6, color="grey")
    before = load_dataset(recipe).report().notes
    shutil.copy(tmp_path / "train" / "cat" / "0.png", tmp_path / "test" / "cat" / "again.png")
    sentence = "1 of 7 test pictures are training pictures too, so the test accuracy is too high"
    assert load_dataset(recipe).report().notes == (*before, sentence)


def test_animations_are_noted_and_files_without_a_second_frame_are_not(tmp_path: Path) -> None:
    folder_of(tmp_path)
    before = noted(tmp_path)
    frames = [Image.new("L", (8, 8), value) for value in (10, 200)]
    frames[0].save(tmp_path / "cat" / "still.gif")
    assert noted(tmp_path) == before
    for name in ("a.gif", "b.webp"):
        frames[0].save(tmp_path / "cat" / name, save_all=True, append_images=frames[1:])
    (said,) = set(noted(tmp_path)) - set(before)
    assert re.fullmatch(r"2 pictures with several frames, like cat/(a\.gif|b\.webp): the first one alone counts", said)


def noted(root: Path) -> tuple[str, ...]:
    return load_dataset(DataRecipe("image-folder", path=str(root), resize=6, color="grey", test_fraction=0.5)).report().notes


@pytest.mark.parametrize("halves", [(), ("train", "test")])
def test_pictures_in_two_classes_are_noted(tmp_path: Path, halves: tuple[()] | tuple[str, str]) -> None:
    if halves:
        divided(tmp_path, *halves)
    else:
        folder_of(tmp_path)
    assert not any("in more than one class" in note for note in noted(tmp_path))
    base, other = (tmp_path / halves[0], tmp_path / halves[1]) if halves else (tmp_path, tmp_path)
    draw(base / "cat" / "both.png", 200)
    draw(other / "dog" / "both.png", 200)
    pair = "train/cat/both.png and test/dog/both.png" if halves else "cat/both.png and dog/both.png"
    assert f"1 pictures are in more than one class, like {pair}: a network cannot learn both" in noted(tmp_path)


def test_a_class_that_is_never_tested_is_noted(tmp_path: Path) -> None:
    divided(tmp_path, "train", "test")
    assert not any("no picture of" in note for note in noted(tmp_path))
    draw(tmp_path / "train" / "eel" / "1.png", 99)
    assert "the test has no picture of eel, so it says nothing about them" in noted(tmp_path)


@pytest.mark.parametrize("halves", [(), ("train", "test")])
def test_a_class_that_is_a_link_to_nothing_is_refused(tmp_path: Path, halves: tuple[()] | tuple[str, str]) -> None:
    if halves:
        divided(tmp_path, *halves)
    else:
        folder_of(tmp_path)
    place = tmp_path.joinpath(*halves[-1:])
    (place / "readme.md").symlink_to(tmp_path / "gone.md")
    assert image_folder.class_names(tmp_path) == ("cat", "dog")
    (place / "eel").symlink_to(tmp_path / "gone")
    with pytest.raises(DataError, match=re.escape(f"class folder {place / 'eel'} is a link to nothing; mend or remove the link")):
        image_folder.class_names(tmp_path)


def test_the_same_folder_serves_as_both_halves_and_that_is_noted(tmp_path: Path) -> None:
    folder_of(tmp_path / "train")
    (tmp_path / "val").symlink_to(tmp_path / "train")
    assert any("24 of 24 test pictures are training pictures too" in note for note in noted(tmp_path))
