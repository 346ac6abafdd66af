"""The words of run and train; importing this imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.options.completion import recipe_paths
from edgekit.cli.options.shared import option

if TYPE_CHECKING:
    pass


RecipePath = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe (*.toml).", autocompletion=recipe_paths)]
RecipeOrRun = Annotated[
    Path,
    typer.Argument(
        metavar="RECIPE|RUN", help="A recipe (*.toml), or the folder of a finished run to repeat.", autocompletion=recipe_paths
    ),
]
TensorBoardFolder = Annotated[
    Path | None,
    option("--tensorboard", metavar="FOLDER", help="Write TensorBoard's event files there, a training to a folder."),
]
