"""The commands that train, and what is there to train. Nothing heavy is imported before a command needs it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgekit.cli.action import carry_out
from edgekit.cli.options import shared as options
from edgekit.cli.options.completion import dataset_names
from edgekit.cli.options.shared import BundleFolder, Debug, Device, Json, Runs
from edgekit.cli.options.train import RecipeOrRun, RecipePath, TensorBoardFolder

if TYPE_CHECKING:
    from edgekit.progress import Progress
    from edgekit.reports.base import Report
    from edgekit.training.folder import Begin


def run(
    recipe: RecipePath,
    output: BundleFolder = None,
    runs: Runs = Path("runs"),
    device: Device = "auto",
    restart: Annotated[bool, options.flag("--restart", help="Discard an interrupted training.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Every step in order: train, export, verify, bench. Steps whose inputs have not changed are skipped."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.run import run as run_recipe

        return run_recipe(recipe, runs=runs, output=output, device=device, restart=restart, progress=progress)

    carry_out(action, json, debug)


def train(
    recipe: RecipeOrRun,
    resume: Annotated[bool, options.flag("--resume", help="Continue an interrupted training.")] = False,
    restart: Annotated[bool, options.flag("--restart", help="Discard an interrupted training.")] = False,
    device: Device = "auto",
    runs: Annotated[
        Path | None,
        options.option("--runs", metavar="FOLDER", help="Where its folder is: runs, or that of a RUN, if left out."),
    ] = None,
    tensorboard: TensorBoardFolder = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Train a recipe into runs/<name>/: weights, checkpoint, metrics.jsonl, curve.png. Ctrl-C keeps a checkpoint.

    The folder of a finished run, given in place of a recipe, is trained again, and compared with what it was.

    On several processes or machines: torchrun --nproc-per-node 2 -m edgekit train RECIPE.
    """

    def action(progress: Progress) -> Report:
        from edgekit.cli.outcome import exit_code
        from edgekit.commands.train import processes, recipe_of
        from edgekit.commands.train import train as train_recipe
        from edgekit.machine.launcher import Elsewhere

        begin: Begin = "resume" if resume else "restart" if restart else "anew"
        with processes() as speaks:
            wanted = recipe_of(recipe)
            place = None if runs is None else runs / wanted.recipe.name
            report = train_recipe(recipe, place, device=device, begin=begin, progress=progress, tensorboard=tensorboard)
        if not speaks:
            raise Elsewhere(exit_code(report))
        return report

    carry_out(action, json, debug)


def runs(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(metavar="RUN...", help="Folders of trainings, or names below --runs; all there if left out."),
    ] = None,
    runs: Runs = Path("runs"),
    plot: Annotated[
        Path | None,
        options.option(
            "--plot", metavar="FILE", help="Draw their losses and accuracies together, as a PNG or an SVG by its name."
        ),
    ] = None,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """List and compare trainings: their figures, and the recipe keys in which they differ."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.runs import runs as compare

        return compare(folders or (), root=runs, plot=plot)

    carry_out(action, json, debug)


def models(json: Json = False, debug: Debug = False) -> None:
    """The models edgekit ships."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.models import models as list_models

        return list_models()

    carry_out(action, json, debug)


def fetch(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The dataset: fashion-mnist.", autocompletion=dataset_names)],
    json: Json = False,
    debug: Debug = False,
) -> None:
    """Find or fetch a dataset and check its sha256."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.data import fetch as fetch_data

        return fetch_data(name, progress)

    carry_out(action, json, debug)


def cache(
    remove: Annotated[bool, typer.Option("--remove", help="Remove them: they are decoded again when they are needed.")] = False,
    json: Json = False,
    debug: Debug = False,
) -> None:
    """The decoded pictures of large folders in edgekit's cache: of what, and how large."""

    def action(progress: Progress) -> Report:
        from edgekit.commands.data import cache as decoded_pictures

        return decoded_pictures(remove=remove)

    carry_out(action, json, debug)
