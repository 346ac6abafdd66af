"""What a manifest says of the conversion of its int8 and float16 files, held against these files and their range tables."""

from __future__ import annotations

from collections.abc import Sequence, Set

import numpy as np
from packaging.version import InvalidVersion, Version

from edgekit.bundle.folder import Bundle
from edgekit.bundle.manifest import Conversion, Variant
from edgekit.bundle.ranges import range_table
from edgekit.onnx.arithmetic import LAYERS, Quantised, in_half, node_names, quantised_values, weight_types
from edgekit.onnx.wire import ELEMENT_TYPES
from edgekit.parity.calibrated import passed_off

FLOORS = {"int8": {"onnxruntime": "1.21"}}
"""The newest release that a file of a precision needs: ONNX Runtime fuses no int8 layer whose bias is a float before 1.21 (its
pull requests 22889 and 22969)."""
CODES = 127
FULL = (1, 11)
"""Element types of full precision."""
_ALL_NODES = frozenset({"float16"})
"""Precisions whose conversion counts nodes of every kind, and not the layers alone."""


def conversion_problem(bundle: Bundle, variant: Variant, elements: Set[int]) -> str:
    """What is false of a converted variant, whose layers have weights of the types ``elements``; empty where nothing is.

    Raises BundleError for a damaged range table.
    """
    return (
        _counts(bundle, variant, elements)
        or _floor(variant)
        or _ranges(bundle, variant)
        or _kept(bundle, variant)
        or _calibrated(bundle, variant)
    )


def _counts(bundle: Bundle, variant: Variant, elements: Set[int]) -> str:
    """As much is converted, and as much kept, as the file has."""
    assert variant.conversion is not None
    content = bundle.onnx_bytes(variant.name)
    types = weight_types(content, LAYERS)
    if variant.precision in _ALL_NODES:
        return _nodes_in_half(variant.conversion, content, types, bundle.onnx_bytes())
    return _layers(variant.conversion, types, elements)


def _layers(said: Conversion, types: Sequence[int], elements: Set[int]) -> str:
    """What is false of the numbers of layers in an int8 file, whose layers have weights of ``types``."""
    narrow, wide = sum(element in elements for element in types), sum(element not in elements for element in types)
    converted, kept = said.converted, sum(node.operator in LAYERS for node in said.kept)
    if narrow and (converted, kept) == (narrow, wide):
        return ""
    return f"the manifest says {converted} converted and {kept} kept layers, and the file has {narrow} and {wide}"


def _nodes_in_half(said: Conversion, content: bytes, types: Sequence[int], first: bytes) -> str:
    """What is false of the number of converted nodes, or of those that are kept, in a float16 file made of the ``first`` one."""
    found, before = in_half(content), in_half(first)
    wide, kept = sum(element in FULL for element in types), sum(node.operator in LAYERS for node in said.kept)
    if wide > kept or not found.nodes:
        return f"the manifest says {kept} kept layers, and the file has {wide} of {len(types)}"
    narrow = next((node.key for node in found.nodes if node.key in {kept.node for kept in said.kept}), None)
    if narrow is not None:
        return f"it keeps {narrow!r}, which computes in float16"
    least, most = len(found.nodes) - before.most, found.most - len(before.nodes)
    if least <= said.converted <= most:
        return ""
    true = f"{least}" if least == most else f"{least} to {most}"
    return f"the manifest says {said.converted} converted nodes, and the file has {true}"


def _floor(variant: Variant) -> str:
    """A floor above what the file needs would keep the file from every runtime, and so from being checked."""
    assert variant.conversion is not None
    needed = FLOORS.get(variant.precision, {})
    for runtime, release in variant.conversion.floor.items():
        try:
            higher = runtime not in needed or Version(release) > Version(needed[runtime])
        except InvalidVersion:
            higher = True
        if higher:
            most = f"{needed[runtime]} is" if runtime in needed else "none is"
            return f"it asks for {runtime} {release} or newer, and {most} needed for {variant.precision}"
    return ""


def _ranges(bundle: Bundle, variant: Variant) -> str:
    """The range table has the calibration of the manifest, and the scales of the file: limit / 127 of each rounded value."""
    assert variant.conversion is not None
    table = range_table(bundle, variant.name)
    if table is None:
        return "it has no range table" if variant.precision == "int8" else ""
    if table.calibration != variant.conversion.calibration:
        return f"its calibration is another in manifest.json than in {variant.conversion.ranges}"
    if variant.made_by.get("bias_correction", table.bias_correction) != table.bias_correction:
        return f"its bias correction is another in manifest.json than in {variant.conversion.ranges}"
    steps = quantised_values(bundle.onnx_bytes(variant.name))
    rounded = {each.value: each for each in steps}
    if twice := next((each.value for each in steps if rounded[each.value] != each), None):
        return f"{twice!r} is rounded in two ways"
    said = {each.tensor: (each.limit, each.dtype) for each in table.tensors}
    if other := next(iter(sorted(said.keys() ^ rounded.keys())), None):
        where = "only in the range table" if other in said else "in the file, and not in the range table"
        return f"{other!r} is rounded {where}"
    wrong = next((name for name, (limit, dtype) in said.items() if not _agrees(rounded[name], limit, dtype)), None)
    return "" if wrong is None else f"the range of {wrong!r} in {variant.conversion.ranges} is not that of the file"


def _agrees(value: Quantised, limit: float, dtype: str) -> bool:
    """To the precision of float32, in which limits and scales are computed."""
    scale = value.scale
    return (
        scale is not None
        and bool(np.isclose(limit / CODES, scale, rtol=1e-6, atol=0))
        and ELEMENT_TYPES.get(value.dtype) == dtype
    )


def _calibrated(bundle: Bundle, variant: Variant) -> str:
    """Random numbers are not said to be data."""
    assert variant.conversion is not None
    table, calibration = range_table(bundle, variant.name), variant.conversion.calibration
    return "" if table is None or calibration is None else passed_off(bundle.manifest, calibration, table)


def _kept(bundle: Bundle, variant: Variant) -> str:
    """Every node that is said to be kept is one of the file's, once, and has a reason."""
    assert variant.conversion is not None
    names, kept = node_names(bundle.onnx_bytes(variant.name)), variant.conversion.kept
    unknown = next((node for node in kept if names.get(node.node) != node.operator), None)
    if unknown is not None:
        return f"it keeps {unknown.operator} {unknown.node!r}, which the file has not"
    if len({node.node for node in kept}) < len(kept):
        return "it keeps a node twice"
    nameless = next((node.node for node in kept if not node.reason.strip()), None)
    return "" if nameless is None else f"it keeps {nameless!r} without a reason"
