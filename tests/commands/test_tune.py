"""``edgekit tune``: what is chosen, what is never chosen, and what is known when it ends early."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import edgekit.commands.tune
from edgekit.backends.tuned import choice_for
from edgekit.bundle.folder import open_bundle
from edgekit.commands.tune import Goal, tune
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, DataError, UsageError
from edgekit.latency.rounds import Pace
from edgekit.machine import stops
from edgekit.machine.child import Failure
from edgekit.machine.cpu import CpuTime
from edgekit.reports.fresh import Fresh
from edgekit.reports.tune import TuneReport, TuneRow
from edgekit.reports.verify import VerifyReport
from edgekit.setups import Setup
from tests.command_line import Command

SETUPS = ("ort-cpu threads=1", "ort-cpu threads=2", "ort-cpu threads=4", "ort-cpu threads=8")


class Machine:
    """Takes ``ms`` for a setup of so many threads, in rounds and in processes; processes have ``peak`` bytes and may fail."""

    def __init__(self, ms: dict[int, float]) -> None:
        self.ms, self.scatter, self.peak = ms, 0.002, dict.fromkeys(ms, 100 << 20)
        self.fails: Callable[[Setup, int], str] = lambda setup, count: ""
        self.ran: list[tuple[int, float]] = []
        self.tails = list[bool]()

    def time_fresh(self, bundle: Path, setup: Setup, batch: int, boundary: str, seconds: float) -> Fresh | Failure:
        threads = setup.threads or 0
        self.ran.append((threads, seconds))
        failure = self.fails(setup, len(self.ran))
        if failure:
            return Failure("exit", failure)
        rng = np.random.default_rng(len(self.ran))
        calls = max(1, round(seconds * 1e3 / self.ms[threads]))
        level = self.ms[threads] * float(np.exp(self.scatter * rng.standard_normal()))
        samples = tuple(map(float, level * np.exp(0.001 * rng.standard_normal(calls))))
        return Fresh(
            batch, boundary, float(np.median(samples)), calls, samples, 50.0, (level,), 9 << 20, self.peak[threads], "", {}
        )

    def race(self, names: Sequence[str], openers: object, advance: Callable[[str], None], *, tail: bool) -> dict[str, Pace]:
        self.tails.append(tail)
        times = {name: self.ms[int(name.partition("threads=")[2].split()[0])] for name in names}
        fastest = min(times, key=times.__getitem__)
        return {
            name: Pace((ms,) * 8, ms, 2 * ms, *((ms / times[fastest], fastest) if ms > 1.12 * times[fastest] else ()))
            for name, ms in times.items()
        }


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine({1: 1.0, 2: 1.08, 4: 1.1, 8: 3.0})
    monkeypatch.setattr(edgekit.commands.tune, "time_fresh", made.time_fresh)
    monkeypatch.setattr(edgekit.commands.tune, "race", made.race)
    return made


def by_threads(report: TuneReport) -> dict[int, TuneRow]:
    return {row.setup.threads or 0: row for row in report.rows}


def test_the_fastest_is_chosen_with_its_command_and_others_have_a_reason(bundle: Path, machine: Machine) -> None:
    report = tune(bundle, SETUPS)
    assert report.passed
    assert report.chosen == Setup("ort-cpu", "float32", 1)
    assert report.command == f"edgekit bench {bundle} --backend 'ort-cpu variant=float32 threads=1' --batch 1"
    rows = by_threads(report)
    assert [row.setup.threads for row in report.rows] == [1, 2, 4, 8]
    assert {threads: row.standing for threads, row in rows.items()} == {1: "chosen", 2: "beaten", 4: "beaten", 8: "slower"}
    assert all(row.reason and row.figure for threads, row in rows.items() if threads != 1)
    assert all(row.parity for row in report.rows)
    assert rows[1].first_ms == pytest.approx(53.0, rel=0.02)  # by all threads
    assert len(rows[1].processes_ms) == 10  # of three finalists
    assert not rows[8].processes_ms
    assert not report.open_questions
    assert TuneReport.from_json(report.to_json()) == report


def test_the_choice_is_kept_for_tuned(bundle: Path, machine: Machine) -> None:
    report = tune(bundle, SETUPS)
    choice = choice_for(open_bundle(bundle))
    assert choice.setup == report.chosen
    assert Path(report.kept_in).is_file()
    assert Path(report.kept_in).parent not in bundle.parents


def test_a_state_folder_that_cannot_be_written_is_a_note(
    bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "file"))
    report = tune(bundle, SETUPS)
    assert report.passed
    assert report.kept_in == ""
    assert any("the state folder cannot be written" in text for text in report.notes)


def test_ways_that_processes_cannot_tell_apart_are_undecided(bundle: Path, machine: Machine) -> None:
    machine.ms, machine.scatter = {1: 1.0, 2: 1.004, 4: 3.0, 8: 3.0}, 0.03
    report = tune(bundle, SETUPS)
    assert report.passed
    (sentence,) = report.open_questions
    assert "times its time (99 %: " in sentence


def test_what_fails_parity_is_never_chosen(bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def with_failures(*asked: object, **more: object) -> VerifyReport:
        report = verify(*asked, **more)  # type: ignore[arg-type]
        parities = tuple(
            msgspec.structs.replace(parity, outputs=()) if not parity.setup.options else parity for parity in report.parities
        )
        return msgspec.structs.replace(report, parities=parities)

    monkeypatch.setattr(edgekit.commands.tune, "verify", with_failures)

    report = tune(bundle, ["ort-cpu threads=1", "ort-cpu threads=2 optimisation=basic"])
    assert report.chosen == Setup("ort-cpu", "float32", 2, options={"optimisation": "basic"})
    failed = by_threads(report)[1]
    assert (failed.standing, failed.parity, failed.on_front) == ("failed", False, False)
    assert "edgekit verify tells more" in failed.reason
    assert not tune(bundle, "ort-cpu threads=1").passed


def test_a_wrong_claim_of_the_manifest_fails_every_way(bundle: Path, machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def contradicted(*asked: object, **more: object) -> VerifyReport:
        report = verify(*asked, **more)  # type: ignore[arg-type]
        check = msgspec.structs.replace(report.checks[0], outcome="fail", text="its labels are wrong")
        return msgspec.structs.replace(report, checks=(check,))

    monkeypatch.setattr(edgekit.commands.tune, "verify", contradicted)

    report = tune(bundle, SETUPS)
    assert report.chosen is None
    assert {row.reason for row in report.rows} == {
        "the bundle's claims are wrong: its labels are wrong; edgekit verify tells more"
    }


def test_what_does_not_load_or_dies_in_the_finals_is_out_and_the_next_is_chosen(bundle: Path, machine: Machine) -> None:
    machine.fails = lambda setup, count: "was ended by SIGSEGV" if setup.threads == 1 and count > 5 else ""
    report = tune(bundle, SETUPS)
    assert report.chosen == Setup("ort-cpu", "float32", 2)
    assert by_threads(report)[1].standing == "failed"
    machine.fails = lambda setup, count: "prints nothing"
    report = tune(bundle, SETUPS)
    assert not report.passed
    assert {row.reason for row in report.rows} == {"it does not run: it prints nothing"}


def test_budgets_decide_and_the_next_three_come_where_the_best_three_are_over(bundle: Path, machine: Machine) -> None:
    machine.ms = {1: 1.0, 2: 1.01, 4: 1.02, 8: 1.1}
    machine.peak = {1: 400 << 20, 2: 400 << 20, 4: 400 << 20, 8: 100 << 20}
    report = tune(bundle, SETUPS, Goal(budgets=("memory=200MB",)))
    assert report.chosen == Setup("ort-cpu", "float32", 8)
    assert {row.standing for threads, row in by_threads(report).items() if threads != 8} == {"over budget"}
    nothing = tune(bundle, SETUPS, Goal(budgets=("median=0.1ms",)))
    assert not nothing.passed
    assert nothing.command == ""


def test_a_budget_of_p99_takes_as_many_calls_as_it_needs(bundle: Path, machine: Machine) -> None:
    machine.ms = dict.fromkeys((1, 2, 4, 8), 30.0)
    report = tune(bundle, SETUPS, Goal(budgets=("p99=40ms",)))
    assert report.passed
    chosen = report.rows[0]
    assert chosen.p99_ms == pytest.approx(30, rel=0.05)
    assert max(seconds for _, seconds in machine.ran) > 2
    assert machine.tails == [True]  # what was slower by its median may have the better tail


@pytest.mark.parametrize("metric", ["median", "p99", "throughput"])
def test_every_metric_orders_the_rows(bundle: Path, machine: Machine, metric: str) -> None:
    report = tune(bundle, SETUPS, Goal(metric=metric))  # type: ignore[arg-type]
    assert [row.setup.threads for row in report.rows] == [1, 2, 4, 8]


def test_without_pictures_accuracy_is_a_note_and_with_a_budget_of_it_an_error(bundle: Path, machine: Machine) -> None:
    report = tune(bundle, SETUPS)
    assert any(text.startswith("accuracy was not measured: ") for text in report.notes)
    assert {row.accuracy for row in report.rows} == {None}
    with pytest.raises(DataError, match="records no data set"):
        tune(bundle, SETUPS, Goal(budgets=("accuracy=-1pt",)))


def test_a_wrong_budget_or_batch_is_refused_before_any_work(bundle: Path, machine: Machine) -> None:
    with pytest.raises(UsageError, match="is no budget; write it like"):
        tune(bundle, SETUPS, Goal(budgets=("speed=5",)))
    for size in (0, 65537, 99_999_999_999):
        with pytest.raises(UsageError, match=f"--batch {size} is no batch size from 1 to 65536; give one like 8"):
            tune(bundle, SETUPS, Goal(batch=size))
    with pytest.raises(DataError, match="--data nowhere does not exist"):
        tune(bundle, SETUPS, data="nowhere")
    assert not machine.ran


def test_nothing_is_kept_of_a_bundle_that_is_replaced_meanwhile(bundle: Path, machine: Machine, tmp_path: Path) -> None:
    """The fresh processes open what lies there: their times may be of either."""
    new, old = tmp_path / "new", tmp_path / "old"
    shutil.copytree(bundle, new)

    def replaced(setup: Setup, count: int) -> str:
        if new.exists():
            bundle.rename(old)
            new.rename(bundle)
        return ""

    before = open_bundle(bundle)
    machine.fails = replaced
    with pytest.raises(BundleError, match="was replaced while it was read; run the command again"):
        tune(bundle, SETUPS)
    assert choice_for(before).setup is None


@pytest.mark.parametrize(("stage", "known"), [("verify", {"first_ms"}), ("race", {"first_ms", "parity"})])
def test_ctrl_c_keeps_what_is_known(
    bundle: Path, machine: Machine, run: Command, monkeypatch: pytest.MonkeyPatch, stage: str, known: set[str]
) -> None:
    def stop(*asked: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(edgekit.commands.tune, stage, stop)
    report = tune(bundle, SETUPS)
    during = {"verify": "checking parity", "race": "the short rounds"}[stage]
    assert report.stopped == f"by Ctrl-C during {during}"
    with monkeypatch.context() as patch:
        patch.setattr(stops, "_taken", [signal.SIGTERM])
        patch.setattr(stops, "_last", (signal.SIGTERM, 0.0))
        assert tune(bundle, SETUPS).stopped == f"by SIGTERM during {during}"
    for row in report.rows:
        assert {field for field in ("first_ms", "parity", "median_ms") if getattr(row, field) is not None} == known
        assert row.standing == "not reached"
    assert report.kept_in == ""
    ended = run("tune", bundle, "--backend", "ort-cpu threads=1")
    assert ended.code == 130
    assert "what is known is above" in ended.out


def test_where_nothing_was_measured_before_it_was_stopped_a_sentence_says_so(
    bundle: Path, machine: Machine, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*asked: object, **more: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(edgekit.commands.tune, "time_fresh", stop)
    ended = run("tune", bundle, "--backend", "ort-cpu threads=1")
    told = " ".join(ended.out.split())
    assert ended.code == 130
    assert "stopped by Ctrl-C during loading; nothing was measured until then, and no way is chosen: run it again" in told
    assert "no way to run this bundle" not in told
    monkeypatch.setattr(edgekit.commands.tune, "search_space", stop)
    ended = run("tune", bundle, "--json")
    assert ended.code == 130
    assert ended.document["error"]["message"] == "stopped by Ctrl-C before anything was measured; run it again"


def test_the_table_says_where_the_machine_was_noisy(
    bundle: Path, machine: Machine, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    quiet = machine.time_fresh

    def noisy(bundle: Path, setup: Setup, *how: Any) -> Fresh | Failure:
        outcome = quiet(bundle, setup, *how)
        noise = "noisy: other processes took 60% of the cores" if setup.threads == 1 else "stable"
        return outcome if isinstance(outcome, Failure) else msgspec.structs.replace(outcome, noise=noise)

    words = [word for setup in SETUPS for word in ("--backend", setup)]
    calm = run("tune", bundle, *words).out
    monkeypatch.setattr(edgekit.commands.tune, "time_fresh", noisy)
    monkeypatch.setattr(CpuTime, "stolen_until", lambda before, after: 0.5)
    shown = run("tune", bundle, *words).out
    assert "[1]" not in calm
    (row,) = [line for line in shown.splitlines() if "[1]" in line and "chosen" in line]
    assert "threads=1" in row
    assert "[1] 10 of 10 fresh processes were noisy: other processes took 60% of the cores" in shown
    assert "the short rounds were noisy: other processes took 50% of the cores" in " ".join(shown.split())


def test_at_the_command_line_the_table_the_budgets_and_the_winner(bundle: Path, machine: Machine, run: Command) -> None:
    words = [word for setup in SETUPS for word in ("--backend", setup)]
    ended = run("tune", bundle, *words, "--budget", "p99=5ms", "--budget", "median=2ms", "--metric", "p99")
    assert ended.code == 0
    assert "ship ort-cpu variant=float32 threads=1" in ended.out
    assert "slower than ort-cpu threads=1" not in ended.out
    verbose = run("tune", bundle, *words, "-v")
    assert "slower than ort-cpu threads=1 in every one of 8 rounds: ort-cpu threads=8 (at least 3.00 times)" in verbose.out
    report = TuneReport.from_json(run("tune", bundle, *words, "--json").out.encode())
    assert report.chosen == Setup("ort-cpu", "float32", 1)
    assert run("tune", bundle, *words, "--budget", "median=1us").code == 1
    assert run("tune", bundle, "--metric", "mean").code == 2


def test_predict_obeys_the_choice_and_says_so(bundle: Path, machine: Machine, run: Command, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("L", (28, 28), 90).save(tmp_path / "picture.png")
    machine.ms = {2: 0.5, 1: 1.0}
    tune(bundle, ("ort-cpu threads=1", "ort-cpu threads=2 optimisation=basic"))
    obeyed = run("predict", bundle, tmp_path / "picture.png", "--json")
    assert '"optimisation": "basic"' in obeyed.out
    assert "as edgekit tune chose for this machine" in obeyed.err
    named = run("predict", bundle, tmp_path / "picture.png", "--json", "--backend", "ort-cpu")
    assert "optimisation" not in named.out


def test_real_processes_and_real_rounds(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of each way three, and short ones: how many decide is for the invented machine to say."""
    monkeypatch.setattr("edgekit.latency.finals.SECONDS", 0.02)
    monkeypatch.setattr("edgekit.latency.finals.turns_for", lambda ways: 3)
    report = tune(bundle, ("ort-cpu threads=1", "ort-cpu threads=1 optimisation=off"))
    assert report.passed
    for row in report.rows:
        assert row.median_ms is not None
        assert row.memory_load_bytes is not None
        assert row.first_ms is not None
        assert row.first_ms > row.load_ms > 0  # type: ignore[operator]
