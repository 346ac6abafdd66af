"""One setup of a bundle, timed in a fresh process: the unit of every comparison that decides something.

What a process happens to get (addresses, pages, cores) moves all of its calls alike, so that more calls cannot average it out:
only another process can. A process is therefore one observation, and its median is the number.

``python -m edgekit.latency.fresh ORDER`` is the child; the order is one JSON object.
"""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns

import msgspec

from edgekit.backends import table
from edgekit.backends.choose import open_named
from edgekit.bundle.folder import open_bundle
from edgekit.errors import EdgekitError
from edgekit.latency.loop import Candidate, candidate_of, interleave, time_block
from edgekit.machine.bounds import waiting_seconds
from edgekit.machine.child import Failure, Limits, answer, run_child
from edgekit.machine.gpu import gpu_memory_used
from edgekit.machine.memory import forget_peak, peak_memory, resident_memory
from edgekit.reports.bench import LatencyReport
from edgekit.reports.fresh import Fresh
from edgekit.reports.samples import thinned
from edgekit.setups import Setup, taking
from edgekit.tensors import sample_feed

__all__ = ["Fresh", "thinned", "time_fresh"]

FIRST_CALLS, FIRST_SECONDS = 20, 1.0
LOAD_SECONDS = 900.0
"""Seconds that a process may take beside its timing: TensorRT may have to build an engine."""
TIMES = 10
"""A recorded second costs more: a block ends with a whole call, and warming up is not recorded."""


class Order(msgspec.Struct, frozen=True):
    """What the child is to do; ``folder`` is the caller's, which relative paths are meant from.

    ``gpu_memory_before``: bytes in use before it began, None for a backend that uses no GPU. The caller reads them, because the
    child would start the driver before it loads.
    """

    bundle: str
    setup: Setup
    batch: int
    boundary: str
    seconds: float
    folder: str
    gpu_memory_before: int | None = None


def time_fresh(
    bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float, limits: Limits | None = None
) -> Fresh | Failure:
    """Open ``bundle`` by ``setup`` in a process of its own, and time its calls as ``edgekit bench`` does for ``seconds``.

    ``setup.threads`` None is all cores, as everywhere. Returns a Failure, with the child's own sentence where it has one, where
    the setup cannot run, crashes, or goes over ``limits``; raises nothing for these, so that others can go on.
    """
    row = table().get(setup.backend)  # no such backend: the child says so
    gpu_memory = gpu_memory_used() if row is not None and row.on_gpu else None
    order = Order(str(bundle), setup, batch, boundary, seconds, os.getcwd(), gpu_memory)
    bounds = limits or Limits(waiting_seconds(LOAD_SECONDS + TIMES * seconds))
    outcome = run_child("edgekit.latency.fresh", (msgspec.json.encode(order).decode(),), bounds, key="first_calls_ms")
    return outcome if isinstance(outcome, Failure) else msgspec.convert(outcome, Fresh)


def carry_out(order: Order) -> Fresh:
    """What the child does, in this process."""
    bundle = msgspec.structs.replace(open_bundle(Path(order.bundle)), held=None)
    gc.collect()
    forget_peak()
    before, began = resident_memory(), perf_counter_ns()
    with open_named(order.setup.backend, taking(order.setup, (order.batch,)), bundle) as ready:
        load_ms, loaded = (perf_counter_ns() - began) / 1e6, resident_memory()
        candidate = candidate_of(ready, sample_feed(ready.session.inputs, order.batch), order.boundary)
        first = first_calls(candidate)
        (row,) = interleave([candidate], order.batch, order.boundary, order.seconds)
        on_gpu = None if order.gpu_memory_before is None else gpu_memory_used()
    timed = _measured(row, load_ms, first, max(0, loaded - before))
    if order.gpu_memory_before is None or on_gpu is None:
        return timed
    return msgspec.structs.replace(timed, gpu_memory_bytes=max(0, on_gpu - order.gpu_memory_before))


def first_calls(candidate: Candidate) -> tuple[float, ...]:
    """Milliseconds of the first calls: twenty, or as many as a second has room for, and at least one."""
    calls: list[float] = []
    while len(calls) < FIRST_CALLS and sum(calls) < FIRST_SECONDS * 1e3:
        calls.extend(time_block(candidate.call, 0.0))
    return tuple(calls)


def _measured(row: LatencyReport, load_ms: float, first: tuple[float, ...], memory_load: int) -> Fresh:
    return Fresh(
        batch=row.batch,
        boundary=row.boundary,
        median_ms=row.median_ms,
        calls=row.count,
        samples_ms=thinned(tuple(sample for block in row.samples_ms for sample in block)),
        load_ms=load_ms,
        first_calls_ms=first,
        memory_load_bytes=memory_load,
        memory_peak_bytes=peak_memory(),
        noise=row.noise,
        facts=row.facts,
    )


def main(order: str, work: Callable[[Order], Fresh] = carry_out) -> None:
    """Answer what was measured; an error of edgekit's is one sentence on stderr and exit code 2."""
    wanted = msgspec.json.decode(order, type=Order)
    os.chdir(wanted.folder)  # edgekit is imported: what lies there can no longer stand in for a module of its
    try:
        answer(msgspec.to_builtins(work(wanted)))
    except EdgekitError as problem:
        sys.exit(" ".join(str(problem).split()))


if __name__ == "__main__":
    main(sys.argv[1])
