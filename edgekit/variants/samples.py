"""The samples that an int8 file is calibrated on: training pictures, never those that it will be judged by."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Set
from pathlib import Path
from typing import NamedTuple, NoReturn

import msgspec
import numpy as np

from edgekit import data
from edgekit.bundle.folder import Bundle
from edgekit.bundle.unpacked import TooMuch, unpacked
from edgekit.data.image_folder import training_half
from edgekit.data.listing import list_pictures
from edgekit.data.pictures import spread
from edgekit.errors import DataError, EdgekitError, UsageError, first_line, printable
from edgekit.files import opened
from edgekit.parity.calibrated import feed_sha256, random_calibration
from edgekit.parity.pixels import undone
from edgekit.preprocess import Preprocess
from edgekit.recipe import RANDOM, DataRecipe, load_recipe
from edgekit.tensors import Array, largest

SAMPLES = 256
"""Calibration samples unless told otherwise."""
MOST_BYTES = 2 << 30
"""Bytes of the arrays of an .npz file."""
UNLIKE = 8.0
"""Times by which the largest calibration value may differ from the largest golden one without a note."""
FEW = 32
"""Fewer samples than this give ranges that the next picture leaves."""


class Samples(NamedTuple):
    """A feed of calibration samples, in words where they are from, and whether they are of the kind that the network sees.

    ``recipe``: the data set that they are of, if they are a recipe's; its test set judges the variant.
    """

    feed: dict[str, Array]
    source: str
    calibrated: bool = True
    recipe: DataRecipe | None = None
    notes: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """How many samples there are."""
        return len(next(iter(self.feed.values())))

    def sha256(self) -> str:
        """The hash of all arrays, by the names of their inputs."""
        return feed_sha256(self.feed)


def samples_of(
    bundle: Bundle, source: Path | str | None = None, count: int = SAMPLES, training: DataRecipe | None = None
) -> Samples:
    """``count`` calibration samples for a bundle: from a recipe, a folder of pictures, an .npz file of arrays, or ``random``.

    Without a ``source`` they are of the ``training`` set, or else of that of the bundle's own recipe. Raises DataError for
    samples that do not fit the inputs or that are test pictures, by content, and UsageError where no data is known.
    """
    if str(source) == RANDOM:
        return _random(bundle)
    known = training or own_data(bundle)
    if source is None:
        return _checked(bundle, _of_recipe(bundle, known or _missing(bundle), count))
    path = Path(source)
    if path.suffix == ".toml":
        return _checked(bundle, _of_recipe(bundle, load_recipe(path).data, count))
    samples = _of_arrays(bundle, path, count) if path.suffix == ".npz" else _of_folder(bundle, path, count)
    return _checked(bundle, samples, _tested_here(bundle, known))


def own_data(bundle: Bundle) -> DataRecipe | None:
    """The data set of the bundle's recipe, where it can be found without being told where it is."""
    recipe = (bundle.manifest.source.recipe or {}).get("data")
    if recipe is None or bundle.manifest.preprocess is None:
        return None
    try:
        described = msgspec.convert(recipe, DataRecipe)
    except (msgspec.ValidationError, ValueError):
        return None
    return described if described.dataset == "fashion-mnist" else None


def _missing(bundle: Bundle) -> NoReturn:
    raise UsageError(
        f"bundle {bundle.root} does not say where training pictures are",
        "give --calibrate a recipe, a folder of training pictures or an .npz file of inputs",
    )


def _of_recipe(bundle: Bundle, recipe: DataRecipe, count: int) -> Samples:
    """Pictures of the training set that are not in the test set as well."""
    preprocess, name = _preprocess(bundle), bundle.manifest.inputs[0].name
    pictures = data.training_pictures(recipe, preprocess, 2 * count)  # copies of test pictures are left out
    tested = _tested_digests(recipe, preprocess, name)
    inputs = preprocess.normalise(pictures.images)
    clean = [place for place, digest in enumerate(_digests({name: inputs}, [name], preprocess)) if digest not in tested]
    if not clean:
        raise DataError(f"every training picture of {recipe.dataset} is a test picture too", "divide the data set anew")
    chosen = np.asarray(clean)[spread(len(clean), count)]
    return Samples({name: inputs[chosen]}, f"{len(chosen)} training pictures of {recipe.dataset}", recipe=recipe)


def _of_folder(bundle: Bundle, root: Path, count: int) -> Samples:
    """Pictures below a folder; of one that is divided into train and test, those of the training half."""
    preprocess = _preprocess(bundle)
    if not root.is_dir():
        raise DataError(f"{root} is no recipe, no folder of pictures and no .npz file", "give --calibrate one of these")
    paths = [picture.path for picture in list_pictures(training_half(root)).pictures]
    if not paths:
        raise DataError(f"there are no pictures in {root}", "give a folder with training pictures")
    images = np.stack([preprocess.open(paths[index]) for index in spread(len(paths), count)])
    name = printable(root.name or str(root))
    return Samples({bundle.manifest.inputs[0].name: preprocess.normalise(images)}, f"{len(images)} pictures of the folder {name}")


def _of_arrays(bundle: Bundle, path: Path, count: int) -> Samples:
    """Arrays by the names of the inputs, as the network takes them, or the only array for the only input."""
    arrays = _read(path)
    specs = bundle.manifest.inputs
    if len(specs) == len(arrays) == 1:
        arrays = {specs[0].name: next(iter(arrays.values()))}
    missing = next((spec.name for spec in specs if spec.name not in arrays), None)
    if missing is not None:
        raise DataError(f"{path} has no array {missing!r}, which is an input", f"it has {', '.join(arrays) or 'none'}")
    feed = {spec.name: arrays[spec.name] for spec in specs}
    sizes = {len(array) if array.ndim else 0 for array in feed.values()}
    if not max(sizes):
        raise DataError(f"the arrays of {path} hold no samples", "the first axis is the samples")
    if len(sizes) > 1:
        raise DataError(f"the arrays of {path} do not have the same number of samples", "the first axis is the samples")
    for spec in specs:
        spec.with_free_batch().check(feed[spec.name])
        if not np.isfinite(feed[spec.name]).all():
            raise DataError(f"array {spec.name!r} of {path} holds numbers that are not finite", "leave such samples out")
    chosen = spread(min(sizes), count)
    return Samples({name: array[chosen] for name, array in feed.items()}, f"{len(chosen)} samples of {printable(path.name)}")


def _read(path: Path) -> dict[str, Array]:
    """The arrays of an .npz file, of at most MOST_BYTES in all: what a file unpacks to is read from its headers first."""
    try:
        with opened(path) as stream:
            return {name: array for name, array in unpacked(stream, MOST_BYTES) if isinstance(array, np.ndarray)}
    except TooMuch as problem:
        raise DataError(f"{path} cannot be read: {problem}", "give fewer samples") from None
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror}", "give an .npz file of arrays") from None
    except Exception as problem:  # zipfile, zlib and numpy raise a dozen kinds for a damaged file
        objects = "allow_pickle" in str(problem)
        reason = (
            "it holds Python objects, which are not read" if objects else f"it is no .npz file of arrays ({first_line(problem)})"
        )
        raise DataError(f"{path} cannot be read: {reason}", "write arrays of numbers with numpy.savez") from None


def _random(bundle: Bundle) -> Samples:
    return Samples(random_calibration(bundle.manifest), "random numbers", calibrated=False)


def _preprocess(bundle: Bundle) -> Preprocess:
    if bundle.manifest.preprocess is None:
        raise DataError(
            f"bundle {bundle.root} has no preprocessing, so that pictures cannot be given to its network",
            "give --calibrate an .npz file with inputs as the network takes them",
        )
    return bundle.manifest.preprocess


def _checked(bundle: Bundle, samples: Samples, tested: Set[str] = frozenset()) -> Samples:
    """Raise DataError for samples that are test pictures: golden ones, or those with the digests ``tested``."""
    mine = list(_digests(samples.feed, [spec.name for spec in bundle.manifest.inputs], bundle.manifest.preprocess))
    tested = tested | set(_golden_digests(bundle))
    shared = sum(digest in tested for digest in mine)
    if shared:
        raise DataError(
            f"{shared} of {len(mine)} calibration samples are test pictures, which are there to judge the result",
            "calibrate on training pictures",
        )
    few = f"only {len(mine)} calibration samples: the ranges may be too narrow for other pictures"
    notes = (few,) if len(mine) < FEW else ()
    return samples._replace(notes=(*samples.notes, *notes, *_unlike(bundle, samples)))


def _unlike(bundle: Bundle, samples: Samples) -> Iterator[str]:
    """A note for each input whose calibration samples are of another range than the golden ones."""
    count = bundle.manifest.golden.parts[0].samples if bundle.manifest.golden.parts else None
    for name, golden in bundle.golden().inputs.items():
        if np.issubdtype(golden.dtype, np.floating):
            mine, usual = largest(samples.feed[name]), largest(golden[:count])
            if not usual / UNLIKE <= mine <= usual * UNLIKE:
                yield (
                    f"the largest calibration value of input {name!r} is {mine:.3g}, and that of the golden samples {usual:.3g}: "
                    "are they preprocessed in another way?"
                )


def _golden_digests(bundle: Bundle) -> Iterator[str]:
    """Hashes of the golden samples that are test pictures."""
    golden = bundle.manifest.golden
    if golden.kind != "test-set":
        return
    count = golden.parts[0].samples if golden.parts else golden.samples
    inputs = bundle.golden().inputs
    names = [spec.name for spec in bundle.manifest.inputs]
    yield from _digests({name: array[:count] for name, array in inputs.items()}, names, bundle.manifest.preprocess)


def _tested_here(bundle: Bundle, recipe: DataRecipe | None) -> set[str]:
    """Digests of the recipe's test set; none where the data is not on this machine: then the golden pictures are all known."""
    preprocess = bundle.manifest.preprocess
    if recipe is None or preprocess is None:
        return set()
    try:
        return _tested_digests(recipe, preprocess, bundle.manifest.inputs[0].name)
    except EdgekitError:
        return set()


def _tested_digests(recipe: DataRecipe, preprocess: Preprocess, name: str) -> set[str]:
    """The hash of each picture of a recipe's test set, as the input ``name`` takes it."""
    images = data.golden_pictures(recipe, preprocess, data.EVERY).images
    return {
        digest
        for start in range(0, len(images), 1000)
        for digest in _digests({name: preprocess.normalise(images[start : start + 1000])}, [name], preprocess)
    }


def _digests(feed: dict[str, Array], names: list[str], preprocess: Preprocess | None) -> Iterator[str]:
    """The hash of each sample of a feed, of all inputs together; of pictures that of their levels, whatever noise they have."""
    levels = undone(feed[names[0]], preprocess) if preprocess is not None else None
    compared = feed if levels is None else {**feed, names[0]: np.rint(levels).clip(-(2**15), 2**15 - 1).astype(np.int16)}
    for place in range(len(feed[names[0]])):
        digest = hashlib.sha256()
        for name in names:
            digest.update(np.ascontiguousarray(compared[name][place]).data)
        yield digest.hexdigest()
