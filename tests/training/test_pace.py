"""How long a training will still take."""

from __future__ import annotations

import pytest

from edgekit.training.pace import FEWEST, Pace, duration


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_the_time_left_is_that_of_the_whole_training_at_the_pace_so_far() -> None:
    clock = Clock()
    pace = Pace(1001, 400, clock)
    assert pace.left() == ""
    clock.now += 500  # the first step compiles
    pace.step()
    for _ in range(100):
        clock.now += 0.5
        pace.step()
    assert pace.left() == "4 min 10 s"
    clock.now += 50  # an evaluation: the pace so far counts it in
    assert pace.left() == "8 min 20 s"


def test_no_time_is_told_before_enough_steps_say_what_the_pace_is() -> None:
    clock = Clock()
    pace = Pace(101, clock=clock)
    told = []
    for _ in range(FEWEST + 2):
        clock.now += 1
        pace.step()
        told.append(pace.left())
    assert told == [""] * FEWEST + ["1 min 30 s", "1 min 29 s"]


def test_a_note_is_due_at_least_once_a_second_whatever_a_step_takes() -> None:
    clock = Clock()
    quick = Pace(1000, clock=clock)
    due = []
    for step in range(40):
        clock.now += 0.1
        if quick.step():
            due.append(step)
    assert len(due) >= 4
    slow = Pace(10, clock=clock)
    for _ in range(3):
        clock.now += 5
        assert slow.step()


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0 s"), (59.4, "59 s"), (61, "1 min 1 s"), (3599.6, "1 h 0 min"), (7384, "2 h 3 min")]
)
def test_durations_are_told_in_their_two_largest_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text
