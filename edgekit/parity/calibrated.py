"""What int8 ranges were measured on: the random numbers that stand in for data, and how a calibration on them is recognised."""

from __future__ import annotations

import hashlib

import numpy as np

from edgekit.bundle.manifest import Calibration, Manifest
from edgekit.bundle.ranges import RangeTable
from edgekit.parity.inputs import without_data
from edgekit.tensors import Array, Feed

_SEED = 1
"""Not that of golden inputs, on which nothing is calibrated."""


def random_calibration(manifest: Manifest) -> dict[str, Array]:
    """The random numbers that ``quantize --calibrate random`` takes: input -> samples x ..., the same in every call."""
    golden = without_data(manifest.inputs, manifest.preprocess, seed=_SEED)
    usual = slice(golden.parts[0].samples)  # the others are extreme: ranges that hold them would leave few steps for these
    return {name: array[usual] for name, array in golden.inputs.items()}


def feed_sha256(feed: Feed) -> str:
    """The hash of all arrays, by the names of their inputs."""
    digest = hashlib.sha256()
    for name, array in sorted(feed.items()):
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def passed_off(manifest: Manifest, calibration: Calibration, table: RangeTable) -> str:
    """What shows that a calibration that is said to be on data is on random numbers; empty where nothing does.

    Their hash does, and so does the range of an input where the network takes plain numbers: pictures reach from black to white
    whatever they show.
    """
    if not calibration.calibrated or calibration.method == "trained":
        return ""
    feed = random_calibration(manifest)
    if calibration.sha256 == feed_sha256(feed):
        return f"it is said to be calibrated on {calibration.source}, and the sha256 is that of random numbers"
    ranges = {} if manifest.preprocess is not None else {name: (array.min(), array.max()) for name, array in feed.items()}
    alike = next((each.tensor for each in table.tensors if ranges.get(each.tensor) == (each.lowest, each.highest)), None)
    if alike is not None:
        return f"it is said to be calibrated on {calibration.source}, and the range of {alike!r} is that of random numbers"
    return ""
