"""Run changed copies of a bundle's file on a backend, to see the values inside: any backend that opens ONNX files can."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from edgekit.backends import open_session
from edgekit.backends.contract import Session
from edgekit.bundle.files import ModelFiles
from edgekit.onnx.rewire import node_by_node, with_outputs
from edgekit.onnx.untrusted import read_unchanged
from edgekit.progress import SILENT, Progress
from edgekit.setups import Setup
from edgekit.tensors import BATCH, Array, Feed, TensorSpec


def shown(
    files: ModelFiles, setup: Setup, values: Mapping[str, Array], feed: Feed, progress: Progress = SILENT
) -> dict[str, Array]:
    """The values of these names, as the setup computes them for ``feed``; ``values`` have the right dtypes and shapes.

    The session has them as outputs, so that it may fuse less. Raises EdgekitError where the backend refuses the copy.
    """
    return _run(read_unchanged(files.onnx, files.onnx_sha256), files, values, setup, feed, progress)


def alone(
    files: ModelFiles, setup: Setup, values: Mapping[str, Array], feed: Feed, progress: Progress = SILENT
) -> dict[str, Array]:
    """What each node puts out when it reads ``values`` instead of what the nodes before it compute: errors do not add up.

    Raises EdgekitError where the backend refuses the copy.
    """
    content, given = node_by_node(read_unchanged(files.onnx, files.onnx_sha256), values)
    copy = files._replace(inputs=(*files.inputs, *_specs(given)))
    return _run(content, copy, values, setup, {**feed, **given}, progress)


def _specs(values: Mapping[str, Array]) -> tuple[TensorSpec, ...]:
    """Tensors of these dtypes and shapes, whose first axis is the batch."""
    return tuple(
        TensorSpec(name, str(array.dtype), (BATCH, *array.shape[1:]) if array.ndim else ()) for name, array in values.items()
    )


def _run(
    content: bytes, files: ModelFiles, values: Mapping[str, Array], setup: Setup, feed: Feed, progress: Progress
) -> dict[str, Array]:
    """Open ``content``, with ``values`` as further outputs, and run it once."""
    names = {spec.name for spec in files.outputs}
    further = {name: array for name, array in values.items() if name not in names}
    shown = files._replace(outputs=(*files.outputs, *_specs(further)))
    with opened_copy(with_outputs(content, further), shown, setup, progress) as session:
        return session.run(feed)


@contextmanager
def opened_copy(content: bytes, files: ModelFiles, setup: Setup, progress: Progress = SILENT) -> Iterator[Session]:
    """A session of ``content``, a changed copy of the file, for which no bundle vouches.

    Raises EdgekitError where the backend refuses the copy.
    """
    with TemporaryDirectory() as folder:
        path = Path(folder) / files.onnx.name
        path.write_bytes(content)
        copy = files._replace(onnx=path, onnx_sha256=hashlib.sha256(content).hexdigest(), original=False)
        with open_session(setup, copy, progress) as session:
            yield session
