"""Progress: a bar on a terminal, and where there is none a line every ten seconds."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console
from rich.text import Text

from edgekit.cli.outcome import ConsoleProgress


def test_a_log_has_a_line_every_ten_seconds_and_none_for_short_work() -> None:
    stream = io.StringIO()
    now = [0.0]
    progress = ConsoleProgress(Console(file=stream, width=120), clock=lambda: now[0])
    with progress.task("epoch 1/2", 100) as advance:
        for step in range(100):
            now[0] += 0.5
            advance(1, f"loss {step}")
    assert stream.getvalue().splitlines() == [
        "epoch 1/2  20/100  loss 19", "epoch 1/2  40/100  loss 39", "epoch 1/2  60/100  loss 59", "epoch 1/2  80/100  loss 79",
        "epoch 1/2  100/100  loss 99",
    ]  # fmt: skip
    with progress.task("epoch 2/2", 10) as advance:
        for _ in range(10):
            now[0] += 0.1
            advance(1, "")
    assert len(stream.getvalue().splitlines()) == 5


def test_slow_steps_are_told_one_by_one() -> None:
    stream = io.StringIO()
    now = [0.0]
    progress = ConsoleProgress(Console(file=stream, width=120), clock=lambda: now[0])
    with progress.task("[b]decoding[/b]", 2) as advance:
        for _ in range(2):
            now[0] += 60
            advance(1, "")
    assert stream.getvalue().splitlines() == ["[b]decoding[/b]  1/2", "[b]decoding[/b]  2/2"]


def terminal(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> ConsoleProgress:
    monkeypatch.setenv("TERM", "xterm")  # a dumb one has no bars
    return ConsoleProgress(Console(file=stream, width=120, force_terminal=True))


def test_a_terminal_has_a_bar_that_counts_steps_and_shows_the_note(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = terminal(stream, monkeypatch)
    with progress.task("epoch [1/2]", 40) as advance:
        advance(0, "")
        advance(3, "loss 2.3")
        advance(4, "[b]loss[/b] 1.9, 12 s left")
    shown = Text.from_ansi(stream.getvalue()).plain
    assert "epoch [1/2]" in shown
    assert re.search(r"\b7/40\b", shown)
    assert "[b]loss[/b] 1.9, 12 s left" in shown


def test_the_bar_goes_away_when_the_work_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    progress = terminal(stream, monkeypatch)
    with progress.task("epoch", 2) as advance:
        advance(2, "")
    progress.say("done")
    assert re.search(r"\x1b\[\d*K", stream.getvalue().rpartition("epoch")[2])  # the line is erased
    assert stream.getvalue().endswith("done\n")
