"""A bundle as a page for browsers: it proves the golden outputs where it is opened, and then labels pictures.

The page's own files, in ``page/``, are the same for every bundle. What a bundle says goes into ``page.json``, which the page
shows as text, and its arrays into ``golden.bin``: little-endian, one behind the other, each at a multiple of 8 bytes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import GoldenPicture
from edgekit.bundle.variants import own_outputs
from edgekit.errors import BundleError, OutputError, UsageError, printable
from edgekit.files import check_writable, read_bytes, replacing_folder
from edgekit.parity.accuracy import meaning_of
from edgekit.parity.bars import Bars, bars_of
from edgekit.parity.converted import ConvertedBar
from edgekit.preprocess import Preprocess
from edgekit.reports.page import visible
from edgekit.ship.onnxruntime_web import PACKAGE, WebRuntime
from edgekit.ship.places import write_files
from edgekit.tensors import Array, fixed_batch
from edgekit.tolerance import ToleranceChange

OWN = Path(__file__).parent / "page"
OWN_FILES = ("index.html", "page.css", "page.js", "golden.js", "picture.js")
DATA, ARRAYS, MODEL, RUNTIME = "page.json", "golden.bin", "model.onnx", "runtime"
DTYPES = frozenset({"float32", "float64", "bool", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))})
"""What JavaScript has arrays of, and the runtime tensors."""
NO_LABELS = "This bundle records no preprocessing or labels, so the page cannot be given pictures."


def page_files(bundle: Bundle, variant: str, runtime: WebRuntime) -> dict[str, bytes]:
    """The files of the page, by their paths in its folder.

    Raises BundleError for a tensor that JavaScript has no array of, UsageError for a variant that the bundle has not.
    """
    manifest = bundle.manifest
    for spec in (*manifest.inputs, *manifest.outputs):
        if spec.dtype not in DTYPES:
            raise BundleError(
                f"bundle {bundle.root} has {spec.dtype} tensors ({spec.name!r}), which a browser has no array of",
                "export it with float32 inputs and outputs",
            )
    if bundle.variant(variant).inputs:
        raise UsageError(f"{variant} takes pictures, and the page preprocesses them itself", "give the page another variant")
    golden = bundle.golden()
    arrays, bars = _arrays(bundle, variant, golden)
    described, content = packed(arrays)
    data = {**_about(bundle, variant, golden, runtime), "outputs": bars, "arrays": described}
    files = {name: read_bytes(OWN / name, "part of edgekit") for name in OWN_FILES}
    files |= {f"{RUNTIME}/{name}": content for name, content in runtime.files.items()}
    files |= _pictures(bundle)
    return files | {DATA: json.dumps(data, indent=1).encode(), ARRAYS: content, MODEL: bundle.onnx_bytes(variant)}


def _pictures(bundle: Bundle) -> dict[str, bytes]:
    """The golden pictures under names of the page's own: those in a manifest are somebody else's, and ``page.js`` may be one."""

    def read(place: Path) -> dict[str, bytes]:
        pictures = enumerate(bundle.manifest.golden.pictures)
        return {_picture(number): read_bytes(place / picture.file, "picture", BundleError) for number, picture in pictures}

    return bundle.reading(read)


def _picture(number: int) -> str:
    return f"picture-{number}.png"


def packed(arrays: Mapping[str, Array]) -> tuple[dict[str, Any], bytes]:
    """Where each array lies, and the bytes of all."""
    described, content = {}, bytearray()
    for name, array in arrays.items():
        content += bytes(-len(content) % 8)
        described[name] = {"dtype": str(array.dtype), "shape": list(array.shape), "offset": len(content)}
        content += np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()
    return described, bytes(content)


def write_page(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the page as ``folder``, whole or not at all; an older page is replaced, and for anything else OutputError raised."""
    check_replaceable(folder)
    with replacing_folder(folder, lambda: check_replaceable(folder)) as temporary:
        write_files(temporary, files)


def check_replaceable(folder: Path) -> None:
    """Raise OutputError unless a page can be written there: nothing is there, an empty folder, or an older page."""
    if folder.name in ("", ".."):
        raise OutputError(f"cannot write the page {folder}: this folder cannot be replaced by another", "give a name in it")
    check_writable(folder.parent)
    if not folder.is_dir() or folder.is_symlink():
        return  # replacing_folder says what else is there
    entries = {path.name for path in folder.iterdir()}
    if entries and not {DATA, ARRAYS, *OWN_FILES} <= entries:
        raise OutputError(f"cannot write the page {folder}: a folder that holds no page is there", "choose another name")
    pictures = {name for name in entries if re.fullmatch(r"picture-\d+\.png", name)}
    strangers = sorted(entries - pictures - {DATA, ARRAYS, MODEL, RUNTIME, *OWN_FILES})
    if strangers:
        raise OutputError(
            f"cannot write the page {folder}: it holds {printable(strangers[0])}, which is no part of a page", "move it away"
        )


def _about(bundle: Bundle, variant: str, golden: GoldenArrays, runtime: WebRuntime) -> dict[str, Any]:
    """What the page says and needs to know beside the bars."""
    manifest = bundle.manifest
    takes_pictures = manifest.preprocess is not None and bool(manifest.labels) and len(manifest.inputs) == 1
    first = golden.float64[manifest.outputs[0].name]
    fits = takes_pictures and first.shape[1:] == (len(manifest.labels),)
    return {
        "name": visible(manifest.name),
        "variant": manifest.variant(variant).name,
        "runtime": runtime.version or f"({PACKAGE} of an unknown version)",
        "inputs": [{"name": spec.name} for spec in manifest.inputs],
        "samples": manifest.golden.samples,
        "parts": [part.samples for part in manifest.golden.parts] or [manifest.golden.samples],
        "batch": fixed_batch(manifest.inputs) or 1,
        "reference": visible(manifest.golden.reference),
        "preprocess": _preprocess(manifest.preprocess) if fits else None,
        "labels": [visible(label) for label in manifest.labels],
        "softmax": meaning_of(first) == "softmax of the output",
        "no_labels": "" if fits else NO_LABELS,
        "pictures": _samples(manifest.golden.pictures) if fits else [],
    }


def _samples(pictures: Sequence[GoldenPicture]) -> list[dict[str, Any]]:
    return [{"file": _picture(number), "sample": picture.sample} for number, picture in enumerate(pictures)]


def _preprocess(preprocess: Preprocess | None) -> dict[str, Any] | None:
    if preprocess is None:
        return None
    size = {"height": preprocess.height, "width": preprocess.width}
    return size | {"color": preprocess.color, "mean": list(preprocess.mean), "std": list(preprocess.std)}


def _arrays(bundle: Bundle, name: str, golden: GoldenArrays) -> tuple[dict[str, Array], list[dict[str, Any]]]:
    """The golden arrays with what each output is held to by ``edgekit verify``, and the bars that are numbers."""
    manifest, variant = bundle.manifest, bundle.variant(name)
    own = own_outputs(bundle, name)
    held = bars_of(manifest, variant, bundle.evidence(), ToleranceChange(), trusting=False, own=own).on(PACKAGE, {})
    arrays = {f"input.{key}": array for key, array in golden.inputs.items()}
    arrays |= dict(_limits(golden, held))
    if held.steps is not None and own is not None:
        arrays |= {f"own.{key}": array for key, array in own.items()}
    return arrays, [_bar(key, reference, held) for key, reference in golden.float64.items()]


def _limits(golden: GoldenArrays, held: Bars) -> Iterator[tuple[str, Array]]:
    for key, reference in golden.float64.items():
        yield f"float64.{key}", reference
        yield f"limit.{key}", np.asarray(held.of[key].limits(reference), np.float64)
        yield f"blur.{key}", np.asarray(held.of[key].blur(reference), np.float64)


def _bar(name: str, reference: Array, held: Bars) -> dict[str, Any]:
    bar = held.of[name]
    classes = reference.ndim == 2 and reference.shape[1] > 1
    whole = bar if isinstance(bar, ConvertedBar) else None
    return {
        "name": name,
        "held": bar.held(reference),
        "top1": held.tolerance.top1 if classes else None,
        "snr_db": whole.snr_db if whole else None,
        "steps": whole.steps if whole else None,
    }
