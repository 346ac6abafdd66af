"""``edgekit report``: one page about a bundle, from its manifest and what this machine has found out about it."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, TypeAlias

import msgspec

from edgekit.bundle.card import example
from edgekit.bundle.described import origin_of, pictures_of, variant_rows
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.manifest import Manifest
from edgekit.errors import EdgekitError, InputError, OutputError, UsageError, printable
from edgekit.files import as_path, write_bytes
from edgekit.machine.packages import needs, tool_versions
from edgekit.machine.records import Record, all_facts, records
from edgekit.progress import SILENT, Progress
from edgekit.reports.base import Report
from edgekit.reports.inspect import InspectReport
from edgekit.reports.report import KINDS, BundleReport, Elsewhere, FileRow, Measured, Tensor
from edgekit.tensors import shape_text

Format: TypeAlias = Literal["html", "md", "json", "junit"]
FORMATS: dict[Format, bytes] = {"html": b"<!doctype html>", "md": b"# ", "json": b"{", "junit": b"<?xml"}
"""Format -> how its files begin."""


def report(
    bundle: Path | str, output: Path | str | None = None, form: Format = "html", *, progress: Progress = SILENT
) -> BundleReport:
    """Collect what the bundle says and what this machine has found out, and write it to ``output``, if that is given.

    Raises BundleError for a damaged bundle, UsageError for an unknown ``form``, and MissingError for a page in HTML without
    jinja2.
    """
    if not isinstance(form, str) or form not in FORMATS:
        raise UsageError(f"a report has no format {form!r}", f"use one of {', '.join(FORMATS)}")
    if form == "html" and output is not None:
        needs("jinja2", extra="report")
    collected = collect(open_bundle(bundle))
    if output is None:
        return collected
    place = as_path(output, "output", OutputError)
    content = drawn(collected, form)
    write_bytes(place, content)
    for line in _too_large(place, content) if form == "html" else ():
        progress.say(line)
    return msgspec.structs.replace(collected, written=str(output))


def page_of(bundle: Path) -> Path:
    """``NAME.html`` in the current folder, by the name of the bundle's folder."""
    return Path(f"{Path(os.path.abspath(bundle)).name}.html")


def _too_large(output: Path | str, content: bytes) -> Iterator[str]:
    from edgekit.reports.html import LARGEST

    if len(content) >= LARGEST:
        yield f"note: {output} has {len(content) / 1e3:,.0f} kB, more than {LARGEST / 1e3:.0f}, although its parts are cut short"


def drawn(report: BundleReport, form: Format) -> bytes:
    """The report in one of the ``FORMATS``."""
    title = f"{report.name}: report of a bundle"
    if form == "html":
        from edgekit.reports.html import html

        return html(report.document(), title)
    if form == "md":
        from edgekit.reports.markdown import markdown

        return markdown(report.document(), title).encode()
    if form == "junit":
        from edgekit.reports.junit import junit

        return junit(f"edgekit {report.name}", report.suites())
    return report.to_json() + b"\n"


def collect(bundle: Bundle) -> BundleReport:
    """What the bundle says, and the last report of each command on this machine."""
    manifest, kept = bundle.manifest, records(bundle.sha256)
    read = {name: _read(record) for name, record in kept.here.items() if name in KINDS}
    parts = {name: part for name, part in read.items() if isinstance(part, Report)}
    unreadable = [part for part in read.values() if isinstance(part, str)]
    unreadable += [f"{path.name} in the state folder cannot be read; run edgekit {path.stem} again" for path in kept.unreadable]
    layers = _layers(bundle)
    return BundleReport(
        bundle=printable(str(bundle.root)),
        name=manifest.name,
        manifest_sha256=bundle.sha256,
        facts=dict(_facts(manifest)),
        origin=origin_of(bundle),
        tensors=tuple(_tensors(manifest)),
        labels=manifest.labels,
        notes=(*manifest.notes, *bundle.notes),
        fold=manifest.fold,
        variants=variant_rows(manifest, pictures_of(bundle)),
        layers=None if isinstance(layers, str) else layers,
        no_layers=layers if isinstance(layers, str) else "",
        machine=all_facts() | tool_versions(),
        recipe="\n".join(toml_lines(manifest.source.recipe or {})),
        program=example(manifest),
        files=tuple(FileRow(name, entry.size, entry.sha256) for name, entry in sorted(manifest.files.items())),
        measured={name: _measured(kept.here[name]) for name in KINDS if name in parts},
        unreadable=tuple(unreadable),
        elsewhere=tuple(Elsewhere(record.command, record.when, record.machine) for record in kept.elsewhere),
        **dict[str, Any](parts),
    )


def _read(record: Record) -> Report | str:
    """The report of a record, or why it cannot be read."""
    try:
        return KINDS[record.command].from_json(bytes(record.report))
    except InputError:
        return f"what edgekit {record.edgekit} left of {record.command} cannot be read; run edgekit {record.command} again"


def _measured(record: Record) -> Measured:
    host = "" if record.host == printable(platform.node()) else record.host or "without a name"
    return Measured(record.when, record.machine, record.edgekit, record.words, host)


def _layers(bundle: Bundle) -> InspectReport | str:
    """The layers of the first variant's file, or why they cannot be read here."""
    if find_spec("onnx") is None:
        return "the layers are not listed: the package onnx is not installed"
    from edgekit.onnx.table import onnx_table

    try:
        return bundle.reading(lambda place: onnx_table(bundle.onnx_of()))
    except EdgekitError as problem:
        return f"the layers are not listed: {problem.reason}"


def _facts(manifest: Manifest) -> Iterator[tuple[str, str]]:
    source, preprocess, golden = manifest.source, manifest.preprocess, manifest.golden
    yield "model", f"{source.model}({', '.join(f'{name}={value!r}' for name, value in source.args.items())})"
    if manifest.test_accuracy is not None:
        yield "test accuracy at export", f"{manifest.test_accuracy:.2%}"
    yield "ONNX opset", str(manifest.opset)
    if preprocess is not None:
        size = f"{preprocess.color}, {preprocess.height} x {preprocess.width} (height x width), {preprocess.interpolation}"
        numbers = f"(pixel / 255 - {list(preprocess.mean)}) / {list(preprocess.std)}"
        yield "preprocessing", f"{size}; {numbers}; {preprocess.layout}"
    kind = "pictures of the test set" if golden.kind == "test-set" else "random inputs"
    yield "golden inputs", f"{golden.samples} ({kind}), reference: {golden.reference}"
    if manifest.variants[0].error is not None:
        yield "error at export", f"{manifest.variants[0].error:.1e} of the scale, in a runtime without optimisations"
    if golden.original_error is not None:
        yield "error of the original", f"{golden.original_error:.1e} of the scale, in its own dtype"


def _tensors(manifest: Manifest) -> Iterator[Tensor]:
    for side, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            yield Tensor(side, spec.name, spec.dtype, shape_text(spec.shape))


def toml_lines(values: Mapping[str, Any], above: str = "") -> Iterator[str]:
    """``values`` as lines of TOML with dotted keys; what is None is left out."""
    for name, value in values.items():
        key = f"{above}{name if name.isascii() and name.replace('-', '_').isidentifier() else _json(name)}"
        if isinstance(value, Mapping) and value:
            yield from toml_lines(value, f"{key}.")
        elif value is not None:
            yield f"{key} = {_toml(value)}"


def _toml(value: Any) -> str:
    if isinstance(value, Mapping):
        pairs = (f"{_json(name)} = {_toml(inner)}" for name, inner in value.items() if inner is not None)
        return f"{{{', '.join(pairs)}}}"
    return f"[{', '.join(map(_toml, value))}]" if isinstance(value, (list, tuple)) else _json(value)


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
