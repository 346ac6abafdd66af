"""``edgekit runs``: trainings listed and compared, from what they have left in their folders; PyTorch is not needed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from edgekit.accuracy import share_interval
from edgekit.errors import EdgekitError, UsageError
from edgekit.files import read_text
from edgekit.recipe import flat
from edgekit.reports.runs import RunRow, RunsReport
from edgekit.reports.train import Epoch, TrainReport
from edgekit.training.folder import RUN_METRICS, RUN_RECIPE, RUNS, run_recipe, run_report

DRAWN = (".png", ".svg")


def runs(folders: Sequence[Path | str] = (), *, root: Path | str = RUNS, plot: Path | str | None = None) -> RunsReport:
    """Compare the trainings in ``folders``, or all below ``root``; ``plot`` draws their curves together (.png or .svg).

    A folder that holds no training, or a damaged one, is a row that says so. Raises UsageError for another kind of picture, and
    where no training has an epoch to draw.
    """
    if plot is not None and Path(plot).suffix.lower() not in DRAWN:
        raise UsageError(f"--plot {plot} is neither .png nor .svg", "give the file one of these endings")
    places = [Path(folder) for folder in folders] or sorted(place for place in Path(root).glob("*") if _is_run(place))
    names = Counter(place.name for place in places)
    seen = [_seen(place, place.name if names[place.name] == 1 else str(place)) for place in places]
    rows = tuple(each.row for each in seen)
    if plot is not None:
        from edgekit.training.curve import draw_runs

        histories = {each.row.run: each.history for each in seen if each.history}
        if not histories:
            raise UsageError("there is no training with an epoch to draw", "name folders of trainings")
        draw_runs(histories, Path(plot))
    settings = [row.settings for row in rows if row.settings]
    keys = dict.fromkeys(key for each in settings for key in each)
    differing = tuple(key for key in keys if len({each.get(key) for each in settings}) > 1)
    return RunsReport(rows, differing, None if plot is None else str(plot))


class _Seen(NamedTuple):
    """A training as a row, and its epochs."""

    row: RunRow
    history: tuple[Epoch, ...] = ()


def _is_run(place: Path) -> bool:
    return any((place / name).is_file() for name in (RUN_RECIPE, RUN_METRICS))


def _seen(place: Path, name: str) -> _Seen:
    if not place.is_dir():
        return _Seen(RunRow(name, "no such folder"))
    if not (place / RUN_RECIPE).is_file():
        return _unfinished(place, name)
    try:
        recipe, report, history = run_recipe(place), run_report(place), _history(place)
    except (EdgekitError, msgspec.DecodeError) as problem:
        return _Seen(RunRow(name, f"damaged: {problem}"))
    pictures = sum(row.test for row in report.data.classes) if report.data else 0
    low, high = share_interval(report.test_accuracy, pictures) if pictures else (None, None)
    settings = {key: msgspec.json.encode(value).decode() for key, value in flat(recipe).items()}
    row = _finished(name, report, settings, (low, high))
    if history not in ((), report.epochs):
        row = msgspec.structs.replace(row, state="finished; another is unfinished")
    return _Seen(row, report.epochs)


def _history(place: Path) -> tuple[Epoch, ...]:
    """The epochs in a training's metrics; the last line may add what was known at the end. Raises as ``read_text``."""
    if not (place / RUN_METRICS).is_file():
        return ()
    rows = [msgspec.json.decode(line, type=dict[str, Any]) for line in read_text(place / RUN_METRICS, "metrics").splitlines()]
    epochs = [{key: value for key, value in row.items() if key in Epoch.__struct_fields__} for row in rows]
    if len(epochs) > 1 and epochs[-1].get("epoch") == epochs[-2].get("epoch"):
        epochs.pop()
    return tuple(msgspec.convert(row, Epoch) for row in epochs)


def _finished(name: str, report: TrainReport, settings: dict[str, str], interval: tuple[float | None, float | None]) -> RunRow:
    origin = report.provenance
    return RunRow(
        name,
        "finished",
        report.model,
        report.parameters,
        len(report.epochs),
        report.holdout_accuracy,
        report.test_accuracy,
        *interval,
        report.seconds,
        origin.commit if origin else "",
        origin.changed if origin else False,
        settings,
    )


def _unfinished(place: Path, name: str) -> _Seen:
    """A training that was stopped before its end: its metrics tell how far it came."""
    if not (place / RUN_METRICS).is_file():
        return _Seen(RunRow(name, "holds no training"))
    try:
        history = _history(place)
    except (EdgekitError, msgspec.DecodeError) as problem:
        return _Seen(RunRow(name, f"damaged: {problem}"))
    last = history[-1] if history else None
    row = RunRow(
        name,
        "unfinished",
        epochs=len(history),
        holdout_accuracy=last.holdout_accuracy if last else None,
        seconds=sum(epoch.seconds for epoch in history),
    )
    return _Seen(row, history)
