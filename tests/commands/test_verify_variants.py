"""``edgekit verify`` of a bundle with int8 and float16 files: all are checked, and every fault in one is caught."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from edgekit.backends import table
from edgekit.bundle.folder import open_bundle
from edgekit.commands.bisect import bisect
from edgekit.commands.verify import verify
from edgekit.errors import MissingError
from edgekit.machine.packages import version_of
from edgekit.reports.verify import ParityReport, VerifyReport
from edgekit.tolerance import ToleranceChange
from tests.bundle.editing import edit, put
from tests.command_line import Command
from tests.converted import FAULTS, changed, convert, copied, stored
from tests.ways import why_not

ORT = ["ort-cpu"]


@pytest.fixture(scope="module")
def _made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = copied(Path(__file__).parent.parent.parent, tmp_path_factory.mktemp("converted"))
    convert(root, "int8")
    convert(root, "float16")
    return root


@pytest.fixture
def lenet(_made: Path, tmp_path: Path) -> Path:
    """A copy of the committed bundle, with an int8 and a float16 file."""
    return Path(shutil.copytree(_made, tmp_path / "lenet"))


def rows(report: VerifyReport) -> dict[str, ParityReport]:
    return {parity.backend: parity for parity in report.parities}


def test_every_variant_is_checked_on_every_backend_and_converted_files_also_as_written(lenet: Path) -> None:
    report = verify(lenet)
    assert report.passed
    names = [f"ort-cpu variant={name}" for name in ("float32", "int8")]
    names += [f"ort-cpu variant={name} optimisation=off" for name in ("int8", "float16")]
    assert [name for name in rows(report) if name.startswith("ort-cpu")] == names
    assert [row.as_written for name, row in rows(report).items() if name.startswith("ort-cpu")] == [False, False, True, True]
    if why_not("openvino") == "":
        assert {f"openvino variant={name}" for name in ("float32", "int8", "float16")} <= set(rows(report))
    assert "torch" in rows(report)  # of the original alone
    assert report.variants == {name: open_bundle(lenet).sha256_of(name) for name in ("float32", "int8", "float16")}
    assert VerifyReport.from_json(report.to_json()) == report


def test_a_converted_file_is_held_by_its_own_kind_of_bar(lenet: Path) -> None:
    parity = rows(verify(lenet, ["ort-cpu variant=int8"]))["ort-cpu"]
    allowance = open_bundle(lenet).variant("int8").allowance
    assert (parity.snr_db, parity.steps, parity.tolerance) == (allowance.snr_db, 3, allowance.tolerance)
    (output,) = parity.outputs
    assert output.own_steps is not None
    assert output.own_steps < 3
    assert output.snr_db is not None
    assert parity.snr_db is not None
    assert 0.5 < output.of_limit <= 1  # twice the error, and 3 dB: neither is loose
    assert output.snr_db == pytest.approx(parity.snr_db + 3, abs=0.5)


def test_float16_on_ort_cpu_is_left_out_with_the_reason_unless_it_is_named(lenet: Path, run: Command) -> None:
    def left_out(report: VerifyReport) -> list[str]:
        return [row.backend for row in report.skipped if row.left_out]

    assert left_out(verify(lenet)) == ["ort-cpu variant=float16"]
    by_variant, by_backend = verify(lenet, ["every variant=float16"]), verify(lenet, ORT)
    assert left_out(by_variant) == left_out(by_backend) == []
    assert not rows(by_variant)["ort-cpu"].as_written
    assert not rows(by_backend)["ort-cpu variant=float16"].as_written
    text = run("verify", lenet).out
    assert "left out: ort-cpu variant=float16: float16 on ONNX Runtime's CPU is computed in float32 or emulated" in text
    assert "--variant float16 runs it" in text


def test_a_backend_that_runs_some_variants_names_the_others_and_an_absent_one_is_named_once(lenet: Path) -> None:
    skipped = {row.backend: row.reason for row in verify(lenet).skipped}
    assert skipped["torch variant=int8"] == skipped["torch variant=float16"]
    assert "original model" in skipped["torch variant=int8"]
    absent = [name for name, row in table().items() if row.on_gpu and why_not(name)]
    assert {*absent} <= skipped.keys()
    assert not any(name.startswith(f"{backend} ") for backend in absent for name in skipped)


def test_a_named_backend_takes_the_variants_that_it_can(lenet: Path) -> None:
    report = verify(lenet, ["torch"])
    assert list(rows(report)) == ["torch"]
    assert [row.backend for row in report.skipped] == ["torch variant=int8", "torch variant=float16"]


def test_a_named_variant_is_checked_alone(lenet: Path) -> None:
    report = verify(lenet, ["every variant=int8"])
    assert {parity.setup.variant for parity in report.parities} == {"int8"}
    assert [name for name in rows(report) if name.startswith("ort-cpu")] == ["ort-cpu", "ort-cpu optimisation=off"]


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_a_file_shows_against_its_own_recorded_outputs(lenet: Path, fault: str) -> None:
    put(lenet, "int8.onnx", changed(lenet, "int8.onnx", FAULTS[fault]))
    report = verify(lenet, ORT)
    failing = [name for name, parity in rows(report).items() if not parity.passed]
    assert failing == ["ort-cpu variant=int8", "ort-cpu variant=int8 optimisation=off"]
    assert "steps from its own recorded output" in rows(report)[failing[-1]].outputs[0].beyond


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_from_the_making_which_the_recorded_outputs_share_shows_against_the_reference(lenet: Path, fault: str) -> None:
    convert(lenet, "int8", FAULTS[fault])
    report = verify(lenet, ["ort-cpu variant=int8"])
    assert not any(parity.passed for parity in report.parities)
    assert all((parity.outputs[0].own_steps or 0) < 0.5 for parity in report.parities)


def test_one_weight_of_an_int8_file_shows_where_the_file_runs_as_written_only(lenet: Path) -> None:
    """A change that ONNX Runtime's fused kernels are allowed to make is not allowed to the file."""

    def nudge(codes: np.ndarray[tuple[int, ...], np.dtype[np.int8]]) -> np.ndarray[tuple[int, ...], np.dtype[np.int8]]:
        codes = codes.copy()
        codes[2, 5] -= np.int8(np.sign(codes[2, 5]) * 8)
        return codes

    put(lenet, "int8.onnx", changed(lenet, "int8.onnx", lambda model: stored(model, "15.weight.codes", nudge)))
    verdicts = {name: parity.passed for name, parity in rows(verify(lenet, ORT)).items()}
    assert verdicts["ort-cpu variant=int8"]
    assert not verdicts["ort-cpu variant=int8 optimisation=off"]


def one_weight(model: onnx.ModelProto) -> None:
    """The largest weight of a class of a float16 file, a tenth larger."""

    def scale(values: np.ndarray[tuple[int, ...], np.dtype[np.float16]]) -> np.ndarray[tuple[int, ...], np.dtype[np.float16]]:
        values = values.copy()
        values[2, np.abs(values[2]).argmax()] *= np.float16(1.1)
        return values

    stored(model, "15.weight", scale)


def test_one_weight_of_a_float16_file_shows_where_the_file_runs_as_written(lenet: Path) -> None:
    put(lenet, "float16.onnx", changed(lenet, "float16.onnx", one_weight))
    assert not rows(verify(lenet, ORT))["ort-cpu variant=float16 optimisation=off"].passed


def test_a_float16_file_is_held_as_written_to_the_rounding_that_was_recorded_and_to_its_rtol_at_most(lenet: Path) -> None:
    def steps(rounding: float) -> float | None:
        edit(lenet, lambda document: document["variants"][2]["allowance"].update(rounding=rounding))
        row = rows(verify(lenet, ORT))["ort-cpu variant=float16 optimisation=off"]
        assert row.passed == sound
        return row.steps

    sound, rtol = True, open_bundle(lenet).variant("float16").allowance.tolerance.rtol
    assert steps(0.05) == 0.05
    assert steps(8.0) == 127 * rtol
    put(lenet, "float16.onnx", changed(lenet, "float16.onnx", one_weight))
    sound = False
    assert steps(0.05) == 0.05


@pytest.mark.parametrize(("words", "passing"), [(("--rtol", "0.5"), True), (("--rtol", "1e-7", "--atol", "1e-7"), False)])
def test_the_callers_own_tolerance_is_the_bar_where_the_file_runs_as_written_too(
    lenet: Path, run: Command, words: tuple[str, ...], passing: bool
) -> None:
    if passing:
        put(lenet, "float16.onnx", changed(lenet, "float16.onnx", one_weight))
    done = run("verify", lenet, "--backend", "ort-cpu", "--variant", "float16", "--json", *words)
    report = VerifyReport.from_json(done.out.encode())
    assert [(row.passed, row.as_written) for row in report.parities] == [(passing, False), (passing, True)]
    assert {(row.steps, row.tolerance.rtol) for row in report.parities} == {(None, float(words[1]))}
    assert report.passed == passing


def test_a_callers_rtol_takes_no_more_from_the_bundle_than_a_bundle_may_choose(lenet: Path) -> None:
    """Whose numbers they are is no question of tolerance: a bundle that forgives everything beside rtol forgives nothing."""

    def forgiving(document: dict[str, Any]) -> None:
        for variant in document["variants"]:
            variant["allowance"]["tolerance"].update(atol=1e9, top1=0.0)

    edit(lenet, forgiving)
    caller = ToleranceChange(rtol=0.3)
    report = verify(lenet, ORT, tolerance=caller)
    assert {parity.tolerance.atol for parity in report.parities} == {1e-5}
    assert {parity.setup.variant: parity.tolerance.top1 for parity in report.parities} == {
        "float32": 1,
        "int8": 0.5,
        "float16": 0.5,
    }
    assert report.passed
    for name in ("model.onnx", "int8.onnx", "float16.onnx"):
        put(lenet, name, changed(lenet, name, swapped_classes))
    assert not any(parity.passed for parity in verify(lenet, ORT, tolerance=caller).parities)


def swapped_classes(model: onnx.ModelProto) -> None:
    """Two classes change places behind the last layer."""
    order = onnx.numpy_helper.from_array(np.array([0, 1, 2, 3, 7, 5, 6, 4, 8, 9]), "order")
    model.graph.node[-1].output[0] = "unordered"
    model.graph.node.append(onnx.helper.make_node("Gather", ["unordered", "order"], ["output"], "reorder", axis=1))
    model.graph.initializer.append(order)


def test_the_report_says_which_bar_each_row_has_and_which_measure_failed(lenet: Path, run: Command) -> None:
    text = run("verify", lenet, "--backend", "ort-cpu").out
    assert "own steps" in text
    assert re.search("allowed for ort-cpu variant=int8: [^:]* 3 steps from its recorded outputs", " ".join(text.split()))
    put(lenet, "int8.onnx", changed(lenet, "int8.onnx", FAULTS["a scale x2"]))
    failed = run("verify", lenet, "--backend", "ort-cpu")
    assert failed.code == 1
    assert "steps from its own recorded output, 0.15 are allowed" in failed.out
    convert(lenet, "int8", FAULTS["a scale x2"])
    assert "dB are asked" in run("verify", lenet, "--backend", "ort-cpu", "--variant", "int8").out


def test_a_bar_that_is_wider_than_a_bundle_may_choose_fails_and_is_the_bar_only_where_allowed(lenet: Path) -> None:
    convert(lenet, "int8", lambda model: stored(model, "4.weight.scale", lambda scales: scales * np.float32(1.3)))
    wide = {"tolerance": {"atol": 0, "rtol": 0.99, "top1": 0.1}, "snr_db": 1.0}
    edit(lenet, lambda document: document["variants"][-1]["allowance"].update(wide))
    report = verify(lenet, ["ort-cpu variant=int8"])
    assert not report.passed
    assert rows(report)["ort-cpu"].snr_db == 10
    assert [check.code for check in report.checks if check.outcome == "fail"] == ["tolerance"]
    assert verify(lenet, ["ort-cpu variant=int8"], allow=["tolerance"]).passed


def test_a_runtime_below_the_files_floor_is_absent_for_that_file_with_the_remedy(
    lenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    edit(lenet, lambda document: document["variants"][1]["conversion"].update(floor={"onnxruntime": "99.0"}))
    here = version_of("onnxruntime") or version_of("onnxruntime-gpu")
    skipped = {row.backend: row for row in verify(lenet).skipped}
    reason = f"int8.onnx needs onnxruntime 99.0 or newer, and {here} is installed"
    assert skipped["ort-cpu variant=int8"].reason == reason
    assert skipped["ort-cpu variant=int8"].remedy == "pip install 'onnxruntime>=99.0'"
    with pytest.raises(MissingError, match=r"ort-cpu cannot run here: int8\.onnx needs onnxruntime 99\.0"):
        verify(lenet, ["ort-cpu variant=int8"])
    assert "ort-cpu variant=float32" in rows(verify(lenet, ORT))
    edit(lenet, lambda document: document["variants"][1]["conversion"].update(floor={"onnxruntime": here, "other": "9"}))
    assert "ort-cpu variant=int8" in rows(verify(lenet, ORT))


def test_accuracy_from_another_kind_of_cpu_is_noted(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit(lenet, lambda document: document["variants"][1].update(accuracy=0.9))
    edit(lenet, lambda document: document["variants"][1]["conversion"].update(cpu="avx2, avx512_vnni"))
    monkeypatch.setattr("edgekit.parity.other_cpu.instruction_sets", lambda: ("avx2",))
    assert any("the int8 accuracy was measured on a CPU with avx512_vnni" in note for note in verify(lenet, ORT).notes)
    assert verify(lenet, ["ort-cpu variant=float32"]).notes == ()


def test_bisect_lays_a_changed_converted_file_to_the_file_and_a_sound_one_to_nobody(lenet: Path) -> None:
    assert bisect(lenet, ORT).departs == "nothing"
    put(lenet, "int8.onnx", changed(lenet, "int8.onnx", FAULTS["one weight row changed"]))
    report = bisect(lenet, ORT)
    assert report.departs == "file"
    assert report.notes == ("fingerprints are recorded of float32 only, so that no node of int8 can be named",)


def test_a_variant_that_nothing_here_runs_is_said_to_be_unknown_and_bisect_does_not_pass(lenet: Path, run: Command) -> None:
    edit(lenet, lambda document: document["variants"][1]["conversion"].update(floor={"onnxruntime": "99.0"}))
    report = verify(lenet, ORT, allow=["conversion"])
    assert (report.passed, report.not_run) == (True, ("int8",))
    words = ("verify", lenet, "--backend", "ort-cpu", "--allow", "conversion")
    assert "; nothing here ran int8" in " ".join(run(*words).out.split())
    found = bisect(lenet, ORT, allow=["conversion"])
    assert (found.passed, found.departs, found.not_run) == (False, "unknown", ("int8",))
    assert any(note.startswith("ort-cpu variant=int8: int8.onnx needs onnxruntime 99.0 or newer") for note in found.notes)
    done = run(*words, "--bisect")
    assert done.code == 1
    assert "whether int8 of" in done.out
    assert "nothing here runs it; what ran passes" in " ".join(done.out.split())
    assert bisect(lenet, ["ort-cpu variant=float32", "ort-cpu variant=float16"], allow=["conversion"]).passed


def test_what_tells_nothing_is_run_where_nothing_else_is(lenet: Path) -> None:
    """Of two float16 files neither is left out, since nothing would be left."""

    def only_halves(document: dict[str, Any]) -> None:
        half = document["variants"][2]
        for ending in ("onnx", "npz"):
            (lenet / f"other.{ending}").write_bytes((lenet / f"float16.{ending}").read_bytes())
            document["files"][f"other.{ending}"] = document["files"][f"float16.{ending}"]
        conversion = {**half["conversion"], "outputs": "other.npz"}
        document["variants"] = [half, {**half, "name": "other", "file": "other.onnx", "conversion": conversion}]
        for name in ("int8.onnx", "int8.npz", "int8.json", "model.onnx"):
            (lenet / name).unlink()
            del document["files"][name]

    edit(lenet, only_halves)
    assert {"ort-cpu variant=float16", "ort-cpu variant=other"} <= set(rows(verify(lenet, ["every"])))


def test_a_bundle_of_one_variant_is_verified_as_ever(repository: Path) -> None:
    report = verify(repository / "exported" / "lenet", ORT)
    (parity,) = report.parities
    assert (parity.backend, parity.noise_factor, parity.snr_db, parity.steps) == ("ort-cpu", 4, None, None)
    assert (parity.outputs[0].own_steps, parity.outputs[0].beyond, report.skipped) == (None, "", ())
    document = msgspec.json.decode(report.to_json())
    assert document["onnx_sha256"] == document["variants"]["float32"]
    onnx.checker.check_model(str(repository / "exported" / "lenet" / "model.onnx"))
