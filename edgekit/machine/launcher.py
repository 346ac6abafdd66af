"""PyTorch's launcher, ``torchrun``: which of several processes this one is, read from the environment without PyTorch."""

from __future__ import annotations

import os
from typing import NamedTuple

from edgekit.errors import UsageError

PLACES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""What the launcher tells each process, by PyTorch's protocol ``env://``."""


class Launch(NamedTuple):
    """Process ``rank`` (from 0) of ``processes`` on all machines; on its own machine it is process ``local_rank``."""

    rank: int
    processes: int
    local_rank: int


def launched() -> Launch | None:
    """What the launcher says of this process; None without a launcher, and where it has started one process alone.

    Raises UsageError where what it says are no such numbers.
    """
    if not all(name in os.environ for name in PLACES):
        return None
    try:
        launch = Launch(*(int(os.environ[name]) for name in PLACES[:3]))
    except ValueError:
        raise UsageError(f"{', '.join(PLACES[:3])} in the environment are no whole numbers", "let torchrun set them") from None
    return launch if launch.processes > 1 else None


class Elsewhere(Exception):
    """Another process tells how the work has ended: this one exits with ``code``, and adds ``line`` on stderr where it is any."""

    def __init__(self, code: int, line: str = "") -> None:
        super().__init__(code)
        self.code, self.line = code, line
