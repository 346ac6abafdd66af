"""Reports: JSON round trips, pass or fail, and the pages that they draw."""

from __future__ import annotations

import importlib
import io
import json
import os
import pkgutil
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Literal, get_origin, get_type_hints

import msgspec
import pytest
from rich.console import Console

import edgekit.reports
from edgekit.errors import InputError
from edgekit.machine.fitness import Condition
from edgekit.preprocess import Preprocess
from edgekit.reports.against import AgainstReport, AgainstRow, Control, Judged, PairedRatio, Stored
from edgekit.reports.base import Report, Skipped
from edgekit.reports.bench import BenchReport, Between, Comparison, LatencyReport, NamedBundle
from edgekit.reports.bisect import BisectReport, CulpritNode, Trial
from edgekit.reports.build import BuildReport, EngineLayer, LayerCount, PrecisionReport
from edgekit.reports.console import draw
from edgekit.reports.data import CacheReport, DataReport, DecodedSet
from edgekit.reports.diff import DiffReport, FieldDiff, MeasuredDiff, OperatorDiff, TensorDiff
from edgekit.reports.doctor import DoctorReport, Finding, FitnessReport
from edgekit.reports.evaluate import AccuracyRow, EvaluateReport, PairedRow, Thumbnail, WrongPicture
from edgekit.reports.export import ExportReport, Fold, FoldReport, Kept, Obstacle
from edgekit.reports.fresh import Fresh
from edgekit.reports.inspect import InspectReport, Layer, VariantRow
from edgekit.reports.layers import LayerLatency, LayersReport, Peak
from edgekit.reports.load import LoadReport, LoadRow, RateSearch
from edgekit.reports.models import ModelRow, ModelsReport
from edgekit.reports.pack import PackReport, UnpackReport
from edgekit.reports.page import Line, Page, Span, Table, columns, note, spans, visible
from edgekit.reports.percentile import Bound, Percentile
from edgekit.reports.plain import in_lines
from edgekit.reports.predict import Guess, Prediction, PredictReport
from edgekit.reports.quantize import AccuracyChange, Attempt, KeptNode, QuantizeReport, Sensitivity
from edgekit.reports.report import BundleReport, Elsewhere, FileRow, Measured, Tensor
from edgekit.reports.run import RunReport, StepReport
from edgekit.reports.runs import RunRow, RunsReport, Share
from edgekit.reports.samples import SamplesFile
from edgekit.reports.ship import Shipped, ShipReport
from edgekit.reports.start import StartRow
from edgekit.reports.train import Epoch, TrainReport
from edgekit.reports.tune import AccuracyDifference, TuneReport, TuneRow
from edgekit.reports.verify import Check, OutputDiff, ParityReport, VerifyReport
from edgekit.reports.web import WebReport
from edgekit.setups import Absence, Setup
from edgekit.tensors import BatchRange
from edgekit.tolerance import Tolerance

SETUP = Setup("ort-cpu", "float16", 4, (1, 8), {"cuda_graph": True, "level": 3, "engine": "e.plan"})
NO_DRIVER = Absence("no NVIDIA driver is installed", "install it", broken=True)
ABSENT = Absence("no NVIDIA driver is installed", "install it")
KEPT = Kept("2", "BatchNorm", "a reason", 0, (Obstacle("before", "shared", "conv", "two read it"),))
FOLDS = FoldReport((Fold("1", "BatchNorm2d", ("0",)),), (KEPT,), 1e-16)
DIFF = OutputDiff("output", 1e-6, 1e-7, 2e-5, 0.05, 1.0)
PARITY = ParityReport("reference", "ort-cpu", 8, Tolerance(), (DIFF,), {"onnxruntime": "1"}, SETUP)
LATENCY = LatencyReport(
    "ort-cpu", 1, "end-to-end", (0.9,), ((0.1, 0.2), (0.3,)), 0.2, 0.1, 0.3,
    (Percentile(50.0, 0.2, 1), Percentile(99.0, None, 100)), 0.4, "calm", {"threads": "1"}, SETUP,
)  # fmt: skip
LAYERS = LayersReport(
    "ort-cpu", 1, 7, 0.2, (LayerLatency("conv", "Conv", ("node_conv", "node_relu"), 0.2, 1.0, ("features.0",), 1000),), SETUP,
    (Peak("float32", 114.0, 256),),
)  # fmt: skip
LOADED = LoadRow(
    "ort-cpu", SETUP, 1, 2, "shared", True, None, None, 1.0, 300, 0, 0.0, 300.0, 290.0, 310.0,
    (Percentile(50.0, 3.0, 11), Percentile(90.0, 4.0, 64), Percentile(99.0, None, 662)), 5.0, 3.0, None, "noisy: it is loud",
    ((3.0, 4.0),),
)  # fmt: skip
REQUESTED = msgspec.structs.replace(LOADED, rate=100.0, arrivals="poisson", woke_late_us=60.0, over=0.1, held=False, lost=True)
LOAD = LoadReport(
    (LOADED, REQUESTED),
    (RateSearch("ort-cpu", 2, "p99=5ms", 300.0, 100.0, (REQUESTED,)), RateSearch("torch", 2, "p99=5ms", 3.0, None, (), "slow")),
    "p99=5ms",
)
FRESH = Fresh(1, "end-to-end", 0.2, 3, (0.2, 0.2, 0.3), 120.0, (5.0, 0.2), 1 << 24, 1 << 26, "stable", {"threads": "1"})
BETWEEN = Between("ort-cpu", SETUP, 1, "end-to-end", 0.1, 0.3, (FRESH, FRESH))
AGAINST = AgainstReport(
    "a", "0" * 64, "b", "1" * 64, {"cpu": "x"}, 0.05, 1.0, 3,
    (AgainstRow("ort-cpu", 1, "end-to-end", SETUP, Setup("ort-cpu"), ("AB", "BA"), (FRESH, FRESH), (FRESH, FRESH),
                PairedRatio(2, 1.01, 0.0, None, 0.25, 0.02), Judged("undecided", "2 pairs can decide nothing", 5)),),
    True, Stored("b.json", {"cpu": "y -> x"}, (Control(SETUP, (FRESH,), (FRESH,), 1.0, 0.9, None, True),), "another machine"),
)  # fmt: skip
BENCH = BenchReport(
    "b", "0" * 64, {"cpu": "x"}, 1, 0.5, (LATENCY, msgspec.structs.replace(LATENCY, device_ms=(0.1,), launch_bound=True)),
    (Comparison("ort-cpu", "torch", 1, "end-to-end", 1.5, 1.2, 1.9),), (Skipped("c", "no"), Skipped.of("ort-cuda", NO_DRIVER)),
    None, (LAYERS,), (NamedBundle("b", "exported/b", "0" * 64),), (BETWEEN,), (BETWEEN,),
)  # fmt: skip
HELD = msgspec.structs.replace(LOAD, searches=LOAD.searches[:1])
STARTS = (StartRow("ort-cpu", SETUP, 1, "end-to-end", (FRESH,)), StartRow("torch", SETUP, 1, "end-to-end", (), "it is broken"))
FURTHER = msgspec.structs.replace(
    BENCH, load=HELD, starts=STARTS[:1], budget=Bound("median", 5.0), samples=SamplesFile("b.samples.npz", "0" * 64)
)
TRAIN = TrainReport(
    "runs/x", "lenet", 10, (Epoch(1, 0.5, 0.8, 0.7, 1.5, 1e-3),), 0.7, 0.6, 1.5, "0" * 64, ("a", "b"),
    Preprocess("grey", 28, 28, (0.1,), (0.2,)), {"torch": "2"},
)  # fmt: skip
FINDING = Finding("torch", "ok", "2", "CPU", "", "")
ENGINE_LAYER = EngineLayer("conv", True, ("float32",), "a kernel", "CONVOLUTION", ("node_conv",))
PRECISION = PrecisionReport("float32", "strongly typed", "engine", ("float32",), (), "a note", (ENGINE_LAYER,))
BUILD = BuildReport(
    "b", "0" * 64, SETUP, "e.plan", "1" * 64, 1000, False, 1.5, "tensorrt", "10.3", None, "new", {"level": 3, "tf32": False},
    (BatchRange(1, 8, 32),), (LayerCount("CONVOLUTION", "float32", 2),), PRECISION, {"TF32": "off"},
)  # fmt: skip
VERIFY = VerifyReport("b", "0" * 64, (PARITY,), (Skipped("ort-cuda", "no driver", "install it", True),))
EVALUATE = EvaluateReport(
    "b", "photos", 4, ("a", "b"), (AccuracyRow("ort-cpu", SETUP, 0.5, None, 0.5, (0.5, None), ((1, 1), (0, 2)), 1, 9.5),),
    (PairedRow("the original", "ort-cpu", 2, 1, -0.1, -0.3, 0.1, 0.75),), (WrongPicture("x.png", "a", "b", 0.9),),
    thumbnails=(Thumbnail("x.png", "a", "b", 0.9, False, b"\x89PNG\r\n\x1a\n"),),
)  # fmt: skip
INSPECT = InspectReport(
    "s", {"input": "float32"}, {"output": "float32"}, (Layer("0", "Conv2d", ("batch", 6, 24, 24), 156, 86400),), {"Conv2d": 1},
    156, 86400, 0, {"torch": "2"},
)  # fmt: skip
TUNE = TuneReport(
    "b", "0" * 64, 1, "median", ("p99=5ms",), {"cpu": "x"},
    (TuneRow(SETUP, "torch", "chosen", "", "", True, AccuracyDifference(0.9, -0.01, -0.02, 0.0, 100, "the original"), 1000,
             10.0, 11.0, 1 << 20, 1 << 26, 1.0, 1000.0, 2.0, (1.0, 1.1), True),
     TuneRow(Setup("ort-cpu"), "ort-cpu", "over budget", "p99=5ms", "6 ms")),
    SETUP, "edgekit bench b", ("who knows",), ("a note",), (Skipped("ort-cuda", "no driver", "install it"),), "f",
)  # fmt: skip
REPORT = BundleReport(
    "b", "lenet", "0" * 64, {"model": "lenet()"}, (Tensor("input", "x", "float32", "batch x 1"),), ("a", "b"), ("a note",), FOLDS,
    (VariantRow("float32", "float32", 1000, 0.9, (0.8, 0.95), 1e-6, None, None, None, None, "everywhere"),), INSPECT, "",
    {"cpu": "x"}, "name = 1", "print(1)", (FileRow("model.onnx", 1000, "1" * 64),),
    {name: Measured("2026-11-28T00:00:00+00:00", {"cpu": "x"}, "0.2.0", f"edgekit {name} b") for name in ("verify", "bench")},
    VERIFY, None, BENCH, TUNE,
    ("a record cannot be read",), (Elsewhere("verify", "2026-11-28T00:00:00+00:00", {"cpu": "y"}),), "r.html",
)  # fmt: skip
COMPARED = DiffReport(
    "a", "b", "0" * 64, "0" * 64, (), (), (), (MeasuredDiff("bench", "median ms of ort-cpu", 0.1, 0.2),), ("a note",)
)
EXAMPLES: tuple[Report, ...] = (
    TRAIN,
    FOLDS,
    ExportReport("b", 20, FOLDS, 1e-7, 2e-7, "8 random inputs", ("a note",), "0" * 64, 1000, "ONNX Runtime", "float32"),
    PARITY,
    VERIFY,
    LATENCY,
    BENCH,
    FURTHER,
    AGAINST,
    FitnessReport({"cpu": "x"}, (Condition("turbo", "weak", "on", "turn it off"), Condition("heat", "fit", "none"))),
    INSPECT,
    TUNE,
    PredictReport("b", "ort-cpu", (Prediction("a.png", (Guess("shirt", 0.75), Guess("coat", 0.25))),), SETUP),
    RunReport("r.toml", "b", (StepReport("train", "done", True, 1.5, "fine"),)),
    ModelsReport((ModelRow("lenet", "1x28x28", "small"),)),
    DataReport("fashion-mnist", "/data", 60000, 10000, ("a", "b")),
    PackReport("b", "0" * 64, "b.zip", "1" * 64, 460978, ("manifest.json", "model.onnx"), ("notes.txt was left out",)),
    UnpackReport("b.zip", "b", "0" * 64, ("manifest.json", "model.sig"), ("model.sig",), ("README.md is another",)),
    ShipReport("b", "0" * 64, (Shipped("Triton", "models", ("b-float32/config.pbtxt",), "tritonserver"),), ("a note",)),
    CacheReport("/cache/decoded", (DecodedSet("training pictures of /a, rgb 64x64", "/cache/decoded/0.npy", 123456789),), False),
    DoctorReport({"cpu": "x"}, (FINDING,), {"torch": None, "ort-cuda": ABSENT}),
    BUILD,
    EVALUATE,
    QuantizeReport("b", "int8", "int8.onnx", "0" * 64, 1000, 4000, 2, 34.5, 28.5, "40 pictures of the folder x",
                   (Attempt("mse", True, 33.0, True),), (KeptNode("node_conv", "Conv", "0", "too narrow"),),
                   (Sensitivity("node_linear", "9", 40.0, True),), (AccuracyChange("test", 10, 0.9, 0.8, -0.2, 0.1, 2),),
                   1.5, "snr=30dB", True, ("a note",)),
    BisectReport("b", "ort-cpu", "nothing", CulpritNode("node_conv", "Conv", "features.0", "conv", 0.1, 1e-7, 0.1),
                 (Trial(SETUP, 12.0, False, 0.2), Trial(Setup("ort-cpu"), 0.2, True, 0.3)), Setup("ort-cpu"), ("a note",)),
    WebReport("b", "float32", "lenet page", "1.30.0", {"index.html": 1000}),
    RunsReport(
        (RunRow("a", "finished", "lenet", 10, 2, Share(0.9), Share(0.89, 0.88, 0.9), None, 60.0, "c" * 40, True, "a note",
                {"train.seed": "0"}),),
        ("train.seed",),
    ),
    REPORT,
    COMPARED,
)  # fmt: skip
every_report = pytest.mark.parametrize("report", EXAMPLES, ids=lambda report: type(report).__name__)


class Memory(io.StringIO):
    """A text file in memory with an encoding."""

    encoding = "utf-8"


def printed(report: Report | Page, width: int = 120, encoding: str = "utf-8", verbose: bool = False) -> str:
    """The text that a console of this width shows."""
    memory = Memory()
    memory.encoding = encoding
    page = report.page() if isinstance(report, Report) else report
    draw(page, Console(file=memory, width=width, emoji=False), verbose=verbose)
    return memory.getvalue()


def words(text: str) -> str:
    """``text`` with runs of blanks, from columns and wrapped lines, reduced to one."""
    return " ".join(text.split())


def change(report: Report, **values: object) -> Report:
    return msgspec.structs.replace(report, **values)


def test_every_kind_of_report_is_tried_here() -> None:
    for module in pkgutil.iter_modules(edgekit.reports.__path__):
        importlib.import_module(f"edgekit.reports.{module.name}")
    kinds = {kind for kind in Report.__subclasses__() if kind.__module__.startswith("edgekit.reports.")}
    assert all("page" in vars(kind) for kind in kinds)
    assert kinds == {type(report) for report in EXAMPLES}


@every_report
def test_a_report_survives_json(report: Report) -> None:
    content = report.to_json()
    again = type(report).from_json(content)
    assert again == report
    assert again.to_json() == content


def test_a_report_from_before_a_field_was_added_still_opens() -> None:
    document = json.loads(LATENCY.to_json())
    assert document.pop("launch_bound") is False
    del document["device_ms"]
    assert LatencyReport.from_json(json.dumps(document).encode()) == LATENCY


@every_report
def test_a_report_is_one_document_that_says_whether_it_passed(report: Report) -> None:
    document = json.loads(report.to_json())
    assert document["passed"] is report.passed is True
    assert set(document) == {*report.__struct_fields__, "passed"}


@every_report
def test_an_unknown_key_is_an_error_that_names_it(report: Report) -> None:
    document = json.loads(report.to_json())
    document["surprise"] = 1
    with pytest.raises(InputError, match=f"not a {type(report).__name__}: .*`surprise`.*make the report again"):
        type(report).from_json(json.dumps(document).encode())


def test_an_unknown_key_deep_inside_is_an_error_too() -> None:
    document = json.loads(BENCH.to_json())
    document["rows"][0]["percentiles"][0]["surprise"] = 1
    with pytest.raises(InputError, match=r"`surprise`.*rows"):
        BenchReport.from_json(json.dumps(document).encode())


def lists_in(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The place of every list and table in a document."""
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        if isinstance(inner, (dict, list)):
            yield (*path, key)
            yield from lists_in(inner, (*path, key))


@every_report
def test_a_report_in_which_a_list_is_empty_is_refused_or_shown(report: Report) -> None:
    """Reports are read from the state folder, and from files: what opens there can be shown."""
    whole = json.loads(report.to_json())
    for *path, last in lists_in(whole):
        document = json.loads(report.to_json())
        place: Any = document
        for key in path:
            place = place[key]
        place[last] = type(place[last])()
        with suppress(InputError):
            again = type(report).from_json(json.dumps(document).encode())
            assert [again.page(), again.figures(), again.cases(), again.to_jsonl()]


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"{}", b'{"models": 3}', b"\xff", b'{"models": "\xff"}', b'{"models": ' + b"[" * 100_000],
)
def test_anything_else_is_an_error_in_one_sentence(content: bytes) -> None:
    with pytest.raises(InputError, match="not a ModelsReport") as caught:
        ModelsReport.from_json(content)
    assert "\n" not in str(caught.value)


def test_a_report_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        FOLDS.error_float64 = 0.0  # type: ignore[misc]  # it is frozen, which is what is tested


def test_training_passes_at_its_bar_and_not_below() -> None:
    assert change(TRAIN, test_accuracy=0.6).passed
    assert not change(TRAIN, test_accuracy=0.5999).passed
    assert not change(TRAIN, test_accuracy=float("nan")).passed


@pytest.mark.parametrize(
    ("values", "within"),
    [
        ({"of_limit": 1.0}, True),
        ({"of_limit": 1.01}, False),
        ({"of_limit": float("nan")}, False),
        ({"top1": None}, True),
        ({"top1": 0.99}, False),
        ({"problem": "it is missing"}, False),
    ],
)
def test_an_output_is_within_its_tolerance(values: dict[str, object], within: bool) -> None:
    diff = msgspec.structs.replace(DIFF, **values)
    assert diff.within(Tolerance()) is within
    report = change(PARITY, outputs=(DIFF, diff))
    assert report.passed is within
    assert change(EXAMPLES[4], parities=(PARITY, report)).passed is within


def test_a_lower_bar_for_agreement_is_honoured() -> None:
    diff = msgspec.structs.replace(DIFF, top1=0.9)
    assert not diff.within(Tolerance(top1=0.95))
    assert diff.within(Tolerance(top1=0.9))


def test_nothing_checked_is_nothing_passed() -> None:
    assert not change(PARITY, outputs=()).passed
    assert not VerifyReport("b", "", (), (Skipped("ort-cpu", "absent"),)).passed
    assert not change(BENCH, rows=()).passed
    assert not change(BENCH, rows=(), budget_ms=1.0).passed
    assert "budget" not in printed(change(BENCH, rows=(), budget_ms=1.0))  # no batch, so no budget


def test_a_budget_bounds_the_end_to_end_median_of_the_first_batch() -> None:
    def passed(budget_ms: float | None, *rows: LatencyReport) -> bool:
        return change(BENCH, rows=rows or (LATENCY,), budget_ms=budget_ms).passed

    slow = msgspec.structs.replace(LATENCY, median_ms=9.0)
    assert passed(None, slow)
    assert passed(0.2)
    assert not passed(0.19)
    assert not passed(0.2, LATENCY, slow)
    assert passed(0.2, LATENCY, msgspec.structs.replace(slow, boundary="device"))
    assert passed(0.2, LATENCY, msgspec.structs.replace(slow, batch=32))


def test_a_percentile_within_a_budget_holds_it_and_one_that_is_not_known_does_not() -> None:
    known = msgspec.structs.replace(LATENCY, percentiles=(Percentile(99.0, 3.0, 100),))
    assert change(BENCH, rows=(known,), budget=Bound("p99", 3.0)).passed
    assert not change(BENCH, rows=(known,), budget=Bound("p99", 2.9)).passed
    unknown = change(BENCH, rows=(LATENCY,), budget=Bound("p99", 3.0))
    assert not unknown.passed
    assert "P99 of ort-cpu takes 100 calls to be known, and there were 3; give a longer --seconds" in printed(unknown)
    assert [case.passed for case in unknown.cases()] == [False]
    assert not change(BENCH, rows=(known,), budget_ms=0.1, budget=Bound("p99", 3.0)).passed  # both are held


def test_load_that_does_not_hold_and_a_setup_that_does_not_start_fail_the_bench() -> None:
    holds = msgspec.structs.replace(LOADED, held=True)
    assert change(BENCH, load=LoadReport((holds,), (), "p99=5ms")).passed
    assert not change(BENCH, load=LoadReport((msgspec.structs.replace(LOADED, held=False),), (), "p99=5ms")).passed
    assert not change(BENCH, load=LOAD).passed  # one of its searches found no rate
    assert change(BENCH, starts=STARTS[:1]).passed
    failing = change(BENCH, load=LOAD, starts=STARTS)
    assert not failing.passed
    assert [(case.name, case.passed) for case in failing.cases()] == [
        ("latency measured", True),
        ("ort-cpu, 2 callers: a rate that holds p99=5ms", True),
        ("torch, 2 callers: a rate that holds p99=5ms", False),
        ("ort-cpu starts", True),
        ("torch starts", False),
    ]


def test_a_run_passes_when_every_step_does() -> None:
    good, bad = StepReport("train", "skipped", True, 0.0, ""), StepReport("verify", "done", False, 0.0, "")
    assert RunReport("r", "b", (good,)).passed
    assert not RunReport("r", "b", (good, bad)).passed


def test_an_engine_passes_when_it_computes_as_asked() -> None:
    assert BUILD.passed
    assert not change(BUILD, precision=msgspec.structs.replace(PRECISION, problems=("in float16",))).passed
    assert not change(BUILD, engine=None).passed


def test_only_what_is_broken_fails_the_doctor() -> None:
    assert DoctorReport({}, (FINDING, msgspec.structs.replace(FINDING, status="absent")), {}).passed
    assert not DoctorReport({}, (FINDING, msgspec.structs.replace(FINDING, status="broken")), {}).passed
    assert DoctorReport({}, (FINDING,), {"torch": None, "ort-cuda": ABSENT}).passed
    assert not DoctorReport({}, (FINDING,), {"torch": None, "ort-cuda": NO_DRIVER}).passed


def test_counts_are_derived_from_the_recorded_values() -> None:
    assert FOLDS.before == 2
    assert LATENCY.count == 3


def test_a_path_that_is_no_valid_text_is_written_out() -> None:
    path = os.fsdecode(b"caf\xe9")
    report = DoctorReport({path: path}, (Finding("torch", "ok", "2", "CPU", path, ""),), {})
    document = json.loads(report.to_json())
    assert document["machine"] == {"caf\\udce9": "caf\\udce9"}
    assert document["findings"][0]["problem"] == "caf\\udce9"
    assert DoctorReport.from_json(report.to_json()).findings[0].version == "2"


# pages


def texts(page: Page) -> Iterator[str]:
    """Every text of a page, before drawing."""
    for item in in_lines(page):
        cells = [item.content] if isinstance(item, Line) else [item.title, *(cell for row in item.rows for cell in row)]
        yield from (span.text for cell in cells for span in spans(cell))


@every_report
@pytest.mark.parametrize("width", [80, 120])
def test_every_report_draws_within_its_width(report: Report, width: int) -> None:
    shown = printed(report, width)
    assert shown.strip()
    assert max(map(len, shown.splitlines())) <= width


ODD = "[red]x[/red][/nope]\\[b]:smile:\x1b[31m\x07\x9b2J\t\u202eeol\\"
SHOWN = r"[red]x[/red][/nope]\[b]:smile:\x1b[31m\x07\x9b2J\t\u202eeol" + "\\"


def odd(value: Any, hint: Any = None) -> Any:
    """``value`` with ``ODD`` appended to every text that may hold any characters."""
    if isinstance(value, msgspec.Struct):
        hints = get_type_hints(type(value))
        return type(value)(**{name: odd(getattr(value, name), hints[name]) for name in value.__struct_fields__})
    if isinstance(value, dict):
        return {odd(name): odd(item) for name, item in value.items()}
    if isinstance(value, tuple):
        return tuple(odd(item) for item in value)
    return value + ODD if isinstance(value, str) and get_origin(hint) is not Literal else value


@every_report
def test_text_is_never_markup_and_never_obeyed(report: Report) -> None:
    page = odd(report).page()
    carriers = [text for text in texts(page) if ODD in text]
    assert carriers
    wide = printed(page, 5000) + printed(page, 5000, verbose=True)
    for text in carriers:
        assert visible(text) in wide
        assert visible(text).count(SHOWN) == text.count(ODD)
    for width in (80, 120):
        shown = printed(page, width)
        assert not set("\x1b\x07\x9b\t\u202e") & set(shown)
        assert max(map(len, shown.splitlines())) <= width


@pytest.mark.parametrize(
    ("changed", "section"),
    [
        (change(COMPARED, fields=(FieldDiff("folds", "fold.folded.1", "-", "{}"),)), "folds"),
        (change(COMPARED, fields=(FieldDiff("names", "fold.folded.1", "1 (BatchNorm2d)", "bn (BatchNorm2d)"),)), "names"),
        (change(COMPARED, tensors=(TensorDiff("float32", "w", "changed", "float 2", 1.0, None, 0.5),)), "weights"),
        (change(COMPARED, operators=(OperatorDiff("float32", "Conv", 2, 1),)), "operators"),
    ],
)
def test_whatever_differs_fails_and_is_named(changed: Report, section: str) -> None:
    assert COMPARED.passed
    assert "pass: nothing differs" in printed(COMPARED)
    assert not changed.passed
    assert f"differ in: {section}" in words(printed(changed))


def test_a_heading_and_a_title_are_text_too() -> None:
    table = Table("[bold]t[/bold]\x1b", columns("[red]h[/red]\x07", "n", numbers=("n",)), (("a", Span("1", "good")),))
    title, _, headings, _, row, *_ = printed((table,)).splitlines()
    assert title.strip() == r"[bold]t[/bold]\x1b"
    assert words(headings) == r"[red]h[/red]\x07 n"
    assert words(row) == "a 1"


def test_a_tone_is_a_colour_on_a_terminal_and_nothing_elsewhere() -> None:
    page = (Line((Span("pass", "good"), " and ", Span("FAIL", "bad"), Span(" 1", "bold"))),)
    assert printed(page) == "pass and FAIL 1\n"
    memory = Memory()
    draw(page, Console(file=memory, force_terminal=True, color_system="standard", width=80, legacy_windows=False))
    assert memory.getvalue() == "\x1b[32mpass\x1b[0m and \x1b[31mFAIL\x1b[0m\x1b[1m 1\x1b[0m\n"


def test_a_console_that_has_only_ascii_gets_the_sign_in_ascii() -> None:
    for encoding, sign, other in (("utf-8", "≤", "<="), ("ascii", "<=", "≤")):
        shown = printed(BENCH, encoding=encoding)
        assert f"ort-cpu, batch 1: {sign} 0.1 ms by the GPU's own clock.\n{sign}: the GPU waited for the host" in shown
        assert other not in shown
        assert shown.encode(encoding)


def test_backends_absent_for_the_same_reason_share_a_line() -> None:
    skipped = (Skipped("a", "no driver", "install it"), Skipped("b", "no"), Skipped("c", "no driver", "install it"))
    assert printed(VerifyReport("b", "", (), (*skipped, Skipped("d", "no driver", "ask"))), verbose=True).splitlines()[-3:] == [
        "not present: a, c: no driver; install it",
        "not present: b: no",
        "not present: d: no driver; ask",
    ]
    crash = Absence("it crashes", "", broken=True)
    backends = {"torch": None, "e": ABSENT, "g": crash, "f": ABSENT, "h": crash}
    assert printed(DoctorReport({"cpu": "x"}, (FINDING,), backends)).splitlines()[-4:] == [
        "backends that work here: torch",
        "BROKEN: g, h: it crashes",
        "not present: e, f: no NVIDIA driver is installed; install it",
        "cpu x",
    ]


def test_a_skipped_backend_keeps_all_of_its_absence() -> None:
    assert Skipped.of("ort-cuda", NO_DRIVER) == Skipped("ort-cuda", NO_DRIVER.reason, NO_DRIVER.remedy, broken=True)
    assert Skipped.of("ort-cuda", NO_DRIVER).absence == NO_DRIVER


def test_a_row_bears_the_name_that_it_has_in_the_report() -> None:
    names = ("ort-cpu threads=1", "ort-cpu threads=4")
    rows = tuple(msgspec.structs.replace(LATENCY, backend=name, noise="stable") for name in names)
    speedup = Comparison(names[1], names[0], 1, "end-to-end", 1.5, 1.4, 1.6)
    shown = printed(change(BENCH, rows=rows, comparisons=(speedup,)), 200).splitlines()
    first, second = (words(line) for line in shown if "threads=" in line)
    assert first == "1 end-to-end ort-cpu threads=1 0.2 (0.1 .. 0.3) 0.2 - (100) 3 1"
    assert second == "1 end-to-end ort-cpu threads=4 0.2 (0.1 .. 0.3) 0.2 - (100) 3 1.50 (1.40 .. 1.60)"
    parities = tuple(msgspec.structs.replace(PARITY, backend=name) for name in names)
    shown = printed(VerifyReport("b", "", parities, ()), 200).splitlines()
    assert [words(line) for line in shown if "output" in line and "threads=" in line] == [
        f"{name} output 8 1.00e-06 1.00e-07 0.05 - 100.00% - pass" for name in names
    ]


def test_verify_ends_with_its_verdict_and_says_who_is_held_to_which_bar() -> None:
    near = msgspec.structs.replace(PARITY, backend="ort-cpu", noise_factor=4.0)
    far = msgspec.structs.replace(PARITY, backend="openvino", noise_factor=16.0)
    shown = words(printed(VerifyReport("b", "", (near, far), ()), 300))
    assert "allowed for ort-cpu: 4 times the measured noise, at most 2e-05 of the scale" in shown
    assert "allowed for openvino: 16 times the measured noise, since" in shown
    assert shown.endswith("pass: ort-cpu, openvino")
    off = msgspec.structs.replace(far, outputs=(msgspec.structs.replace(far.outputs[0], of_limit=1.6),))
    checks = (Check("labels", "fail", "label 0 is another"), Check("opset", "pass"), Check("pixels", "allowed", "none"))
    lines = printed(VerifyReport("b", "", (near, off), (), checks=checks), 300).splitlines()
    assert lines[-3:] == [
        "manifest: 2 of 3 claims do not hold",
        "FAIL: openvino, output: |y - r| is 3.2e-05 at [], 2e-05 is allowed there; edgekit verify b --bisect names the node",
        "FAIL: the manifest's labels; get the bundle again from whoever exported it, or accept with --allow",
    ]
    accepted = printed(VerifyReport("b", "", (near,), (), checks=checks[1:]), 300).splitlines()
    assert accepted[-1] == "pass: ort-cpu; accepted by --allow: pixels"


INT8 = msgspec.structs.replace(PARITY, tolerance=Tolerance(atol=0, rtol=0.09, top1=0.971), snr_db=31.4, steps=11.4312)


@pytest.mark.parametrize(
    ("figures", "line"),
    [
        ({"top1": 0.96}, "the largest value agrees in 96.00% of the samples, 97.10% are asked"),
        ({"top1": 0.97099}, "the largest value agrees in 97.099% of the samples, 97.100% are asked"),
        ({"of_limit": 1.5}, "off by 0.14 of the scale, 0.09 is allowed"),
        ({"of_limit": 1.001}, "off by 0.0901 of the scale, 0.09 is allowed"),
        ({"of_limit": 2.0, "beyond": "SNR 25.4 dB, 31.4 dB are asked"}, "SNR 25.4 dB, 31.4 dB are asked"),
        (
            {"of_limit": 2.0, "beyond": "SNR 25.4 dB, 31.4 dB are asked", "top1": 0.96},
            "SNR 25.4 dB, 31.4 dB are asked, and the largest value agrees in 96.00% of the samples, 97.10% are asked",
        ),
        ({"of_limit": 1e300, "limit": 0.0, "worst": (3, 1)}, "|y - r| is 1e-06 at [3, 1], 0 is allowed there"),
    ],
    ids=str,
)
def test_what_fails_is_told_by_the_figure_and_the_bar_that_it_misses(figures: dict[str, Any], line: str) -> None:
    parity = msgspec.structs.replace(INT8, outputs=(msgspec.structs.replace(DIFF, **figures),))
    report = VerifyReport("b", "", (parity,), ())
    assert words(printed(report, 300)).endswith(f"FAIL: ort-cpu, output: {line}; edgekit verify b --bisect names the node")
    assert report.cases()[0].text == f"ort-cpu, output: {line}"


def test_the_bars_of_a_file_in_fewer_bits_are_told_with_that_of_its_classes() -> None:
    of_int8 = (
        "SNR of at least 31.4 dB, 0.09 of the scale, 11.4 steps from its recorded outputs, the largest value in place in 97.1%"
    )
    assert f"allowed: {of_int8} of the samples" in words(printed(VerifyReport("b", "", (INT8,), ()), 300))
    callers = msgspec.structs.replace(PARITY, tolerance=Tolerance(atol=0, rtol=0.3, top1=0.9))
    shown = words(printed(VerifyReport("b", "", (callers,), ()), 300))
    assert "allowed: 0.3 of the scale, the largest value in place in 90% of the samples" in shown


def test_bisect_says_in_words_what_is_no_number_and_what_to_do() -> None:
    culprit = CulpritNode("node_3", "Gemm", "", "v", 1e300, 0.0)
    off = Trial(Setup("ort-cpu"), 1.7e308, False, 1.0)
    shown = words(printed(BisectReport("b", "ort-cpu", "file", culprit, (off,)), 200))
    assert "first node that departs: Gemm node_3: its output is not finite, or of another shape" in shown
    assert shown.endswith("what to do: get the bundle again from whoever exported it; if you are that one, export it again")
    assert "tried" not in shown  # the one setup that fails, which the reader has seen
    helps = Trial(Setup("ort-cpu", threads=1), 0.2, True, 1.0)
    shown = words(printed(BisectReport("b", "ort-cpu", "runtime", culprit, (off, helps), helps.setup), 200))
    assert "not finite -> 0.2 of what is allowed" in shown
    assert "e+300" not in shown
    assert "e+308" not in shown
    manifest = printed(BisectReport("b", "ort-cpu", "manifest", notes=("mean is another",)), 200)
    assert "FAIL mean is another" in manifest
    gradual = CulpritNode("node_3", "Gemm", "", "v", 5e-6, 4e-6)
    shown = words(printed(BisectReport("b", "ort-cpu", "file", gradual), 200))
    assert "the error grows over several nodes, most at (the cause may lie before it): Gemm node_3: 5.0e-06" in shown


def test_a_timing_on_another_release_of_the_runtime_replaces_a_longer_one() -> None:
    row = LATENCY
    longer = msgspec.structs.replace(BENCH, rows=(row,), seconds=9.0)
    quick = msgspec.structs.replace(BENCH, rows=(row,), seconds=1.0)
    assert longer.outlasts(quick)
    assert not quick.outlasts(longer)
    other = msgspec.structs.replace(row, facts={**row.facts, "onnxruntime": "99"})
    assert not longer.outlasts(msgspec.structs.replace(quick, rows=(other,)))
    hot = msgspec.structs.replace(row, facts={**row.facts, "CPU clock": "1 MHz"})
    assert longer.outlasts(msgspec.structs.replace(quick, rows=(hot,)))
    assert not longer.outlasts(msgspec.structs.replace(quick, machine={"cpu": "another"}))


def test_a_noisy_timing_does_not_outlast_a_stable_one() -> None:
    noisy, stable = (msgspec.structs.replace(LATENCY, noise=noise) for noise in ("noisy: drifts by 30 %", "stable"))
    longer, quick = (msgspec.structs.replace(BENCH, seconds=seconds) for seconds in (9.0, 1.0))
    outlasts = {
        (own.noise, other.noise): msgspec.structs.replace(longer, rows=(own,)).outlasts(
            msgspec.structs.replace(quick, rows=(other,))
        )
        for own in (noisy, stable)
        for other in (noisy, stable)
    }
    assert [pair for pair, lasts in outlasts.items() if not lasts] == [(noisy.noise, stable.noise)]


def test_noise_is_numbered_and_explained_below_the_table() -> None:
    rows = tuple(msgspec.structs.replace(LATENCY, noise=noise) for noise in ("stable", "drifts [a]", "steal 3 %"))
    lines = [line.strip() for line in printed(change(BENCH, rows=rows)).splitlines()]
    assert [line for line in lines if line.startswith("[")] == ["[1] drifts [a]", "[2] steal 3 %"]
    assert [line[-3:] for line in lines if line.endswith("]") and "end-to-end" in line] == ["[1]", "[2]"]


def test_a_speed_up_with_a_wide_interval_is_not_shown() -> None:
    wide = msgspec.structs.replace(BENCH.comparisons[0], low=1.0, high=1.51)
    shown = words(printed(change(BENCH, comparisons=(wide,)), 200))
    assert "- (1.00 .. 1.51)" in shown
    assert "- under speed-up: not shown; its interval spans more than a factor of 1.5." in shown
    told = words(printed(change(BENCH, comparisons=(msgspec.structs.replace(wide, high=1.5),)), 200))
    assert "1.50 (1.00 .. 1.50)" in told
    assert "- under speed-up" not in told


def test_where_nothing_is_compared_no_speed_up_is_spoken_of() -> None:
    alone = printed(change(BENCH, comparisons=()), 200)
    assert "speed-up" not in alone
    assert "- (n): not shown" in alone
    whole = tuple(msgspec.structs.replace(point, ms=0.2) for point in LATENCY.percentiles)
    complete = printed(change(BENCH, comparisons=(), rows=(msgspec.structs.replace(LATENCY, percentiles=whole),)), 200)
    assert "not shown" not in complete
    assert "speed-up: over the first backend" in printed(BENCH, 200)


def test_a_builder_says_only_what_it_has() -> None:
    """The builder's result has no engine, no precision and no ranges: a blob that another backend compiled."""
    blob = BuildReport("b", "0" * 64, Setup("openvino"), "b.blob", "1" * 64, 2_000_000, False, 1.5)
    assert blob.passed
    assert BuildReport.from_json(blob.to_json()) == blob
    assert printed(blob) == "b in openvino\nthe build took 1.50 s\nwrote b.blob: 2.00 MB\n"
    assert printed(change(blob, cached=True)).splitlines()[1:] == ["its build took 1.50 s", "found b.blob: 2.00 MB"]


def test_a_build_says_its_ranges_and_what_was_kept() -> None:
    several = (BatchRange(1, 8, 32), BatchRange(64, 64, 64))
    assert "wrote e.plan: batch 1:8:32, 64:64:64, 0.00 MB" in printed(change(BUILD, ranges=several))
    assert "nothing was kept: batch fixed" in printed(change(BUILD, ranges=(), engine=None))
    assert "found in the engine, TF32 off: pass (strongly typed)" in printed(BUILD)
    assert "found in the engine: pass (strongly typed)" in printed(change(BUILD, facts={}))  # of a runtime without TF32


def test_a_build_counts_the_layers_of_the_network_and_of_the_engine_and_says_its_notes() -> None:
    precision = msgspec.structs.replace(
        PRECISION, in_network={"int8": 20, "float32": 1}, in_engine={"int8": 18, "float32": 2}, untold=1
    )
    text = words(printed(change(BUILD, precision=precision, notes=("uint8 is read as int8",))))
    assert "layers that multiply in the network in the engine" in text
    assert "int8 20 18" in text
    assert "float32 1 2" in text
    assert "not told 1" in text
    assert "note: uint8 is read as int8" in text
    assert "int8 20 not told" in words(
        printed(change(BUILD, precision=msgspec.structs.replace(precision, in_engine={}, untold=0)))
    )
    assert "layers that multiply" not in printed(BUILD)


def test_a_build_names_its_variant() -> None:
    assert "b (int8) in tensorrt 10.3" in printed(change(BUILD, setup=msgspec.structs.replace(SETUP, variant="int8")))


def test_an_export_gives_the_error_of_the_file_against_the_original() -> None:
    export = EXAMPLES[2]
    assert "the original in its own dtype 1.0e-07, the exported file 2.0e-07" in words(printed(export))
    assert "folded file against the original on 8 random inputs: 2.0e-07" in words(printed(change(export, original_error=None)))
    assert "wrote b: ONNX opset 20, 0.00 MB" in printed(export)


def test_the_table_of_tune_has_no_column_that_is_empty_in_every_row() -> None:
    def headings(report: TuneReport) -> list[str]:
        (table,) = (item for item in report.page() if isinstance(item, Table))
        assert all(len(row) == len(table.columns) for row in table.rows)
        return [column.heading for column in table.columns]

    noisy = msgspec.structs.replace(TUNE, rows=(TUNE.rows[0], msgspec.structs.replace(TUNE.rows[1], noise="noisy")))
    assert headings(noisy) == [*headings(TUNE), ""]
    assert headings(TUNE)[-1] == "standing"
    unjudged = msgspec.structs.replace(TUNE, rows=TUNE.rows[1:])
    assert "points (95 %)" in headings(TUNE)
    assert "points (95 %)" not in headings(unjudged)


def test_a_page_about_a_bundle_lists_the_layers_of_each_file_that_stay_in_float_and_says_what_was_measured_of_its_speed() -> None:
    kept = tuple(KeptNode(f"node_{place}", "Conv", f"blocks.{place}", "it is the first") for place in range(30))
    (first,) = REPORT.variants
    int8 = msgspec.structs.replace(first, name="int8", converted=10, kept=30, speed="int8 pays", speed_up=2.0, in_float=kept)
    page = msgspec.structs.replace(REPORT, variants=(first, int8), tune=None).document()
    (table,) = (item for item in page if isinstance(item, Table) and "stay in float" in item.title)
    assert (table.title, table.long) == ("int8: 30 of 40 layers stay in float", True)
    assert table.rows[29] == ("blocks.29", "node_29", "Conv", "it is the first")
    assert note("int8 pays") in page
    inspected = msgspec.structs.replace(INSPECT, variants=(first, int8))
    assert "note: int8 pays" in printed(inspected, 200)
    assert inspected.variants[1].in_float == kept
