"""The words of build and predict, and what they stand for; importing this imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

from edgekit.cli.options.completion import builder_names
from edgekit.cli.options.numbers import Range
from edgekit.cli.options.shared import REPORT, RUNNING, flag, number, option

if TYPE_CHECKING:
    from edgekit.setups import Setup


Builder = Annotated[
    Optional[str],
    option(
        "--backend",
        panel=RUNNING,
        metavar="SETUP",
        show_default="the first that builds",
        help="What to build for.",
        autocompletion=builder_names,
    ),
]
BatchRanges = Annotated[
    Optional[list[str]],
    option("--batch", metavar="MIN:OPT:MAX", show_default="1:8:32", help="Batch sizes to build for, or one; repeatable."),
]
Workspace = Annotated[
    Optional[int],
    number("--workspace", metavar="MIB", taken=Range(1, 1 << 20), show_default="all there is", help="Scratch memory of a layer."),
]
Level = Annotated[
    Optional[int],
    number("--level", metavar="N", taken=Range(0, 5), show_default="3", help="How long to search for faster kernels."),
]
Csv = Annotated[
    Optional[Path], option("--csv", panel=REPORT, metavar="FILE", help="Also write a row for each label to this file.")
]
JsonLines = Annotated[bool, flag("--jsonl", REPORT, help="Print a line of JSON for each picture, and nothing else.")]


def build_setup(text: str | None, *, variant: str | None = None, **given: Any) -> Setup:
    """``--backend``'s text of a build, or the first backend that builds, with the words of ``edgekit build`` that were given."""
    import msgspec

    from edgekit.commands.build import builders
    from edgekit.setups import Setup, filled

    setup = filled(Setup.parse(text or builders()[0]), variant)
    options = {name: value for name, value in given.items() if value is not None and value is not False}
    return msgspec.structs.replace(setup, options={**options, **setup.options})


def check_one_form(json: bool, jsonl: bool) -> None:
    """Raise UsageError for ``--json`` beside ``--jsonl``."""
    from edgekit.errors import UsageError

    if json and jsonl:
        raise UsageError("--json and --jsonl both say what goes to stdout", "give one of them")
