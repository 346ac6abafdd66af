"""``edgekit diff``: what differs between two bundles."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.renamed import Entry, renamed
from edgekit.errors import InputError
from edgekit.machine.records import Record, records
from edgekit.progress import SILENT, Progress
from edgekit.reports.bench import BenchReport
from edgekit.reports.diff import DiffReport, FieldDiff, MeasuredDiff, OperatorDiff, TensorDiff
from edgekit.reports.evaluate import EvaluateReport
from edgekit.reports.report import KINDS
from edgekit.tensors import Array, largest
from edgekit.tolerance import finite_scale

SECTION_OF = {
    "preprocess": "preprocessing",
    "labels": "preprocessing",
    "fold": "folds",
    "variants": "variants",
    "test_accuracy": "figures",
    "golden": "reference",
    "evidence": "reference",
    "source": "origin",
    "tools": "origin",
    "notes": "origin",
    "files": "files",
}
"""Key of the manifest -> what it is about; of any other, the model."""
FIGURES = ("accuracy", "error", "original_error", "error_float64", "error_exported")
"""Last words of keys that are figures, wherever they stand."""
NAMED_BY = ("name", "norm", "file", "kind", "node")
"""Keys by which the entries of a list are told apart."""
LONGEST = 160
NOTHING = "-"


def diff(first: Path | str, second: Path | str, *, progress: Progress = SILENT) -> DiffReport:
    """Compare two bundles: every key of their manifests, and the tensors of each variant that both have.

    Raises BundleError for a damaged bundle.
    """
    a, b = open_bundle(first), open_bundle(second)
    document, other_document = (msgspec.to_builtins(one.manifest) for one in (a, b))
    names = list(renamed(document["fold"], other_document["fold"]))
    other_document["fold"] = _in_names_of_first(other_document["fold"], names)
    fields = (
        *(
            FieldDiff(_section(key), key, _shown(one), _shown(other))
            for key, one, other in differences("", document, other_document)
            if key
        ),
        *(FieldDiff("names", f"fold.{part}.{one['norm']}", _named(one), _named(other)) for part, one, other in names),
    )
    tensors, operators, notes = _networks(a, b, progress)
    return DiffReport(
        first=str(first),
        second=str(second),
        first_sha256=a.sha256,
        second_sha256=b.sha256,
        fields=fields,
        tensors=tensors,
        operators=operators,
        measured=tuple(_measured(a, b)),
        notes=(*notes, *_reference(a, b)),
    )


def _in_names_of_first(fold: Mapping[str, Any], names: Sequence[tuple[str, Entry, Entry]]) -> dict[str, Any]:
    """The second bundle's folds, with those that differ in names alone called as in the first."""
    first_of = {(part, other["norm"]): one for part, one, other in names}
    parts = {part: tuple(first_of.get((part, entry["norm"]), entry) for entry in fold[part]) for part in ("folded", "kept")}
    return {**fold, **parts}


def _named(entry: Entry) -> str:
    """The names of a fold."""
    into = f" into {', '.join(entry['into'])}" if entry.get("into") else ""
    return f"{entry['norm']} ({entry['kind']}){into}"


def differences(key: str, first: Any, second: Any) -> Iterator[tuple[str, Any, Any]]:
    """Each key that differs with both values, ``NOTHING`` for one that is not there: the deepest key that says it."""
    if first == second and type(first) is type(second):
        return
    one, other = _by_key(first), _by_key(second)
    if one is None or other is None or _is_file(first) or _is_file(second):
        yield key, first, second
        return
    deeper = False
    for name in dict.fromkeys((*one, *other)):
        below = f"{key}.{name}" if key else str(name)
        for each in differences(below, one.get(name, NOTHING), other.get(name, NOTHING)):
            deeper = True
            yield each
    if not deeper:  # the same entries in another order
        yield key, list(one), list(other)


def _by_key(value: Any) -> Mapping[Any, Any] | None:
    """A mapping, or the entries of a list by their names or places; None for what has no keys, such as a shape."""
    if isinstance(value, Mapping):
        return value
    if not isinstance(value, (list, tuple)) or not all(isinstance(each, (Mapping, str)) for each in value):
        return None
    if value and all(isinstance(each, Mapping) for each in value):
        for name in NAMED_BY:
            names = [each.get(name) for each in value]
            if None not in names and len({*map(str, names)}) == len(names):
                return dict(zip(names, value, strict=True))
    return dict(enumerate(value))


def _is_file(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() == {"sha256", "size"}


def _shown(value: Any) -> str:
    """A value in one line."""
    if _is_file(value):
        return f"{value['sha256'][:16]}, {value['size']:,} bytes"
    if isinstance(value, str):
        return value
    text = msgspec.json.encode(value).decode()
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _section(key: str) -> str:
    if key.rpartition(".")[2] in FIGURES:
        return "figures"
    return SECTION_OF.get(key.partition(".")[0], "model")


def _networks(
    a: Bundle, b: Bundle, progress: Progress
) -> tuple[tuple[TensorDiff, ...], tuple[OperatorDiff, ...], tuple[str, ...]]:
    """What differs between the files of each variant that both have, and what could not be compared."""
    others = {variant.name for variant in b.manifest.variants}
    both = [variant.name for variant in a.manifest.variants if variant.name in others]
    changed = [name for name in both if a.sha256_of(name) != b.sha256_of(name)]
    if changed and find_spec("onnx") is None:
        return (), (), ("the tensors are not compared: the package onnx is not installed",)
    tensors, operators = list[TensorDiff](), list[OperatorDiff]()
    with progress.task("comparing", len(changed)) as advance:
        for name in changed:
            from edgekit.onnx.weights import compare_weights

            def compared(place: Path, name: str = name) -> Any:
                return b.reading(lambda other: compare_weights(name, a.onnx_of(name), b.onnx_of(name)))

            rows, counts = a.reading(compared)
            tensors += rows
            operators += [OperatorDiff(name, operator, *both_counts) for operator, both_counts in counts.items()]
            advance(1, name)
    return tuple(tensors), tuple(operators), ()


def _reference(a: Bundle, b: Bundle) -> Iterator[str]:
    """How far the recorded outputs are apart, where both bundles have them of the same inputs."""
    one, other = a.golden(), b.golden()
    same = one.inputs.keys() == other.inputs.keys() and all(
        np.array_equal(one.inputs[name], other.inputs[name]) for name in one.inputs
    )
    for name in sorted(one.float64.keys() & other.float64.keys()) if same else ():
        first, second = one.float64[name], other.float64[name]
        if first.shape == second.shape and not np.array_equal(first, second):
            apart = largest(np.abs(first - second)) / (finite_scale(first) or 1.0)
            agree = (
                f", and {_top1(first, second):.1%} have the same largest one" if first.ndim == 2 and first.shape[1] > 1 else ""
            )
            yield f"on the same {len(first)} golden inputs the outputs {name!r} are {apart:.1e} of the scale apart{agree}"


def _top1(first: Array, second: Array) -> float:
    """The share of samples (N x classes) whose largest value is at the same place in both."""
    return float((first.argmax(1) == second.argmax(1)).mean())


def _measured(a: Bundle, b: Bundle) -> Iterator[MeasuredDiff]:
    """The figures of both that this machine has on record, under the same name."""
    if a.sha256 == b.sha256:
        return
    one, other = records(a.sha256).here, records(b.sha256).here
    for command in ("evaluate", "bench"):
        if command in one and command in other:
            first, second = _figures(one[command]), _figures(other[command])
            yield from (MeasuredDiff(command, name, first[name], second[name]) for name in first if name in second)


def _figures(record: Record) -> dict[str, float]:
    try:
        report = KINDS[record.command].from_json(bytes(record.report))
    except InputError:
        return {}
    if isinstance(report, EvaluateReport):
        return {f"top-1 of {row.backend}, {report.pictures:,} pictures of {report.data}": row.top1 for row in report.rows}
    assert isinstance(report, BenchReport)
    return {f"median ms of {row.backend}, batch {row.batch}, {row.boundary}": row.median_ms for row in report.rows}
