"""The variant ``with-preprocessing`` of a bundle: its first file behind the preprocessing, so that it takes pictures."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray

from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import Allowance, Golden, GoldenPart, GoldenPicture, Variant
from edgekit.bundle.variants import VariantDraft
from edgekit.decoding import pixels_from
from edgekit.errors import BundleError, ModelError, UsageError
from edgekit.machine.packages import needs
from edgekit.onnx.exact import Inexact, run_file_exact
from edgekit.onnx.pictures import PICTURE, levels_name, picture_spec, with_pictures
from edgekit.onnx.run import Runner, open_every_value, open_unoptimised, run_in_batches
from edgekit.onnx.widen import inlined
from edgekit.parity.converted import worst_snr_db
from edgekit.parity.inputs import Recorded
from edgekit.parity.pixels import undone
from edgekit.preprocess import AsDecoded, Preprocess
from edgekit.progress import SILENT, Progress
from edgekit.tensors import Array, fixed_batch
from edgekit.variants import Outcome, Wanted
from edgekit.variants.samples import own_data
from edgekit.version import __version__

NAME, FILE, GOLDEN = "with-preprocessing", "with-preprocessing.onnx", "with-preprocessing.npz"
SAMPLES = 32
"""Golden pictures, the golden picture files among them."""
LARGER = (3, 2)
"""Golden pictures are so many times as large as the network's input, so that resizing is on their way."""
OTHER_SIZES = ((1.0, 1.0), (0.6, 2.3), (2.7, 0.8), (3.1, 3.1))
"""Heights and widths, in those of the network's input, of pictures whose levels are compared with Pillow's too."""
MOST_LEVELS = 2
"""Grey levels by which the file may resize otherwise than Pillow."""
OF_PICTURES = "it does what is done outside of the other files, for a picture of the size that it is given"
REFERENCE = "the file in float64, node by node, on pictures (recorded)"


def convert(bundle: Bundle, wanted: Wanted, progress: Progress = SILENT) -> Outcome:
    """The draft of the variant ``with-preprocessing`` of a bundle.

    Raises UsageError for wishes that are about int8 and float16, BundleError for a bundle without preprocessing, and ModelError
    for a first file that is not float32, or whose pictures the new file resizes or labels otherwise than Pillow and it do.
    """
    if wanted != Wanted(training=wanted.training):
        raise UsageError(f"--to {NAME} takes no wishes: every node stays as it is", "leave out the other options")
    needs("PIL", extra="cpu")
    preprocess = _preprocess(bundle)
    network = bundle.manifest.inputs[0]
    with progress.task("writing the preprocessing", 3) as advance:
        model = with_pictures(inlined(onnx.load_from_string(bundle.onnx_bytes())), network, preprocess)
        content = model.SerializeToString(deterministic=True)
        golden = golden_pictures(bundle, preprocess)
        advance(1, "")
        resized = _resizing(bundle, model, preprocess, golden.images)
        advance(1, "")
        recorded, pillows = _recorded(bundle, model, preprocess, golden)
        advance(1, "")
    outputs, arrays = recorded.arrays.original, recorded.arrays
    _check_labels(bundle, arrays.float64, pillows, golden.described)
    variant = Variant(
        name=NAME,
        file=FILE,
        precision="float32",
        allowance=Allowance(bundle.variant().allowance.tolerance),
        error=recorded.error(outputs),
        made_by={"command": "quantize", "edgekit": __version__, "to": NAME, "grey_levels_from_pillow": resized.levels},
        inputs=(picture_spec(network),),
        golden=_described(bundle, golden),
    )
    note = (
        f"{NAME} resizes as Pillow does, but for {resized.share:.2%} of the pixels, which differ by at most {resized.levels:g} "
        "of 255 grey levels; the golden pictures have the same labels"
    )
    draft = VariantDraft(variant, {FILE: content, GOLDEN: arrays.to_npz()}, (note,))
    return Outcome(draft, worst_snr_db(outputs, pillows), data=wanted.training or own_data(bundle), untimed=OF_PICTURES)


class Pictures(NamedTuple):
    """Golden pictures of one size, uint8 N x H x W x 3, the kinds of them in their order, and which are files of the bundle."""

    images: NDArray[np.uint8]
    parts: tuple[GoldenPart, ...]
    described: tuple[GoldenPicture, ...]


def golden_pictures(bundle: Bundle, preprocess: Preprocess) -> Pictures:
    """The golden picture files, then golden samples as pictures, ``LARGER`` than the network's input: at most ``SAMPLES``."""
    size = (preprocess.height * LARGER[0] // LARGER[1], preprocess.width * LARGER[0] // LARGER[1])
    files = [(described, _file(bundle, described)) for described in bundle.manifest.golden.pictures]
    fitting = [(described, pixels) for described, pixels in files if pixels.shape[:2] == size][: SAMPLES // 2]
    described = tuple(GoldenPicture(each.file, place, each.label) for place, (each, _) in enumerate(fitting))
    samples = _levels(bundle, preprocess)
    taken = {each.sample for each, _ in fitting}
    left = [place for place in range(len(samples)) if place not in taken]
    count = min(len(left), SAMPLES - len(fitting))
    spread = [left[place] for place in np.unique(np.linspace(0, len(left) - 1, count).round().astype(int))]
    others = [_enlarged(samples[place], size) for place in spread]
    parts = (GoldenPart("pictures", len(fitting)), GoldenPart("samples", len(others)))
    return Pictures(np.stack([*(pixels for _, pixels in fitting), *others]), tuple(filter(_some, parts)), described)


def _some(part: GoldenPart) -> bool:
    return part.samples > 0


def _preprocess(bundle: Bundle) -> Preprocess:
    manifest = bundle.manifest
    preprocess = manifest.preprocess
    if preprocess is None or len(manifest.inputs) != 1:
        raise BundleError(f"bundle {bundle.root} records no preprocessing of one picture", "export it with --mean and --std")
    if manifest.inputs[0].dtype != "float32":
        raise ModelError(f"the input of bundle {bundle.root} is {manifest.inputs[0].dtype}, not float32", "export it in float32")
    return preprocess


def _file(bundle: Bundle, described: GoldenPicture) -> NDArray[np.uint8]:
    """The pixels of a golden picture, uint8 H x W x 3."""
    return bundle.reading(lambda place: pixels_from(place / described.file, "rgb", None).transpose(1, 2, 0))


def _levels(bundle: Bundle, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The golden samples as pixels, uint8 N x H x W x 3."""
    levels = undone(next(iter(bundle.golden().inputs.values())), preprocess)
    if levels is None:
        raise BundleError(f"the golden inputs of bundle {bundle.root} are no pictures", "export it again")
    pixels = np.rint(levels).clip(0, 255).astype(np.uint8)
    return AsDecoded(None).normalise(pixels)


def _enlarged(pixels: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    from PIL import Image

    image = Image.fromarray(np.ascontiguousarray(pixels))
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BICUBIC))


class _Resizing(NamedTuple):
    """How far the file's grey levels are from Pillow's: the most, and the share of pixels that differ at all."""

    levels: float
    share: float


def _resizing(bundle: Bundle, model: onnx.ModelProto, preprocess: Preprocess, images: NDArray[np.uint8]) -> _Resizing:
    """The levels of ``images``, and of some in other sizes, against Pillow's; raises ModelError beyond ``MOST_LEVELS``."""
    network = bundle.manifest.inputs[0]
    name, size = levels_name(network), fixed_batch(bundle.manifest.inputs) or 1
    run = open_every_value(model, Path(FILE), [name])
    apart = np.concatenate([_apart(run, name, size, image, preprocess) for image in _in_sizes(images, preprocess)])
    if apart.max() > MOST_LEVELS:
        raise ModelError(
            f"the file resizes pictures by up to {apart.max():g} grey levels otherwise than Pillow, {MOST_LEVELS} are allowed",
            "report this with the bundle",
        )
    return _Resizing(float(apart.max()), float((apart > 0).mean()))


def _in_sizes(images: NDArray[np.uint8], preprocess: Preprocess) -> Iterator[NDArray[np.uint8]]:
    yield from images
    for image in images[:2]:
        for height, width in OTHER_SIZES:
            yield _enlarged(image, (max(1, round(height * preprocess.height)), max(1, round(width * preprocess.width))))


def _apart(run: Runner, name: str, size: int, image: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float64]:
    levels = run({PICTURE: np.repeat(image[None], size, axis=0)})[name][0]
    apart: NDArray[np.float64] = np.abs(levels.astype(np.float64) - preprocess.open(image))
    return apart.reshape(-1)


def _recorded(
    bundle: Bundle, model: onnx.ModelProto, preprocess: Preprocess, golden: Pictures
) -> tuple[Recorded, dict[str, Array]]:
    """The file's float64 values and ONNX Runtime's on the golden pictures, and the first file's on what Pillow makes of these."""
    size = fixed_batch(bundle.manifest.inputs)
    feed = {PICTURE: golden.images}
    try:
        exact = run_file_exact(model, feed, batch=size or 1)
    except Inexact as problem:
        raise ModelError(f"the file cannot be computed in float64: {problem}", "stay with the first file") from None
    outputs = run_in_batches(open_unoptimised(model, Path(FILE)), feed, size, Path(FILE))
    pixels = np.stack([preprocess.open(image) for image in golden.images])
    first = open_unoptimised(bundle.onnx_bytes(), bundle.onnx_of())
    pillows = run_in_batches(first, {bundle.manifest.inputs[0].name: preprocess.normalise(pixels)}, size, bundle.onnx_of())
    names = [spec.name for spec in bundle.manifest.outputs]
    wide = {name: exact[name].astype(np.float64) for name in names}
    arrays = GoldenArrays(feed, wide, {name: outputs[name] for name in names}, None)
    return Recorded(arrays, golden.parts), {name: pillows[name] for name in names}


def _check_labels(bundle: Bundle, mine: dict[str, Array], pillows: dict[str, Array], described: Sequence[GoldenPicture]) -> None:
    """Raise ModelError where a golden picture has another label than by Pillow."""
    count = len(described) or SAMPLES
    for name, reference in mine.items():
        if reference.ndim == 2 and (reference[:count].argmax(1) != pillows[name][:count].argmax(1)).any():
            raise ModelError(
                f"a golden picture of bundle {bundle.manifest.name} has another label behind this resizing than behind Pillow's",
                "report this with the bundle",
            )


def _described(bundle: Bundle, golden: Pictures) -> Golden:
    axes = {"height": golden.images.shape[1], "width": golden.images.shape[2]}
    kind = bundle.manifest.golden.kind
    return Golden(GOLDEN, len(golden.images), kind, 0, None, REFERENCE, golden.parts, golden.described, axes)
