"""Starting in fresh processes: who takes turns, what is told of one that fails, and the memory on a GPU."""

from __future__ import annotations

import io
import os
from pathlib import Path

import msgspec
import pytest
from rich.console import Console

import edgekit.latency.fresh
from edgekit.backends import table
from edgekit.latency.fresh import Order, carry_out
from edgekit.latency.start import PROCESSES, start_rows
from edgekit.latency.turns import WARM_SECONDS, Thing
from edgekit.machine.child import Failure
from edgekit.reports.console import draw
from edgekit.reports.fresh import Fresh
from edgekit.reports.start import StartRow, starts_page
from edgekit.setups import Setup
from tests.latency.turned_clock import Clock, fake

MB = 1_000_000


def fresh(first: float = 30.0, load: float = 200.0, peak: int | None = 150 * MB, gpu: int | None = None) -> Fresh:
    return Fresh(1, "end-to-end", 2.0, 100, (2.0,), load, (first, 3.0, 2.1), 40 * MB, peak, "stable", {}, gpu)


def things(*names: str) -> list[Thing]:
    return [Thing(name, Path(name), Setup(name), 1, "end-to-end") for name in names]


class Starter:
    """Stands in for processes: what each gives, by its name."""

    def __init__(self, **gives: list[Fresh | Failure]) -> None:
        self.gives, self.asked = gives, list[tuple[str, float]]()

    def __call__(self, bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh | Failure:
        self.asked.append((setup.backend, seconds))
        return self.gives[setup.backend].pop(0)


def test_setups_take_turns_after_a_process_each_that_does_not_count() -> None:
    starter = Starter(A=[fresh(first) for first in (99.0, 1.0, 2.0, 3.0)], B=[fresh(first) for first in (99.0, 4.0, 5.0, 6.0)])
    rows = start_rows(things("A", "B"), 1.0, time=starter)
    assert starter.asked[:2] == [("A", WARM_SECONDS), ("B", WARM_SECONDS)]
    rounds = [starter.asked[place : place + 2] for place in range(2, 2 + 2 * PROCESSES, 2)]
    assert all(sorted(turn) == [("A", 1.0), ("B", 1.0)] for turn in rounds)
    assert [[process.first_ms for process in row.processes] for row in rows] == [[1, 2, 3], [4, 5, 6]]
    assert [row.usual.first_ms for row in rows] == [2, 5]


def test_a_setup_that_does_not_start_is_told_and_the_others_go_on() -> None:
    broken = Failure("exit", "exits with 2", "the file is damaged; export it again")
    starter = Starter(A=[broken], B=[fresh()] * 4)
    rows = start_rows(things("A", "B"), 1.0, time=starter)
    assert (rows[0].processes, rows[0].failure) == ((), "the file is damaged; export it again")
    assert len(rows[1].processes) == PROCESSES
    assert [name for name, _ in starter.asked].count("A") == 1  # not again and again
    text = printed(rows)
    assert "A does not start: the file is damaged; export it again" in text
    assert "first calls of B in ms: 30 3 2.1; steady 2" in text


def printed(rows: tuple[StartRow, ...]) -> str:
    console = Console(width=160, file=io.StringIO())
    draw(starts_page(rows), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # the console writes into a StringIO


def test_memory_on_a_gpu_has_a_column_where_one_was_used() -> None:
    def row(gpu: int | None) -> tuple[StartRow, ...]:
        return (StartRow("A", Setup("A"), 1, "end-to-end", (fresh(peak=None, gpu=gpu),)),)

    assert "on the GPU" in printed(row(512 * MB))
    assert "512" in printed(row(512 * MB))
    assert "on the GPU" not in printed(row(None))
    assert starts_page(()) == ()
    assert msgspec.json.decode(msgspec.json.encode(row(5)), type=tuple[StartRow, ...]) == row(5)


@pytest.mark.parametrize(
    ("before", "now", "told"), [(2 * MB, 7 * MB, 5 * MB), (7 * MB, 2 * MB, 0), (None, 7 * MB, None), (2, None, None)]
)
def test_the_child_tells_what_the_gpu_holds_more_than_before(
    before: int | None, now: int | None, told: int | None, bundle: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(edgekit.latency.fresh, "open_named", lambda name, setup, bundle: fake("A", clock, 2, []))
    monkeypatch.setattr(edgekit.latency.fresh, "gpu_memory_used", lambda: now)
    timed = carry_out(Order(str(bundle), Setup("A"), 1, "end-to-end", 0.05, os.getcwd(), before))
    assert timed.gpu_memory_bytes == told


def test_the_caller_reads_the_gpus_memory_only_for_a_backend_that_uses_it(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    orders: list[Order] = []

    def child(module: str, arguments: tuple[str, ...], *rest: object, key: str) -> Failure:
        orders.append(msgspec.json.decode(arguments[0], type=Order))
        return Failure("silence", "")

    monkeypatch.setattr(edgekit.latency.fresh, "run_child", child)
    monkeypatch.setattr(edgekit.latency.fresh, "gpu_memory_used", lambda: 7)
    for name in (*table(), "nowhere"):
        edgekit.latency.fresh.time_fresh(bundle, Setup(name), 1, "device", 1.0)
    assert [order.gpu_memory_before for order in orders] == [7 if row.on_gpu else None for row in table().values()] + [None]
