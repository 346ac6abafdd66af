"""Progress: the interface through which long work reports its steps, whoever displays them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol, TypeAlias

Advance: TypeAlias = Callable[[int, str], None]
"""``advance(steps_done_since_last_call, note)``."""


class Progress(Protocol):
    """A display of progress: the console's bar, or none."""

    def task(self, title: str, total: int) -> AbstractContextManager[Advance]:
        """Begin a piece of work of ``total`` steps."""
        ...

    def say(self, line: str) -> None:
        """Show a line that stays on the screen."""
        ...


class Silent:
    """A Progress that shows nothing."""

    @contextmanager
    def task(self, title: str, total: int) -> Iterator[Advance]:
        """Accept and drop every step."""
        yield lambda steps, note: None

    def say(self, line: str) -> None:
        """Drop the line."""


SILENT: Progress = Silent()
