"""``edgekit bench A --against B``: exit codes, what decides, and a stored report as the other side."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from edgekit.commands.against import Terms, against
from edgekit.commands.bench import bench
from edgekit.commands.further import Further
from edgekit.errors import BundleError, InputError, UsageError
from edgekit.files import write_bytes
from edgekit.latency.control import NETWORK
from edgekit.latency.fresh import Order
from edgekit.latency.load import Load, Moments, Window, due_ns
from edgekit.latency.loop import Row, Timing
from edgekit.machine.child import Answer, Limits
from edgekit.reports.against import AgainstReport
from edgekit.reports.bench import BenchReport
from edgekit.reports.fresh import Fresh
from edgekit.reports.markdown import markdown
from edgekit.setups import Setup
from tests.command_line import Command

SETUP = "ort-cpu threads=1"
SHORT = Timing((1,), 0.01)
BY_STORED = ("--backend", SETUP, "--seconds", "0.01")


class Processes:
    """Stands for ``run_child``: a bundle takes ``ms`` by its folder's name, times ``scatter``."""

    def __init__(self, scatter: float = 0.002) -> None:
        self.ms: dict[str, float] = {}
        self.orders: list[Order] = []
        self.scatter, self._rng = scatter, np.random.default_rng(0)
        self.facts = {"runtime": "1"}

    def __call__(self, module: str, arguments: tuple[str, ...], limits: Limits, key: str) -> Answer:
        order = msgspec.json.decode(arguments[0], type=Order)
        self.orders.append(order)
        ms = self.ms.get(Path(order.bundle).name, 1.0) * float(np.exp(self._rng.normal(0, self.scatter)))
        fresh = Fresh(order.batch, order.boundary, ms, 1, (ms,), 9.0, (ms,), 1, None, "stable", self.facts)
        answer: Answer = msgspec.to_builtins(fresh)
        return answer


@pytest.fixture
def processes(monkeypatch: pytest.MonkeyPatch) -> Processes:
    stand_in = Processes()
    monkeypatch.setattr("edgekit.latency.fresh.run_child", stand_in)
    return stand_in


@pytest.fixture
def other(bundle: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(bundle, tmp_path / "other"))


def test_a_bundle_stands_against_itself_in_real_processes(bundle: Path, other: Path) -> None:
    report = against(bundle, other, SETUP, SHORT, terms=Terms(pairs=2))
    (row,) = report.rows
    assert (row.name, row.setup.threads, row.against_setup) == ("ort-cpu, batch 1, end-to-end", 1, row.setup)
    assert len(row.order) == 4
    assert {*row.order} <= {"AB", "BA"}
    assert len(row.first) == len(row.second) == row.evidence.pairs == 4
    assert report.undecided  # twice two pairs decide nothing
    assert report.looks == (4,)
    assert report.bundle_sha256 == report.against_sha256
    assert AgainstReport.from_json(report.to_json()) == report


@pytest.mark.parametrize(
    ("ms", "words", "code", "verdict"),
    [
        (1.0, (), 0, "not slower"),
        (1.2, (), 1, "slower"),
        (1.2, ("--limit", "30%"), 0, "not slower"),
        (0.5, (), 0, "not slower"),
        (1.2, ("--pairs", "3"), 3, "undecided"),
        (1.2, ("--pairs", "3", "--undecided", "pass"), 0, "undecided"),
    ],
)
def test_the_exit_code_is_the_verdict(
    bundle: Path, other: Path, run: Command, processes: Processes, ms: float, words: tuple[str, ...], code: int, verdict: str
) -> None:
    processes.ms["bundle"] = ms
    result = run("bench", bundle, "--against", other, "--backend", SETUP, *words, "--json")
    assert result.code == code
    report = AgainstReport.from_json(result.out.encode())
    assert report.verdict == verdict
    assert result.document["passed"] == (code == 0)
    table = run("bench", bundle, "--against", other, "--backend", SETUP, *words)
    assert table.code == code
    assert {0: "no", 1: "yes", 3: "undecided"}[code] in table.out.splitlines()[-1] or "which passes here" in table.out


def test_only_noise_gives_no_verdict(bundle: Path, other: Path, run: Command, processes: Processes) -> None:
    processes.scatter = 0.15
    processes.ms["bundle"] = 1.2
    result = run("bench", bundle, "--against", other, "--backend", SETUP)
    assert result.code == 3
    assert "by chance, more than the limit" in result.out


def test_the_row_that_decides_is_end_to_end_and_the_first_batch_on_the_usual_backend(
    bundle: Path, other: Path, run: Command, processes: Processes
) -> None:
    assert run("bench", bundle, "--against", other, "--batch", "4,1", "--threads", "1").code == 0
    assert {(str(order.setup), order.batch, order.boundary) for order in processes.orders} == {
        ("ort-cpu variant=float32 threads=1", 4, "end-to-end")
    }
    assert len(processes.orders) == 2 * (1 + 8)


def test_several_rows_decide_by_more_pairs(bundle: Path, other: Path, run: Command, processes: Processes) -> None:
    words = ("--row", "device:2", "--row", "end-to-end:1", "--threads", "1")
    report = AgainstReport.from_json(run("bench", bundle, "--against", other, *words, "--json").out.encode())
    assert [(row.boundary, row.batch, row.evidence.pairs) for row in report.rows] == [("device", 2, 10), ("end-to-end", 1, 10)]


def test_the_other_side_can_have_its_own_setup(bundle: Path, run: Command, processes: Processes) -> None:
    words = ("--backend", SETUP, "--against-backend", "ort-cpu threads=2")
    told = run("bench", bundle, "--against", bundle, *words).out
    assert "A by ort-cpu variant=float32 threads=1, B by ort-cpu variant=float32 threads=2" in told
    report = AgainstReport.from_json(run("bench", bundle, "--against", bundle, *words, "--json").out.encode())
    assert (report.rows[0].setup.threads, report.rows[0].against_setup.threads) == (1, 2)
    assert {order.setup.threads for order in processes.orders} == {1, 2}


def test_bundles_with_other_inputs_can_stand_against_each_other(bundle: Path, processes: Processes) -> None:
    assert against(bundle, NETWORK, SETUP, SHORT).verdict == "not slower"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--limit", "5"), "write it like 5%"),
        (("--limit", "nan%"), "write it like 5%"),
        *((("--limit", word), "is no percentage above 0, below 100; write it like 5%") for word in ("0%", "100%", "1_0%", "٣%")),
        (("--pairs", "1"), "--pairs: give a whole number from 2 to 20"),
        (("--undecided", "fail"), "write --undecided pass"),
        (("--row", "batch:1"), "write it like end-to-end:1 or device:8"),
        (("--row", "device:0"), "write it like end-to-end:1 or device:8"),
        (("--processes", "5"), "--processes is not for a comparison"),
        (("--layers",), "--layers is not for a comparison"),
        (("--budget-ms", "5"), "--budget-ms is not for a comparison"),
        (("--against-backend", SETUP, "--against-backend", "ort-cpu threads=2"), "--against-backend as often as --backend"),
    ],
)
def test_words_that_decide_nothing_are_one_sentence(
    bundle: Path, run: Command, processes: Processes, words: tuple[str, ...], told: str
) -> None:
    result = run("bench", bundle, "--against", bundle, "--backend", SETUP, *words)
    assert result.code == 2
    assert told in result.err
    assert processes.orders == []


@pytest.mark.parametrize("word", ["--limit", "--pairs", "--undecided", "--against-backend"])
def test_words_of_a_comparison_need_one(bundle: Path, run: Command, word: str) -> None:
    result = run("bench", bundle, word, "9")
    assert result.code == 2
    assert f"{word} is for a comparison; add --against BUNDLE" in result.err


def test_a_comparison_is_of_one_bundle_and_its_report_lies_in_none(
    bundle: Path, other: Path, run: Command, processes: Processes
) -> None:
    assert "give one, or leave out --against" in run("bench", bundle, other, "--against", bundle).err
    for words in ((bundle, other), (bundle, "--against", other)):
        result = run("bench", *words, "--output", other / "report.json")
        assert result.code == 2
        assert "a bundle is immutable" in result.err
    assert processes.orders == []


def test_a_bundle_that_is_replaced_meanwhile_gives_no_verdict(bundle: Path, other: Path, processes: Processes) -> None:
    def replace(module: str, arguments: tuple[str, ...], limits: Limits, key: str) -> Answer:
        if len(processes.orders) == 5:
            shutil.move(other, other.parent / "old")
            shutil.copytree(bundle, other)
        return processes(module, arguments, limits, key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("edgekit.latency.fresh.run_child", replace)
        with pytest.raises(BundleError):
            against(bundle, other, SETUP, SHORT)


# a report of another day


@pytest.fixture
def stored(bundle: Path, processes: Processes, tmp_path: Path) -> Callable[..., Path]:
    """Writes a report of the bundle's processes, changed as asked."""

    def store(change: Callable[[BenchReport], BenchReport] = lambda report: report, count: int = 8) -> Path:
        report = bench(bundle, SETUP, Timing((1,), 0.01, processes=count, rows=(Row(), Row(1, "device"))))
        write_bytes(tmp_path / "b.json", change(report).to_json())
        processes.orders.clear()
        return tmp_path / "b.json"

    return store


@pytest.mark.parametrize(("ms", "code"), [(1.0, 0), (1.2, 1)])
def test_a_report_decides_where_machine_and_control_are_as_they_were(
    bundle: Path, run: Command, processes: Processes, stored: Callable[..., Path], ms: float, code: int
) -> None:
    file = stored()
    processes.ms["bundle"] = ms
    result = run("bench", bundle, "--against", file, *BY_STORED, "--json")
    assert result.code == code
    report = AgainstReport.from_json(result.out.encode())
    assert report.stored is not None
    assert (report.stored.differs, report.stored.informs_only) == ({}, "")
    assert [control.moved for control in report.stored.controls] == [False]
    assert len(processes.orders) == 2 * (1 + 8)  # of the bundle and of the reference network


@pytest.mark.parametrize(("day", "slower", "code"), [(1.04, 1.03, 0), (0.96, 1.08, 1), (1.04, 0.99, 0), (0.96, 1.0, 0)])
def test_how_far_the_control_moved_within_the_limit_is_taken_from_what_is_judged(
    bundle: Path, run: Command, processes: Processes, stored: Callable[..., Path], day: float, slower: float, code: int
) -> None:
    """On a day that makes all 4 % slower, a bundle that is 3 % slower looks 7 % slower, which is beyond the limit of 5 %."""
    file = stored()
    processes.ms |= {"bundle": day * slower, "network": day}
    result = run("bench", bundle, "--against", file, *BY_STORED, "--json")
    assert result.code == code
    report = AgainstReport.from_json(result.out.encode())
    assert report.rows[0].evidence.ratio == pytest.approx(slower, abs=0.005)
    assert "A/B is divided by that of the reference network" in markdown(report.page(), "against")


def test_a_report_only_informs_where_the_control_moved(
    bundle: Path, run: Command, processes: Processes, stored: Callable[..., Path]
) -> None:
    file = stored()
    processes.ms |= {"bundle": 1.2, "network": 1.2}  # the machine is slower today, the bundle is not
    result = run("bench", bundle, "--against", file, *BY_STORED)
    assert result.code == 3
    assert "informs and decides nothing: the reference network moved on ort-cpu threads=1" in result.out
    assert run("bench", bundle, "--against", file, *BY_STORED, "--undecided", "pass").code == 0


def test_a_report_only_informs_on_another_machine_or_runtime(
    bundle: Path, run: Command, processes: Processes, stored: Callable[..., Path]
) -> None:
    file = stored(lambda report: msgspec.structs.replace(report, machine={**report.machine, "cpu": "another", "load": "99"}))
    result = run("bench", bundle, "--against", file, *BY_STORED)
    assert result.code == 3
    assert "not the same machine: cpu another -> " in result.out
    file = stored()
    processes.facts = {"runtime": "2", "CPU clock": "1 MHz"}
    result = run("bench", bundle, "--against", file, *BY_STORED)
    assert result.code == 3
    assert "not the same machine: runtime 1 -> 2" in result.out


def test_a_report_without_the_reference_network_only_informs(bundle: Path, stored: Callable[..., Path]) -> None:
    file = stored(lambda report: msgspec.structs.replace(report, controls=()))
    report = against(bundle, file, SETUP, SHORT)
    assert report.undecided
    assert report.stored is not None
    assert report.stored.informs_only == "the reference network was not timed both times on ort-cpu threads=1"


def test_a_report_only_informs_of_a_backend_whose_own_control_is_missing(
    bundle: Path, processes: Processes, stored: Callable[..., Path]
) -> None:
    """What the reference network takes on one backend says nothing of another, which may compute on a GPU."""

    def by_torch(report: BenchReport) -> BenchReport:
        between = (msgspec.structs.replace(row, setup=Setup("torch", "float32", 1)) for row in report.between)
        return msgspec.structs.replace(report, between=tuple(between))

    report = against(bundle, stored(by_torch), "torch threads=1", SHORT)
    assert report.undecided
    assert report.stored is not None
    assert report.stored.informs_only == "the reference network was not timed both times on torch threads=1"


def test_processes_of_another_length_are_not_compared(
    bundle: Path, run: Command, processes: Processes, stored: Callable[..., Path]
) -> None:
    file = stored()
    result = run("bench", bundle, "--against", file, "--backend", SETUP, "--seconds", "2")
    assert result.code == 2
    assert "timed its processes for 0.01 s each, and these would be for 2 s; give --seconds 0.01" in result.err
    assert processes.orders == []
    older = stored(lambda report: msgspec.structs.replace(report, seconds=0.0))
    assert "it does not say how long its processes were timed" in run("bench", bundle, "--against", older, *BY_STORED).out


def test_more_processes_than_can_be_counted_are_not_all_taken(bundle: Path, stored: Callable[..., Path]) -> None:
    assert against(bundle, stored(count=25), SETUP, SHORT).rows[0].evidence.pairs == 20


@pytest.mark.parametrize("words", [("--pairs", "9"), ("--against-backend", SETUP)])
def test_what_a_stored_report_has_settled_is_not_asked_for(
    bundle: Path, run: Command, stored: Callable[..., Path], words: tuple[str, ...]
) -> None:
    result = run("bench", bundle, "--against", stored(), *BY_STORED, *words)
    assert result.code == 2
    assert f"{words[0]} is not for a stored report" in result.err


@pytest.mark.parametrize(
    ("setup", "row", "told"),
    [
        ("ort-cpu threads=2", Row(), "has no processes of ort-cpu threads=2, batch 1, end-to-end; it has ort-cpu threads=1"),
        (SETUP, Row(8), "has no processes of ort-cpu threads=1, batch 8, end-to-end"),
    ],
)
def test_a_report_without_that_row_says_what_it_has(
    bundle: Path, stored: Callable[..., Path], setup: str, row: Row, told: str
) -> None:
    with pytest.raises(UsageError, match=told):
        against(bundle, stored(), setup, Timing((1,), 0.01, rows=(row,)))


def test_a_report_by_other_options_is_not_the_other_side(bundle: Path, processes: Processes, tmp_path: Path) -> None:
    other = bench(bundle, "ort-cpu threads=1 optimisation=off", Timing((1,), 0.01, processes=8))
    write_bytes(tmp_path / "b.json", other.to_json())
    with pytest.raises(UsageError, match=r"no processes of ort-cpu threads=1, .*; it has ort-cpu threads=1 optimisation=off"):
        against(bundle, tmp_path / "b.json", SETUP, SHORT)


def test_a_report_of_another_variant_is_told_as_that(bundle: Path, stored: Callable[..., Path]) -> None:
    def of_int8(report: BenchReport) -> BenchReport:
        between = (msgspec.structs.replace(row, setup=Setup("ort-cpu", "int8", 1)) for row in report.between)
        return msgspec.structs.replace(report, between=tuple(between))

    (row,) = against(bundle, stored(of_int8), SETUP, SHORT).rows
    assert (row.setup.variant, row.against_setup.variant) == ("float32", "int8")


def test_a_report_of_two_bundles_does_not_say_which(bundle: Path, stored: Callable[..., Path]) -> None:
    file = stored(lambda report: msgspec.structs.replace(report, between=2 * report.between))
    with pytest.raises(UsageError, match="2 rows of ort-cpu threads=1, batch 1, end-to-end; store a report of one bundle"):
        against(bundle, file, SETUP, SHORT)


def test_other_files_are_refused_in_a_sentence(bundle: Path, stored: Callable[..., Path], tmp_path: Path) -> None:
    file = stored(lambda report: msgspec.structs.replace(report, between=()))
    with pytest.raises(UsageError, match="no medians of fresh processes; make it with edgekit bench B --processes 8"):
        against(bundle, file, SETUP, SHORT)
    document = json.loads(stored().read_bytes())
    document["between"][0]["processes"][0]["median_ms"] = 0.0
    file.write_text(json.dumps(document))
    with pytest.raises(InputError, match="medians that are no times"):
        against(bundle, file, SETUP, SHORT)
    file.write_text('{"rows": []}')
    with pytest.raises(InputError, match="not a BenchReport"):
        against(bundle, file, SETUP, SHORT)
    with pytest.raises(BundleError, match="nowhere"):
        against(bundle, tmp_path / "nowhere", Setup("ort-cpu"), SHORT)


# the seed


def test_each_comparison_throws_its_coins_anew_and_its_seed_repeats_them(
    bundle: Path, other: Path, run: Command, processes: Processes
) -> None:
    """A constant order would favour the same side in every run of a pipeline."""

    def compared(*words: str) -> AgainstReport:
        return AgainstReport.from_json(
            run("bench", bundle, "--against", other, "--backend", SETUP, *words, "--json").out.encode()
        )

    first, second = compared(), compared()
    assert first.seed != second.seed
    again = compared("--seed", str(first.seed))
    assert (again.seed, again.rows[0].order) == (first.seed, first.rows[0].order)
    told = run("bench", bundle, "--against", other, "--backend", SETUP, "--seed", "17").out
    assert "(--seed 17)" in " ".join(told.split())


def test_a_timing_in_processes_says_the_seed_of_their_order(bundle: Path, run: Command, processes: Processes) -> None:
    def timed(*words: str) -> tuple[BenchReport, list[tuple[str, str]]]:
        processes.orders.clear()
        words = ("--backend", SETUP, "--batch", "1", "--seconds", "0.01", "--processes", "8", *words, "--json")
        report = BenchReport.from_json(run("bench", bundle, *words).out.encode())
        return report, [(str(order.bundle), str(order.setup)) for order in processes.orders]

    (first, order), (second, _) = timed(), timed()
    assert first.seed is not None
    assert first.seed != second.seed
    assert timed("--seed", str(first.seed))[1] == order
    assert f"--seed {first.seed} repeats" in markdown(first.page(), "bench")


def test_the_arrivals_of_requests_are_of_the_same_seed(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads: list[Load] = []

    def due(load: Load, window: Window) -> Moments:
        loads.append(load)
        return due_ns(load, window)

    monkeypatch.setattr("edgekit.latency.load.due_ns", due)
    further = Further(load=Load(rate=200.0))
    reports = [bench(bundle, SETUP, SHORT, further=further) for _ in range(2)]
    assert [load.seed for load in loads] == [report.seed for report in reports]
    assert len({report.seed for report in reports}) == 2
    assert all(report.load is not None and report.load.seed == report.seed for report in reports)
    assert f"arrivals of requests: --seed {reports[0].seed} repeats" in markdown(reports[0].page(), "bench")


@pytest.mark.parametrize("seed", [0, 5])
def test_a_load_with_a_seed_of_its_own_is_drawn_by_that_and_the_report_says_it(
    bundle: Path, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    report = bench(bundle, SETUP, Timing((1,), 0.01, seed=7), further=Further(load=Load(rate=200.0, seed=seed)))
    assert (report.seed, report.load and report.load.seed) == (7, seed)
    page = markdown(report.page(), "bench")
    assert f"Load(seed={seed}) repeats" in page
    assert "--seed 7" not in page
    assert BenchReport.from_json(report.to_json()) == report


# stopped


@pytest.mark.parametrize("stored", [False, True], ids=["a bundle", "a stored report"])
def test_a_comparison_that_is_stopped_says_what_it_saw_and_what_to_do(
    bundle: Path, other: Path, run: Command, processes: Processes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, stored: bool
) -> None:
    processes.ms["bundle"] = 1.25
    base = tmp_path / "base.json"
    assert run("bench", other, *BY_STORED, "--batch", "1", "--processes", "8", "--output", base).code == 0

    def stopping(after: int) -> str:
        def child(*order: Any, **how: Any) -> Answer:
            if len(processes.orders) == after:
                raise KeyboardInterrupt
            return processes(*order, **how)

        processes.orders.clear()
        monkeypatch.setattr("edgekit.latency.fresh.run_child", child)
        result = run("bench", bundle, "--against", base if stored else other, *BY_STORED, "--json")
        assert result.code == 130
        assert result.document["error"]["kind"] == "Interrupted"
        message: str = result.document["error"]["message"]
        assert "decide nothing" in message
        assert "run it again" in message
        return message

    early, late = stopping(after=1), stopping(after=2 + 11)
    if stored:
        assert "after 1 of 18 processes" in early  # a short one and eight, of A and of the reference network each
        assert "after 13 of 18 processes" in late
    else:
        assert "stopped by Ctrl-C before the first pair" in early
        assert "after 5 pairs" in late  # the sixth was not whole
        assert "of 8 to 16" in late
        assert "A took 1.2" in late
