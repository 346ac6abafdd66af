"""Carrying out a command; what prints its report is imported when it runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report


def carry_out(action: Callable[[Progress], Report], json: bool, debug: bool, **more: Any) -> NoReturn:
    """Run ``action``, print its report and end the process with its exit code; ``more`` is as in ``outcome.carry_out``."""
    from edgekit.cli.outcome import carry_out as carry_out_and_print

    carry_out_and_print(action, more.pop("form", "json" if json else "page"), debug, **more)
