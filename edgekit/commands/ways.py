"""What a timing is about: bundles by setups, each under a name of its own, and the batches that all of them take."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.backends.choose import choose
from edgekit.bundle.folder import Bundle
from edgekit.errors import UsageError
from edgekit.latency.loop import Timing, drawn_seed
from edgekit.machine.cpu import cores
from edgekit.progress import SILENT, Progress
from edgekit.reports.base import Skipped
from edgekit.setups import Setup, as_setups, filled, labels
from edgekit.tensors import fixed_batch

USUAL_TIMING = Timing()


class Way(NamedTuple):
    """One bundle by one setup, under the name of its rows; ``label`` is the bundle's alone."""

    name: str
    label: str
    bundle: Bundle
    setup: Setup


def ways_of(
    bundles: Sequence[Bundle],
    setups: Setup | str | Iterable[Setup | str],
    batches: Sequence[int] = (),
    progress: Progress = SILENT,
) -> tuple[list[Way], tuple[Skipped, ...]]:
    """Every bundle by every setup that can run it, and who cannot; ``batches`` are to be timed. Raises what ``choose`` does.

    A setup's threads are a number, because a report is read on other machines too.
    """
    asked = as_setups(setups)
    choices = [choose(bundle, asked, batches=batches, progress=progress) for bundle in bundles]
    chosen = [
        (label, bundle, setup)
        for label, bundle, choice in zip(short_names([bundle.root for bundle in bundles]), bundles, choices, strict=True)
        for setup in choice.setups
    ]
    ways = [
        Way(f"{label} {name}" if len(bundles) > 1 else name, label, bundle, filled(setup, threads=cores()))
        for (label, bundle, setup), name in zip(chosen, labels([setup for *_, setup in chosen]), strict=True)
    ]
    return ways, tuple(dict.fromkeys(row for choice in choices for row in choice.skipped))


def short_names(places: Sequence[Path]) -> tuple[str, ...]:
    """The last parts of the paths, as many as tell them apart; one that is there twice is numbered."""
    parts = [place.absolute().parts for place in places]
    depth = next(depth for depth in range(1, 1 + max(map(len, parts))) if _different(parts, depth))
    names: list[str] = []
    for place, own in enumerate(parts):
        earlier = parts[:place].count(own)
        names.append("/".join(own[-depth:]) + (f"#{earlier + 1}" if earlier else ""))
    return tuple(names)


def _different(parts: Sequence[tuple[str, ...]], depth: int) -> bool:
    """Whether the last ``depth`` parts tell apart what is different."""
    return len({own[-depth:] for own in parts}) == len(set(parts))


def fitting(timing: Timing, bundles: Sequence[Bundle]) -> Timing:
    """The timing with the one batch size of bundles that take no other, and with a seed, by chance where none was given.

    Raises UsageError where another batch size was asked for.
    """
    return msgspec.structs.replace(_of_their_batch(timing, bundles), seed=drawn_seed(timing.seed))


def _of_their_batch(timing: Timing, bundles: Sequence[Bundle]) -> Timing:
    fixed = [(fixed_batch(bundle.manifest.inputs), bundle.root) for bundle in bundles]
    sizes = {size: root for size, root in fixed if size is not None}
    if len(sizes) > 1:
        told = " and ".join(f"bundle {root} takes batches of {size} only" for size, root in sizes.items())
        raise UsageError(told, "time them one by one")
    for size, root in sizes.items():
        if timing.batches not in ((size,), USUAL_TIMING.batches):
            raise UsageError(f"bundle {root} takes batches of {size} only", f"give --batch {size}, or leave it out")
        return msgspec.structs.replace(timing, batches=(size,))
    return timing
