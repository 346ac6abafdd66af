"""The words that commands share, each declared once, and how they become Setups. Importing this imports nothing heavy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

if TYPE_CHECKING:
    from edgekit.setups import Setup
    from edgekit.tolerance import ToleranceChange


def device_names() -> list[str]:
    """What ``--device`` takes."""
    return ["auto", "cpu", "cuda"]


def backend_names() -> list[str]:
    """What ``--backend`` may begin with."""
    from edgekit.backends import table

    return list(table())


def flavour_names() -> list[str]:
    """What ``--flavour`` takes, by the backends that have it."""
    from edgekit.backends import table, takers
    from edgekit.backends.words import choices

    return list(dict.fromkeys(word for name in takers("flavour") for word in choices(table()[name].options, "flavour")))


def model_names(incomplete: str) -> list[str]:
    """Models that edgekit ships."""
    from edgekit.models import MODELS

    return [name for name in MODELS if name.startswith(incomplete)]


def dataset_names() -> list[str]:
    """Datasets that can be fetched."""
    from edgekit.commands.data import FETCHED

    return list(FETCHED)


Json = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Output = Annotated[Optional[Path], typer.Option("--output", metavar="FILE", help="Also write the JSON report to this file.")]
BundleFolder = Annotated[Optional[Path], typer.Option("--output", help="The bundle's folder; exported/<name> if left out.")]
Runs = Annotated[Path, typer.Option(help="Where the folders of trainings are.")]
BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder that edgekit export wrote.")]
RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (*.toml).")]
SourceName = Annotated[
    str,
    typer.Argument(
        metavar="SOURCE",
        help="A recipe, a run directory, a model's name, or an import path package.module:factory.",
        autocompletion=model_names,
    ),
]
InputShapes = Annotated[
    Optional[list[str]],
    typer.Option("--input-shape", metavar="[NAME=]1x3x224x224", help="Shape of an input of an import path; repeatable."),
]
Weights = Annotated[
    Optional[Path], typer.Option(help="Weights for an import path: safetensors, or a state_dict saved by torch.save.")
]
Device = Annotated[str, typer.Option(help="auto, cpu or cuda.", autocompletion=device_names)]
Backends = Annotated[
    Optional[list[str]],
    typer.Option(
        "--backend",
        metavar="SETUP",
        help="Only this backend, which must be present, with options of its own if need be ('ort-cpu threads=4'); repeatable.",
        autocompletion=backend_names,
    ),
]
Backend = Annotated[
    str,
    typer.Option("--backend", metavar="SETUP", help="The backend to use, with options of its own.", autocompletion=backend_names),
]
Variant = Annotated[
    Optional[str], typer.Option("--variant", show_default="the first", help="Which of the bundle's files, like float16.")
]
Threads = Annotated[Optional[int], typer.Option(min=1, max=1024, show_default="all cores", help="Threads of each backend.")]
Flavour = Annotated[
    Optional[str],
    typer.Option(
        "--flavour", help="tensorrt or tensorrt-rtx.", show_default="the first that works here", autocompletion=flavour_names
    ),
]
CudaGraph = Annotated[bool, typer.Option("--cuda-graph", help="TensorRT records its work once and replays it: fewer launches.")]
Engine = Annotated[
    Optional[Path],
    typer.Option(
        "--engine",
        metavar="FILE.plan",
        help="TensorRT's engine, written by edgekit build; it is run as it is, or refused.",
        show_default="the usual one, found or built",
    ),
]
Builder = Annotated[
    Optional[str], typer.Option("--backend", metavar="SETUP", show_default="the first that builds", help="What to build for.")
]
BatchRanges = Annotated[
    Optional[list[str]],
    typer.Option(
        "--batch", metavar="MIN:OPT:MAX", show_default="1:8:32", help="Batch sizes to build for, or one size; repeatable."
    ),
]
Workspace = Annotated[
    Optional[int], typer.Option(min=1, metavar="MIB", show_default="all there is", help="Scratch memory a layer may use.")
]
Level = Annotated[Optional[int], typer.Option(min=0, max=5, show_default="3", help="How long to search for faster kernels.")]
TorchSource = Annotated[
    Optional[str], typer.Option("--source", help="Model or import path of the PyTorch side; it gets the bundle's weights.")
]


def setups(
    texts: Sequence[str] | None, *, variant: str | None = None, threads: int | None = None, **options: Any
) -> tuple[Setup, ...]:
    """``--backend``'s texts, or every backend, with the shared words filled in where a text does not say; paths become text."""
    from edgekit.setups import EVERY, Setup, filled

    given = {name: str(value) if isinstance(value, Path) else value for name, value in options.items()}
    parsed = [filled(Setup.parse(text), variant, threads) for text in texts or (EVERY,)]
    return spread(parsed, {name: value for name, value in given.items() if value is not None and value is not False})


def spread(setups: Sequence[Setup], given: Mapping[str, Any]) -> tuple[Setup, ...]:
    """Give the words of the command line to those setups whose backend has them; raises UsageError where none has."""
    import msgspec

    from edgekit.backends import checked, row_of, takers
    from edgekit.errors import UsageError
    from edgekit.setups import EVERY, Setup

    fields = {
        setup.backend: set(given) if setup.backend == EVERY else set(row_of(setup.backend).options.__struct_fields__)
        for setup in setups
    }
    for name, value in given.items():
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
            setup, options={name: value for name, value in given.items() if name in fields[setup.backend]} | setup.options
        )
        for setup in setups
    )


def build_setup(text: str | None, *, variant: str | None = None, **given: Any) -> Setup:
    """``--backend``'s text of a build, or the first backend that builds, with the words of ``edgekit build`` that were given."""
    import msgspec

    from edgekit.commands.build import builders
    from edgekit.setups import Setup, filled

    setup = filled(Setup.parse(text or builders()[0]), variant)
    options = {name: value for name, value in given.items() if value is not None and value is not False}
    return msgspec.structs.replace(setup, options={**options, **setup.options})


def numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """``0.485,0.456`` -> floats; raises UsageError that names ``option``."""
    from edgekit.errors import UsageError

    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text!r} is not a list of numbers; write it like 0.485,0.456,0.406") from None


def tolerance(atol: float | None, rtol: float | None) -> ToleranceChange:
    """``--atol`` and ``--rtol``; raises UsageError for one that would let anything pass."""
    from edgekit.errors import UsageError
    from edgekit.tolerance import ToleranceChange

    if rtol is not None and not rtol < 1:
        raise UsageError(f"--rtol {rtol:g} would let anything pass; give a number below 1")
    if atol is not None and not atol < float("inf"):
        raise UsageError(f"--atol {atol:g} would let anything pass; give a number")
    return ToleranceChange(atol, rtol)


def budget(milliseconds: float | None) -> float | None:
    """``--budget-ms``; raises UsageError for what is no time."""
    from edgekit.errors import UsageError

    if milliseconds is not None and not 0 < milliseconds < float("inf"):
        raise UsageError(f"--budget-ms {milliseconds:g} is not a time; give milliseconds above 0")
    return milliseconds


def duration(seconds: float) -> float:
    """``--seconds``; raises UsageError for what is no time to measure in."""
    from edgekit.errors import UsageError

    if not 0 < seconds <= 3600:
        raise UsageError(f"--seconds {seconds:g} is not a time between 0 and 3600; give seconds like 0.5")
    return seconds
