"""Latency: the same boundary for every backend, candidates taking turns, raw samples kept.

A round gives each candidate one block: a few calls that are not recorded, because the others have just used the caches and
left their threads spinning, then recorded calls for a tenth of a second. Drift of the machine hits all alike, and a
comparison is made within each round. A GPU's clocks rise over hundreds of milliseconds of work: its candidates run that long
before anything is recorded, and for a twentieth of a second more where it sat idle during a block of the CPU's. Its clock,
temperature and power are read after each of their blocks, the CPU's clock before the first block and after the last.
"""

from __future__ import annotations

import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from time import perf_counter_ns
from typing import NamedTuple

import msgspec
import numpy as np

from edgekit.backends.contract import OnDevice, Opened, Session
from edgekit.backends.fake import FakeSession
from edgekit.errors import UsageError
from edgekit.latency.prediction import FEWEST_PROCESSES
from edgekit.latency.statistics import PERCENTS, median_interval, noise, percentile, speedups
from edgekit.machine.cpu import CpuTime, cpu_clocks_mhz
from edgekit.machine.gpu import POWER_LIMIT, GpuState, gpu_state
from edgekit.progress import SILENT, Progress
from edgekit.reports.bench import Comparison, LatencyReport
from edgekit.reports.samples import Kept
from edgekit.setups import Setup
from edgekit.tensors import LARGEST_BATCH, Feed, sample_feed

BOUNDARIES = ("device", "end-to-end")
BLOCK_SECONDS = 0.1
WARMUP_SECONDS = 0.01
WAKE_SECONDS = 0.2
REWAKE_SECONDS = 0.05
MAX_BLOCK_CALLS = 1000
DEVICE_CALLS = 100
FEWEST_ROUNDS = 5
MOST_PROCESSES = 100
NOISY_CLOCK = 0.9


MOST_SEED = 2**32


def drawn_seed(given: int | None) -> int:
    """``given``, or a seed by chance, below ``MOST_SEED``, where there is none."""
    return secrets.randbelow(MOST_SEED) if given is None else given


class Candidate(NamedTuple):
    """A candidate of a timing: ``call`` runs it once."""

    name: str
    call: Callable[[], object]
    facts: dict[str, str]
    on_gpu: bool = False
    setup: Setup | None = None


class Row(NamedTuple):
    """Which row of a timing is meant; batch None is the first of the timing."""

    batch: int | None = None
    boundary: str = "end-to-end"


class Timing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Batch sizes, and ``seconds`` of recorded calls for each session, batch and boundary.

    ``processes`` fresh ones, if any, are timed for each of ``rows``; ``seed`` draws the order in which they take turns,
    and the arrivals under load. None is another one each time: a constant order would favour the same side in every run.
    """

    batches: tuple[int, ...] = (1, 8, 32)
    seconds: float = 1.0
    processes: int = 0
    rows: tuple[Row, ...] = (Row(),)
    seed: int | None = None

    def __post_init__(self) -> None:
        """Raise UsageError for batches that are none, or a time in which nothing can be measured."""
        if not self.batches or not all(1 <= size <= LARGEST_BATCH for size in self.batches):
            raise UsageError(f"{self.batches} are no batch sizes", f"give whole numbers from 1 to {LARGEST_BATCH}")
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"{self.seconds:g} seconds is not a time between 0 and 3600", "give seconds like 0.5")
        if self.processes != 0 and not FEWEST_PROCESSES <= self.processes <= MOST_PROCESSES:
            raise UsageError(
                f"{self.processes} processes tell nothing of the next run, or take too long",
                f"give a number from {FEWEST_PROCESSES} to {MOST_PROCESSES}",
            )

    def places(self) -> tuple[tuple[int, str], ...]:
        """Batch and boundary of each of ``rows``, each once."""
        return tuple(dict.fromkeys((row.batch or self.batches[0], row.boundary) for row in self.rows))


class Conditions(NamedTuple):
    """The state of the machine during a block.

    ``stolen`` is the share of the cores that others took; ``gpu`` are the GPU's states, one after each block; ``cpu_mhz`` are
    clocks of the cores.
    """

    stolen: float = 0.0
    gpu: Sequence[GpuState] = ()
    cpu_mhz: Sequence[int] = ()


def time_sessions(
    opened: Sequence[Opened], timing: Timing, progress: Progress = SILENT
) -> tuple[tuple[LatencyReport, ...], tuple[Comparison, ...]]:
    """Time every session at every batch and both boundaries, taking turns."""
    rows: list[LatencyReport] = []
    comparisons: list[Comparison] = []
    with progress.task("timing", len(timing.batches) * len(BOUNDARIES)) as advance:
        for batch in timing.batches:
            feeds = [sample_feed(ready.session.inputs, batch) for ready in opened]  # one and the same for the same inputs
            for boundary in BOUNDARIES:
                candidates = [candidate_of(ready, feed, boundary) for ready, feed in zip(opened, feeds, strict=True)]
                measured = interleave(candidates, batch, boundary, timing.seconds)
                if boundary == "device":
                    timed = zip(measured, opened, candidates, feeds, strict=True)
                    measured = [_with_device_times(row, ready.session, candidate, feed) for row, ready, candidate, feed in timed]
                rows.extend(measured)
                comparisons.extend(speedups(measured))
                advance(1, f"batch {batch}, {boundary}")
    return tuple(rows), tuple(comparisons)


def interleave(candidates: Sequence[Candidate], batch: int, boundary: str, seconds: float) -> list[LatencyReport]:
    """Blocks A B C A B C ... until each candidate had ``seconds``, in at least five rounds."""
    rounds = max(FEWEST_ROUNDS, round(seconds / BLOCK_SECONDS))
    block_seconds = seconds / rounds
    warmups, blocks = [Kept() for _ in candidates], [Kept() for _ in candidates]
    states: list[list[GpuState]] = [[] for _ in candidates]
    for candidate, warmup in zip(candidates, warmups, strict=True):
        wake(candidate)
        warmup.add(time_block(candidate.call, max(WARMUP_SECONDS, block_seconds)))
    cpu_mhz, before = cpu_clocks_mhz(), CpuTime.now()
    ran = candidates[-1]
    for _ in range(rounds):
        for candidate, warmup, block, seen in zip(candidates, warmups, blocks, states, strict=True):
            if not ran.on_gpu:
                wake(candidate, REWAKE_SECONDS)
            ran = candidate
            warmup.add(time_block(candidate.call, min(WARMUP_SECONDS, block_seconds)))
            block.add(time_block(candidate.call, block_seconds))
            state = gpu_state() if candidate.on_gpu else None
            seen.extend([state] if state else [])
    stolen = before.stolen_until(CpuTime.now())
    cpu_mhz += cpu_clocks_mhz()
    return [
        msgspec.structs.replace(
            latency_report(candidate, batch, boundary, warmup.flat, block.blocks, Conditions(stolen, seen, cpu_mhz)),
            calls=block.calls,
            slowest_ms=block.slowest_ms,
        )
        for candidate, warmup, block, seen in zip(candidates, warmups, blocks, states, strict=True)
    ]


def wake(candidate: Candidate, seconds: float = WAKE_SECONDS) -> None:
    """Work for a GPU until its clocks have risen; these calls are too many to keep."""
    end = perf_counter_ns() + int(seconds * 1e9)
    while candidate.on_gpu and perf_counter_ns() < end:
        candidate.call()


def time_block(call: Callable[[], object], seconds: float) -> tuple[float, ...]:
    """Call until ``seconds`` have passed (at least once, at most a thousand times); milliseconds of each call."""
    samples: list[float] = []
    end = perf_counter_ns() + int(seconds * 1e9)
    while True:
        before = perf_counter_ns()
        call()
        after = perf_counter_ns()
        samples.append((after - before) / 1e6)
        if after >= end or len(samples) >= MAX_BLOCK_CALLS:
            return tuple(samples)


def latency_report(
    candidate: Candidate,
    batch: int,
    boundary: str,
    warmups: Sequence[float],
    blocks: Sequence[tuple[float, ...]],
    conditions: Conditions = Conditions(),  # noqa: B008 - immutable
) -> LatencyReport:
    """Statistics of the raw samples, which stay in the report."""
    flat = np.sort(np.concatenate([np.asarray(block) for block in blocks]))
    medians = np.asarray([np.median(block) for block in blocks])
    low, high = median_interval(medians)
    return LatencyReport(
        backend=candidate.name,
        batch=batch,
        boundary=boundary,
        warmups_ms=tuple(warmups),
        samples_ms=tuple(blocks),
        median_ms=float(np.median(flat)),
        median_low_ms=low,
        median_high_ms=high,
        percentiles=tuple(percentile(flat, percent) for percent in PERCENTS),
        cov=float(flat.std() / flat.mean()),
        noise=noise(medians, conditions.stolen, _gpu_noise(conditions.gpu)),
        facts=candidate.facts | state_facts(conditions.gpu, conditions.cpu_mhz),
        setup=candidate.setup or Setup(candidate.name),
    )


def state_facts(states: Sequence[GpuState], cpu_mhz: Sequence[int]) -> dict[str, str]:
    """The lowest and the highest of what was read beside the blocks, and what took the clock down in how many of them."""
    facts = {
        "CPU clock": _range(cpu_mhz, "MHz"),
        "GPU clock": _range([state.clock_mhz for state in states], "MHz"),
        "GPU temperature": _range([state.temperature_c for state in states], "°C"),
        "GPU power": _range([state.power_w for state in states], "W"),
    }
    reasons = Counter(reason for state in states for reason in state.slowed_by)
    reasons_told = [f"{reason} in {count} of {len(states)} blocks" for reason, count in reasons.items()]
    return {name: text for name, text in (facts | {"GPU slowed down by": ", ".join(reasons_told)}).items() if text}


def overhead_us() -> float:
    """Microseconds of one turn of the timing loop around an empty session."""
    nothing = FakeSession(lambda feed: {}).bind({})
    return float(np.median(np.concatenate([time_block(nothing, 0.01) for _ in range(5)]))) * 1e3


def candidate_of(ready: Opened, feed: Feed, boundary: str) -> Candidate:
    """The session as a candidate: ``device`` calls what ``bind`` gives for ``feed``, ``end-to-end`` calls ``run``."""
    session = ready.session
    call: Callable[[], object] = session.bind(feed) if boundary == "device" else partial(session.run, feed)
    return Candidate(ready.name, call, dict(session.facts), ready.on_gpu, ready.setup)


def _with_device_times(row: LatencyReport, session: Session, candidate: Candidate, feed: Feed) -> LatencyReport:
    """The row with the device's own times, measured afterwards, because recording events would add to the host's times."""
    if not isinstance(session, OnDevice):
        return row
    wake(candidate)
    times = session.device_times(feed, DEVICE_CALLS)
    return msgspec.structs.replace(row, device_ms=times.ms, launch_bound=times.launch_bound)


def _range(numbers: Sequence[int | None], unit: str) -> str:
    known_numbers = [number for number in numbers if number is not None]
    if not known_numbers:
        return ""
    low, high = min(known_numbers), max(known_numbers)
    return f"{low} to {high} {unit}" if low < high else f"{low} {unit}"


def _gpu_noise(states: Sequence[GpuState]) -> str:
    """A power limit alone is how a GPU always runs under load, and is left to the facts; anything else is not."""
    reasons = dict.fromkeys(reason for state in states for reason in state.slowed_by if reason != POWER_LIMIT)
    if reasons:
        return f"the GPU was slowed down by {' and '.join(reasons)}"
    clocks = [state.clock_mhz for state in states if state.clock_mhz is not None]
    if clocks and min(clocks) < NOISY_CLOCK * max(clocks):
        return f"the GPU's clock moved between {min(clocks)} and {max(clocks)} MHz"
    return ""
