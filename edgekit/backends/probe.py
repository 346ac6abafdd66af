"""A child that answers why a backend cannot run here: ``python -m edgekit.backends.probe ort-cuda``."""

from __future__ import annotations

import sys

import msgspec

from edgekit.backends import table
from edgekit.machine.child import answer
from edgekit.setups import Absence, Setup


def main(name: str) -> None:
    """Answer what the row ``name`` says of any files: ``{"absence": null}`` where it runs them."""
    rows = table()
    if name not in rows:
        sys.exit(f"no backend {name!r}; use one of {', '.join(rows)}")
    absence = rows[name].absence(None, Setup(name))
    if not isinstance(absence, Absence | None):  # a row of another package's
        sys.exit(f"backend {name}'s absence is neither an Absence nor None: {absence!r}")
    answer({"absence": msgspec.to_builtins(absence)})


if __name__ == "__main__":
    main(*sys.argv[1:])
