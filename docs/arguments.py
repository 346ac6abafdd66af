"""The command line of the scripts in ``docs/``: ``--help``, and ``--check`` for those that check what they write."""

from __future__ import annotations

import argparse
from collections.abc import Sequence


def asked_to_check(about: str | None, options: Sequence[str] = ("--check",)) -> bool:
    """Whether ``--check`` was given; ``--help`` prints ``about``, a script's docstring, and ends, as any other word does."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in options:
        parser.add_argument(option, action="store_true", help="write nothing; exit with 1 if what is there is not up to date")
    return any(vars(parser.parse_args()).values())
