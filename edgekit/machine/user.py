"""The user that a process runs as. A container may run as a number that no name belongs to."""

from __future__ import annotations

import os

_NAMES = ("LOGNAME", "USER", "LNAME", "USERNAME")
"""Variables that ``getpass.getuser`` takes a name from, before it asks the system."""


def ensure_user_name() -> None:
    """Let ``LOGNAME`` be the user's number where the user has no name: PyTorch asks for one, and fails without."""
    if any(os.environ.get(name) for name in _NAMES):
        return
    try:
        import pwd

        pwd.getpwuid(os.getuid())
    except ImportError:  # no such module on Windows, where USERNAME is set
        pass
    except KeyError:
        os.environ["LOGNAME"] = str(os.getuid())
