"""The tables of ``train_speed.json`` and ``train_keys.json`` for ``docs/results.md``; PyTorch is not needed."""

from __future__ import annotations

import statistics
from typing import Any, NamedTuple

from edgekit.accuracy import share_interval

SECONDS, ACCURACY, PEAK = range(3)
"""What an epoch in a race is: seconds with its evaluation, test accuracy after it, peak memory of the process in MiB."""
SMALLEST_SHARE = 0.02
"""Operators with less of a step's time are not named."""
SIDES = {"edgekit": "{}", "scratch": "{}, hand-written batch norm"}
"""edgekit's sides of a race, and how a row calls them."""


class Side(NamedTuple):
    """One side of a model's races: the median seconds of an epoch, and seconds to the target by seed, None where it is missed."""

    epoch_seconds: float
    to_target: list[float | None]

    @property
    def target_seconds(self) -> float | None:
        """The median over seeds; None unless all reach the target."""
        reached = [seconds for seconds in self.to_target if seconds is not None]
        return statistics.median(reached) if len(reached) == len(self.to_target) else None


def to_target(epochs: list[list[float]], target: float) -> float | None:
    """Seconds until the first epoch that reaches the target; None where none does."""
    total = 0.0
    for epoch in epochs:
        total += epoch[SECONDS]
        if epoch[ACCURACY] >= target:
            return total
    return None


def measured_sides(result: dict[str, Any]) -> dict[str, Side]:
    """Each side of a model's races, from the epochs as they were measured."""
    races = list(result["races"].values())
    return {
        name: Side(
            statistics.median(epoch[SECONDS] for race in races for epoch in race[name]),
            [to_target(race[name], result["target"]) for race in races],
        )
        for name in races[0]
    }


def speed(results: dict[str, Any]) -> list[str]:
    """The lines on seconds an epoch and seconds to the tutorial's accuracy; ``results`` as ``train_speed.py`` writes them."""
    lines = [
        "| model | tutorial, s an epoch | edgekit's | of its time | accuracy | tutorial, s to it | edgekit's | of its time |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for model, result in results["models"].items():
        measured = measured_sides(result)
        tutorial = measured["tutorial"]
        for name, title in SIDES.items():
            if name in measured:
                own = measured[name]
                cells = (
                    title.format(model),
                    f"{tutorial.epoch_seconds:.1f}",
                    f"{own.epoch_seconds:.1f}",
                    _part(own.epoch_seconds, tutorial.epoch_seconds),
                    f"{result['target']:.3f}",
                    _told(tutorial.target_seconds),
                    _told(own.target_seconds),
                    _part(own.target_seconds, tutorial.target_seconds),
                )
                lines.append(f"| {' | '.join(cells)} |")
    return [
        *lines,
        "",
        *(_circumstances(model, result) for model, result in results["models"].items()),
        "The tutorial's loop is a DataLoader with two workers, ToTensor, Adam, batch 256. How many epochs edgekit's schedule has",
        "was chosen by the accuracy on the test set, which both sides read after every epoch: the times compare loops, and the",
        "accuracies are no estimate for new pictures. That is the table above.",
    ]


def _circumstances(model: str, result: dict[str, Any]) -> str:
    seeds = [*result["races"]]
    of_seeds = f"seed {seeds[0]}" if len(seeds) == 1 else f"medians over seeds {', '.join(seeds)}"
    machine = f"{result['machine']['cores']} cores of {result['machine']['cpu']}"
    return f"{model}: {of_seeds}, in turns, a process a side, on {machine}, torch {result['torch']}."


def steps(profile: dict[str, Any]) -> list[str]:
    """The lines on where the time of a training step goes; ``profile`` as ``train_speed.py --profile`` writes it."""
    lines = ["| model | share of a step's CPU time, by operator, the largest first |", "|---|---|"]
    for model, shares in profile["models"].items():
        largest = [f"`{operator.removeprefix('aten::')}` {share:.0%}" for operator, share in shares if share >= SMALLEST_SHARE]
        lines.append(f"| {model} | {', '.join(largest)} |")
    machine = profile["machine"]
    return [
        *lines,
        "",
        f"On {machine['cores']} cores of {machine['cpu']}, torch {profile['torch']}. The rest is in smaller parts.",
    ]


def _told(seconds: float | None) -> str:
    return "not reached" if seconds is None else f"{seconds:.0f}"


def _part(own: float | None, tutorial: float | None) -> str:
    """Edgekit's time as a part of the tutorial's, as ``1/2.7``, or ``1.8 times`` where it is more."""
    if own is None or tutorial is None:
        return ""
    return f"1/{tutorial / own:.1f}" if own <= tutorial else f"{own / tutorial:.1f} times"


def keys(results: dict[str, Any], pictures: int) -> list[str]:
    """The lines on what each key of ``[train]`` does, on so many held-out ``pictures``; ``results`` as of ``train_keys.py``."""
    rows = results["rows"]
    base_name, base = next(iter(rows.items()))
    usual = statistics.mean(base["held_out"])
    low, high = share_interval(usual, pictures)
    epochs, seeds, around = base["settings"]["epochs"], len(base["seeds"]), 50 * (high - low)
    of_seeds = "of one seed" if seeds == 1 else f"mean of {seeds} seeds"
    lines = [
        f"EdgeNet in {epochs} epochs with one key changed; accuracy on {pictures:,} held-out pictures, {of_seeds}.",
        f"The 95 % interval of an accuracy is about {around:.1f} points either way. Where a change is smaller, it is not shown",
        "that the key matters here; other networks and longer trainings may differ. Seconds are of a machine with other work.",
        "",
        "| changed | held out | change, points | s an epoch | first epoch |",
        "|---|---|---|---|---|",
    ]
    for name, row in rows.items():
        reached = statistics.mean(row["held_out"])
        change = "" if name == base_name else f"{100 * (reached - usual):+.2f}"
        cells = (f"`{name}`" if "=" in name else name, f"{reached:.4f}", change)
        lines.append(f"| {' | '.join(cells)} | {row['epoch_seconds']:.1f} | {row['first_epoch_seconds']:.1f} |")
    return lines
