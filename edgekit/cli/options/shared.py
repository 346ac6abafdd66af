"""The words that several commands share, each declared once, and how they become Setups; importing this imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from edgekit.cli.options.completion import backend_names, device_names, flavour_names, model_names, variant_names
from edgekit.cli.options.numbers import Numbers, Range

if TYPE_CHECKING:
    from edgekit.setups import Setup


def flag(name: str, panel: str | None = None, *, help: str) -> Any:
    """An option that takes no value, and is shown without one."""
    return typer.Option(name, help=help, metavar="", rich_help_panel=panel)


def option(*names: str, panel: str | None = None, **settings: Any) -> Any:
    """An option of the group ``panel``."""
    return typer.Option(*names, rich_help_panel=panel, **settings)


def number(*names: str, metavar: str, taken: Range, panel: str | None = None, **settings: Any) -> Any:
    """An option that takes these numbers, which the parser of ``edgekit.cli.app`` checks."""
    return option(*names, panel=panel, metavar=Numbers.of(metavar, taken), **settings)


MODEL, RUNNING, WRITTEN, REPORT = "The model", "What runs it", "What is written", "The report"
Json = Annotated[bool, flag("--json", REPORT, help="Print one JSON document on stdout, and nothing else.")]
Debug = Annotated[bool, flag("--debug", REPORT, help="Show the traceback of an error.")]
Output = Annotated[
    Optional[Path], option("--output", panel=REPORT, metavar="FILE", help="Also write the JSON report to this file.")
]
Verbose = Annotated[
    bool,
    typer.Option("--verbose", "-v", metavar="", rich_help_panel=REPORT, help="Also tell why a backend is not present."),
]
AllRows = Annotated[
    bool, typer.Option("--verbose", "-v", metavar="", rich_help_panel=REPORT, help="Show every row of the table.")
]
BundleFolder = Annotated[
    Optional[Path], option("--output", metavar="FOLDER", show_default="exported/NAME", help="Where the bundle is written.")
]
Runs = Annotated[Path, option("--runs", metavar="FOLDER", help="Where the folders of trainings are.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that edgekit export wrote.")]
InputShapes = Annotated[
    Optional[list[str]],
    option(
        "--input-shape",
        panel=MODEL,
        metavar="SHAPE",
        help="Shape of an input, the batch first: 1x3x224x224 or NAME=1x16; repeatable.",
    ),
]
Arguments = Annotated[
    Optional[list[str]],
    option("--arg", panel=MODEL, metavar="NAME=VALUE", help="An argument of the model's factory; repeatable."),
]
Weights = Annotated[
    Optional[Path],
    option(
        "--weights",
        panel=MODEL,
        metavar="FILE[:KEY]",
        help="Its weights: safetensors or a checkpoint of torch.save; KEY says which of several in it.",
    ),
]
Device = Annotated[str, option("--device", metavar="DEVICE", help="auto, cpu or cuda.", autocompletion=device_names)]
Backends = Annotated[
    Optional[list[str]],
    option(
        "--backend",
        panel=RUNNING,
        metavar="SETUP",
        help="Only this backend, perhaps with its options: 'ort-cpu threads=4'; repeatable.",
        show_default="every one present",
        autocompletion=backend_names,
    ),
]
Backend = Annotated[
    Optional[str],
    option(
        "--backend",
        panel=RUNNING,
        metavar="SETUP",
        show_default="tuned where tuned, else ort-cpu",
        help="The backend, perhaps with its options: 'ort-cpu threads=4'.",
        autocompletion=backend_names,
    ),
]


def variant_option(usual: str) -> Any:
    """``--variant`` of a command that takes the ``usual`` files where none is named."""
    return option(
        "--variant",
        panel=RUNNING,
        metavar="NAME",
        show_default=usual,
        help="Which of the bundle's files, like float16.",
        autocompletion=variant_names,
    )


Variant = Annotated[Optional[str], variant_option("the first")]
Threads = Annotated[
    Optional[int],
    number(
        "--threads",
        panel=RUNNING,
        metavar="N",
        taken=Range(1, 1024),
        show_default="all cores",
        help="CPU threads of each backend; as threads=N in --backend.",
    ),
]
Flavour = Annotated[
    Optional[str],
    option(
        "--flavour",
        panel=RUNNING,
        metavar="NAME",
        help="Which TensorRT: tensorrt or tensorrt-rtx.",
        show_default="the first that works here",
        autocompletion=flavour_names,
    ),
]
CudaGraph = Annotated[bool, flag("--cuda-graph", RUNNING, help="TensorRT records its work once and replays it: fewer launches.")]
Engine = Annotated[
    Optional[Path],
    option(
        "--engine",
        panel=RUNNING,
        metavar="FILE",
        help="TensorRT's engine (*.plan) from edgekit build; it is run as it is, or refused.",
        show_default="found or built",
    ),
]
TorchSource = Annotated[
    Optional[str],
    option(
        "--source",
        panel=RUNNING,
        metavar="NAME",
        help="Model or import path of the PyTorch side; it gets the bundle's weights.",
        autocompletion=model_names,
    ),
]


def setups(
    texts: Sequence[str] | None, *, variant: str | None = None, threads: int | None = None, **options: Any
) -> tuple[Setup, ...]:
    """``--backend``'s texts, or every backend, with the shared words filled in where a text does not say; paths become text."""
    from edgekit.setups import EVERY, Setup, filled

    words = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    parsed = [filled(Setup.parse(text), variant, threads) for text in texts or (EVERY,)]
    return spread(parsed, {name: value for name, value in words.items() if value is not None and value is not False})


def one_setup(text: str | None, **words: Any) -> Setup | None:
    """``--backend``'s one text with the words filled in; None where nothing is said, for what was tuned here or is usual."""
    from edgekit.backends import USUAL_BACKEND

    if text is None and not any(words.values()):
        return None
    return setups([text or USUAL_BACKEND], **words)[0]


def spread(setups: Sequence[Setup], words: Mapping[str, Any]) -> tuple[Setup, ...]:
    """Give the words of the command line to those setups whose backend has them; raises UsageError where none has."""
    import msgspec

    from edgekit.backends import checked, row_of, takers
    from edgekit.errors import UsageError
    from edgekit.setups import EVERY, TUNED, Setup

    whole = {EVERY: set(words), TUNED: set[str]()}
    fields = {
        setup.backend: whole[setup.backend] if setup.backend in whole else set(row_of(setup.backend).options.__struct_fields__)
        for setup in setups
    }
    for name, value in words.items():
        if not any(name in own for own in fields.values()):
            able, word = takers(name), name.replace("_", "-")
            for backend in able:
                checked(Setup(backend, options={name: value}))  # its spelling comes first
            named = ", ".join(setup.backend for setup in setups)
            raise UsageError(
                f"--{word} is for {' and '.join(able)}, which {'are' if len(able) > 1 else 'is'} not among {named}",
                f"add --backend {able[0]}",
            )
    return tuple(
        msgspec.structs.replace(
            setup, options={name: value for name, value in words.items() if name in fields[setup.backend]} | setup.options
        )
        for setup in setups
    )


def arguments(texts: Sequence[str] | None) -> dict[str, Any]:
    """``--arg``'s texts by their names; raises UsageError for one that is none, or is given twice.

    A value is a number, ``true`` or ``false`` as JSON writes them, or else a string, which may stand in double quotes.
    """
    import msgspec

    from edgekit.errors import UsageError

    values: dict[str, Any] = {}
    for text in texts or ():
        name, equals, word = text.partition("=")
        if not equals or not name.isidentifier():
            raise UsageError(f"--arg {text!r} is not an argument", "write it like num_classes=10")
        if name in values:
            raise UsageError(f"--arg gives {name!r} twice", "give it once")
        try:
            value = msgspec.json.decode(word)
        except (msgspec.DecodeError, UnicodeEncodeError):
            value = word
        values[name] = value if isinstance(value, (bool, int, float, str)) else word
    return values
