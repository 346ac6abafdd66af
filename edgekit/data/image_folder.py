"""Pictures in one folder per class: ``path/<class>/*.png``, or ``path/train/<class>`` with ``path/test/<class>``.

``val`` serves as the test set where there is no ``test``. Without either a share of the pictures is set aside, chosen by the
hash of each file's content: adding pictures moves none between the halves, and copies of a picture are in the same half.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import NamedTuple
from unicodedata import normalize

import numpy as np
from numpy.typing import NDArray

from edgekit.data.cache import Wanted, decoded_pictures
from edgekit.data.decode import Decoded, Decoding, decode
from edgekit.data.listing import Picture, dangling, digests, list_pictures, of_first_frames, subfolders
from edgekit.data.pictures import Pictures, check_holdout, spread
from edgekit.data.source import Loaded, PictureShape, Source
from edgekit.decoding import CHANNELS, Color
from edgekit.decoding.opening import SUFFIXES
from edgekit.errors import DataError, printable
from edgekit.preprocess import Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.recipe import DataRecipe
from edgekit.reports.train import LeftOut

TRAIN, VALIDATION, TEST = ("train", "training"), ("val", "valid", "validation"), ("test", "testing")
"""Usual names of the folders of a divided data set, in any case."""
MOST_NAMED = 10
"""The most bad pictures that one sentence names."""


class Half(NamedTuple):
    """The training or the test pictures, with their class numbers."""

    name: str
    pictures: tuple[Picture, ...]
    labels: tuple[int, ...]


class Split(NamedTuple):
    """Both halves, the classes in sorted order, and what is in the folder besides.

    ``shared`` test pictures of a divided set are training pictures too; ``notes`` are sentences about the whole set. ``holdout``
    are training pictures that are set aside and not in ``train``. ``hashes`` are those of the pictures' contents, by name, and
    ``origin`` says what was divided, and how.
    """

    train: Half
    test: Half
    holdout: Half
    classes: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
    shared: int
    notes: tuple[str, ...]
    hashes: Mapping[str, str]
    origin: str


class _Noticed(NamedTuple):
    """What decoding finds out of pictures: those that are bad with the reason, and the names of those with several frames."""

    bad: list[tuple[Picture, str]]
    several: list[str]


def load(
    root: Path, color: Color, size: tuple[int, int], test_fraction: float = 0.2, progress: Progress = SILENT
) -> tuple[Pictures, Pictures, tuple[str, ...]]:
    """(train, test, class names in sorted order), every picture resized to ``size`` = (height, width)."""
    return load_folder(root, Decoding(color, size), test_fraction, progress)[:3]


def load_folder(
    root: Path, decoding: Decoding, test_fraction: float = 0.2, progress: Progress = SILENT, holdout: int = 0
) -> Loaded:
    """Decode every picture; raises DataError naming all that cannot be decoded, unless ``decoding.skip_bad`` leaves them out."""
    split = split_folder(root, test_fraction, progress, holdout)
    noticed = _Noticed([], [])
    parts = (split.train, split.test, split.holdout)
    train, test, held_out = (_decode(split, half, decoding, progress, noticed) for half in parts)
    bad = noticed.bad
    if bad and not decoding.skip_bad:
        raise _bad_pictures(bad, sum(len(half.pictures) for half in parts))
    left_out = split.left_out
    if bad:
        left_out = (*left_out, LeftOut("cannot be decoded", len(bad), printable(bad[0][0].name)))
        _check_halves(root, train.labels, test.labels, split.classes)
    classes = tuple(map(printable, split.classes))
    notes = (*split.notes, *of_first_frames(noticed.several))
    return Loaded(train, test, classes, left_out, split.shared, notes=notes, holdout=held_out if len(held_out) else None)


def from_test_set(root: Path, decoding: Decoding, test_fraction: float, count: int) -> Pictures:
    """``count`` pictures spread over the test set, as ``load_folder`` gives them."""
    split = split_folder(root, test_fraction)
    return _spread_over(split, split.test, decoding, count)


def _spread_over(split: Split, half: Half, decoding: Decoding, count: int) -> Pictures:
    """``count`` pictures of a half; all are decoded, as for a training, where all are wanted or which are good is not known."""
    noticed = _Noticed([], [])
    chosen = spread(len(half.pictures), count)
    if decoding.skip_bad or len(chosen) == len(half.pictures):
        pictures = _decode(split, half, decoding, SILENT, noticed)
        places = spread(len(pictures), count)
        if len(places) < len(pictures):
            pictures = Pictures(pictures.images[places], pictures.labels[places])
    else:
        half = Half(half.name, tuple(half.pictures[index] for index in chosen), tuple(half.labels[index] for index in chosen))
        decoded = decode(half.pictures, decoding, half.name, SILENT)
        pictures = Pictures(decoded.images, _good_labels(half, decoded, noticed))
    if noticed.bad and not decoding.skip_bad:
        raise _bad_pictures(noticed.bad, len(half.pictures))
    return pictures


def contents(root: Path, progress: Progress = SILENT) -> list[tuple[str, str]]:
    """(relative path, sha256 of the file) of every picture that is trained on or tested, in sorted order."""
    arranged = _arranged(root)
    used = (picture for picture, _ in (*arranged.labelled, *arranged.tested))
    pictures = tuple(sorted(used, key=attrgetter("name")))
    hashes = digests(root, pictures, progress)
    return [(printable(picture.name), hashes[picture.name]) for picture in pictures]


def to_judge(root: Path) -> tuple[tuple[str, ...], Half]:
    """The classes, and the labelled pictures to judge a network on: the test half of a divided folder, and otherwise all.

    Pictures of one class alone can be judged. Raises DataError for a folder that has no classes or a class without pictures.
    """
    arranged = _arranged(root, fewest=1)
    return arranged.classes, _half("test", arranged.tested if arranged.divided else arranged.labelled)


def training_half(root: Path) -> Path:
    """The folder of the training pictures of a divided data set; the folder itself of any other."""
    divided = _divided(root)
    return root if divided is None else root / divided[0]


def class_names(root: Path) -> tuple[str, ...]:
    """The classes in sorted order, before any file is opened; raises DataError for a folder that cannot be divided."""
    return _classes(root, _divided(root))


def split_folder(root: Path, test_fraction: float, progress: Progress = SILENT, holdout: int = 0) -> Split:
    """Which pictures are trained on, tested and held out; raises DataError for a folder that cannot be divided.

    Held out are the ``holdout`` training pictures whose contents have the smallest hashes, wherever they lie.
    """
    arranged = _arranged(root)
    train, test = arranged.labelled, arranged.tested
    hashes = digests(root, tuple(picture for picture, _ in (*train, *test)), progress)
    notes = _in_two_classes((*train, *test), hashes)
    shared = 0
    if arranged.divided:
        trained = {hashes[picture.name] for picture, _ in train}
        shared = sum(hashes[picture.name] in trained for picture, _ in test)
    else:
        train, test = _set_aside(train, hashes, test_fraction)
    _check_halves(root, [label for _, label in train], [label for _, label in test], arranged.classes)
    train, held_out = _held_out(train, hashes, holdout)
    halves = (_half("training", train), _half("test", test), _half("held-out", held_out))
    origin = f"{printable(os.path.realpath(root))}, test_fraction {test_fraction}"
    return Split(*halves, arranged.classes, arranged.left_out, shared, notes, hashes, origin)


def _in_two_classes(labelled: _Labelled, hashes: dict[str, str]) -> tuple[str, ...]:
    """A note on pictures that have copies in another class, with the first two of them; empty where there are none."""
    copies: dict[str, list[tuple[Picture, int]]] = {}
    for picture, label in labelled:
        copies.setdefault(hashes[picture.name], []).append((picture, label))
    torn = [same for same in copies.values() if len({label for _, label in same}) > 1]
    if not torn:
        return ()
    first = torn[0][0]
    other = next(picture for picture, label in torn[0] if label != first[1])
    pair = f"{printable(first[0].name)} and {printable(other.name)}"
    return (f"{len(torn)} pictures are in more than one class, like {pair}: a network cannot learn both",)


_Pairs = list[tuple[Picture, int]]
_Labelled = Sequence[tuple[Picture, int]]


class _Arranged(NamedTuple):
    """The pictures of a folder with their class numbers; those of a divided folder's test half are ``tested``."""

    divided: tuple[str, str] | None
    classes: tuple[str, ...]
    labelled: _Pairs
    tested: _Pairs
    left_out: tuple[LeftOut, ...]


def _arranged(root: Path, fewest: int = 2) -> _Arranged:
    divided = _divided(root)
    classes = _classes(root, divided, fewest)
    pictures, left_out = list_pictures(root, apart=2 if divided else 1)
    train = divided[0] if divided else ""
    labelled, outside = _by_class(pictures, train, classes)
    tested: _Pairs = []
    if divided:
        _check_same_classes(root, divided, classes)
        tested, outside = _by_class(outside, divided[1], classes)
    _check_no_class_is_empty(root / train, classes, {label for _, label in (*labelled, *tested)})
    return _Arranged(divided, classes, labelled, tested, (*left_out, *_unused(outside, divided)))


def _classes(root: Path, divided: tuple[str, str] | None, fewest: int = 2) -> tuple[str, ...]:
    base = root / divided[0] if divided else root
    for folder in (root / half for half in divided or ("",)):
        for name in dangling(folder):
            raise DataError(f"class folder {folder / name} is a link to nothing", "mend or remove the link")
    classes = tuple(subfolders(base))
    if len(classes) < fewest:
        raise DataError(f"{base} has {len(classes)} class folder(s)", "put each class's pictures in a folder of its own")
    twice = [name for name, count in Counter(normalize("NFC", name) for name in classes).items() if count > 1]
    if twice:
        raise DataError(
            f"{base} has two class folders that are both called {twice[0]}, in two spellings of Unicode",
            "move the pictures of one into the other",
        )
    if not divided:
        _check_not_divided_below(root, classes)
    return classes


def _check_no_class_is_empty(base: Path, classes: Sequence[str], occurring: set[int]) -> None:
    empty = [name for number, name in enumerate(classes) if number not in occurring]
    if empty:
        formats = ", ".join(sorted(SUFFIXES))
        raise DataError(f"class folder {base / empty[0]} has no pictures ({formats})", "add some or remove it")


def _unused(pictures: Sequence[Picture], divided: tuple[str, str] | None) -> Iterator[LeftOut]:
    """Pictures outside the class folders, by the reason."""
    reasons: dict[str, list[Picture]] = {}
    for picture in pictures:
        top = picture.name.split("/")[0]
        reason = "not in a class folder"
        if divided and top.lower() in VALIDATION:
            reason = f"in {top}, which is not used beside {divided[1]}"
        reasons.setdefault(reason, []).append(picture)
    for reason, unused in reasons.items():
        yield LeftOut(printable(reason), len(unused), printable(unused[0].name))


def _half(name: str, labelled: _Labelled) -> Half:
    return Half(name, tuple(picture for picture, _ in labelled), tuple(label for _, label in labelled))


def _divided(root: Path) -> tuple[str, str] | None:
    """The folders with the training and the test pictures of a divided data set; raises DataError where that is unclear."""
    if not root.is_dir():
        raise DataError(f"dataset folder {root} does not exist", "check data.path")
    roles = {names: [name for name in subfolders(root) if name.lower() in names] for names in (TRAIN, VALIDATION, TEST)}
    twice = next((names for names in roles.values() if len(names) > 1), None)
    if twice and roles[TRAIN]:
        raise DataError(f"{root} has both {twice[0]} and {twice[1]}", "keep one of them")
    test = roles[TEST] or roles[VALIDATION]
    if not roles[TRAIN] or not test:
        lonely = [name for names in roles.values() for name in names]
        if lonely and set(lonely) == set(subfolders(root)):
            needed = "test or val" if roles[TRAIN] else "train"
            raise DataError(f"{root} has {lonely[0]} and no {needed} beside it", f"add {needed}, or give the path of {lonely[0]}")
        return None
    train = roles[TRAIN][0]
    if not subfolders(root / train) or not subfolders(root / test[0]):
        raise DataError(
            f"{root} has {train} and {test[0]}, which are named like halves of a data set and hold no class folders",
            "put each class's pictures in a folder of its own inside them, or rename the classes",
        )
    return train, test[0]


def _check_not_divided_below(root: Path, classes: Sequence[str]) -> None:
    """Refuse ``<class>/train`` with ``<class>/test``: the halves would be mixed."""
    for name in classes:
        below = {folder.lower() for folder in subfolders(root / name)}
        if below & set(TRAIN) and below & {*VALIDATION, *TEST}:
            raise DataError(f"{root / name} is divided inside the class", "make it train/<class> and test/<class>")


def _check_same_classes(root: Path, divided: tuple[str, str], classes: Sequence[str]) -> None:
    train, test = divided
    extra = sorted(set(subfolders(root / test)) - set(classes))
    if extra:
        raise DataError(f"{root / test} has classes that {root / train} lacks: {', '.join(extra)}", "make them alike")


def _by_class(pictures: Iterable[Picture], base: str, classes: Sequence[str]) -> tuple[list[tuple[Picture, int]], list[Picture]]:
    """Pictures below ``base/<class>`` with their class number, in the order of the classes, and the others."""
    numbers = {f"{base}/{name}" if base else name: number for number, name in enumerate(classes)}
    depth = 2 if base else 1
    labelled, others = [], []
    for picture in pictures:
        parts = picture.name.split("/")
        number = numbers.get("/".join(parts[:depth])) if len(parts) > depth else None
        if number is None:
            others.append(picture)
        else:
            labelled.append((picture, number))
    return sorted(labelled, key=itemgetter(1)), others


def _set_aside(labelled: _Labelled, hashes: dict[str, str], fraction: float) -> tuple[_Pairs, _Pairs]:
    """(train, test) by the hash of each picture; a class that would have no training picture gives up its lowest.

    What is given up is a hash and not a file, so that copies in other classes go with it.
    """
    aside = {value for value in hashes.values() if int(value[:16], 16) < fraction * 2**64}
    given_up = set()
    for _, members in groupby(labelled, key=itemgetter(1)):
        own = {hashes[picture.name] for picture, _ in members}
        if own <= aside:
            given_up.add(min(own))
    aside -= given_up
    train = [item for item in labelled if hashes[item[0].name] not in aside]
    return train, [item for item in labelled if hashes[item[0].name] in aside]


def _held_out(train: _Pairs, hashes: Mapping[str, str], count: int) -> tuple[_Pairs, _Pairs]:
    """(trained on, held out), before any is decoded, each in the order of ``train``."""
    check_holdout(count, len(train))
    held = set(sorted(range(len(train)), key=lambda place: hashes[train[place][0].name])[:count])
    return [pair for place, pair in enumerate(train) if place not in held], [train[place] for place in sorted(held)]


def _check_halves(
    root: Path, train: Sequence[int] | NDArray[np.int64], test: Sequence[int] | NDArray[np.int64], classes: Sequence[str]
) -> None:
    for name, labels in (("training", train), ("test", test)):
        if len(labels) < 2:
            raise DataError(f"{root} gives {len(labels)} {name} picture(s)", "add pictures or set data.test_fraction")
    untrained = sorted(set(range(len(classes))) - set(map(int, train)))
    if untrained:
        raise DataError(f"{root} has no training picture of class {classes[untrained[0]]}", "add some or remove the class")


def _decode(split: Split, half: Half, decoding: Decoding, progress: Progress, noticed: _Noticed) -> Pictures:
    """The pictures of a half as arrays; what decoding finds out of them is added to ``noticed``."""
    hashes = [split.hashes[picture.name] for picture in half.pictures]
    origin = split.origin if half is split.test else f"{split.origin}, {len(split.holdout.pictures)} held out"
    wanted = Wanted(half.pictures, hashes, decoding, half.name, origin)
    decoded, summary = decoded_pictures(wanted, progress)
    return Pictures(decoded.images, _good_labels(half, decoded, noticed), summary)


def _good_labels(half: Half, decoded: Decoded, noticed: _Noticed) -> NDArray[np.int64]:
    """The labels of the pictures that were decoded; what was found out of these and of the others is added to ``noticed``."""
    noticed.bad.extend((half.pictures[place], reason) for place, reason in decoded.bad)
    noticed.several.extend(printable(half.pictures[place].name) for place in decoded.several)
    return np.delete(np.asarray(half.labels, np.int64), [place for place, _ in decoded.bad])


def _bad_pictures(bad: Sequence[tuple[Picture, str]], total: int) -> DataError:
    reasons = "; ".join(reason for _, reason in bad[:MOST_NAMED])
    more = f"; and {len(bad) - MOST_NAMED} more" if len(bad) > MOST_NAMED else ""
    return DataError(
        f"{len(bad)} of {total} pictures cannot be used: {reasons}{more}",
        "replace or remove them, or set data.skip_bad = true to go on without them",
    )


def _root(recipe: DataRecipe) -> Path:
    assert recipe.path is not None  # recipe.load refuses the recipe otherwise
    return Path(recipe.path)


def _size(recipe: DataRecipe) -> tuple[int, int]:
    assert recipe.size is not None
    return recipe.size


def _shape(recipe: DataRecipe) -> PictureShape:
    return PictureShape(CHANNELS[recipe.pixel_color], *_size(recipe), len(class_names(_root(recipe))))


def _loaded(recipe: DataRecipe, progress: Progress) -> Loaded:
    decoding = Decoding(recipe.pixel_color, _size(recipe), recipe.white, recipe.skip_bad)
    return load_folder(_root(recipe), decoding, recipe.test_fraction, progress, recipe.holdout)


def _decoding(recipe: DataRecipe, preprocess: Preprocess) -> Decoding:
    return Decoding(preprocess.color, (preprocess.height, preprocess.width), recipe.white, recipe.skip_bad)


def _golden(recipe: DataRecipe, preprocess: Preprocess, count: int) -> Pictures:
    split = split_folder(_root(recipe), recipe.test_fraction, holdout=recipe.holdout)
    return _spread_over(split, split.test, _decoding(recipe, preprocess), count)


def _training(recipe: DataRecipe, preprocess: Preprocess, count: int) -> Pictures:
    split = split_folder(_root(recipe), recipe.test_fraction, holdout=recipe.holdout)
    return _spread_over(split, split.train, _decoding(recipe, preprocess), count)


SOURCE = Source(_shape, _loaded, _golden, _training, lambda recipe, progress: contents(_root(recipe), progress))
