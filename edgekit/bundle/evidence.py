"""``evidence.npz``: what was measured at export, for checks that need neither PyTorch nor the data.

- ``floor.<output>``: the noise floor, float64 of parts x channels: the largest |y - r| that rounding alone gave (see
  ``edgekit.parity.noise``); the manifest names the parts and the channels' axis.
- ``predicted``, ``truth``: the original's class of every picture of the test set, and the right one, int64, in its order.
- ``nodes``: fingerprints of the values of the file's graph, float32 of 3 x all groups of channels: mean, deviation and largest
  |value| over some samples (``edgekit.parity.fingerprints``).
- ``error``: the error of scale of the first variant's file when it was written, float64 of one number.
- ``node-names``: JSON of [value, module path, number of groups] for each value.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.bundle.manifest import Manifest
from edgekit.bundle.unpacked import unpacked
from edgekit.errors import FETCH_AGAIN, BundleError
from edgekit.files import opened
from edgekit.tensors import Array

MOST_EVIDENCE_BYTES = 64 << 20
_KINDS = {
    "floor": ("float64", 2),
    "nodes": ("float32", 2),
    "node-names": ("uint8", 1),
    "predicted": ("int64", 1),
    "truth": ("int64", 1),
    "error": ("float64", 1),
}
"""Array -> its dtype, and its number of axes."""


class Fingerprint(NamedTuple):
    """One value of the graph: float32 ``statistics`` of 3 x groups of channels, and the path of the module that computes it."""

    statistics: Array
    module: str = ""


class EvidenceArrays(msgspec.Struct, frozen=True):
    """The arrays of ``evidence.npz``: ``floors`` by output, ``nodes`` by value of the graph.

    ``predicted`` and ``truth`` are None where no data is known. ``error`` is the first file's error of scale, one number.
    """

    floors: Mapping[str, Array] = {}
    nodes: Mapping[str, Fingerprint] = {}
    predicted: Array | None = None
    truth: Array | None = None
    error: Array | None = None

    def to_npz(self) -> bytes:
        """The bytes of ``evidence.npz``; the same arrays give the same bytes."""
        members = {f"floor.{name}": array for name, array in self.floors.items()}
        if self.nodes:
            table = [[name, node.module, node.statistics.shape[1]] for name, node in self.nodes.items()]
            members["nodes"] = np.concatenate([node.statistics for node in self.nodes.values()], axis=1)
            members["node-names"] = np.frombuffer(msgspec.json.encode(table), np.uint8)
        classes = {"predicted": self.predicted, "truth": self.truth, "error": self.error}
        members |= {name: array for name, array in classes.items() if array is not None}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **members)  # type: ignore[arg-type]
        return buffer.getvalue()


def read_evidence(path: Path, manifest: Manifest) -> EvidenceArrays:
    """Read ``evidence.npz``, checked before it is unpacked; raises BundleError for a file that does not fit ``manifest``."""
    floors: dict[str, Array] = {}
    others: dict[str, Array] = {}
    try:
        with opened(path) as stream:
            for name, array in unpacked(stream, MOST_EVIDENCE_BYTES):
                kind, _, of = name.partition(".")
                if (str(array.dtype), array.ndim) != _KINDS.get(kind) or bool(of) != (kind == "floor"):
                    raise ValueError(f"{name!r} is {array.dtype} {array.shape}")
                (floors if of else others)[of or kind] = array
        if "error" in others and others["error"].shape != (1,):
            raise ValueError(f"its error is {len(others['error'])} numbers, not 1")
        nodes = _nodes(others)
        _check_floors(floors, manifest)
        predicted, truth = others.get("predicted"), others.get("truth")
        if predicted is not None and (truth is None or len(predicted) != len(truth) or not len(truth)):
            raise ValueError("its predictions are not as many as the right classes")
    except Exception as problem:  # zipfile, zlib and numpy raise a dozen kinds for a crafted file
        reason = str(problem) or type(problem).__name__
        raise BundleError(f"{path} is not what edgekit export wrote: {reason}", FETCH_AGAIN) from None
    return EvidenceArrays(floors, nodes, others.get("predicted"), others.get("truth"), others.get("error"))


def _check_floors(floors: Mapping[str, Array], manifest: Manifest) -> None:
    """Raise ValueError unless each floor is of parts x channels of its output, of numbers that a bar can be made of."""
    axes, parts = manifest.evidence.axes if manifest.evidence else {}, len(manifest.golden.parts)
    outputs = {spec.name: spec.of_samples(manifest.golden.samples) for spec in manifest.outputs}
    for name, floor in floors.items():
        shape, axis = outputs.get(name), axes.get(name)
        if shape is None or axis is None or axis >= len(shape):
            raise ValueError(f"it has a noise floor for {name!r}, which is no output, or has no such channels")
        channels = shape[axis] if len(shape) > 1 else 1
        if floor.shape != (parts, channels) or not np.isfinite(floor).all() or floor.min(initial=0.0) < 0:
            raise ValueError(f"the noise floor of {name!r} is {floor.shape}, not {(parts, channels)} numbers from 0")


def _nodes(arrays: Mapping[str, Array]) -> dict[str, Fingerprint]:
    if "nodes" not in arrays:
        return {}
    table = msgspec.json.decode(arrays["node-names"].tobytes(), type=list[tuple[str, str, int]])
    ends = np.cumsum([groups for _, _, groups in table])
    if arrays["nodes"].shape != (3, ends[-1]):
        raise ValueError("the nodes' fingerprints do not fit their names")
    pieces = np.split(arrays["nodes"], ends[:-1], axis=1)
    return {name: Fingerprint(piece, module) for (name, module, _), piece in zip(table, pieces, strict=True)}
