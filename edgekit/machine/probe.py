"""A child that imports the module named and answers its version: ``python -m edgekit.machine.probe torchvision``."""

from __future__ import annotations

import importlib
import sys

from edgekit.machine.child import answer


def main(module: str) -> None:
    """Answer the version that ``module`` tells of itself."""
    answer({"version": str(importlib.import_module(module).__version__)})


if __name__ == "__main__":
    main(*sys.argv[1:])
