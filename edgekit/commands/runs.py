"""``edgekit runs``: trainings listed and compared, from what they have left in their folders; PyTorch is not needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.accuracy import share_interval
from edgekit.errors import EdgekitError, InputError, OutputError, UsageError
from edgekit.files import as_path, as_paths, read_text
from edgekit.recipe import flat
from edgekit.reports.runs import RunRow, RunsReport, Share
from edgekit.reports.train import Epoch
from edgekit.training.folder import (
    CHECKPOINT,
    INT8_CHECKPOINT,
    INT8_METRICS,
    RUN_METRICS,
    RUN_PROBLEM,
    RUN_RECIPE,
    RUNS,
    Stopped,
    run_recipe,
    run_report,
    stopped_in,
)

DRAWN = (".png", ".svg")


def runs(folders: Sequence[Path | str] = (), *, root: Path | str = RUNS, plot: Path | str | None = None) -> RunsReport:
    """Compare the trainings in ``folders``, or all below ``root``; ``plot`` draws their curves together (.png or .svg).

    A bare name that is no training's folder here means the one below ``root``. A folder that is not there, that holds no
    training, or a damaged one, is a row that says so. Raises InputError where none of the ``folders`` holds a training, or
    ``root`` is no folder, and UsageError for another kind of picture, and where no training has an epoch to draw.
    """
    picture = None if plot is None else as_path(plot, "plot", OutputError)
    if picture is not None and picture.suffix.lower() not in DRAWN:
        raise UsageError(f"--plot {plot} is neither .png nor .svg", "give the file one of these endings")
    below = as_path(root, "runs")
    named = as_paths(folders, "run")
    places = [_place(folder, below) for folder in named] if named else _below(below)
    if places and not any(map(_is_run, places)):
        raise _without_training(places[0], below)
    names = Counter(place.name for place in places)
    seen = [_seen(place, place.name if names[place.name] == 1 else str(place)) for place in places]
    rows = tuple(each.row for each in seen)
    if picture is not None:
        from edgekit.training.curve import Curve, draw_runs

        curves = {each.row.run: Curve(each.history, each.int8) for each in seen if each.history}
        if not curves:
            raise UsageError("there is no training with an epoch to draw", "name folders of trainings")
        draw_runs(curves, picture)
    settings = [row.settings for row in rows if row.settings]
    keys = dict.fromkeys(key for each in settings for key in each)
    differing = tuple(key for key in keys if len({each.get(key) for each in settings}) > 1)
    return RunsReport(rows, differing, None if plot is None else str(plot))


class _Seen(NamedTuple):
    """A training as a row, and its epochs, those for int8 too."""

    row: RunRow
    history: tuple[Epoch, ...] = ()
    int8: tuple[Epoch, ...] = ()


def _place(given: Path, root: Path) -> Path:
    """The folder of a training that is given by its path, or by its bare name below ``root``."""
    is_name = len(given.parts) == 1 and not _is_run(given)
    return root / given if is_name and _is_run(root / given) else given


def _without_training(given: Path, root: Path) -> InputError:
    """What is wrong with a folder that is not there, or holds no training."""
    if given.is_dir():
        return InputError(f"{given} holds no training", "give folders that edgekit train wrote")
    also = f", nor is there a training {root / given}" if len(given.parts) == 1 else ""
    return InputError(f"{given} is no folder{also}", "give the folder of a training, or its name below --runs")


def _below(root: Path) -> list[Path]:
    """The trainings below ``root``."""
    if not root.is_dir():
        raise InputError(f"there is no folder {root}", "edgekit train RECIPE makes a training there, and --runs names another")
    return sorted(place for place in root.iterdir() if _is_run(place))


def _is_run(place: Path) -> bool:
    return any((place / name).is_file() for name in (RUN_RECIPE, RUN_METRICS, CHECKPOINT, RUN_PROBLEM))


def _seen(place: Path, name: str) -> _Seen:
    if not _is_run(place):
        return _Seen(RunRow(name, "holds no training" if place.is_dir() else "no such folder"))
    try:
        return _finished(place, name) if (place / RUN_RECIPE).is_file() else _unfinished(place, name)
    except (EdgekitError, msgspec.DecodeError) as problem:
        return _Seen(RunRow(name, "damaged", note=str(problem)))


def _finished(place: Path, name: str) -> _Seen:
    """A training that has ended, or whose training for int8 has not; another in its folder may not have."""
    recipe, report = run_recipe(place), run_report(place)
    origin, problem = report.provenance, _problem(place)
    state, note, int8 = "finished", "", report.int8.epochs if report.int8 is not None else ()
    if recipe.train.int8 is not None and report.int8 is None:
        stopped = stopped_in(place, INT8_CHECKPOINT) or Stopped(0, recipe.train.int8.epochs, 0, 1)
        state, note = ("failed", problem) if problem else (f"int8 {stopped}", "")
        int8 = _history(place, INT8_METRICS)[: stopped.epoch]
    elif problem:
        note = f"another training in its folder failed: {problem}"
    else:
        another = stopped_in(place)
        if another and not (another.at_end and _history(place) in ((), report.epochs)):
            note = f"another training in its folder is in {another}"
    classes = report.data.classes if report.data else ()
    row = RunRow(
        name,
        state,
        report.model,
        report.parameters,
        len(report.epochs),
        _accuracy(report.holdout_accuracy, sum(row.held_out for row in classes)),
        _accuracy(report.test_accuracy, sum(row.test for row in classes)),
        _accuracy(report.int8.trained, report.int8.pictures) if report.int8 else None,
        report.seconds + (report.int8.seconds if report.int8 else 0.0),
        origin.commit if origin else "",
        origin.changed if origin else False,
        note,
        {key: msgspec.json.encode(value).decode() for key, value in flat(recipe).items()},
    )
    return _Seen(row, report.epochs, int8)


def _unfinished(place: Path, name: str) -> _Seen:
    """A training that was stopped before its end, or runs: its checkpoint tells where it is, its metrics what it has reached."""
    history, stopped, problem = _history(place), stopped_in(place), _problem(place)
    last = history[-1] if history else None
    row = RunRow(
        name,
        "failed" if problem else str(stopped or "unfinished"),
        epochs=len(history),
        held_out=_accuracy(last.holdout_accuracy if last else None, 0),
        seconds=sum(epoch.seconds for epoch in history),
        note=problem,
    )
    return _Seen(row, history)


def _accuracy(share: float | None, pictures: int) -> Share | None:
    """With its interval where it is known of how many ``pictures`` it is."""
    if share is None:
        return None
    return Share(share, *share_interval(share, pictures)) if pictures else Share(share)


def _problem(place: Path) -> str:
    """Why the training ended before its end; nothing where it did not fail."""
    return read_text(place / RUN_PROBLEM, "problem").strip() if (place / RUN_PROBLEM).is_file() else ""


def _history(place: Path, name: str = RUN_METRICS) -> tuple[Epoch, ...]:
    """The epochs in a training's metrics; raises as ``read_text``."""
    if not (place / name).is_file():
        return ()
    return tuple(msgspec.json.decode(line, type=Epoch) for line in read_text(place / name, "metrics").splitlines())
