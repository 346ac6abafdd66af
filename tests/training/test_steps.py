"""Steps of a run: done once, skipped while nothing they depend on has changed, and done again with the reason said."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from edgekit.reports.models import ModelsReport
from edgekit.reports.run import RunReport, StepReport
from edgekit.training.steps import STEPS, Step, take_steps


class Run:
    """A run of steps that write their files and count how often they are done."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.inputs, self.good = folder, dict[str, Any](a=1, b=[1, 2]), True
        self.done: list[str] = []

    def step(self, name: str, repeatable: bool = True) -> Step:
        def action() -> tuple[RunReport, str]:
            self.done.append(name)
            (self.folder / name).write_text("made")
            return RunReport("r", "b", (StepReport(name, "done", self.good, 0.0, ""),)), f"{name} went"

        return Step(name, lambda: self.inputs, action, (self.folder / name,), repeatable)

    def take(self, *steps: Step) -> tuple[StepReport, ...]:
        self.done.clear()
        return take_steps(steps or (self.step("first"), self.step("second")), self.folder)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path)


def told(reports: Sequence[StepReport]) -> list[tuple[str, str]]:
    return [(report.status, report.detail) for report in reports]


def test_steps_are_done_once_and_then_skipped(run: Run) -> None:
    assert told(run.take()) == [("done", "first went"), ("done", "second went")]
    assert told(run.take()) == [("skipped", "unchanged: first went"), ("skipped", "unchanged: second went")]
    assert run.done == []


def test_what_changed_is_named(run: Run) -> None:
    run.take()
    run.inputs = {"a": 2, "b": [2, 1]}
    assert told(run.take())[0] == ("done", "again, since a and b changed: first went")
    assert run.take()[0].status == "skipped"


@pytest.mark.parametrize("content", ["another", None])
def test_a_step_whose_file_was_changed_or_lost_is_done_again(run: Run, content: str | None) -> None:
    run.take()
    (run.folder / "second").unlink() if content is None else (run.folder / "second").write_text(content)
    assert told(run.take()) == [
        ("skipped", "unchanged: first went"), ("done", "again, since what it left was changed or lost: second went"),
    ]  # fmt: skip


def test_a_failure_ends_the_run_and_only_what_measures_the_machine_is_tried_again(run: Run) -> None:
    run.good = False
    assert told(run.take()) == [("done", "first went"), ("not run", "because first failed")]
    assert [(report.status, report.ok) for report in run.take()] == [("skipped", False), ("not run", False)]
    measuring = run.step("measuring", repeatable=False)
    assert not run.take(measuring)[0].ok
    run.good = True
    assert told(run.take(measuring)) == [("done", "again, since it had failed: measuring went")]


@pytest.mark.parametrize("content", [b"{", b'{"first": {}}', b"\xff"])
def test_a_damaged_record_only_means_that_all_is_done_again(run: Run, content: bytes) -> None:
    run.take()
    (run.folder / STEPS).write_bytes(content)
    assert told(run.take()) == [("done", "first went"), ("done", "second went")]


def test_a_step_is_known_by_what_edgekit_it_was(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run.take()
    monkeypatch.setattr("edgekit.training.steps.__version__", "99")
    assert told(run.take())[0] == ("done", "again, since edgekit changed: first went")


def test_the_report_of_a_step_decides(run: Run) -> None:
    step = run.step("listing")._replace(action=lambda: (ModelsReport(()), "listed"))
    assert run.take(step)[0].ok
