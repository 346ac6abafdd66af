"""A session made of a Python function: for tests, for a file not written yet, and to measure what the timing loop costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType

from edgekit.tensors import Array, Feed, TensorSpec


class FakeSession:
    """Runs ``function(feed) -> outputs`` as if a backend had opened it."""

    def __init__(
        self,
        function: Callable[[Feed], dict[str, Array]],
        inputs: tuple[TensorSpec, ...] = (),
        outputs: tuple[TensorSpec, ...] = (),
        facts: Mapping[str, str] | None = None,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self.facts: Mapping[str, str] = facts or {}
        self._function = function

    def run(self, feed: Feed) -> dict[str, Array]:
        """Call the function."""
        return self._function(feed)

    def bind(self, feed: Feed) -> Callable[[], None]:
        """Call the function and drop what it returns."""

        def call() -> None:
            self._function(feed)

        return call

    def __enter__(self) -> FakeSession:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        return None
