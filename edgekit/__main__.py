"""The program ``edgekit`` and ``python -m edgekit``; what takes time is imported where Ctrl-C is caught."""

from __future__ import annotations

import os


def run() -> None:
    """The command line. Ctrl-C before its process takes signals has nothing to clean up, and nothing to tell it by."""
    try:
        from edgekit.cli.process import run_process

        run_process()
    except KeyboardInterrupt:
        os._exit(130)


if __name__ == "__main__":
    run()
