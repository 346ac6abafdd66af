"""How Sphinx builds these pages: python -m sphinx -W -b html docs build/docs."""

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
    """Called by Sphinx."""
    app.connect("autodoc-process-signature", plain_signature)
    app.connect("autodoc-skip-member", without_field_numbers)


def plain_signature(*event: Any) -> tuple[str, str] | None:
    """Types without their bounds: the bounds stand in the docstrings, and ``<factory>`` can be read by nobody."""
    signature, returns = event[-2:]
    if not signature:
        return None
    signature = CONSTRAINED.sub(r"\1", signature).replace("<factory>", "{}")
    signature = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", signature)
    return re.sub(r"~(?:\w+\.)+(\w+)", r"\1", signature), returns


def without_field_numbers(*event: Any) -> bool | None:
    """Leave out the fields of a named tuple, of which Python says no more than their numbers."""
    text = getattr(event[3], "__doc__", None) or ""
    return True if text.startswith("Alias for field number") else None
