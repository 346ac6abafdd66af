"""What a manifest says of its ONNX files, its weights and its numbers, held against those files."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.bundle.allowance import held_to_noise
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.bundle.folder import Bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.bundle.manifest import GoldenPicture, Manifest
from edgekit.bundle.variants import own_outputs
from edgekit.decoding import CHANNELS
from edgekit.errors import FETCH_AGAIN, BundleError, DataError
from edgekit.onnx.arithmetic import in_steps
from edgekit.onnx.declared import Declared, declared
from edgekit.onnx.wire import ELEMENT_TYPES
from edgekit.parity.accuracy import FLIPS
from edgekit.parity.conversion_claims import FULL, LAYERS, conversion_problem
from edgekit.parity.inputs import Recorded
from edgekit.parity.noise import most_noise
from edgekit.parity.pixels import undone
from edgekit.preprocess import Preprocess
from edgekit.reports.verify import Check
from edgekit.tensors import Array, TensorSpec
from edgekit.tolerance import PRECISIONS

_WIDE_BARS = {"float16": {10}, "bfloat16": {16}, "int8": {2, 3, 21, 22}}
"""Precisions with a wider bar, and the element types of which a file of them holds one."""
NEXT_LEVEL = 1.01
"""Levels of 255 by which releases of Pillow may resize differently."""
WITH_EVIDENCE = ["0", "2"]
"""The first release that records noise floors."""


class Evidenced(NamedTuple):
    """A bundle with its arrays, and what its files say of themselves; each read once.

    ``declared`` is the first file; ``others``: name of a further variant -> its file.
    """

    bundle: Bundle
    golden: GoldenArrays
    arrays: EvidenceArrays | None
    declared: Declared
    others: Mapping[str, Declared] = {}

    def told_by_each(self, code: str, problem: Callable[[Declared], str]) -> Iterator[Check]:
        """A check for the file of each variant; a problem of a further one begins with its name."""
        yield _told(code, problem(self.declared))
        for name, file in self.others.items():
            text = problem(file)
            yield _told(code, f"{name}: {text}" if text else "")

    @property
    def manifest(self) -> Manifest:
        """The bundle's manifest."""
        return self.bundle.manifest


def evidenced(bundle: Bundle, golden: GoldenArrays, arrays: EvidenceArrays | None) -> Evidenced:
    """Read the variants' files; raises BundleError for what is no ONNX file."""
    first, *others = (variant.name for variant in bundle.manifest.variants)
    return Evidenced(bundle, golden, arrays, _declared(bundle, first), {name: _declared(bundle, name) for name in others})


def _declared(bundle: Bundle, variant: str) -> Declared:
    try:
        return declared(bundle.onnx_bytes(variant))
    except ValueError as problem:
        raise BundleError(f"{bundle.onnx_of(variant)} is no ONNX file: {problem}", FETCH_AGAIN) from None


def _told(code: str, problem: str) -> Check:
    return Check(code, "fail" if problem else "pass", problem)


def opset(seen: Evidenced) -> Iterator[Check]:
    """The opset is that of the first file; a converted one may need a newer one."""
    said, first = seen.manifest.opset, seen.declared

    def problem(file: Declared) -> str:
        fits = file.opset == said if file is first else file.opset >= said
        return "" if fits else f"the manifest says opset {said}, and the file has {file.opset}"

    yield from seen.told_by_each("opset", problem)


def shapes(seen: Evidenced) -> Iterator[Check]:
    """Inputs and outputs have the names, types and shapes that the files give them."""
    for variant in seen.manifest.variants:
        file, other = seen.others.get(variant.name, seen.declared), variant != seen.manifest.variants[0]
        for spec in seen.manifest.inputs_of(variant.name):
            text = _misfit("input", spec, file.inputs)
            yield _told("shapes", f"{variant.name}: {text}" if text and other else text)
    for spec in seen.manifest.outputs:
        yield from seen.told_by_each("shapes", lambda file, spec=spec: _misfit("output", spec, file.outputs))  # type: ignore[misc]


def _misfit(kind: str, spec: TensorSpec, true: Mapping[str, tuple[int, tuple[int | None, ...] | None]]) -> str:
    if spec.name not in true:
        return f"the file has no {kind} {spec.name!r}"
    element, shape = true[spec.name]
    if ELEMENT_TYPES.get(element, spec.dtype) != spec.dtype:
        return f"the manifest says {kind} {spec.name!r} is {spec.dtype}, and the file says {ELEMENT_TYPES[element]}"
    if shape is None or (kind == "output" and len(shape) != len(spec.shape)):  # what a file says of outputs may be wrong
        return ""
    fits = len(shape) == len(spec.shape) and all(
        _fits(axis, size, sure=kind == "input") for axis, size in zip(spec.shape, shape, strict=True)
    )
    return "" if fits else f"the manifest says {kind} {spec.name!r} is {spec.shape}, and the file says {shape}"


def _fits(axis: int | str, size: int | None, *, sure: bool) -> bool:
    """Whether an axis of the manifest is that of the file, whose outputs need not tell all of their sizes."""
    free = isinstance(axis, str)
    if free or size is None:
        return not sure or free == (size is None)
    return size == axis


def weights(seen: Evidenced) -> Iterator[Check]:
    """The weights' sha256 is that of the weights' file, and of the files' metadata."""
    source = seen.manifest.source
    stored = [seen.manifest.files[source.weights_file].sha256] if source.weights_file else []

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.weights_sha256")
        wrong = any(sha256 != source.weights_sha256 for sha256 in ([] if said is None else [said]) + stored)
        return "the weights' sha256 in the manifest is not that of the weights" if wrong else ""

    yield from seen.told_by_each("weights", problem)


def model(seen: Evidenced) -> Iterator[Check]:
    """The model's name is that in the files' metadata and in the recipe."""
    source = seen.manifest.source
    recipe = source.of_recipe("model").get("name", source.model)

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.source")
        wrong = next((name for name in (said, recipe) if name not in (None, source.model)), None)
        return f"the manifest says the model is {source.model}, and the file or the recipe says {wrong}" if wrong else ""

    yield from seen.told_by_each("model", problem)


def license_(seen: Evidenced) -> Iterator[Check]:
    """Licence and author are those of the files' metadata, under ONNX's own names."""
    origin = seen.manifest.origin

    def problem(file: Declared) -> str:
        for what, key, mine in (("licence", "model_license", origin.license), ("author", "model_author", origin.author)):
            said = file.metadata.get(key)
            if mine and said != mine:
                return f"the {what} is {mine!r} in manifest.json, and {said or 'not known'!r} in the ONNX file"
        return ""

    yield from seen.told_by_each("license", problem)


def labels(seen: Evidenced) -> Iterator[Check]:
    """The labels are those of the files' metadata, and there is one for each class."""
    mine, classes = list(seen.manifest.labels), seen.manifest.outputs[0].shape[-1]

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.labels")
        if mine and classes != len(mine):
            return f"there are {len(mine)} labels for {classes} classes"
        if (said is not None or (mine and "edgekit.version" in file.metadata)) and mine != _decoded(said):
            return _other_labels(mine, _decoded(said))
        if seen.golden.labels is not None and seen.golden.labels.max(initial=-1) >= max(len(mine), 1):
            return "a golden picture is of a class that the manifest does not name"
        return ""

    yield from seen.told_by_each("labels", problem)


def _other_labels(mine: Sequence[str], true: Sequence[str]) -> str:
    """A sentence with the first label that differs in two lists that are not the same."""
    if len(mine) != len(true):
        return f"manifest.json has {len(mine)} labels, and the ONNX file {len(true)}"
    places = [place for place, (label, other) in enumerate(zip(mine, true, strict=True)) if label != other]
    first = places[0]
    return f"label {first} is {mine[first]!r} in manifest.json, and {true[first]!r} in the ONNX file ({len(places)} differ)"


def _decoded(text: str | None) -> list[str]:
    try:
        value = json.loads(text or "[]")
    except ValueError:
        return []
    return value if isinstance(value, list) else []


def preprocess(seen: Evidenced) -> Iterator[Check]:
    """The preprocessing is that of the files' metadata, of the recipe, and fits the input."""
    mine = seen.manifest.preprocess
    shape = seen.manifest.inputs[0].shape
    recipe = seen.manifest.source.of_recipe("data")

    def problem(file: Declared) -> str:
        said = file.metadata.get("edgekit.preprocess")
        if mine is None:
            return "the file records a preprocessing, and the manifest none" if said else ""
        if shape[1:] != (CHANNELS[mine.color], mine.height, mine.width):
            return f"the preprocessing gives {CHANNELS[mine.color]}x{mine.height}x{mine.width}, and the input is {shape}"
        if (said or "edgekit.version" in file.metadata) and (other := _other_preprocess(mine, said)):
            return other
        if wrong := next((key for key in ("mean", "std") if recipe.get(key) not in (None, [*getattr(mine, key)])), None):
            return f"{wrong} is {[*getattr(mine, wrong)]} in manifest.json, and {recipe[wrong]} in its recipe"
        if recipe.get("color") not in (None, mine.color):
            return f"the manifest says {mine.color} pictures, and the recipe {recipe['color']}"
        return ""

    yield from seen.told_by_each("preprocess", problem)


def _other_preprocess(mine: Preprocess, said: str | None) -> str:
    """A sentence with the fields that differ from what the file's metadata ``said``; empty if none does."""
    try:
        true = msgspec.json.decode(said or "", type=Preprocess)
    except (msgspec.DecodeError, ValueError):
        return "the manifest has a preprocessing, and the ONNX file records none that can be read"
    here, there = (msgspec.json.decode(msgspec.json.encode(each)) for each in (mine, true))
    keys = [key for key in {**here, **there} if here.get(key) != there.get(key)]
    return " and ".join(f"{key} is {here.get(key)} in manifest.json, and {there.get(key)} in the ONNX file" for key in keys)


def kept_norms(seen: Evidenced) -> Iterator[Check]:
    """The file has as many BatchNormalization nodes as the report keeps; one with functions of its own is not counted."""
    if seen.declared.functions:
        return
    said = sum(norm.nodes for norm in seen.manifest.fold.kept)
    true = seen.declared.operators.get("BatchNormalization", 0)
    yield _told(
        "kept-norms", f"the manifest keeps {said} BatchNormalization nodes, and the file has {true}" if said != true else ""
    )


def precision(seen: Evidenced) -> Iterator[Check]:
    """Every variant is of a precision that there is, and one that asks for a wider bar holds and uses such numbers."""
    for variant in seen.manifest.variants:
        if variant.precision not in PRECISIONS:
            yield _told("precision", f"{variant.name} is said to be {variant.precision}, which is no precision")
        elements = _WIDE_BARS.get(variant.precision)
        if elements is None:
            continue
        file = seen.others.get(variant.name, seen.declared)
        problem = f"{variant.name} is said to be {variant.precision}, and most of what its file holds or computes is not"
        yield _told("precision", "" if _mostly(variant.precision, elements, file) else problem)


def _mostly(precision: str, elements: Set[int], file: Declared) -> bool:
    """Whether most stored floats are of the ``elements``' types; for int8, whether steps are as many as half the layers."""
    narrow = sum(file.stored.get(element, 0) for element in elements)
    if precision == "int8":
        steps = sum(count for operator, count in file.operators.items() if in_steps(operator))
        layers = sum(file.operators.get(operator, 0) for operator in LAYERS)
        return narrow > 0 and steps >= max(1, layers / 2)
    return narrow > sum(file.stored.get(element, 0) for element in FULL)


def conversion(seen: Evidenced) -> Iterator[Check]:
    """As many layers are converted, and as many kept, as the file has of each kind; its ranges are those of the range table.

    Of a float16 file all nodes count. ``edgekit.onnx.arithmetic.in_half`` says how sure their number is.
    """
    for variant in seen.manifest.variants:
        elements = _WIDE_BARS.get(variant.precision)
        if variant.conversion is None or elements is None:
            continue
        problem = conversion_problem(seen.bundle, variant, elements)
        yield _told("conversion", f"{variant.name}: {problem}" if problem else "")


def errors(seen: Evidenced) -> Iterator[Check]:
    """The recorded errors are what the golden arrays and recorded outputs show, and what was measured at export."""
    yield from _own_errors(seen)
    golden, variant = seen.manifest.golden, seen.manifest.variants[0]
    if not golden.parts or seen.arrays is None:
        return
    recorded = Recorded(seen.golden, golden.parts)
    problem = ""
    if golden.original_error is not None:
        true = recorded.error(seen.golden.original)
        if not np.isclose(golden.original_error, true, rtol=1e-3, atol=0):
            problem = (
                f"the original's own error is {golden.original_error:.1e} in the manifest, and {true:.1e} in the golden arrays"
            )
    measured = seen.arrays.error
    for said in (variant.error, seen.manifest.fold.error_exported):
        if not problem and said is not None and measured is not None and not np.isclose(said, measured[0], rtol=1e-9, atol=0):
            problem = f"the manifest says the file's error is {said:.1e} of scale, and evidence.npz says {measured[0]:.1e}"
    yield _told("errors", problem)


def _own_errors(seen: Evidenced) -> Iterator[Check]:
    """The recorded error of each converted file is that of the outputs that it has recorded."""
    if not seen.manifest.golden.parts:
        return
    recorded = Recorded(seen.golden, seen.manifest.golden.parts)
    for variant in seen.manifest.variants:
        own = own_outputs(seen.bundle, variant.name)
        if own is None or variant.error is None:
            continue
        true = recorded.error(own)
        problem = (
            f"{variant.name}: the manifest says the file's error is {variant.error:.1e} of scale, and {true:.1e} by the outputs "
            "that it has recorded"
        )
        yield _told("errors", "" if np.isclose(variant.error, true, rtol=1e-3, atol=0) else problem)


def evidence(seen: Evidenced) -> Iterator[Check]:
    """A bundle of this edgekit has its noise floors, of the size of rounding, from runtimes that it names, and its metadata."""
    version = seen.declared.metadata.get("edgekit.version", "0.0")
    measures = version.split(".")[:2] >= WITH_EVIDENCE
    described, floors = seen.manifest.evidence, seen.arrays.floors if seen.arrays else {}
    problem = ""
    if (measures or seen.manifest.golden.parts) and not floors:
        problem = "the noise floors that edgekit export measures are missing"
    elif floors and not measures:
        problem = "the file has none of the metadata that edgekit export writes"
    elif described is not None and floors and not described.runtimes:
        problem = "no runtime is named whose noise the floors are"
    else:
        barred = floors if held_to_noise(seen.manifest, seen.manifest.variants[0]) else {}
        wide = next((name for name in barred if _inflated(seen, name, floors[name])), None)
        problem = f"the noise floors of {wide!r} are far above what the original itself rounds" if wide is not None else ""
    yield _told("evidence", problem)


def _inflated(seen: Evidenced, name: str, floors: Array) -> bool:
    """Whether the floors of an output are above what an export records, part by part."""
    sizes = [part.samples for part in seen.manifest.golden.parts]
    reference, original = seen.golden.float64[name], seen.golden.original[name]
    most = most_noise(reference, original, sizes)
    return any(floor.max(initial=0.0) > (1 + 1e-9) * limit for floor, limit in zip(floors, most, strict=True))


def accuracy(seen: Evidenced) -> Iterator[Check]:
    """The accuracy is what the original's predictions of the test set have, but for a few flips."""
    arrays, claims = seen.arrays, (seen.manifest.test_accuracy, seen.manifest.variants[0].accuracy)
    said = [claim for claim in claims if claim is not None]
    if not said:
        return
    if arrays is None or arrays.predicted is None or arrays.truth is None:
        yield Check("accuracy", "unchecked", "the accuracy: the bundle does not record the original's predictions")
        return
    true = float((arrays.predicted == arrays.truth).mean())
    wrong = next((claim for claim in said if abs(claim - true) > FLIPS), None)
    problem = "" if wrong is None else f"the accuracy is {wrong:.4f} in the manifest, and {true:.4f} by the recorded predictions"
    yield _told("accuracy", problem)
    if others := [variant.name for variant in seen.manifest.variants[1:] if variant.accuracy is not None]:
        yield Check("accuracy", "unchecked", f"the accuracy of {' and '.join(others)}: edgekit evaluate measures it")


def pictures(seen: Evidenced) -> Iterator[Check]:
    """The golden pictures, decoded, resized and normalised, are their golden samples, and have the labels that they should."""
    described, mine = seen.manifest.golden.pictures, seen.manifest.preprocess
    if mine is None:
        return
    if not described:
        yield Check("pictures", "unchecked", "decoding and resizing: the bundle holds no golden pictures")
        return
    if importlib.util.find_spec("PIL") is None:
        yield Check("pictures", "unchecked", "the golden pictures: Pillow is not installed")
        return
    odd: dict[str, list[str]] = {}
    for picture in described:
        problem = _odd_picture(seen, picture, mine)
        if problem:
            odd.setdefault(problem, []).append(picture.file)
        else:
            yield Check("pictures", "pass")
    for problem, files in odd.items():
        yield Check("pictures", "fail", f"{', '.join(files)}: {problem}")


def _odd_picture(seen: Evidenced, picture: GoldenPicture, preprocess: Preprocess) -> str:
    inputs, reference = (next(iter(arrays.values())) for arrays in (seen.golden.inputs, seen.golden.float64))
    try:
        pixels = seen.bundle.reading(lambda place: preprocess.open(place / picture.file))
    except DataError as problem:
        return str(problem)
    sample = undone(inputs[picture.sample : picture.sample + 1], preprocess)
    if sample is None or sample.shape[1:] != pixels.shape or np.abs(sample[0] - pixels).max() > NEXT_LEVEL:
        return "preprocessed as the manifest says, it is not the golden sample: the picture or the preprocessing was changed"
    if reference.ndim == 2 and reference[picture.sample].argmax() != picture.label:
        return f"of class {picture.label} in the manifest, and of another in the reference"
    return ""


CLAIMS: dict[str, Callable[[Evidenced], Iterator[Check]]] = {
    "opset": opset,
    "shapes": shapes,
    "weights": weights,
    "model": model,
    "license": license_,
    "labels": labels,
    "preprocess": preprocess,
    "kept-norms": kept_norms,
    "precision": precision,
    "conversion": conversion,
    "errors": errors,
    "evidence": evidence,
    "accuracy": accuracy,
    "pictures": pictures,
}
