"""``edgekit bench A --against B``: is one bundle slower than another, by pairs of fresh processes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.backends import USUAL_BACKEND
from edgekit.backends.choose import choose
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.commands.ways import USUAL_TIMING, fitting, short_names
from edgekit.errors import Interrupted, UsageError
from edgekit.latency.against import AGAIN, LIMIT, Duel, duels, judged, looks, usual_pairs
from edgekit.latency.control import control_of, controls_of
from edgekit.latency.fresh import time_fresh
from edgekit.latency.loop import Timing
from edgekit.latency.other_day import Today, check_seconds, other_day, read_report, row_like
from edgekit.latency.signflip import MOST_PAIRS
from edgekit.latency.turns import Thing, Turns, in_turns
from edgekit.machine import stops
from edgekit.machine.child import Failure
from edgekit.machine.cpu import cores
from edgekit.machine.records import all_facts
from edgekit.progress import SILENT, Progress
from edgekit.reports.against import AgainstReport, AgainstRow, Judged, Stored
from edgekit.reports.fresh import Fresh
from edgekit.setups import Setup, as_setups, filled, labels


class Terms(NamedTuple):
    """What decides: ``limit`` is a share of 1.

    ``pairs`` of the first look, and as many again of what it leaves undecided; None: 8, or 10 and more where several rows decide.
    ``setups``: how B is run, one for each of A's; none of them: as A is. ``undecided_passes``: no verdict is taken as a pass.
    """

    limit: float = LIMIT
    pairs: int | None = None
    setups: tuple[Setup | str, ...] = ()
    undecided_passes: bool = False


USUAL_TERMS = Terms()


def usual_setups() -> list[str]:
    """The text of the setup that decides where none is named."""
    return [USUAL_BACKEND]


def against(
    bundle: Path | str,
    other: Path | str,
    setups: Setup | str | Iterable[Setup | str] = (),
    timing: Timing = USUAL_TIMING,
    *,
    terms: Terms = USUAL_TERMS,
    progress: Progress = SILENT,
) -> AgainstReport:
    """Whether ``bundle`` is slower than ``other``, a bundle or the JSON of ``bench`` with ``--processes``, by more than a limit.

    Each of ``setups`` (the usual backend where there are none) and of ``timing.rows`` is a row that decides. Raises BundleError
    for a damaged bundle, InputError for a file that is no such report, UsageError for terms that decide nothing, MissingError
    for a setup that cannot run here, and Interrupted, with what was seen until then, after Ctrl-C, SIGTERM or SIGHUP.
    """
    opened = open_bundle(Path(bundle))
    _check(terms)
    if Path(other).is_file():
        return _against_stored(opened, Path(other), as_setups(setups), timing, terms, progress)
    second = open_bundle(Path(other))
    timing = fitting(timing, [opened, second])
    sizes = [batch for batch, _ in timing.places()]
    ours = _chosen(opened, as_setups(setups), sizes, progress)
    theirs = _chosen(second, terms.setups or as_setups(setups), sizes, progress)
    if len(theirs) != len(ours):
        raise UsageError(
            f"{len(ours)} setups of A stand against {len(theirs)} of B", "give --against-backend as often as --backend"
        )
    rows = list(_rows(short_names([opened.root, second.root]), (opened, second), list(zip(ours, theirs, strict=True)), timing))
    pairs = terms.pairs or usual_pairs(len(rows))
    outcome = duels(rows, Turns(pairs, timing.seconds, timing.seed), terms.limit, progress)
    opened.check_unchanged()
    second.check_unchanged()
    report = _report((opened, str(other), second.sha256), outcome, timing, terms)
    return msgspec.structs.replace(report, looks=tuple(look.pairs for look in looks(pairs)))


def _check(terms: Terms) -> None:
    if not 0 < terms.limit < 1:
        raise UsageError(f"--limit {100 * terms.limit:g}% is no percentage above 0, below 100", "give one like 5%")
    if terms.pairs is not None and not 2 <= terms.pairs <= MOST_PAIRS:
        raise UsageError(f"--pairs {terms.pairs} is not a number from 2 to {MOST_PAIRS}", "give one like 8")


def _chosen(bundle: Bundle, setups: Sequence[Setup | str], batches: Sequence[int], progress: Progress) -> tuple[Setup, ...]:
    """The setups with their variants and threads named."""
    chosen = choose(bundle, setups or (Setup(USUAL_BACKEND),), batches=batches, progress=progress).setups
    return tuple(filled(setup, threads=cores()) for setup in chosen)


def _rows(
    names: tuple[str, ...], bundles: tuple[Bundle, Bundle], setups: Sequence[tuple[Setup, Setup]], timing: Timing
) -> Iterator[Duel]:
    for (ours, theirs), label in zip(setups, labels([ours for ours, _ in setups]), strict=True):
        for batch, boundary in timing.places():
            sides = zip(names, bundles, (ours, theirs), strict=True)
            things = [Thing(f"{name} on {setup}", one.root, setup, batch, boundary) for name, one, setup in sides]
            yield Duel(label, *things)


def _against_stored(
    bundle: Bundle, file: Path, setups: Sequence[Setup], timing: Timing, terms: Terms, progress: Progress
) -> AgainstReport:
    """As many processes of A and of the reference network now as the report has of B and of it then."""
    if terms.setups or terms.pairs:
        word = "--against-backend" if terms.setups else "--pairs"
        raise UsageError(f"{word} is not for a stored report, whose processes have run", "leave it out")
    report = read_report(file)
    check_seconds(file, report, timing.seconds)
    timing = fitting(timing, [bundle])
    chosen = _chosen(bundle, setups, [batch for batch, _ in timing.places()], progress)
    rows = list(_rows(("A", "B"), (bundle, bundle), [(setup, setup) for setup in chosen], timing))
    then = [row_like(row.first, report, file) for row in rows]
    rows = [row._replace(second=row.second._replace(setup=stored.setup)) for row, stored in zip(rows, then, strict=True)]
    pairs = min(MOST_PAIRS, *(len(row.processes) for row in then))
    controls = controls_of(chosen)
    things = (*(row.first for row in rows), *controls)
    timed = _all_timed(things, Turns(pairs, timing.seconds, timing.seed), progress)
    bundle.check_unchanged()
    today = Today(all_facts(), [row.first.setup for row in rows], tuple(zip(controls, timed[len(rows) :], strict=True)))
    day = other_day(file, report, today, terms.limit)
    moves = {control.setup: control for control in day.controls if not day.informs_only}
    theirs = [row.processes[:pairs] for row in then]
    outcome = judged(rows, timed[: len(rows)], theirs, [moves.get(control_of(row.first.setup)) for row in rows], terms.limit)
    if day.informs_only:
        nothing = Judged("undecided", f"{file} informs only")
        outcome = tuple(msgspec.structs.replace(row, judged=nothing) for row in outcome)
    return _report((bundle, str(file), ", ".join(one.sha256 for one in report.bundles)), outcome, timing, terms, day)


def _all_timed(things: Sequence[Thing], turns: Turns, progress: Progress) -> list[list[Fresh]]:
    """``in_turns``; raises Interrupted with the number of processes that were done."""
    done = 0

    def count(bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh | Failure:
        nonlocal done
        outcome = time_fresh(bundle, setup, batch, boundary, seconds)
        done += 1
        return outcome

    try:
        return in_turns(things, turns, progress, count)
    except KeyboardInterrupt:
        every = len(things) * (1 + turns.each)
        reason = (
            f"stopped by {stops.words()} after {done} of {every} processes of A and the reference network, which decide nothing"
        )
        raise Interrupted(reason, AGAIN) from None


def _report(
    what: tuple[Bundle, str, str], rows: Sequence[AgainstRow], timing: Timing, terms: Terms, day: Stored | None = None
) -> AgainstReport:
    bundle, other, sha256 = what
    return AgainstReport(
        bundle=str(bundle.root),
        bundle_sha256=bundle.sha256,
        against=other,
        against_sha256=sha256,
        machine=all_facts(),
        limit=terms.limit,
        seconds=timing.seconds,
        seed=timing.seed or 0,
        rows=tuple(rows),
        undecided_passes=terms.undecided_passes,
        stored=day,
    )
