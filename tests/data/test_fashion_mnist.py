"""Fashion-MNIST from every place it may be; nothing here touches the network."""

from __future__ import annotations

import gzip
import hashlib
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgekit.data import fashion_mnist, golden_pictures, load_dataset, training_pictures
from edgekit.data.fashion_mnist import from_test_set, locate, read_idx
from edgekit.data.pictures import spread
from edgekit.errors import DataError
from edgekit.progress import SILENT
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
    folders = Places(tmp_path)
    monkeypatch.setenv("EDGEKIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fashion_mnist, "DEBIAN_FOLDER", folders.debian)
    monkeypatch.setattr(fashion_mnist, "SHA256", {name: hashlib.sha256(FILES[name]).hexdigest() for name in FILES})

    def failing(name: str) -> Callable[[Path], Path]:
        def fetch(scratch: Path) -> Path:
            folders.asked.append(name)
            raise OSError(f"{name} has no network")

        return fetch

    monkeypatch.setattr(fashion_mnist, "_torchvision_download", failing("torchvision"))
    monkeypatch.setattr(fashion_mnist, "_apt_download", failing("apt"))
    return folders


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
        self.lists, self.commands = lists, list[str]()

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


def test_a_program_that_hangs_is_told_with_what_gives_it_longer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(command: list[str], *, timeout: float, **_: object) -> None:
        raise subprocess.TimeoutExpired(command, timeout)

    monkeypatch.setattr(subprocess, "run", hang)
    monkeypatch.setattr("shutil.which", lambda name: f"/usr/bin/{name}")
    monkeypatch.setenv("EDGEKIT_SECONDS", "1")
    with pytest.raises(
        DataError, match=r"^apt-get takes longer than 300 s; set EDGEKIT_SECONDS to the seconds that it may take$"
    ):
        fashion_mnist._apt_download(tmp_path)


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


@pytest.mark.parametrize(("holdout", "size"), [(0, 28), (5, 28), (5, 14)])
@pytest.mark.parametrize("count", [3, TRAIN])
def test_calibration_sees_pictures_that_were_trained_on_and_no_held_out_one(
    holdout: int, size: int, count: int, places: Places
) -> None:
    recipe = DataRecipe("fashion-mnist", str(fill(places.cache)), resize=size, holdout=holdout)
    whole = load_dataset(recipe)
    drawn = training_pictures(recipe, whole.preprocess, count)
    chosen = spread(TRAIN - holdout, count)
    assert len(drawn) == min(count, TRAIN - holdout)
    assert np.array_equal(drawn.images, whole.train.images[chosen])
    assert np.array_equal(drawn.labels, whole.train.labels[chosen])


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


def test_pictures_of_their_own_size_get_three_channels_where_colour_is_asked_for() -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    grey = fashion_mnist._resized(images, "grey", fashion_mnist.SIZE, "train", SILENT)
    colour = fashion_mnist._resized(images, "rgb", fashion_mnist.SIZE, "train", SILENT)
    assert grey.shape == (3, 1, 28, 28)
    assert colour.shape == (3, 3, 28, 28)
    assert (colour == grey).all()
