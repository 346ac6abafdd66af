"""How often the gate of ``edgekit bench A --against B`` is wrong, by processes that were timed on this machine.

    python benchmarks/gate_truth.py            # records what is missing, then decides: about 13 minutes on a quiet machine
    python benchmarks/gate_truth.py --decide   # decides by what was recorded: seconds

Records the medians of 300 fresh processes of edgekit's reference network while the machine is left alone, 300 while other work
comes and goes on every core, and 20 live comparisons, half of them in each state. Recording goes on where it was stopped.

Deciding draws blocks of 32 consecutive medians, and has the gate run on these in place of processes: 16 for its first look, and
the others where it looks again. A is the same as B ("slower" is false), or 8 % is added to each of A's medians ("not slower" is
false).

Writes ``benchmarks/results/gate_truth.json``; exits with 1 if a goal is missed.
"""

from __future__ import annotations

import argparse
import contextlib
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import numpy as np

from edgekit.files import write_bytes
from edgekit.latency.against import LIMIT, PAIRS, Duel, duels, looks
from edgekit.latency.control import NETWORK
from edgekit.latency.fresh import time_fresh
from edgekit.latency.turns import Thing, Timer, Turns, timed
from edgekit.machine.child import Failure, die_with_parent
from edgekit.machine.cpu import machine_facts
from edgekit.reports.against import Verdict
from edgekit.reports.fresh import Fresh
from edgekit.setups import Setup

RESULT = Path(__file__).resolve().parent / "results" / "gate_truth.json"
STATES = ("quiet", "loaded")
PROCESSES, LIVE = 300, 20
SECONDS = 0.2
PLANTED = 1.08
SETUP = Setup("ort-cpu", threads=1)
SAVED_EVERY = 10
SIDES = tuple(Thing(name, Path(name), SETUP, 1, "end-to-end") for name in ("A", "B"))
MOST_PROCESSES = 2 * looks(PAIRS)[-1].pairs
DRAWS_ALIKE, DRAWS_PLANTED = 200, 100
MOST_FALSE, LEAST_FOUND = 2, 95


class Comparison(msgspec.Struct, frozen=True):
    """A live comparison, the times that A was made slower, and after how many pairs it was decided or given up."""

    state: str
    slower: float
    verdict: Verdict
    ratio: float
    floor: float
    pairs: int = PAIRS


class Record(msgspec.Struct):
    """What was recorded: medians in ms by the state of the machine, in the order of time, and live comparisons."""

    machine: dict[str, str]
    medians: dict[str, list[float]]
    live: list[Comparison]
    decided: dict[str, dict[str, int]] = {}


def outcomes(medians: Sequence[float], slower: float, draws: int, seed: int) -> Counter[Verdict]:
    """The gate's verdicts on ``draws`` blocks of consecutive medians, of which A's are multiplied by ``slower``."""
    dice, counts = random.Random(seed), Counter[Verdict]()
    for draw in range(draws):
        start = dice.randrange(len(medians) - MOST_PROCESSES + 1)
        turns = Turns(PAIRS, SECONDS, seed * draws + draw)
        (row,) = duels([Duel("ort-cpu", *SIDES)], turns, LIMIT, time=replayed(medians[start:], slower))
        counts[row.judged.verdict] += 1
    return counts


def replayed(medians: Sequence[float], slower: float) -> Timer:
    """Stands for ``time_fresh``: the processes that warm up, and then the recorded ones in their order, A's ``slower`` times."""
    recorded = iter([medians[0]] * len(SIDES) + list(medians))

    def time(bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh:
        ms = (slower if bundle == SIDES[0].bundle else 1.0) * next(recorded)
        return Fresh(batch, boundary, ms, 1, (ms,), 0.0, (ms,), 0, None, "stable", {})

    return time


def decide(record: Record) -> dict[str, Counter[Verdict]]:
    """Verdicts by what was compared, in words."""
    decided = {}
    for place, state in enumerate(STATES):
        decided[f"{state}, alike"] = outcomes(record.medians[state], 1.0, DRAWS_ALIKE, 10 + place)
        decided[f"{state}, 8 % slower"] = outcomes(record.medians[state], PLANTED, DRAWS_PLANTED, 20 + place)
        for name, slower in (("alike", 1.0), ("8 % slower", PLANTED)):
            live = [one.verdict for one in record.live if (one.state, one.slower) == (state, slower)]
            decided[f"{state}, {name}, live"] = Counter(live)
    return decided


def missed(decided: dict[str, Counter[Verdict]]) -> list[str]:
    """The goals that are not reached: two false verdicts at most when quiet, none elsewhere, and what is planted is found."""
    wrong: dict[str, Verdict] = {name: "slower" if "alike" in name else "not slower" for name in decided}
    false = {name: counts[wrong[name]] for name, counts in decided.items()}
    allowed = {name: MOST_FALSE if name == "quiet, alike" else 0 for name in decided}
    goals = [f"{name}: {false[name]} false verdicts, {allowed[name]} allowed" for name in decided if false[name] > allowed[name]]
    found = decided["quiet, 8 % slower"]["slower"]
    if found < LEAST_FOUND:
        goals.append(f"quiet, 8 % slower: found in {found} of {DRAWS_PLANTED}, at least {LEAST_FOUND} wanted")
    return goals


def burn() -> None:
    """Work that comes and goes, for a fraction of a second to some seconds each."""
    die_with_parent()
    dice, array = random.Random(os.getpid()), np.random.default_rng(0).standard_normal((200, 200))
    while True:
        end = time.monotonic() + dice.uniform(0.2, 3.0)
        while time.monotonic() < end:
            array @ array
        time.sleep(dice.uniform(0.2, 3.0))


@contextlib.contextmanager
def under(state: str) -> Iterator[None]:
    """The machine in that state: left alone, or with a worker that comes and goes for every core."""
    workers = [multiprocessing.Process(target=burn, daemon=True) for _ in range(os.cpu_count() or 1 if state == "loaded" else 0)]
    for worker in workers:
        worker.start()
    try:
        yield
    finally:
        for worker in workers:
            worker.kill()
            worker.join()


def record_medians(record: Record, state: str, file: Path) -> None:
    """Go on recording until there are enough; what is recorded is kept when this is stopped."""
    thing = Thing("the reference network", NETWORK, SETUP, 1, "end-to-end")
    own = record.medians.setdefault(state, [])
    with under(state):
        while len(own) < PROCESSES:
            own.append(timed(thing, SECONDS).median_ms)
            if len(own) % SAVED_EVERY == 0:
                save(record, file)
                tell(f"{state}: {len(own)} of {PROCESSES} processes")


def record_live(record: Record, file: Path) -> None:
    """Whole comparisons of the network with a copy of it, every other one with the copy's medians made slower."""
    with tempfile.TemporaryDirectory() as place:
        copy = Path(shutil.copytree(NETWORK, Path(place) / "copy"))
        first, second = (Thing(root.name, root, SETUP, 1, "end-to-end") for root in (copy, NETWORK))
        while len(record.live) < LIVE:
            number = len(record.live)
            state, slower = STATES[number % 2], (1.0, PLANTED)[number // 2 % 2]

            def time_planted(
                bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float, slower: float = slower
            ) -> Fresh | Failure:
                outcome = time_fresh(bundle, setup, batch, boundary, seconds)
                if bundle != copy or isinstance(outcome, Failure):
                    return outcome
                return msgspec.structs.replace(outcome, median_ms=slower * outcome.median_ms)

            with under(state):
                (row,) = duels([Duel("ort-cpu", first, second)], Turns(PAIRS, SECONDS, number), LIMIT, time=time_planted)
            found = Comparison(state, slower, row.judged.verdict, row.evidence.ratio, row.evidence.floor, row.evidence.pairs)
            record.live.append(found)
            save(record, file)
            tell(f"live {number + 1} of {LIVE}: {state}, {slower:g} times: {found.verdict} ({found.ratio:.3f})")


def load(file: Path) -> Record:
    """What was recorded before; another machine's is refused."""
    machine = {name: fact for name, fact in machine_facts().items() if name != "load"}
    if not file.exists():
        return Record(machine, {}, [])
    try:
        record = msgspec.json.decode(file.read_bytes(), type=Record)
    except msgspec.DecodeError as problem:
        raise SystemExit(f"{file} is no result of this release: {problem}; give another --file, or remove it") from None
    if record.machine != machine:
        raise SystemExit(f"{file} was recorded on another machine; give another --file, or remove it")
    return record


def save(record: Record, file: Path) -> None:
    write_bytes(file, msgspec.json.format(msgspec.json.encode(record), indent=1) + b"\n")


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--file", type=Path, default=RESULT)
    parser.add_argument("--decide", action="store_true", help="record nothing")
    given = parser.parse_args()
    record = load(given.file)
    if not given.decide:
        for state in STATES:
            record_medians(record, state, given.file)
        record_live(record, given.file)
    decided = decide(record)
    record.decided = {name: {str(verdict): number for verdict, number in counts.items()} for name, counts in decided.items()}
    save(record, given.file)
    print(f"{'':26}{'slower':>8}{'not slower':>12}{'undecided':>11}")
    for name, counts in decided.items():
        print(f"{name:26}{counts['slower']:8}{counts['not slower']:12}{counts['undecided']:11}")
    goals = missed(decided)
    print("\n".join(goals) or "every goal is reached")
    sys.exit(bool(goals))


if __name__ == "__main__":
    main()
