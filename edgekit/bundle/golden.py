"""``golden.npz``: golden inputs with their reference outputs, checked before anything is unpacked."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, TypeAlias

import msgspec
import numpy as np

from edgekit.bundle.manifest import Manifest
from edgekit.errors import FETCH_AGAIN, BundleError
from edgekit.files import opened
from edgekit.tensors import Array

MAX_GOLDEN_BYTES = 4 << 30
SMALL_GOLDEN_BYTES, MAX_INFLATION = 256 << 20, 100
"""Arrays beyond this size may be at most so many times as large as their file: pictures and random numbers pack far less well."""
LAST_OF_FLOAT32 = 3
"""The last schema in which the original's outputs were called float32, whatever their dtype."""


class GoldenArrays(msgspec.Struct, frozen=True):
    """The arrays of ``golden.npz``: name -> samples x ...; ``original`` are the original's outputs in its own dtype."""

    inputs: dict[str, Array]
    float64: dict[str, Array]
    original: dict[str, Array]
    labels: Array | None

    def to_npz(self) -> bytes:
        """The bytes of ``golden.npz``; the same arrays give the same bytes."""
        members = {f"input.{name}": array for name, array in self.inputs.items()}
        members |= {f"float64.{name}": array for name, array in self.float64.items()}
        members |= {f"original.{name}": array for name, array in self.original.items()}
        if self.labels is not None:
            members["labels"] = self.labels
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **members)  # type: ignore[arg-type]
        return buffer.getvalue()


def read_golden(path: Path, manifest: Manifest, held: bytes | None = None, variant: str = "") -> GoldenArrays:
    """Read the arrays that ``manifest`` describes for a variant, from ``held`` where the file was read already.

    Raises BundleError for a file that holds anything else.
    """
    golden = manifest.golden_of(variant)
    samples = golden.samples
    original = "float32" if manifest.schema <= LAST_OF_FLOAT32 else "original"
    inputs = [spec.sized(golden.axes or {}) for spec in manifest.inputs_of(variant)]
    expected = {f"input.{spec.name}": (spec.dtype, spec.of_samples(samples)) for spec in inputs}
    for spec in manifest.outputs:
        expected[f"float64.{spec.name}"] = ("float64", spec.of_samples(samples))
        expected[f"{original}.{spec.name}"] = (spec.dtype, spec.of_samples(samples))
    try:
        arrays = read_arrays(path if held is None else io.BytesIO(held), expected, {"labels": ("int64", (samples,))})
    except ValueError as problem:
        raise BundleError(f"{path} is not the golden file its manifest describes: {problem}", FETCH_AGAIN) from None

    def part(kind: str) -> dict[str, Array]:
        return {name.partition(".")[2]: array for name, array in arrays.items() if name.startswith(f"{kind}.")}

    return GoldenArrays(part("input"), part("float64"), part(original), arrays.get("labels"))


Expected: TypeAlias = Mapping[str, tuple[str, tuple[int, ...]]]
"""Array -> its dtype and shape."""


def read_arrays(source: Path | io.BytesIO, expected: Expected, optional: Expected = MappingProxyType({})) -> dict[str, Array]:
    """The arrays of an .npz file, which must be those ``expected``, and may be those ``optional``; checked before unpacking.

    Raises ValueError for a file that holds anything else.
    """
    arrays: dict[str, Array] = {}
    try:
        with opened(source) if isinstance(source, Path) else source as stream:
            _check_sizes(stream, {**expected, **optional})
            stream.seek(0)
            with np.load(stream, allow_pickle=False) as content:
                present = {name: described for name, described in optional.items() if name in content.files}
                for name, (dtype, shape) in {**expected, **present}.items():
                    arrays[name] = content[name]
                    if str(arrays[name].dtype) != dtype or arrays[name].shape != shape:
                        raise ValueError(f"{name} is {arrays[name].dtype} {arrays[name].shape}, not {dtype} {shape}")
    except Exception as problem:  # zipfile, zlib and numpy raise a dozen kinds for a crafted file
        raise ValueError(str(problem) or type(problem).__name__) from None
    return arrays


def _check_sizes(stream: BinaryIO, expected: Expected) -> None:
    """Raise ValueError, before unpacking, for a member larger than the manifest's shapes explain."""
    header = 4096
    limits = {
        f"{name}.npy": np.dtype(dtype).itemsize * int(np.prod(shape, dtype=object)) for name, (dtype, shape) in expected.items()
    }
    if sum(limits.values()) > MAX_GOLDEN_BYTES:
        raise ValueError(f"the arrays would take more than {MAX_GOLDEN_BYTES >> 30} GiB of memory")
    size = stream.seek(0, io.SEEK_END)
    if sum(limits.values()) > max(SMALL_GOLDEN_BYTES, MAX_INFLATION * size):
        raise ValueError(f"the arrays would take {sum(limits.values()) >> 20} MiB of memory, and the file has {size} bytes")
    with zipfile.ZipFile(stream) as archive:
        for member in archive.infolist():
            if member.filename not in limits or member.file_size > limits[member.filename] + header:
                raise ValueError(f"member {member.filename!r} is unknown or too large")
