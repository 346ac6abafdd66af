"""Fashion-MNIST (Xiao et al., 2017): 60,000 + 10,000 grey pictures of 28x28, in ten classes.

It is taken from, in this order: a directory given, the cache, Debian's installed package ``dataset-fashion-mnist``,
torchvision's download, the Debian package downloaded and unpacked without root. Whatever the way, the unpacked files
must have the sha256 below.
"""

from __future__ import annotations

import gzip
import hashlib
import shutil
import struct
import subprocess
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgekit.data.pictures import Pictures, divided, spread
from edgekit.data.source import Loaded, PictureShape, Source
from edgekit.decoding import CHANNELS, Color, pixels_of
from edgekit.errors import DataError, first_line
from edgekit.files import cache_root, read_bytes, write_bytes
from edgekit.machine.bounds import LONGER, waiting_seconds
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIZE = (28, 28)
MEAN, STD = (0.2860,), (0.3530,)
SHA256 = {
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
}
DEBIAN_FOLDER = Path("/usr/share/datasets/fashion-mnist")
DEBIAN_PACKAGE = "dataset-fashion-mnist"
FETCH_SECONDS = 300.0
"""What a program that fetches may usually take."""


def cache_folder() -> Path:
    """The four files' place in edgekit's cache."""
    return cache_root() / "data" / "fashion-mnist"


def locate(given: Path | None = None, progress: Progress = SILENT) -> Path:
    """A folder with the four files (plain or .gz); fetches into the cache when no place has them.

    Raises DataError that lists every place tried and why it failed.
    """
    if given is not None:
        if not _complete(given):
            raise DataError(f"{given} lacks the Fashion-MNIST files {', '.join(sorted(SHA256))} (plain or .gz)", "check the path")
        return given
    cache = cache_folder()
    for folder in (cache, DEBIAN_FOLDER):
        if _complete(folder):
            return folder
    tried = [f"{cache}: empty", f"{DEBIAN_FOLDER}: Debian's package {DEBIAN_PACKAGE} is not installed"]
    fetchers: tuple[tuple[str, Callable[[Path], Path]], ...] = (
        ("torchvision's download", _torchvision_download),
        ("apt-get download", _apt_download),
    )
    for name, fetcher in fetchers:
        progress.say(f"fetching Fashion-MNIST by {name}")
        with tempfile.TemporaryDirectory(prefix="edgekit-data-") as scratch:
            try:
                _keep(fetcher(Path(scratch)), cache)
                return cache
            except (DataError, ImportError, OSError, RuntimeError, subprocess.SubprocessError) as problem:
                reason = first_line(problem)
                tried.append(f"{name}: {reason}")
    raise DataError(
        f"Fashion-MNIST was not found and could not be fetched ({'; '.join(tried)})",
        f"apt-get install {DEBIAN_PACKAGE}, or give the folder that has it",
    )


def load(
    folder: Path, color: Color = "grey", size: tuple[int, int] = SIZE, progress: Progress = SILENT
) -> tuple[Pictures, Pictures]:
    """(train, test), resized to ``size`` = (height, width); raises DataError for a damaged file."""
    train, test = (_load_split(folder, split, color, size, progress) for split in ("train", "t10k"))
    return train, test


def read_idx(content: bytes, where: str) -> NDArray[np.uint8]:
    """Decode an unsigned-byte IDX file: magic 0x0000 08 rank, big-endian sizes, then the values."""
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise DataError(f"{where} is not an IDX file of unsigned bytes", "fetch it again")
    rank = content[3]
    header = 4 + 4 * rank
    if len(content) < header:
        raise DataError(f"{where} is truncated", "fetch it again")
    shape = struct.unpack(f">{rank}I", content[4:header])
    if len(content) - header != int(np.prod(shape, dtype=np.int64)):
        raise DataError(f"{where} is truncated or too long for its shape {shape}", "fetch it again")
    values: NDArray[np.uint8] = np.frombuffer(content, np.uint8, offset=header).reshape(shape)
    return values


def from_test_set(folder: Path, color: Color, size: tuple[int, int], count: int) -> Pictures:
    """``count`` pictures spread over the test set, as ``load`` gives them."""
    pictures = _read_split(folder, "t10k")
    chosen = spread(len(pictures), count)
    return Pictures(_resized(pictures.images[chosen], color, size, "t10k", SILENT), pictures.labels[chosen])


def _load_split(folder: Path, split: str, color: Color, size: tuple[int, int], progress: Progress) -> Pictures:
    pictures = _read_split(folder, split)
    return Pictures(_resized(pictures.images, color, size, split, progress), pictures.labels)


def _read_split(folder: Path, split: str) -> Pictures:
    """``images`` uint8 N x 28 x 28, as the file has them."""
    images = read_idx(read_checked(folder, f"{split}-images-idx3-ubyte"), f"{folder}/{split}-images-idx3-ubyte")
    labels = read_idx(read_checked(folder, f"{split}-labels-idx1-ubyte"), f"{folder}/{split}-labels-idx1-ubyte")
    return Pictures(images, labels.astype(np.int64))


def _resized(images: NDArray[np.uint8], color: Color, size: tuple[int, int], split: str, progress: Progress) -> NDArray[np.uint8]:
    if size == SIZE and color == "grey":
        return np.array(images[:, None], np.uint8)
    from PIL import Image

    out = np.empty((len(images), CHANNELS[color], *size), np.uint8)
    with progress.task(f"resizing {split} pictures to {size[0]}x{size[1]}", len(images)) as advance:
        for index, image in enumerate(images):
            out[index] = pixels_of(Image.fromarray(image), color, size)
            if index % 1000 == 999:
                advance(1000, "")
    return out


def _path_of(folder: Path, name: str) -> Path | None:
    for candidate in (folder / name, folder / f"{name}.gz", folder / "FashionMNIST" / "raw" / name):
        if candidate.is_file():
            return candidate
    return None


def _complete(folder: Path) -> bool:
    return all(_path_of(folder, name) for name in SHA256)


def read_checked(folder: Path, name: str) -> bytes:
    """The unpacked bytes of one of the four files; raises DataError unless they have the known sha256."""
    path = _path_of(folder, name)
    if path is None:
        raise DataError(f"{folder} lacks {name}", "fetch the dataset again")
    try:
        content = read_bytes(path, "file", DataError)
        content = gzip.decompress(content) if path.suffix == ".gz" else content
    except (OSError, EOFError, zlib.error) as problem:
        raise DataError(f"{path} cannot be unpacked: {problem}", "delete it and fetch it again") from None
    if hashlib.sha256(content).hexdigest() != SHA256[name]:
        raise DataError(f"{path} is damaged: its unpacked sha256 is not Fashion-MNIST's", "delete it and fetch it again")
    return content


def _keep(source: Path, cache: Path) -> None:
    contents = {name: read_checked(source, name) for name in SHA256}
    for name, content in contents.items():
        write_bytes(cache / name, content)


def _torchvision_download(scratch: Path) -> Path:
    import contextlib
    import sys

    from torchvision.datasets import FashionMNIST

    with contextlib.redirect_stdout(sys.stderr):
        FashionMNIST(str(scratch), download=True)
    return scratch / "FashionMNIST" / "raw"


def _apt_download(scratch: Path) -> Path:
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise DataError("this is not a Debian-like system")
    try:
        _run(["apt-get", "download", DEBIAN_PACKAGE], scratch)
    except subprocess.CalledProcessError:
        # the machine's package lists may never have been fetched: use lists of our own
        own = ["-o", f"Dir::State::lists={scratch}/lists", "-o", f"Dir::Cache={scratch}/cache"]
        (scratch / "lists" / "partial").mkdir(parents=True)
        (scratch / "cache" / "archives" / "partial").mkdir(parents=True)
        _run(["apt-get", *own, "update"], scratch)
        _run(["apt-get", *own, "download", DEBIAN_PACKAGE], scratch)
    package = next(scratch.glob(f"{DEBIAN_PACKAGE}*.deb"))
    _run(["dpkg-deb", "-x", str(package), str(scratch / "unpacked")], scratch)
    return scratch / "unpacked" / DEBIAN_FOLDER.relative_to("/")


def _run(command: list[str], folder: Path) -> None:
    seconds = waiting_seconds(FETCH_SECONDS)
    try:
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=seconds)
    except subprocess.TimeoutExpired:
        raise DataError(f"{command[0]} takes longer than {seconds:g} s", LONGER) from None


def _place(recipe: DataRecipe, progress: Progress = SILENT) -> Path:
    return locate(Path(recipe.path) if recipe.path else None, progress)


def _shape(recipe: DataRecipe) -> PictureShape:
    return PictureShape(CHANNELS[recipe.pixel_color], *(recipe.size or SIZE), len(CLASSES))


def _loaded(recipe: DataRecipe, progress: Progress) -> Loaded:
    train, test = load(_place(recipe, progress), recipe.pixel_color, recipe.size or SIZE, progress)
    channels = CHANNELS[recipe.pixel_color]
    train, holdout = divided(train, recipe.holdout)
    return Loaded(train, test, CLASSES, statistics=(MEAN * channels, STD * channels), holdout=holdout)


def _golden(recipe: DataRecipe, preprocess: Preprocess, count: int) -> Pictures:
    return from_test_set(_place(recipe), preprocess.color, (preprocess.height, preprocess.width), count)


def _training(recipe: DataRecipe, preprocess: Preprocess, count: int) -> Pictures:
    pictures = _read_split(_place(recipe), "train")
    trained_on = _trained_on(recipe, pictures)
    chosen = trained_on[spread(len(trained_on), count)]
    size = preprocess.height, preprocess.width
    return Pictures(_resized(pictures.images[chosen], preprocess.color, size, "train", SILENT), pictures.labels[chosen])


def _trained_on(recipe: DataRecipe, pictures: Pictures) -> NDArray[np.int64]:
    """The places of the pictures that are not held out. Which those are is told by their pixels as the recipe has them."""
    places = np.arange(len(pictures))
    if not recipe.holdout:
        return places
    resized = _resized(pictures.images, recipe.pixel_color, recipe.size or SIZE, "train", SILENT)
    return divided(Pictures(resized, places), recipe.holdout)[0].labels


SOURCE = Source(_shape, _loaded, _golden, _training, lambda recipe, progress: sorted(SHA256.items()))
