"""Tables wider than the console: the columns that are dropped, the places of sentences, and unbroken words."""

from __future__ import annotations

import io
import re

import pytest
from rich.console import Console

from edgekit.reports.against import AgainstReport, AgainstRow, Judged, PairedRatio
from edgekit.reports.base import Skipped, absent, reasons
from edgekit.reports.bench import BenchReport, Comparison, LatencyReport
from edgekit.reports.console import draw
from edgekit.reports.doctor import DoctorReport, Finding
from edgekit.reports.fresh import Fresh
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.reports.page import Column, Page, Table, columns
from edgekit.reports.percentile import Percentile
from edgekit.reports.verify import OutputDiff, ParityReport, VerifyReport
from edgekit.setups import Absence, Setup
from edgekit.tolerance import Tolerance


def printed(page: Page, width: int, verbose: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, emoji=False)
    draw(page, console, verbose=verbose)
    shown = str(console.file.getvalue())  # type: ignore[attr-defined]
    assert max(map(len, shown.splitlines())) <= width
    return shown


def lines(page: Page, width: int, verbose: bool = False) -> list[str]:
    return [line.strip() for line in printed(page, width, verbose).splitlines() if line.strip()]


def latency(backend: str, boundary: str, noise: str = "stable") -> LatencyReport:
    percentiles = (Percentile(90, 0.0125, 64), Percentile(99, None, 662))
    return LatencyReport(
        backend, 32, boundary, (), ((0.0122,) * 500,), 0.0122, 0.0119, 0.0133, percentiles, 0.1, noise, {}, Setup(backend)
    )


BACKENDS = ("torch", "ort-cpu", "ort-tensorrt")
BENCH = BenchReport(
    "exported/lenet",
    "0",
    {},
    2,
    0.1,
    tuple(latency(name, boundary) for boundary in ("device", "end-to-end") for name in BACKENDS),
    tuple(Comparison("ort-cpu", "torch", 32, boundary, 12.49, 11.28, 12.78) for boundary in ("device", "end-to-end")),
    (),
)
REMEDY = "for NVIDIA GPUs: pip uninstall -y onnxruntime, then pip install onnxruntime-gpu"
DOCTOR = DoctorReport(
    {},
    (
        Finding("tensorrt-rtx", "ok", "1.7.1.116", "builds engines here, runs none", "no NVIDIA driver is installed", ""),
        Finding("onnxruntime-gpu", "absent", "", "", "not installed", REMEDY),
    ),
    {"torch": None, "ort-cuda": Absence("no driver", "install one")},
)


def test_bench_keeps_the_numbers_that_matter_at_80_columns() -> None:
    shown = lines(BENCH.page(), 80)
    assert shown[1] == "batch  boundary    backend       median         in this run  speed-up"
    assert "32  end-to-end  ort-cpu       0.0122  (0.0119 .. 0.0133)     12.49" in shown
    assert "left out at this width: P90, P99, calls, speed-up (95 %); --json has all" in shown


def test_bench_has_all_of_its_columns_at_120() -> None:
    shown = printed(BENCH.page(), 120)
    headings = next(line for line in shown.splitlines() if "boundary" in line).split("  ")
    assert [heading.strip() for heading in headings if heading.strip()] == [
        "batch", "boundary", "backend", "median", "in this run", "P90", "P99", "calls", "speed-up", "speed-up (95 %)",
    ]  # fmt: skip
    assert "left out at" not in shown


def test_a_verdict_keeps_what_decides_at_80_columns() -> None:
    fresh = Fresh(1, "end-to-end", 12.25, 3, (12.25,) * 3, 120.0, (15.0,), 1, None, "stable", {})
    evidence = PairedRatio(8, 1.0312, 0.9831, 1.1234, 0.0117, 0.0123)
    row = AgainstRow(
        "ort-cpu",
        32,
        "end-to-end",
        Setup("ort-cpu"),
        Setup("ort-cpu"),
        (),
        (fresh,),
        (fresh,),
        evidence,
        Judged("undecided", "why"),
    )
    report = AgainstReport("exported/new", "0", "exported/old", "1", {}, 0.05, 1.0, 0, (row,))
    shown = lines(report.page(), 80)
    assert "32  end-to-end  ort-cpu  12.2  12.2  1.031  (0.983 .. 1.123)  undecided" in shown
    assert "ort-cpu, batch 32, end-to-end: why" in shown
    assert shown[-1] == "slower than B by more than 5 %: undecided"
    assert any("0.012  1.2 %      8  undecided" in line for line in lines(report.page(), 120))


def test_a_noise_of_several_rows_is_printed_once() -> None:
    rows = tuple(latency(name, "device", noise) for name, noise in zip(BACKENDS, ("drifts", "steals", "drifts"), strict=True))
    shown = lines(BenchReport("b", "0", {}, 2, 0.1, rows, (), ()).page(), 120)
    assert [line[-3:] for line in shown if line.startswith("32")] == ["[1]", "[2]", "[1]"]
    assert [line for line in shown if line.startswith("[")] == ["[1] drifts", "[2] steals"]


@pytest.mark.parametrize("width", [80, 120])
def test_doctor_says_problem_and_remedy_below_the_row_of_a_package(width: int) -> None:
    shown = lines(DOCTOR.page(), width)
    assert shown[1] == "name                     version    runs on"
    place = shown.index("tensorrt-rtx     ok      1.7.1.116  builds engines here, runs none")
    assert shown[place + 1 : place + 4] == [
        "problem: no NVIDIA driver is installed",
        "onnxruntime-gpu  absent",
        "problem: not installed",
    ]
    assert f"remedy: {REMEDY}" in " ".join(shown)


def test_doctor_is_a_table_if_the_console_is_wide() -> None:
    shown = printed(DOCTOR.page(), 200)
    assert "problem:" not in shown
    assert REMEDY in shown


@pytest.mark.parametrize("width", [80, 120])
def test_verify_fits_with_all_of_its_columns(width: int) -> None:
    diff = OutputDiff("output", 9.12e-06, 8.2e-07, 2.23e-04, 0.041, 1.0)
    parities = tuple(ParityReport("r", name, 64, Tolerance(), (diff,), {}, Setup(name)) for name in BACKENDS)
    shown = lines(VerifyReport("b", "", parities, ()).page(), width)
    assert "backend       output  samples  max |y - r|  of scale  of limit" in shown[1]
    row = next(line for line in shown if line.startswith("ort-tensorrt"))
    assert row.startswith("ort-tensorrt  output       64     9.12e-06  8.20e-07     0.041")
    assert row.endswith("pass")
    assert ("SNR dB" in shown[1]) is (width == 120)


def test_the_problem_of_an_output_stands_below_its_row_at_80_columns() -> None:
    problem = "the output has the shape (64, 11), not (64, 10)"
    diffs = (OutputDiff("out", 1e-6, 1e-7, 1e-4, 0.01, 1.0), OutputDiff("out2", 1e9, 1.0, 1e-4, 1e9, None, problem))
    page = VerifyReport("b", "", (ParityReport("r", "ort-cpu", 64, Tolerance(), diffs, {}, Setup("ort-cpu")),), ()).page()
    assert lines(page, 80)[-6:-3] == [
        "ort-cpu  out          64     1.00e-06  1.00e-07      0.01  100.00%  pass",
        "ort-cpu  out2         64            -         -         -        -  FAIL",
        f"problem: {problem}",
    ]
    assert lines(page, 160)[-2].endswith(f"FAIL  {problem}")
    assert lines(page, 160)[-1] == f"FAIL: ort-cpu, out2: {problem}; edgekit verify b --bisect names the node"


def test_the_likely_cause_of_a_failing_output_stands_below_the_table() -> None:
    diff = OutputDiff("out", 1e9, 1.0, 1e-4, 1e9, None, cause="all values are those of the reference times 2")
    parity = ParityReport("r", "ort-cpu", 64, Tolerance(), (diff,), {}, Setup("ort-cpu"))
    shown = printed(VerifyReport("b", "", (parity,), ()).page(), 80)
    assert "ort-cpu, out: looks like this: all values are those of the reference times 2" in shown
    assert " ".join(shown.split()).endswith(
        "FAIL: ort-cpu, out: |y - r| is 1e+05 at [], 0.0001 is allowed there; edgekit verify b --bisect names the node"
    )


def test_inspect_loses_its_parameters_first() -> None:
    layer = Layer("layer1.0.downsample", "AdaptiveAvgPool2d", ("batch", 64, 112, 112), 36928, 1806336)
    report = InspectReport("s", {}, {}, (layer,), {}, 0, 0, 0, {})
    assert "layer1.0.downsample  AdaptiveAvgPool2d  batch x 64 x 112 x 112" in printed(report.page(), 80)
    assert "left out at this width: parameters; --json has all" in printed(report.page(), 80)
    assert "left out at" not in printed(report.page(), 120)


def test_a_long_name_loses_its_middle_before_a_column_goes() -> None:
    layers = tuple(
        Layer(f"node__native_batch_norm_legit_no_training_{index}__0", "Conv", ("batch", 64, 112, 112), 36928, 1806336)
        for index in (3, 10)
    )
    page = InspectReport("s", {}, {}, layers, {}, 0, 0, 0, {}).page()
    assert layers[1].name in printed(page, 120)
    narrow = printed(page, 80)
    assert re.search(r"node__nati\w*…\w*ng_10__0 +Conv", narrow)
    assert "36,928" in narrow
    assert "left out" not in narrow


def test_columns_go_by_rank_and_the_last_of_equals_first() -> None:
    cells = ("a" * 20,) * 4
    table = Table("", columns("p", "q", "r", "s", ranks={"q": 1, "r": 2, "s": 2}), (cells,))
    lost = {width: lines((table,), width)[-1] for width in (88, 87, 66, 65, 43)}
    assert lost[88] == "  ".join(cells)
    for width, names in ((87, "s"), (66, "s"), (65, "r, s"), (43, "q, r, s")):
        assert " ".join(lines((table,), width)).endswith(f"left out at this width: {names}; --json has all")


def test_a_column_of_rank_0_is_never_lost() -> None:
    table = Table("", columns("name", "path", "note", ranks={"note": 1}), (("x" * 30, "y" * 30, "z"), ("u", "", "w")))
    assert lines((table,), 40) == ["x" * 30, f"path: {'y' * 30}", "note: z", "u", "note: w"]


def test_sentences_are_wrapped_between_words_and_numbers_are_not_wrapped() -> None:
    words = [f"word{place}" for place in range(30)]
    table = Table("", (Column("n", number=True), Column("why", prose=True)), (("12 345", " ".join(words)),))
    shown = lines((table,), 60)
    assert "12 345" in shown[2]
    assert " ".join(" ".join(shown[2:]).split()[2:]) == " ".join(words)


def test_a_word_that_is_longer_than_a_line_is_the_only_one_broken() -> None:
    path = "/".join(["folder"] * 20)
    table = Table("", columns("picture", "label"), ((path, "shirt"),))
    assert "".join(lines((table,), 40)) == f"{path}label: shirt"


SKIPPED = (
    Skipped("a", "no driver", "install it"),
    Skipped("b", "it crashes", broken=True),
    Skipped("c", "no driver", "install it"),
)


def test_absent_backends_are_one_line_of_names() -> None:
    page = absent(SKIPPED)
    assert lines(page, 80) == ["not present: a, b (broken), c (-v tells why)"]
    assert lines(page, 80, verbose=True) == ["not present: a, c: no driver; install it", "not present: b: it crashes"]
    assert absent(()) == ()


def test_doctor_gives_the_reasons_without_verbose() -> None:
    assert "not present: ort-cuda: no driver; install one" in lines(DOCTOR.page(), 120)
    assert lines(reasons(SKIPPED[:1]), 80) == lines(reasons(SKIPPED[:1]), 80, verbose=True)
