"""What a manifest says of the graphs in its ONNX files, held against these: opset, tensors, norms, precision, conversion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from edgekit.onnx.arithmetic import in_steps
from edgekit.onnx.declared import Declared
from edgekit.onnx.wire import ELEMENT_TYPES
from edgekit.parity.conversion_claims import FULL, LAYERS, conversion_problem
from edgekit.parity.evidenced import Evidenced, told
from edgekit.reports.verify import Check
from edgekit.tensors import TensorSpec
from edgekit.tolerance import PRECISIONS

_WIDE_BARS = {"float16": {10}, "bfloat16": {16}, "int8": {2, 3, 21, 22}}
"""Precisions with a wider bar, and the element types of which a file of them holds one."""


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
    """Every variant is of a precision that there is, and one that asks for a wider bar holds and uses such numbers."""
    for variant in seen.manifest.variants:
        if variant.precision not in PRECISIONS:
            yield told("precision", f"{variant.name} is said to be {variant.precision}, which is no precision")
        elements = _WIDE_BARS.get(variant.precision)
        if elements is None:
            continue
        file = seen.others.get(variant.name, seen.declared)
        problem = f"{variant.name} is said to be {variant.precision}, and most of what its file holds or computes is not"
        yield told("precision", "" if _mostly(variant.precision, elements, file) else problem)


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
        yield told("conversion", f"{variant.name}: {problem}" if problem else "")
