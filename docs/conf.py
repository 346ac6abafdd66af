"""Configuration of Sphinx for these pages; build them with ``python -m sphinx -W -b html docs build/docs``."""

from __future__ import annotations

import re
from typing import Any

from edgekit.version import __version__

project = author = "edgekit"
version = release = __version__
extensions = ["myst_parser", "sphinx.ext.autodoc"]
html_theme = "furo"
html_title = f"edgekit {release}"
html_show_copyright = False
myst_heading_anchors = 3
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 88
CONSTRAINED = re.compile(r"~?(?:typing\.)?Annotated\[(.+?), ~?msgspec\.Meta\([^)]*\)\]")


def setup(app: Any) -> None:
    """Register the functions below; Sphinx calls this."""
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-skip-member", without_field_numbers)


def plain_signature(*event: Any) -> tuple[str, str] | None:
    """A signature with types but without their bounds (docstrings have them) and without ``<factory>``."""
    signature, returns = event[-2:]
    if not signature:
        return None
    signature = CONSTRAINED.sub(r"\1", signature).replace("<factory>", "{}")
    signature = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", signature)
    return re.sub(r"~(?:\w+\.)+(\w+)", r"\1", signature), returns


def without_field_numbers(*event: Any) -> bool | None:
    """Leave out the fields of named tuples, for which Python has numbers and no descriptions."""
    text = getattr(event[3], "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None
