"""What a manifest says of the graphs in its ONNX files, held against these: opset, tensors, norms, precision, conversion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from edgekit.bundle.manifest import Variant
from edgekit.onnx.arithmetic import LAYERS, arithmetic, computed_in, floats_from_steps, precision_of_file
from edgekit.onnx.declared import Declared
from edgekit.onnx.wire import ELEMENT_TYPES
from edgekit.parity.allowances import HALVES
from edgekit.parity.conversion_claims import conversion_problem
from edgekit.parity.evidenced import Evidenced, told
from edgekit.reports.verify import Check
from edgekit.tensors import TensorSpec
from edgekit.tolerance import PRECISIONS

_WIDE_BARS = {"float16": {10}, "bfloat16": {16}, "int8": {2, 3, 21, 22}}
"""Precisions with a wider bar, and the element types of which a file of them holds one."""
FULL_NAMES = ("float32", "float64")
"""Precisions with one bar, which need not be told apart."""


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
            yield told("shapes", f"{variant.name}: {text}" if text and other else text)
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


def kept_norms(seen: Evidenced) -> Iterator[Check]:
    """The file has as many BatchNormalization nodes as the report keeps; one with functions of its own is not counted."""
    if seen.declared.functions:
        return
    said = sum(norm.nodes for norm in seen.manifest.fold.kept)
    true = seen.declared.operators.get("BatchNormalization", 0)
    yield told(
        "kept-norms", f"the manifest keeps {said} BatchNormalization nodes, and the file has {true}" if said != true else ""
    )


def precision(seen: Evidenced) -> Iterator[Check]:
    """Every variant is of a precision that there is, which is that of what the outputs of its file depend on.

    The first file rounds to steps where it did at export, and nowhere else.
    """
    for place, variant in enumerate(seen.manifest.variants):
        content = seen.bundle.onnx_bytes(variant.name)
        does = _otherwise(variant, content)
        problem = f"{variant.name} is said to be {variant.precision}, {does}" if does else ""
        if not problem and place == 0:
            problem = _steps_unrecorded(seen, content)
        yield told("precision", problem)


def _steps_unrecorded(seen: Evidenced, content: bytes) -> str:
    """A node of the first file that makes floats of steps, of whose values the export has no fingerprint although it has some."""
    recorded = seen.arrays.nodes if seen.arrays else {}
    planted = next((node for value, node in floats_from_steps(content).items() if value not in recorded), "")
    return f"its file rounds to steps at {planted}, which was not in the file that was exported" if recorded and planted else ""


def _otherwise(variant: Variant, content: bytes) -> str:
    """What a file is that is not of its variant's precision, as the end of a sentence; empty for one that is."""
    said, true = variant.precision, precision_of_file(content)
    if said not in PRECISIONS:
        return "which is no precision"
    if said == true or (said in FULL_NAMES and computed_in(content) in FULL_NAMES):
        return ""
    if true == "int8":
        return "and its file computes in steps of 8 bits"
    if said in FULL_NAMES:
        return f"and its file is {true}"
    holds = arithmetic(content, LAYERS)
    some = any(kind in _WIDE_BARS[said] for kind in (*holds.layers, *holds.stored))
    kept = said in HALVES and variant.conversion is not None and some  # how many layers are, the conversion says
    return "" if kept else "and most of what its file holds or computes is not"


def conversion(seen: Evidenced) -> Iterator[Check]:
    """Whatever is in fewer bits than the first file was converted, and holds as much of each kind as the manifest says.

    Of layers as many are converted, and as many kept, as the file has, and its ranges are those of the range table. Of a float16
    file all nodes count. ``edgekit.onnx.arithmetic.in_half`` says how sure their number is.
    """
    for place, variant in enumerate(seen.manifest.variants):
        elements, problem = _WIDE_BARS.get(variant.precision), ""
        if variant.conversion is None and (elements is None or place == 0):
            continue  # as it was exported: its outputs are recorded as the original's
        if variant.conversion is None:
            problem = "the manifest does not say how it was converted, nor what its file computed then"
        elif elements is None:
            problem = f"the manifest says how it was converted, and {variant.precision} is the precision of no converted file"
        else:
            problem = conversion_problem(seen.bundle, variant, elements)
        yield told("conversion", f"{variant.name}: {problem}" if problem else "")
