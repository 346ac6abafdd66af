"""What ``edgekit bench`` measures beside latencies: load, starts, layers with their arithmetic, and the calls beside a report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from edgekit.budgets import parse_budget
from edgekit.commands.bench import bench
from edgekit.commands.further import Further
from edgekit.latency.load import Load
from edgekit.latency.loop import Timing
from edgekit.latency.start import PROCESSES
from edgekit.reports.bench import BenchReport
from edgekit.reports.samples import MOST_SAMPLES, samples_path
from tests.command_line import Command
from tests.ways import ways

SHORT = Timing((1,), 0.01)
WORDS = ("--backend", "ort-cpu threads=1", "--batch", "1", "--seconds", "0.01")


@pytest.mark.parametrize("sessions", ["shared", "own"])
def test_every_backend_serves_several_callers_and_requests_at_a_rate(bundle: Path, sessions: str) -> None:
    load = Load((1, 3), sessions, rate=2000.0, budget=parse_budget("median=60s", ["median"]))  # type: ignore[arg-type]  # a parameter
    report = bench(bundle, ways("torch", "ort-cpu", "openvino", threads=1), Timing((1, 2), 0.01), further=Further(load=load))
    assert report.load is not None
    rows = report.load.rows
    names = ("torch", "ort-cpu", "openvino")
    assert [(row.backend, row.callers, row.rate) for row in rows] == [
        (name, callers, rate) for rate in (None, 2000.0) for name in names for callers in (1, 3)
    ]
    assert {row.batch for row in rows} == {1}
    assert {row.sessions for row in rows} == {sessions}
    assert not any(row.one_at_a_time for row in rows)
    assert all(row.throughput > 0 for row in rows if row.rate is None)
    assert {row.requests for row in rows if row.rate is not None} == {20}
    again = BenchReport.from_json(report.to_json())
    assert again == report


def test_a_start_is_measured_for_every_setup(bundle: Path) -> None:
    report = bench(bundle, ways("ort-cpu", threads=1), SHORT, further=Further(start=True))
    (row,) = report.starts
    assert (row.backend, row.batch, row.boundary, len(row.processes), row.failure) == ("ort-cpu", 1, "end-to-end", PROCESSES, "")
    assert all(process.load_ms > 0 and process.gpu_memory_bytes is None for process in row.processes)
    assert report.passed


def test_layers_have_their_modules_their_arithmetic_and_what_the_machine_reaches(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.latency.peak.SIZES", (64,))
    report = bench(bundle, ways("ort-cpu", "openvino", threads=1), Timing((1, 3), 0.01), further=Further(layers=True))
    assert [(layers.backend, layers.batch) for layers in report.layers] == [
        (name, batch) for name in ("ort-cpu", "openvino") for batch in (1, 3)
    ]
    work = {}
    for layers in report.layers:
        work[layers.backend, layers.batch] = sum(layer.macs or 0 for layer in layers.layers)
        (peak,) = layers.peaks
        assert (peak.precision, peak.size) == ("float32", 64)
        modules = [module for layer in layers.layers for module in layer.modules]
        assert len(modules) == len(set(modules)) > 5  # each of LeNet's layers is of one module
    assert work["ort-cpu", 3] == 3 * work["ort-cpu", 1] > 0
    assert work["openvino", 1] == work["ort-cpu", 1]


def test_the_calls_go_beside_the_report_and_come_back(run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.reports.samples.MOST_SAMPLES", 3)
    monkeypatch.setattr("edgekit.reports.samples.thinned_blocks.__defaults__", (3,))
    result = run("bench", bundle, *WORDS, "--concurrency", "2", "--output", "new/b.json", "--json")
    assert result.code == 0
    place = Path("new/b.json")
    document = json.loads(place.read_text())
    assert document["samples"]["name"] == "b.samples.npz"
    for row in (*document["rows"], *document["load"]["rows"]):
        assert sum(map(len, row["samples_ms"])) <= 3
    report = BenchReport.read(place)
    for whole, row in zip(report.rows, document["rows"], strict=True):
        assert sum(map(len, whole.samples_ms)) == whole.count == row["calls"] > 3
        assert whole.samples_ms[0][0] == row["samples_ms"][0][0]
    assert report.load is not None
    assert [sum(map(len, row.samples_ms)) for row in report.load.rows] == [row.requests for row in report.load.rows]
    assert result.document["samples"] is None  # on stdout nothing lies beside it


def test_a_report_that_was_made_with_no_file_beside_it_is_read_as_it_is(bundle: Path, tmp_path: Path) -> None:
    report = bench(bundle, ways("ort-cpu", threads=1), SHORT)
    (tmp_path / "b.json").write_bytes(report.to_json())
    assert BenchReport.read(tmp_path / "b.json") == report
    assert max(row.count for row in report.rows) <= MOST_SAMPLES


def test_a_file_in_the_way_of_the_calls_is_found_before_the_work(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("b.samples.npz").write_bytes(b"my own notes")
    monkeypatch.setattr("edgekit.commands.bench.bench", lambda *rest, **more: pytest.fail("the work was begun"))
    result = run("bench", bundle, *WORDS, "--output", "b.json")
    assert result.code == 2
    assert "--output would replace b.samples.npz, which is no such report" in result.err
    assert Path("b.samples.npz").read_bytes() == b"my own notes"
    assert not Path("b.json").exists()


def test_neither_file_is_replaced_where_one_cannot_be_written(bundle: Path, tmp_path: Path) -> None:
    from edgekit.errors import OutputError
    from edgekit.files import write_together

    report, place = bench(bundle, ways("ort-cpu", threads=1), SHORT), tmp_path / "b.json"
    write_together(report.as_files(place))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    assert set(before) == {"b.json", "b.samples.npz"}
    blocked = {samples_path(place): b"PK new", tmp_path / "b.json" / "c.json": b"{}"}
    with pytest.raises(OutputError):
        write_together(blocked)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate", "auto"), "--rate auto has no budget to hold; add one like --budget p99=5ms"),
        (("--rate", "fast"), "--rate 'fast' is no rate; write it like 200/s, or auto"),
        (("--rate", "1/s"), "1/s brings no request in 0.01 s; give a longer --seconds"),
        (("--concurrency", "1,x"), "--concurrency '1,x' is no list of callers; give numbers from 1 to 256 like 1,2,4"),
        (("--sessions", "own"), "--sessions is for callers at once; add --concurrency 1,2,4, or leave it out"),
        (("--arrivals", "constant"), "--arrivals is for requests at a rate; add --rate 100/s, or leave it out"),
        (("--concurrency", "2", "--sessions", "owns"), "--sessions 'owns' is none of shared and own; give one"),
        (("--budget", "size=5MB"), "--budget 'size=5MB' is no budget; write it like median=5ms or p90=5ms or p99=5ms"),
        (("--against", "b", "--start"), "--start is not for a comparison; leave it out, or leave out --against"),
        (("--against", "b", "--rate", "5/s"), "--rate is not for a comparison; leave it out, or leave out --against"),
    ],
)
def test_words_that_make_no_load_are_one_sentence(run: Command, bundle: Path, words: tuple[str, ...], said: str) -> None:
    result = run("bench", bundle, *WORDS, *words)
    assert result.code == 2
    assert said in " ".join(result.err.split())


def test_a_budget_under_load_decides_the_exit_code(run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.latency.load.PATIENCE_SECONDS", 600.0)  # every request is served, on a busy machine too
    words = (*WORDS, "--rate", "3000/s", "--concurrency", "1", "--json")
    assert run("bench", bundle, *words, "--budget", "median=60s").code == 0
    failing = run("bench", bundle, *words, "--budget", "median=0.001us")
    assert failing.code == 1
    assert failing.document["passed"] is False
    assert run("bench", bundle, *WORDS, "--budget", "median=60s").code == 0
    assert run("bench", bundle, *WORDS, "--budget", "median=0.001us").code == 1
