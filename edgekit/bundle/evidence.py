"""``evidence.npz``: what was measured at export, for checks that need neither PyTorch nor the data.

- ``floor.<output>``: the noise floor, float64 of parts x channels: the largest |y - r| that rounding alone gave (see
  ``edgekit.parity.noise``); the manifest names the parts and the channels' axis.
- ``predicted``, ``truth``: the original's class of every picture of the test set, and the right one, int64, in the set's order.
- ``node.<value>``: a fingerprint of one value of the file's graph, float64 of 3 x channels: mean, deviation and largest |value|
  of each channel over the first samples.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec
import numpy as np

from edgekit.errors import BundleError
from edgekit.tensors import Array

MOST_EVIDENCE_BYTES = 64 << 20
_KINDS = {"floor": "float64", "node": "float64", "predicted": "int64", "truth": "int64"}


class EvidenceArrays(msgspec.Struct, frozen=True):
    """The arrays of ``evidence.npz``: ``floors`` by output, ``nodes`` by value of the graph.

    ``predicted`` and ``truth`` are None where no data is known.
    """

    floors: Mapping[str, Array] = {}
    nodes: Mapping[str, Array] = {}
    predicted: Array | None = None
    truth: Array | None = None

    def to_npz(self) -> bytes:
        """The bytes of ``evidence.npz``; the same arrays give the same bytes."""
        members = {f"floor.{name}": array for name, array in self.floors.items()}
        members |= {f"node.{name}": array for name, array in self.nodes.items()}
        classes = {"predicted": self.predicted, "truth": self.truth}
        members |= {name: array for name, array in classes.items() if array is not None}
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **members)  # type: ignore[arg-type]
        return buffer.getvalue()


def read_evidence(path: Path) -> EvidenceArrays:
    """Read ``evidence.npz``, checked before it is unpacked; raises BundleError for a file that holds anything else."""
    floors: dict[str, Array] = {}
    nodes: dict[str, Array] = {}
    classes: dict[str, Array] = {}
    try:
        for name, array in _members(path):
            kind, _, of = name.partition(".")
            if str(array.dtype) != _KINDS.get(kind) or array.ndim != (2 if of else 1):
                raise ValueError(f"{name!r} is {array.dtype} {array.shape}")
            {"floor": floors, "node": nodes}.get(kind, classes)[of or kind] = array
    except Exception as problem:  # zipfile, zlib and numpy raise a dozen kinds for a crafted file
        reason = str(problem) or type(problem).__name__
        raise BundleError(f"{path} is not what edgekit export wrote: {reason}", "export the bundle again") from None
    return EvidenceArrays(floors, nodes, classes.get("predicted"), classes.get("truth"))


def _members(path: Path) -> Iterator[tuple[str, Array]]:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > MOST_EVIDENCE_BYTES:
            raise ValueError(f"it would take more than {MOST_EVIDENCE_BYTES >> 20} MiB of memory")
    with np.load(path, allow_pickle=False) as content:
        for name in content.files:
            yield name, content[name]
