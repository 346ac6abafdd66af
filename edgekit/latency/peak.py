"""What a runtime reaches on this machine, so that a layer's arithmetic can be seen beside it.

A product of square matrices, y = x w, does 2 n^3 operations on 3 n^2 numbers, and is what runtimes are tuned for: its rate is
taken for what the machine reaches in a precision, by the setup's own runtime and threads. Of several sizes the fastest counts,
because the best one depends on the caches: of the CPU's the smallest (0.8 MB in float32) is within a core's own cache.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from edgekit.backends import open_session
from edgekit.backends.contract import OnDevice, Session
from edgekit.bundle.files import ModelFiles
from edgekit.errors import EdgekitError
from edgekit.latency.loop import time_block
from edgekit.onnx.matmul import PRECISIONS, square_product
from edgekit.reports.layers import Peak
from edgekit.setups import Setup
from edgekit.tensors import sample_feed

SIZES, SIZES_ON_GPU = (256, 512, 1024), (2048, 4096)
WARM_SECONDS, SECONDS, DEVICE_CALLS = 0.05, 0.15, 30


def peak_of(setup: Setup, precision: str, on_gpu: bool) -> Peak | None:
    """The fastest product; None in a precision that has none, and where the runtime takes no such file."""
    if precision not in PRECISIONS:
        return None
    sizes = SIZES_ON_GPU if on_gpu else SIZES
    rates = [(rate, size) for size in sizes if (rate := _rate(setup, precision, size)) is not None]
    if not rates:
        return None
    rate, size = max(rates)
    return Peak(precision=precision, gflops=rate, size=size)


def _rate(setup: Setup, precision: str, size: int) -> float | None:
    """10^9 operations a second of the product; None where it cannot be run."""
    content, source, product = square_product(size, precision)
    own = msgspec.structs.replace(setup, variant="", batches=())
    with TemporaryDirectory() as folder:
        path = Path(folder) / "product.onnx"
        path.write_bytes(content)
        digest = hashlib.sha256(content).hexdigest()
        files = ModelFiles(path, (source,), (product,), precision, digest, original=False)
        for options in (setup.options, {}):  # one of them may go with the bundle's file alone, as an engine does
            with suppress(EdgekitError), open_session(msgspec.structs.replace(own, options=options), files) as session:
                return 2 * size**3 / _fastest_ms(session) / 1e6
    return None


def _fastest_ms(session: Session) -> float:
    """The fastest call, inputs resident, by the device's own clock where it has one that the host does not hold up."""
    feed = sample_feed(session.inputs, 1)
    call = session.bind(feed)
    time_block(call, WARM_SECONDS)
    if isinstance(session, OnDevice):
        times = session.device_times(feed, DEVICE_CALLS)
        if not times.launch_bound:
            return min(times.ms)
    return min(time_block(call, SECONDS))
