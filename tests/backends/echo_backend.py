"""A backend from elsewhere, whole: what another package writes to add one. Tests put it on a temporary path."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from edgekit.backends.contract import Absence, Array, Backend, Feed, ModelFiles, Options, Progress, Setup


class EchoOptions(Options, frozen=True):
    """``gain``: what every output is multiplied by."""

    gain: float = 1.0


class EchoSession:
    """ONNX Runtime under another name."""

    def __init__(self, files: ModelFiles, setup: Setup) -> None:
        import onnxruntime

        self.inputs, self.outputs = files.inputs, files.outputs
        self.facts = {"echo": "1.0", "precision": files.precision}
        self._session = onnxruntime.InferenceSession(str(files.onnx), providers=["CPUExecutionProvider"])
        self._gain = EchoOptions.of(setup).gain

    def run(self, feed: Feed) -> dict[str, Array]:
        """Host arrays in, host arrays out."""
        names = [spec.name for spec in self.outputs]
        outputs = self._session.run(names, dict(feed))
        return {name: np.asarray(array * self._gain, array.dtype) for name, array in zip(names, outputs, strict=True)}

    def bind(self, feed: Feed) -> Callable[[], None]:
        """The device is the host."""

        def call() -> None:
            self.run(feed)

        return call

    def __enter__(self) -> EchoSession:
        return self

    def __exit__(self, *problem: Any) -> None:
        return None


def absence(files: ModelFiles | None, setup: Setup) -> Absence | None:
    """It is always here."""
    return None


def open_echo(files: ModelFiles, setup: Setup, progress: Progress) -> EchoSession:
    """Open the files."""
    return EchoSession(files, setup)


BACKEND = Backend("echo", absence, open_echo, options=EchoOptions)
