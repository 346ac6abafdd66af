"""What a manifest says of the graphs in its ONNX files, held against these: opset, tensors, norms, precision, conversion."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set

from edgekit.onnx.arithmetic import Arithmetic, arithmetic, in_steps
from edgekit.onnx.declared import Declared
from edgekit.onnx.wire import ELEMENT_TYPES
from edgekit.parity.allowances import HALVES
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
    """Every variant is of a precision that there is, which is that of what the outputs of its file depend on."""
    for variant in seen.manifest.variants:
        file = seen.others.get(variant.name, seen.declared)
        does = _otherwise(variant.precision, file, arithmetic(seen.bundle.onnx_bytes(variant.name), LAYERS))
        yield told("precision", f"{variant.name} is said to be {variant.precision}, {does}" if does else "")


def _otherwise(said: str, file: Declared, found: Arithmetic) -> str:
    """What a file is that is not of the precision ``said``, as the end of a sentence; empty for one that is."""
    steps = sum(count for operator, count in found.operators.items() if in_steps(operator))
    if said not in PRECISIONS:
        return "which is no precision"
    if steps and said != "int8":
        return "and its file computes in steps of 8 bits"
    if said not in _WIDE_BARS:
        halves = [name for name in HALVES if any(found.layers) and _mostly(_WIDE_BARS[name], found)]
        return f"and its file is {halves[0]}" if halves else ""
    if said == "int8":
        layers = sum(found.operators.get(operator, 0) for operator in LAYERS)
        fits = any(found.stored.get(element) for element in _WIDE_BARS[said]) and steps >= max(1, layers / 2)
    else:
        fits = _mostly(_WIDE_BARS[said], found) or any(kind in _WIDE_BARS[said] for kind, _ in file.outputs.values())
    return "" if fits else "and most of what its file holds or computes is not"


def _mostly(elements: Set[int], found: Arithmetic) -> bool:
    """Whether most layers have weights of the ``elements``' types; in a file without layers, whether most stored floats are."""
    known = [kind for kind in found.layers if kind]
    if known:
        return 2 * sum(kind in elements for kind in known) > len(known)
    return sum(found.stored.get(kind, 0) for kind in elements) > sum(found.stored.get(kind, 0) for kind in FULL)


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
