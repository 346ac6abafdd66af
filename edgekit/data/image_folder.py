"""Pictures in one folder per class: ``path/<class>/*.png``, or ``path/train/<class>`` with ``path/test/<class>``.

Without a ``test`` folder a share of every class is set aside, chosen by the hash of the file's name, so that adding
pictures moves none between the two halves.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from edgekit.data.pictures import Pictures, spread
from edgekit.errors import DataError
from edgekit.preprocess import CHANNELS, Color, load_image, pixels_of
from edgekit.progress import SILENT, Progress

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})
Labelled = Sequence[tuple[Path, int]]


def load(
    root: Path, color: Color, size: tuple[int, int], test_fraction: float = 0.2, progress: Progress = SILENT
) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """(train, test, class names in sorted order), every picture resized to ``size`` = (height, width)."""
    train, test, classes = _split(root, test_fraction)
    return (
        _decode(train, color, size, "decoding training pictures", progress),
        _decode(test, color, size, "decoding test pictures", progress),
        classes,
    )


def from_test_set(root: Path, color: Color, size: tuple[int, int], test_fraction: float, count: int) -> Pictures:
    """``count`` pictures spread over the test set, as ``load`` gives them."""
    _, test, _ = _split(root, test_fraction)
    chosen = [test[index] for index in spread(len(test), count)]
    return _decode(chosen, color, size, "decoding test pictures", SILENT)


def listing(root: Path) -> list[tuple[str, int, int]]:
    """(relative path, bytes, modification time in ns) of every picture, in sorted order."""
    if not root.is_dir():
        raise DataError(f"dataset folder {root} does not exist", "check data.path")
    files = sorted(path for path in root.rglob("*") if _is_picture(path))
    return [(str(path.relative_to(root)), path.stat().st_size, path.stat().st_mtime_ns) for path in files]


def _split(root: Path, test_fraction: float) -> tuple[Labelled, Labelled, tuple[str, ...]]:
    if not root.is_dir():
        raise DataError(f"dataset folder {root} does not exist", "check data.path")
    divided = (root / "train").is_dir() and (root / "test").is_dir()
    base = root / "train" if divided else root
    classes = tuple(sorted(_class_folders(base)))
    if len(classes) < 2:
        raise DataError(f"{base} has {len(classes)} class folder(s)", "put each class's pictures in a folder of its own")
    if divided:
        extra = _class_folders(root / "test") - set(classes)
        if extra:
            raise DataError(f"{root}/test has classes that {base} lacks: {', '.join(sorted(extra))}", "make them alike")
        train = _files(base, classes)
        test = _files(root / "test", classes)
    else:
        everything = _files(base, classes)
        test = [item for item in everything if _set_aside(item[0], test_fraction)]
        train = [item for item in everything if not _set_aside(item[0], test_fraction)]
    for name, part in (("training", train), ("test", test)):
        if len(part) < 2:
            raise DataError(f"{root} gives {len(part)} {name} picture(s)", "add pictures or set data.test_fraction")
    return train, test, classes


def _class_folders(base: Path) -> set[str]:
    return {folder.name for folder in base.iterdir() if folder.is_dir() and not folder.name.startswith(".")}


def _files(base: Path, classes: Sequence[str]) -> list[tuple[Path, int]]:
    found = [
        (path, label) for label, name in enumerate(classes) for path in sorted((base / name).rglob("*")) if _is_picture(path)
    ]
    for label, name in enumerate(classes):
        if not any(item[1] == label for item in found) and (base / name).is_dir():
            raise DataError(
                f"class folder {base / name} has no pictures ({', '.join(sorted(SUFFIXES))})", "add some or remove it"
            )
    return found


def _is_picture(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and path.is_file() and not path.name.startswith(".")


def _set_aside(path: Path, fraction: float) -> bool:
    digest = hashlib.sha256(f"{path.parent.name}/{path.name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def _decode(files: Labelled, color: Color, size: tuple[int, int], title: str, progress: Progress) -> Pictures:
    images = np.empty((len(files), CHANNELS[color], *size), np.uint8)
    with progress.task(title, len(files)) as advance:
        for index, (path, _) in enumerate(files):
            images[index] = pixels_of(load_image(path), color, size)
            advance(1, path.parent.name)
    return Pictures(images, np.asarray([label for _, label in files], np.int64))
