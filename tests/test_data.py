"""Fashion-MNIST from every place it may be, and pictures in folders; nothing here touches the network."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgekit.data import channel_statistics, fashion_mnist, fingerprint, golden_pictures, image_folder, load_dataset
from edgekit.data.fashion_mnist import from_test_set, locate, read_idx
from edgekit.data.pictures import spread
from edgekit.errors import DataError
from edgekit.preprocess import Preprocess
from edgekit.recipe import DataRecipe

TRAIN, TEST = 12, 7


def idx(array: NDArray[np.uint8]) -> bytes:
    return b"\x00\x00\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def fashion_files(seed: int = 0) -> dict[str, bytes]:
    rng = np.random.default_rng(seed)
    files = {}
    for split, count in (("train", TRAIN), ("t10k", TEST)):
        files[f"{split}-images-idx3-ubyte"] = idx(rng.integers(0, 256, (count, 28, 28)).astype(np.uint8))
        files[f"{split}-labels-idx1-ubyte"] = idx(rng.integers(0, 10, count).astype(np.uint8))
    return files


FILES = fashion_files()


def fill(folder: Path, files: dict[str, bytes] = FILES) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


class Places:
    """The places Fashion-MNIST is looked for, all empty at first; ``asked`` lists the fetchers that ran."""

    def __init__(self, root: Path) -> None:
        self.cache, self.debian = root / "cache" / "data" / "fashion-mnist", root / "debian"
        self.asked: list[str] = []


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    found = Places(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", found.debian)
    monkeypatch.setattr(fashion_mnist, "SHA256", {name: hashlib.sha256(FILES[name]).hexdigest() for name in FILES})

    def failing(name: str) -> Callable[[Path], Path]:
        def fetch(scratch: Path) -> Path:
            found.asked.append(name)
            raise OSError(f"{name} has no network")

        return fetch

    monkeypatch.setattr(fashion_mnist, "_torchvision_download", failing("torchvision"))
    monkeypatch.setattr(fashion_mnist, "_apt_download", failing("apt"))
    return found


@settings(deadline=None, max_examples=30)
@given(shape=st.lists(st.integers(0, 5), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_idx_files_are_decoded_whatever_their_shape(shape: list[int], seed: int) -> None:
    array = np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)
    decoded = read_idx(idx(array), "file")
    assert decoded.dtype == np.uint8
    assert np.array_equal(decoded, array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not an IDX file"),
        (b"\x00\x00\x08", "not an IDX file"),
        (b"\x00\x00\x0d\x01" + bytes(8), "not an IDX file of unsigned bytes"),
        (b"\x89PNG" + bytes(40), "not an IDX file"),
        (b"\x00\x00\x08\x03\x00\x00", "truncated"),
        (idx(np.ones((2, 3), np.uint8))[:-1], r"truncated or too long for its shape \(2, 3\)"),
        (idx(np.ones((2, 3), np.uint8)) + b"x", "truncated or too long"),
        (b"\x00\x00\x08\x03" + b"\xff" * 12, "truncated or too long"),
    ],
)
def test_a_damaged_idx_file_is_named(content: bytes, message: str) -> None:
    with pytest.raises(DataError, match=f"some/file.*{message}"):
        read_idx(content, "some/file")


def test_a_folder_given_comes_before_the_cache(places: Places, tmp_path: Path) -> None:
    fill(places.cache)
    assert locate(fill(tmp_path / "given")) == tmp_path / "given"
    assert locate() == places.cache


def test_a_folder_given_without_the_files_is_an_error_even_when_the_cache_has_them(places: Places, tmp_path: Path) -> None:
    fill(places.cache)
    given = fill(tmp_path / "given")
    (given / "t10k-labels-idx1-ubyte").unlink()
    with pytest.raises(DataError, match=r"given lacks the Fashion-MNIST files .*t10k-labels"):
        locate(given)


def test_the_cache_comes_before_debians_package_and_that_before_fetching(places: Places) -> None:
    fill(places.debian)
    assert locate() == places.debian
    fill(places.cache)
    assert locate() == places.cache
    assert places.asked == []


def test_torchvision_is_asked_before_apt(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "_apt_download", lambda scratch: fill(scratch / "deb"))
    assert locate() == places.cache
    assert places.asked == ["torchvision"]
    monkeypatch.setattr(fashion_mnist, "_torchvision_download", lambda scratch: fill(scratch / "raw"))
    for file in places.cache.iterdir():
        file.unlink()
    assert locate() == places.cache
    assert places.asked == ["torchvision"]


def test_what_is_fetched_is_kept_unpacked_in_the_cache(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()}
    monkeypatch.setattr(fashion_mnist, "_torchvision_download", lambda scratch: fill(scratch / "raw", packed))
    locate()
    assert {file.name: file.read_bytes() for file in places.cache.iterdir()} == FILES
    assert locate() == places.cache


def test_a_wrong_download_is_refused_and_not_kept(places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fashion_mnist, "_torchvision_download", lambda scratch: fill(scratch / "raw", fashion_files(1)))
    with pytest.raises(DataError, match=r"torchvision's download: .* is damaged: its unpacked sha256 is not Fashion-MNIST's"):
        locate()
    assert places.asked == ["apt"]
    assert not places.cache.exists() or not list(places.cache.iterdir())


def test_when_every_place_fails_each_is_listed_with_its_reason(places: Places) -> None:
    with pytest.raises(DataError) as caught:
        locate()
    message = str(caught.value)
    parts = [
        f"{places.cache}: empty",
        f"{places.debian}: Debian's package dataset-fashion-mnist is not installed",
        "torchvision's download: torchvision has no network",
        "apt-get download: apt has no network",
        "apt-get install dataset-fashion-mnist",
    ]
    assert [message.find(part) for part in parts] == sorted(message.find(part) for part in parts)
    assert all(part in message for part in parts)
    assert places.asked == ["torchvision", "apt"]


@pytest.mark.parametrize(
    "error", [ImportError("no torchvision"), RuntimeError("bad\nsum"), subprocess.TimeoutExpired("apt", 300)]
)
def test_a_fetcher_may_fail_in_any_way(error: Exception, places: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(scratch: Path) -> Path:
        raise error

    monkeypatch.setattr(fashion_mnist, "_torchvision_download", fail)
    with pytest.raises(DataError) as caught:
        locate()
    assert f"torchvision's download: {str(error).splitlines()[0]}" in str(caught.value)


class Apt:
    """Stands in for the commands that ``apt-get download`` needs; ``lists`` says whether the machine has package lists."""

    def __init__(self, lists: bool) -> None:
        self.lists, self.commands = lists, []

    def __call__(self, command: list[str], cwd: Path, **options: object) -> None:
        assert options["check"]
        self.commands.append(" ".join(part for part in command if not part.startswith(("-o", "Dir::"))))
        if command[0] == "dpkg-deb":
            fill(Path(command[3]) / "usr/share/datasets/fashion-mnist")
        elif command[-1] == "dataset-fashion-mnist":
            if not self.lists:
                raise subprocess.CalledProcessError(100, command)
            (cwd / "dataset-fashion-mnist_1_all.deb").write_bytes(b"deb")
        elif command[-1] == "update":
            assert f"Dir::State::lists={cwd}/lists" in command
            self.lists = True


@pytest.mark.parametrize("lists", [True, False])
def test_the_debian_package_is_unpacked_without_root(lists: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    apt = Apt(lists)
    monkeypatch.setattr(subprocess, "run", apt)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    folder = fashion_mnist._apt_download(tmp_path)
    assert {file.name for file in folder.iterdir()} == set(FILES)
    assert [command.split()[:2] for command in apt.commands[-2:]] == [["apt-get", "download"], ["dpkg-deb", "-x"]]
    assert ("apt-get update" in apt.commands) is not lists


def test_without_apt_the_fetcher_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: None)
    with pytest.raises(DataError, match="not a Debian-like system"):
        fashion_mnist._apt_download(tmp_path)


@pytest.mark.parametrize("form", ["plain", "gz", "torchvision"])
def test_the_files_may_be_plain_packed_or_in_torchvisions_folders(form: str, places: Places, tmp_path: Path) -> None:
    given = tmp_path / "given"
    if form == "gz":
        fill(given, {f"{name}.gz": gzip.compress(content) for name, content in FILES.items()})
    else:
        fill(given / "FashionMNIST" / "raw" if form == "torchvision" else given)
    train, test = fashion_mnist.load(locate(given))
    assert train.images.shape == (TRAIN, 1, 28, 28)
    assert test.images.tobytes() == FILES["t10k-images-idx3-ubyte"][16:]
    assert test.labels.dtype == np.int64
    assert test.labels.tolist() == list(FILES["t10k-labels-idx1-ubyte"][8:])


def test_a_damaged_file_is_named_and_refused(places: Places) -> None:
    fill(places.cache, {**FILES, "train-labels-idx1-ubyte": FILES["train-labels-idx1-ubyte"][:-1] + b"\x00\x00"})
    with pytest.raises(
        DataError, match=r"train-labels-idx1-ubyte is damaged: its unpacked sha256 .*; delete it and fetch it again"
    ):
        fashion_mnist.load(locate())


@pytest.mark.parametrize("content", [b"not gzip", gzip.compress(FILES["t10k-images-idx3-ubyte"])[:-20], b""])
def test_a_damaged_archive_is_named_and_refused(content: bytes, places: Places) -> None:
    fill(places.cache, {**{f"{n}.gz": gzip.compress(c) for n, c in FILES.items()}, "t10k-images-idx3-ubyte.gz": content})
    with pytest.raises(DataError, match=r"t10k-images-idx3-ubyte\.gz (cannot be unpacked|is damaged)"):
        fashion_mnist.load(locate())


def test_fashion_mnist_can_be_resized_and_coloured(places: Places) -> None:
    fill(places.cache)
    loaded = load_dataset(DataRecipe("fashion-mnist", resize=(20, 30), color="rgb"))
    assert loaded.train.images.shape == (TRAIN, 3, 20, 30)
    assert (loaded.preprocess.height, loaded.preprocess.width) == (20, 30)
    assert np.array_equal(loaded.train.images[:, 0], loaded.train.images[:, 2])
    assert loaded.preprocess.mean == (0.286,) * 3
    assert loaded.classes[9] == "Ankle boot"


def test_a_recipes_mean_and_std_are_used(places: Places) -> None:
    fill(places.cache)
    preprocess = load_dataset(DataRecipe("fashion-mnist", mean=(0.1,), std=(0.2,))).preprocess
    assert (preprocess.mean, preprocess.std) == ((0.1,), (0.2,))
    default = load_dataset(DataRecipe("fashion-mnist")).preprocess
    assert (default.color, default.mean, default.std) == ("grey", (0.286,), (0.353,))


def test_golden_fashion_pictures_are_those_of_the_test_set(places: Places) -> None:
    fill(places.cache)
    recipe = DataRecipe("fashion-mnist", resize=32)
    loaded = load_dataset(recipe)
    golden = golden_pictures(recipe, loaded.preprocess, 3)
    chosen = spread(TEST, 3)
    assert np.array_equal(golden.images, loaded.test.images[chosen])
    assert np.array_equal(golden.labels, loaded.test.labels[chosen])
    assert len(from_test_set(places.cache, "grey", (28, 28), 100)) == TEST


@given(total=st.integers(1, 500), count=st.integers(1, 600))
def test_spread_gives_distinct_indices_from_first_to_last(total: int, count: int) -> None:
    chosen = spread(total, count)
    assert len(chosen) == min(total, count)
    assert chosen[0] == 0
    assert len(chosen) == 1 or chosen[-1] == total - 1
    assert (np.diff(chosen) > 0).all()


def test_channel_statistics_are_numpys() -> None:
    images = np.random.default_rng(0).integers(0, 256, (9, 3, 6, 5)).astype(np.uint8)
    images[:, 1] //= 3
    images[:, 2] = 51
    means, stds = channel_statistics(images)
    scaled = images.astype(np.float64) / 255
    assert means == pytest.approx(scaled.mean((0, 2, 3)), abs=1e-6)
    assert stds[:2] == pytest.approx(scaled.std((0, 2, 3))[:2], abs=1e-6)
    assert stds[:2] != pytest.approx(scaled.std((0, 2, 3))[:2] * 1.01, abs=1e-6)
    assert stds[2] == 1.0


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
    return images[:, 0, 0, 0].tolist()


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
    first = image_folder.load(folder_of(tmp_path / "a"), "grey", (6, 6))
    second = image_folder.load(folder_of(tmp_path / "somewhere" / "else"), "grey", (6, 6))
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


def upright(tmp_path: Path, image: Image.Image, name: str, color: str = "rgb", **options: object) -> NDArray[np.uint8]:
    """A picture among others, as ``load`` gives it at 4 rows by 2 columns."""
    for split in ("train", "test"):
        for other in ("cat", "dog"):
            draw(tmp_path / split / other / "z.png", 9, (31, 17))
    image.save(tmp_path / "train" / "cat" / name, **options)
    train, _, _ = image_folder.load(tmp_path, color, (4, 2))  # type: ignore[arg-type]
    return train.images[0]


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
    folder_of(tmp_path)
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
