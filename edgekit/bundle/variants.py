"""A bundle with one more variant: what a variant is written from, and its own outputs on the golden inputs."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.bundle.card import model_card
from edgekit.bundle.described import pictures_of
from edgekit.bundle.folder import Bundle, write_bundle
from edgekit.bundle.golden import read_arrays
from edgekit.bundle.manifest import CARD, FileEntry, Variant, files_of
from edgekit.errors import FETCH_AGAIN, BundleError
from edgekit.files import read_bytes
from edgekit.machine.packages import tool_versions
from edgekit.tensors import Array


class VariantDraft(NamedTuple):
    """All that one more variant is written from: ``files`` are the bytes of its ONNX file and of what its conversion names.

    ``notes`` are sentences for the report and the manifest.
    """

    variant: Variant
    files: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


def outputs_to_npz(outputs: Mapping[str, Array]) -> bytes:
    """The bytes of a variant's own outputs, name -> samples x ...; the same arrays give the same bytes."""
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **{f"output.{name}": array for name, array in outputs.items()})  # type: ignore[arg-type]
    return buffer.getvalue()


def own_outputs(bundle: Bundle, name: str = "") -> dict[str, Array] | None:
    """The outputs of the variant ``name`` on the golden inputs as they were recorded; None for a variant that records none.

    Raises BundleError for a file that does not fit the manifest.
    """
    conversion = bundle.variant(name).conversion
    if conversion is None:
        return None
    file, manifest = conversion.outputs, bundle.manifest
    samples = manifest.golden.samples
    expected = {f"output.{spec.name}": (spec.dtype, spec.of_samples(samples)) for spec in manifest.outputs}

    def read(place: Path) -> dict[str, Array]:
        try:
            return read_arrays(place / file, expected)
        except ValueError as problem:
            raise BundleError(f"{place / file} is not what edgekit quantize wrote: {problem}", FETCH_AGAIN) from None

    return {key.partition(".")[2]: array for key, array in bundle.reading(read).items()}


def with_variant(bundle: Bundle, draft: VariantDraft, output: Path) -> Bundle:
    """Write ``bundle`` with one more variant as the folder ``output``, whole or not at all; one of its name is replaced.

    Raises OutputError for a folder that holds anything else than a bundle, and BundleError where the bundle itself is to be
    replaced and another writer has done so since it was read.
    """
    manifest, variant = bundle.manifest, draft.variant
    replaced = next((other for other in manifest.variants if other.name == variant.name), None)
    stale = replaced.conversion.notes if replaced is not None and replaced.conversion is not None else ()
    if variant.conversion is not None:
        variant = msgspec.structs.replace(variant, conversion=msgspec.structs.replace(variant.conversion, notes=draft.notes))
    kept = {*manifest.files} - {CARD, *(files_of(replaced) if replaced is not None else ())}
    contents = bundle.reading(lambda place: {name: read_bytes(place / name, "file", BundleError) for name in sorted(kept)})
    notes = tuple(dict.fromkeys((*(note for note in manifest.notes if note not in stale), *draft.notes)))
    variants = (*(other for other in manifest.variants if other is not replaced), variant)
    extended = msgspec.structs.replace(
        manifest, variants=variants, notes=notes, tools=tool_versions(), provenance=manifest.origin
    )
    contents[manifest.golden.file] = bundle.golden().to_npz()  # in today's form, as the manifest is
    entries = {name: FileEntry(hashlib.sha256(content).hexdigest(), len(content)) for name, content in draft.files.items()}
    sized = msgspec.structs.replace(extended, files=manifest.files | entries)
    card = model_card(sized, pictures_of(bundle)).encode()
    same = output.resolve() == bundle.root.resolve()
    return write_bundle(output, extended, contents | {**draft.files, CARD: card}, instead_of=bundle if same else None)
