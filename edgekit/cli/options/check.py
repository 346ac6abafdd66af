"""The words of verify, evaluate and report, and what they stand for; importing this imports nothing heavy."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

from edgekit.cli.options.completion import backend_names, check_names
from edgekit.cli.options.shared import REPORT, RUNNING, option, variant_option

if TYPE_CHECKING:
    from edgekit.commands.report import Format


Checked = Annotated[Optional[str], variant_option("all that can be checked here")]
Required = Annotated[
    Optional[list[str]],
    option(
        "--require",
        panel=RUNNING,
        metavar="SETUP",
        help="Exit code 2 where this backend cannot run, instead of leaving it out; repeatable, or EDGEKIT_REQUIRE='A;B'.",
        autocompletion=backend_names,
    ),
]
Allowed = Annotated[
    Optional[list[str]],
    option(
        "--allow",
        panel=REPORT,
        metavar="CHECK",
        help="Accept that this check of the manifest fails, such as few-samples; repeatable.",
        autocompletion=check_names,
    ),
]
PublicKey = Annotated[
    Optional[Path],
    option(
        "--public-key",
        metavar="FILE",
        help="Exit code 2 unless the bundle is signed with this key: OpenSSH's, or a PEM file of model-signing's.",
    ),
]


def required(texts: Sequence[str] | None) -> list[str]:
    """``--require``'s texts, or those of the environment variable EDGEKIT_REQUIRE, between semicolons."""
    return list(texts or filter(None, map(str.strip, os.environ.get("EDGEKIT_REQUIRE", "").split(";"))))


def report_format(text: str, *, beside_json: bool = False) -> Format:
    """``--format`` of a report; raises UsageError for another, and for one that goes to stdout beside ``--json``."""
    from edgekit.commands.report import FORMATS
    from edgekit.errors import UsageError
    from edgekit.spelling import did_you_mean

    if text not in FORMATS:
        raise UsageError(f"--format {text!r} is none{did_you_mean(text, list(FORMATS))}", f"choose one of: {', '.join(FORMATS)}")
    if beside_json and text not in ("html", "json"):
        raise UsageError(f"--json and --format {text} both say what goes to stdout", "give one of them, or --output FILE")
    return text
