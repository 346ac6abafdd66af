"""Reports: to JSON and back, and what counts as passed."""

from __future__ import annotations

import inspect
import json
import os

import msgspec
import pytest

from edgekit.backends.tensorrt.options import BuildOptions
from edgekit.errors import InputError
from edgekit.preprocess import Preprocess
from edgekit.reports import base as reports
from edgekit.reports.base import Report, Skipped
from edgekit.reports.bench import BenchReport, Comparison, LatencyReport, Percentile
from edgekit.reports.build import BuildReport, LayerCount, PrecisionReport
from edgekit.reports.catalogue import DataReport, ModelRow, ModelsReport
from edgekit.reports.doctor import DoctorReport, Finding
from edgekit.reports.export import ExportReport, Fold, FoldReport, Kept
from edgekit.reports.inspect import InspectReport, Layer
from edgekit.reports.predict import Guess, Prediction, PredictReport
from edgekit.reports.run import RunReport, StepReport
from edgekit.reports.train import Epoch, TrainReport
from edgekit.reports.verify import OutputDiff, ParityReport, VerifyReport
from edgekit.tensors import BatchRange
from edgekit.tolerance import Tolerance

FOLDS = FoldReport((Fold("1", "BatchNorm2d", ("0",)),), (Kept("2", "BatchNorm", "a reason", 0),), 1e-16)
DIFF = OutputDiff("output", 1e-6, 1e-7, 2e-5, 1.0)
PARITY = ParityReport("reference", "ort-cpu", 8, Tolerance(), (DIFF,), {"onnxruntime": "1"})
LATENCY = LatencyReport(
    "ort-cpu", 1, "end-to-end", (0.9,), ((0.1, 0.2), (0.3,)), 0.2, 0.1, 0.3,
    (Percentile(50.0, 0.2, 1), Percentile(99.0, None, 100)), 0.4, "calm", {"threads": "1"},
)  # fmt: skip
BENCH = BenchReport(
    "b", "0" * 64, {"cpu": "x"}, 1, 0.5, (LATENCY,), (Comparison("a", "b", 1, "device", 1.5, 1.2, 1.9),), (Skipped("c", "no"),)
)
TRAIN = TrainReport(
    "runs/x", "lenet", 10, (Epoch(1, 0.5, 0.8, 0.7, 1.5, 1e-3),), 0.7, 0.6, 1.5, "0" * 64, ("a", "b"),
    Preprocess("grey", 28, 28, (0.1,), (0.2,)), {"torch": "2"},
)  # fmt: skip
FINDING = Finding("torch", "ok", "2", "CPU", "", "")
PRECISION = PrecisionReport("float32", "strongly typed", "engine", ("float32",))
BUILD = BuildReport(
    "b", "0" * 64, "tensorrt", "10.3", "e.plan", "1" * 64, 1000, False, 1.5, None, "new", BuildOptions((BatchRange(1, 8, 32),)),
    (LayerCount("CONVOLUTION", "float32", 2),), PRECISION, {"TF32": "off"},
)  # fmt: skip
EXAMPLES: tuple[Report, ...] = (
    TRAIN,
    FOLDS,
    ExportReport("b", 20, FOLDS, 1e-7, 2e-7, "8 random inputs", ("a note",), "0" * 64, 1000, "ONNX Runtime"),
    PARITY,
    VerifyReport("b", "0" * 64, (PARITY,), (Skipped("ort-cuda", "no driver"),)),
    LATENCY,
    BENCH,
    InspectReport("s", {"input": "float32"}, {"output": "float32"}, (Layer("0", "Conv2d", ("batch", 6, 24, 24), 156, 86400),),
                  {"Conv2d": 1}, 156, 86400, 0, {"torch": "2"}),
    PredictReport("b", "ort-cpu", (Prediction("a.png", (Guess("shirt", 0.75), Guess("coat", 0.25))),)),
    RunReport("r.toml", "b", (StepReport("train", "done", True, 1.5, "fine"),)),
    ModelsReport((ModelRow("lenet", "1x28x28", "small"),)),
    DataReport("fashion-mnist", "/data", 60000, 10000, ("a", "b")),
    DoctorReport({"cpu": "x"}, (FINDING,)),
    BUILD,
)  # fmt: skip
every_report = pytest.mark.parametrize("report", EXAMPLES, ids=lambda report: type(report).__name__)


def change(report: Report, **values: object) -> Report:
    return msgspec.structs.replace(report, **values)


def test_every_kind_of_report_is_tried_here() -> None:
    kinds = {kind for _, kind in inspect.getmembers(reports, inspect.isclass) if issubclass(kind, Report) and kind is not Report}
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
        FOLDS.error_float64 = 0.0  # type: ignore[misc]


def test_training_passes_at_its_bar_and_not_below() -> None:
    assert change(TRAIN, test_accuracy=0.6).passed
    assert not change(TRAIN, test_accuracy=0.5999).passed
    assert not change(TRAIN, test_accuracy=float("nan")).passed


@pytest.mark.parametrize(
    ("values", "within"),
    [
        ({"max_abs": 2e-5}, True),
        ({"max_abs": 2.1e-5}, False),
        ({"max_abs": float("nan")}, False),
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


def test_a_run_passes_when_every_step_does() -> None:
    good, bad = StepReport("train", "skipped", True, 0.0, ""), StepReport("verify", "done", False, 0.0, "")
    assert RunReport("r", "b", (good,)).passed
    assert not RunReport("r", "b", (good, bad)).passed


def test_an_engine_passes_when_it_computes_as_asked() -> None:
    assert BUILD.passed
    assert not change(BUILD, precision=msgspec.structs.replace(PRECISION, problems=("in float16",))).passed


def test_only_what_is_broken_fails_the_doctor() -> None:
    assert DoctorReport({}, (FINDING, msgspec.structs.replace(FINDING, status="absent"))).passed
    assert not DoctorReport({}, (FINDING, msgspec.structs.replace(FINDING, status="broken"))).passed


def test_counts_are_derived_from_what_is_recorded() -> None:
    assert FOLDS.before == 2
    assert LATENCY.count == 3


def test_a_path_that_is_no_valid_text_is_written_out() -> None:
    path = os.fsdecode(b"caf\xe9")
    report = DoctorReport({path: path}, (Finding("torch", "ok", "2", "CPU", path, ""),))
    document = json.loads(report.to_json())
    assert document["machine"] == {"caf\\udce9": "caf\\udce9"}
    assert document["findings"][0]["problem"] == "caf\\udce9"
    assert DoctorReport.from_json(report.to_json()).findings[0].version == "2"
