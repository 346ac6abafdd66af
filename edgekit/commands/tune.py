"""``edgekit tune``: every way to run a bundle on this machine, what each costs, and which one to ship."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec

from edgekit.backends.choose import open_named
from edgekit.backends.tuned import keep_choice
from edgekit.budgets import Budget, parse_budgets
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.commands.evaluate import ORIGINAL, classifier, evaluate, labelled_set
from edgekit.commands.verify import verify
from edgekit.errors import DataError, EdgekitError, Interrupted, UsageError, first_line
from edgekit.latency.finals import Final, finals, middle, seconds_for, versus
from edgekit.latency.fresh import time_fresh
from edgekit.latency.ledger import Ledger
from edgekit.latency.loop import Candidate, candidate_of
from edgekit.latency.rounds import race
from edgekit.latency.search_space import SearchSpace, files_of, of_file, search_space
from edgekit.latency.statistics import noise_of_others
from edgekit.latency.turns import Thing
from edgekit.machine import stops
from edgekit.machine.child import Failure
from edgekit.machine.cpu import CpuTime
from edgekit.machine.records import all_facts
from edgekit.parity.known import Known
from edgekit.progress import SILENT, Progress
from edgekit.reports.evaluate import EvaluateReport
from edgekit.reports.fresh import Fresh
from edgekit.reports.tune import AccuracyDifference, Metric, TuneReport
from edgekit.setups import Setup, as_setups, taking
from edgekit.tensors import LARGEST_BATCH, fixed_batch, sample_feed

BUDGETS = ("accuracy", "median", "p90", "p99", "first", "throughput", "memory", "size")
"""What a budget of ``edgekit tune`` may bound."""
FINALISTS = 3
BOUNDARY = "end-to-end"
LOAD_SECONDS = 0.02


class Goal(NamedTuple):
    """The best by ``metric`` for batches of ``batch``, host to host, within ``budgets``: texts like ``p99=5ms``."""

    metric: Metric = "median"
    batch: int = 1
    budgets: tuple[str, ...] = ()


BEST_MEDIAN = Goal()


def tune(
    bundle: Path | str,
    setups: Setup | str | Iterable[Setup | str] = (),
    goal: Goal = BEST_MEDIAN,
    *,
    data: Path | str | None = None,
    progress: Progress = SILENT,
) -> TuneReport:
    """Find the best way to run ``bundle`` on this machine for ``goal``.

    The ways are all backends, variants, threads and options that ``setups`` leave open. ``data`` are the pictures for accuracies,
    as ``evaluate`` takes them. What fails parity is never chosen. The choice is kept for ``--backend tuned``; Ctrl-C, SIGTERM
    and SIGHUP end with what is known.

    Raises BundleError for a bundle that is damaged, or replaced meanwhile, UsageError for a budget or a batch that the bundle
    cannot have, DataError for a budget of accuracy without pictures, MissingError for a backend that was named and cannot run
    here, and Interrupted where a signal comes before the first stage.
    """
    limits = parse_budgets(goal.budgets, BUDGETS)
    opened = open_bundle(Path(bundle))
    fixed = fixed_batch(opened.manifest.inputs)
    if not 1 <= goal.batch <= LARGEST_BATCH:
        raise UsageError(f"--batch {goal.batch} is no batch size from 1 to {LARGEST_BATCH}", "give one like 8")
    if fixed not in (None, goal.batch):
        raise UsageError(f"bundle {opened.root} takes batches of {fixed} only", f"give --batch {fixed}")
    if data is not None and not Path(data).exists():
        raise DataError(f"--data {data} does not exist", "give a recipe, or a folder of class folders")
    try:
        tried = search_space(opened, as_setups(setups), progress)
    except KeyboardInterrupt:
        raise Interrupted(f"stopped by {stops.words()} before anything was measured", "run it again") from None
    tuning = Tuning(opened, tried, goal, limits)
    stages: tuple[tuple[str, Callable[[Progress], None]], ...] = (
        ("loading", tuning.load),
        ("checking parity", tuning.check_parity),
        ("measuring accuracy", partial(tuning.measure_accuracy, data)),
        ("the short rounds", tuning.race),
        ("the finals", tuning.finish),
    )
    stopped = ""
    for name, stage in stages:
        try:
            stage(progress)
        except KeyboardInterrupt:
            stopped = f"by {stops.words()} during {name}"
            break
    opened.check_unchanged()  # each process has opened it anew
    return tuning.report(str(bundle), stopped)


class Tuning:
    """The stages of one tuning, in order; each adds to the ledger what it finds out."""

    def __init__(self, bundle: Bundle, tried: SearchSpace, goal: Goal, budgets: Sequence[Budget]) -> None:
        self.bundle, self.batch, self.metric, self.skipped = bundle, goal.batch, goal.metric, tried.skipped
        self.ledger = Ledger(bundle, tried.setups, budgets)
        self.notes, self.undecided = list[str](), list[str]()
        self.by_tail = goal.metric == "p99" or bool({"p90", "p99"} & self.ledger.budgets.keys())
        self.order = dict[Setup, float]()
        self.chosen: Setup | None = None

    def load(self, progress: Progress) -> None:
        """What loading takes, by a fresh process for each file and runtime; a crash ends that process only."""
        files = files_of(self.ledger.running())
        with progress.task("loading", len(files)) as advance:
            for file in files:
                ways_of_file = self.ledger.of(file)
                most = max((setup.threads for setup in ways_of_file if setup.threads), default=None)
                fresh = self._fresh(msgspec.structs.replace(file, threads=most), LOAD_SECONDS)
                for setup in ways_of_file:
                    self._loaded(setup, fresh)
                advance(1, str(file))
        self.ledger.hold("size", lambda row: row.size_bytes)
        self.ledger.hold("first", lambda row: row.first_ms)
        self.ledger.hold("memory", lambda row: row.memory_peak_bytes)

    def check_parity(self, progress: Progress) -> None:
        """``edgekit verify`` of each file and runtime, and of the bundle's claims."""
        files = files_of(self.ledger.running())
        if not files:
            return
        report = verify(self.bundle.root, files, progress=progress)
        right = {of_file(parity.setup): parity.passed for parity in report.parities if not parity.as_written}
        broken = {parity.setup.variant for parity in report.parities if parity.as_written and not parity.passed}
        claim = next((check.text for check in report.checks if check.outcome == "fail"), "")
        reason = f"the bundle's claims are wrong: {claim}" if claim else "its outputs are not within the bundle's tolerance"
        for setup in self.ledger.running():
            passed = right.get(of_file(setup), False) and setup.variant not in broken and not claim
            self.ledger.add(setup, parity=passed)
            if not passed:
                self.ledger.out(setup, "failed", f"{reason}; edgekit verify tells more")

    def measure_accuracy(self, data: Path | str | None, progress: Progress) -> None:
        """``edgekit evaluate`` of each file and runtime that is not known already."""
        files = files_of(self.ledger.running())
        if not files:
            return
        try:
            accuracies = self._accuracies(files, data, progress)
        except EdgekitError as problem:
            if data is not None or "accuracy" in self.ledger.budgets:
                raise
            self.notes.append(f"accuracy was not measured: {problem}")
            return
        for setup in self.ledger.running():
            self.ledger.add(setup, accuracy=accuracies[of_file(setup)])
        self.ledger.hold("accuracy", lambda row: None if row.accuracy is None else -100 * row.accuracy.difference)
        self.undecided += self.ledger.undecided_accuracies()

    def race(self, progress: Progress) -> None:
        """Short rounds in this process: what was slower in every one drops out."""
        ledger, running = self.ledger, self.ledger.running()
        if not running:
            return
        feed = sample_feed(self.bundle.manifest.inputs, self.batch)

        def opener(setup: Setup, stack: ExitStack) -> Candidate | None:
            try:
                ready = open_named(ledger.rows[setup].name, taking(setup, (self.batch,)), self.bundle, progress)
                return candidate_of(stack.enter_context(ready), feed, BOUNDARY)
            except (EdgekitError, MemoryError) as problem:
                ledger.out(setup, "failed", f"it does not open beside others: {first_line(problem)}")
                return None

        named = {ledger.rows[setup].name: setup for setup in running}
        with progress.task("short rounds", len(running)) as advance:
            openers = [partial(opener, setup) for setup in running]
            before = CpuTime.now()
            paces = race([*named], openers, advance=lambda name: advance(1, name), tail=self.by_tail)
        noisy = noise_of_others(before.stolen_until(CpuTime.now()))
        if noisy:
            self.notes.append(f"the short rounds were {noisy}; what dropped out there may be as fast on a quiet machine")
        for name, pace in paces.items():
            ledger.add(named[name], median_ms=pace.median_ms, throughput=1e3 * self.batch / pace.mean_ms)
            self.order[named[name]] = pace.tail_ms if self.by_tail else pace.median_ms
            if pace.slower:
                rounds = f"in every one of {len(pace.block_ms)} rounds"
                ledger.out(named[name], "slower", f"than {pace.than} {rounds}", f"at least {pace.slower:.2f} times")

    def finish(self, progress: Progress) -> None:
        """The best three in fresh processes; where none is within the budgets, the next three."""
        ledger = self.ledger
        remaining = sorted(ledger.running(), key=lambda setup: self.order.get(setup, 0.0))
        while remaining and self.chosen is None:
            finalists, remaining = remaining[:FINALISTS], remaining[FINALISTS:]
            played = self._finals(finalists, progress)
            self._hold_times(played)
            within = [setup for setup in played if setup in ledger.running()]
            if within:
                self._choose({setup: played[setup].values(self.metric) for setup in within}, len(finalists))
        for setup in ledger.running():
            if setup != self.chosen:
                ledger.out(setup, "beaten", "others were faster in the short rounds")

    def report(self, bundle: str, stopped: str) -> TuneReport:
        """The rows with the best first; the choice is kept."""
        made = datetime.now(timezone.utc).isoformat(timespec="seconds")
        kept = None if self.chosen is None else keep_choice(self.bundle, self.chosen, self.metric, self.batch, made)
        if self.chosen is not None and kept is None:
            self.notes.append("the state folder cannot be written, so that --backend tuned will not know this choice")
        return TuneReport(
            bundle=bundle,
            manifest_sha256=self.bundle.sha256,
            batch=self.batch,
            metric=self.metric,
            budgets=tuple(budget.text for budget in self.ledger.budgets.values()),
            machine=all_facts(),
            rows=self.ledger.ranked(self.metric),
            chosen=self.chosen,
            command="" if self.chosen is None else _command(bundle, self.chosen, self.batch),
            open_questions=tuple(self.undecided),
            notes=tuple(self.notes),
            skipped=self.skipped,
            kept_in="" if kept is None else str(kept),
            stopped=stopped,
        )

    def _fresh(self, setup: Setup, seconds: float) -> Fresh | Failure:
        return time_fresh(self.bundle.root, setup, self.batch, BOUNDARY, seconds)

    def _loaded(self, setup: Setup, fresh: Fresh | Failure) -> None:
        if isinstance(fresh, Failure):
            self.ledger.out(setup, "failed", f"it does not run: {fresh.sentence()}")
            return
        self.ledger.add(
            setup,
            load_ms=fresh.load_ms,
            first_ms=fresh.load_ms + fresh.first_ms,
            memory_load_bytes=fresh.memory_load_bytes,
            memory_peak_bytes=fresh.memory_peak_bytes,
        )

    def _accuracies(
        self, files: Sequence[Setup], data: Path | str | None, progress: Progress
    ) -> Mapping[Setup, AccuracyDifference]:
        """Of each file and runtime; where the original's answers are not recorded all are measured anew, against the first."""
        pictures = labelled_set(self.bundle, classifier(self.bundle), data, progress)
        known = None if pictures.fingerprint is None else Known(self.bundle, pictures.fingerprint)
        found = {setup: known.of(setup) for setup in files} if known else {}
        accuracies = {setup: accuracy for setup, accuracy in found.items() if accuracy is not None}
        bases = {accuracy.against for accuracy in accuracies.values()}
        missing = [setup for setup in files if setup not in accuracies] if bases <= {ORIGINAL} else list(files)
        if accuracies and not missing:
            self.notes.append(f"accuracies on {pictures.name} are known from before: of these files, runtimes and this CPU")
        if missing:
            measured = _differences(evaluate(self.bundle.root, data, missing, progress=progress))
            accuracies |= measured
            if known:
                known.learn(measured)
        return accuracies

    def _finals(self, finalists: Sequence[Setup], progress: Progress) -> dict[Setup, Final]:
        """What fresh processes say of ``finalists``, without those that failed in one."""
        ledger = self.ledger
        seconds = [seconds_for(ledger.rows[setup].median_ms or 0.0, tail=self.by_tail) for setup in finalists]
        things = [Thing(ledger.rows[setup].name, self.bundle.root, setup, self.batch, BOUNDARY) for setup in finalists]
        played = finals(things, seconds, progress, time_fresh)
        for setup, final in played.items():
            if final.failure:
                ledger.out(setup, "failed", f"a fresh process of it did not run: {final.failure}")
                continue
            peaks = [each.memory_peak_bytes for each in final.fresh if each.memory_peak_bytes is not None]
            ledger.add(
                setup,
                processes_ms=final.values(self.metric),
                median_ms=middle(final.values("median")),
                throughput=1e3 * self.batch / middle(final.values("throughput")),
                p99_ms=final.percentile(99),
                memory_peak_bytes=max(peaks, default=None),
                noise=final.noise,
            )
        return {setup: final for setup, final in played.items() if not final.failure}

    def _hold_times(self, played: Mapping[Setup, Final]) -> None:
        """The budgets that only fresh processes decide, for those that were in one."""
        self.ledger.hold("median", lambda row: row.median_ms, played)
        self.ledger.hold("throughput", lambda row: row.throughput, played)
        self.ledger.hold("memory", lambda row: row.memory_peak_bytes, played)
        self.ledger.hold("p99", lambda row: row.p99_ms, played)
        self.ledger.hold("p90", lambda row: played[row.setup].percentile(90), played)

    def _choose(self, values: Mapping[Setup, Sequence[float]], ways: int) -> None:
        """The way with the least metric, of ``ways`` that were in the finals; what its processes cannot tell from it is said."""
        best = min(values, key=lambda setup: middle(values[setup]))
        self.chosen = best
        self.ledger.add(best, standing="chosen")
        for setup in values:
            if setup == best:
                continue
            outcome = versus(values[best], values[setup], ways)
            ratio = f"{outcome.ratio:.3f} times its time (99 %: {outcome.low:.3f} .. {outcome.high:.3f})"
            self.ledger.out(setup, "beaten", f"in {len(values[setup])} fresh processes of each", ratio)
            if not outcome.decided:
                more = f"about {outcome.more} more processes of each would decide" if outcome.more else "they may well be alike"
                self.undecided.append(f"{self.ledger.rows[setup].name} takes {ratio}; {more}")


def _differences(report: EvaluateReport) -> dict[Setup, AccuracyDifference]:
    """Each row's accuracy against the original's, or against the first row's where the original's is not recorded."""
    pairs = {pair.second: pair for pair in report.paired}
    differences = {}
    for row in report.rows:
        pair = pairs.get(row.backend)
        figures = (pair.difference, pair.low, pair.high) if pair else (0.0, 0.0, 0.0)
        against = pair.first if pair else row.backend
        differences[of_file(row.setup)] = AccuracyDifference(row.top1, *figures, report.pictures, against)
    return differences


def _command(bundle: str, setup: Setup, batch: int) -> str:
    """What runs the bundle so, and times it."""
    return f"edgekit bench {shlex.quote(bundle)} --backend {shlex.quote(str(setup))} --batch {batch}"
