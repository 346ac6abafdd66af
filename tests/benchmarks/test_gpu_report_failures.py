"""Failures, refusals and interruptions of the GPU report."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_report
import msgspec
import pytest

from edgekit.backends import row_of, table
from edgekit.backends.contract import Session
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.errors import EngineError
from edgekit.latency.loop import Timing
from edgekit.setups import Setup
from tests.benchmarks.trials import Run, changed, report
from tests.ways import NO_DRIVER


def brief(folder: Path, *bundles: Path) -> Run:
    """The shortest run of the report, on the CPU."""
    named = [part for bundle in bundles for part in ("--bundle", bundle)]
    backends = ("--backend", "torch", "--backend", "ort-cpu")
    return report(folder / "trial.json", "--on-cpu", *backends, "--seconds", "0.001", "--batch", "1", *named)


@pytest.mark.usefixtures("_exported_before")
def test_wrong_numbers_are_named_and_the_exit_code_is_1(bundle: Path, tmp_path: Path) -> None:
    changed(bundle, tmp_path / "wrong")
    run = brief(tmp_path, tmp_path / "wrong")
    assert run.code == 1
    document = run.document["bundles"]["wrong"]
    verdicts = {(side, row["backend"]): row["passed"] for side in ("folded", "unfolded") for row in document[side]["parity"]}
    assert verdicts == {
        ("folded", "torch"): True, ("folded", "ort-cpu"): False, ("unfolded", "torch"): True, ("unfolded", "ort-cpu"): True,
    }  # fmt: skip
    (line,) = [line for line in run.printed.splitlines() if line.startswith("| wrong | ort-cpu | 4 of 4 folded")]
    assert "**FAIL**" in line


@pytest.mark.usefixtures("_exported_before")
def test_a_runtime_that_does_not_open_is_named_and_the_others_are_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(files: ModelFiles, *_: object) -> Session:
        raise EngineError(f"no engine of {files.onnx}; wait for spring")

    rows = {**table(), "ort-cpu": msgspec.structs.replace(row_of("ort-cpu"), open=refuse)}
    monkeypatch.setattr("edgekit.backends.table", lambda: rows)
    run = brief(tmp_path, bundle)
    assert run.code == 1
    document = run.document["bundles"]["bundle"]
    sentence = "no engine of model.onnx; wait for spring"
    assert document["failed"] == {f"{side} ort-cpu parity": sentence for side in ("folded", "unfolded")}
    for side in ("folded", "unfolded"):
        assert [row["backend"] for row in document[side]["parity"]] == ["torch"]
        assert {row["backend"] for row in document[side]["latency"]} == {"torch"}
    assert document["folded_over_unfolded"] == []
    assert f"- **Failed**: bundle, folded ort-cpu parity: {sentence}." in run.printed.splitlines()


BRIEF = Timing(seconds=1)


def fails_with(*names: str) -> tuple[Callable[..., Any], list[tuple[str, ...]]]:
    """A ``bench`` that fails if a backend in ``names`` takes part, and the list of its full measurements (not probes)."""
    measured: list[tuple[str, ...]] = []

    def bench(setups: Sequence[Setup], timing: Timing) -> tuple[str, ...]:
        backends = tuple(setup.backend for setup in setups)
        assert timing.batches == BRIEF.batches
        if timing.seconds == 1:
            measured.append(backends)
        if set(names) & set(backends):
            raise EngineError(f"{names[0]} has no memory left")
        return backends

    return bench, measured


def test_a_runtime_that_cannot_be_timed_is_found_and_the_others_are_timed_in_turns() -> None:
    bench, measured = fails_with("b")
    journal = gpu_report.Journal("x")
    setups = [Setup(name) for name in ("a", "b", "c")]
    assert gpu_report.bench_those_that_can(bench, setups, BRIEF, "folded", journal) == ("a", "c")  # type: ignore[comparison-overlap]  # the stand-ins are strings
    assert journal.failed == {"folded b latency": "b has no memory left"}
    assert measured == [("a", "b", "c"), ("a", "c")]


def test_runtimes_that_cannot_be_timed_beside_each_other_are_a_failure_of_all() -> None:
    def alone(setups: Sequence[Setup], timing: Timing) -> Any:
        if len(setups) > 1:
            raise EngineError("there is no memory for all")
        return "fine"

    journal, setups = gpu_report.Journal("x"), [Setup("a"), Setup("b")]
    assert gpu_report.bench_those_that_can(alone, setups, BRIEF, "folded", journal) is None
    assert journal.failed == {"folded latency": "there is no memory for all"}
    bench, _ = fails_with("a", "b")
    assert gpu_report.bench_those_that_can(bench, setups, BRIEF, "folded", journal) is None
    assert list(journal.failed) == ["folded latency", "folded a latency", "folded b latency"]


def test_an_error_that_nobody_foresaw_is_named_too(capsys: pytest.CaptureFixture[str]) -> None:
    journal = gpu_report.Journal("x")
    assert journal.attempt("step", lambda: 1 // 0) is None
    assert journal.failed == {"step": "ZeroDivisionError: integer division or modulo by zero"}
    assert "Traceback" in capsys.readouterr().err


def test_a_bundle_that_is_damaged_and_one_that_cannot_be_rebuilt_are_named(bundle: Path, tmp_path: Path) -> None:
    opened = open_bundle(bundle)
    contents = {name: (bundle / name).read_bytes() for name in opened.manifest.files}
    source = msgspec.structs.replace(opened.manifest.source, model="somebody.nets:net")
    write_bundle(tmp_path / "foreign", msgspec.structs.replace(opened.manifest, source=source), contents)
    (bundle / "model.onnx").write_bytes(b"")
    run = brief(tmp_path, bundle, tmp_path / "foreign")
    assert run.code == 1
    assert "has 0 bytes where the manifest says" in run.document["bundles"]["bundle"]["failed"]["the bundle"]
    assert "cannot be rebuilt" in run.document["bundles"]["foreign"]["not_measured"]
    assert str(tmp_path) not in json.dumps(run.document)


def test_without_a_gpu_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(gpu_report, "cuda_absence", lambda: NO_DRIVER)
    monkeypatch.setattr(gpu_report, "RESULTS", tmp_path)
    assert gpu_report.main(["--results", str(tmp_path / "x.json")]) == gpu_report.main([]) == 2
    sentence = "error: no NVIDIA driver is installed; see edgekit doctor, or try this script out with --on-cpu --results FILE"
    assert capsys.readouterr().err.splitlines() == [sentence] * 2
    assert list(tmp_path.iterdir()) == []


BATCHES = ("1,x", "0", "99999999999", "9" * 5000)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--on-cpu"], "it needs --results FILE"),
        *((["--batch", text], "is not a list of batch sizes from 1 to 65536; write it like 1,8,32") for text in BATCHES),
        (
            ["--on-cpu", "--results", "x.json", "--backend", "torch", "--backend", "tensorrt"],
            "--backend tensorrt cannot go with it",
        ),
        (["--bundle", "a/net", "--bundle", "b/net"], "names of their own, not net, net"),
        *((["--seconds", text], "--seconds takes a time above 0 and up to 3600") for text in ("nan", "0", "-1", "inf")),
        *((["--limit", text], "--limit takes seconds above 0") for text in ("nan", "0", "-1")),
        (["--bundle", "nosuch"], "--bundle nosuch is not a bundle, because manifest.json is missing; give a folder"),
        (["--bundle", "x" * 5000], "is not a bundle"),
    ],
)
def test_a_command_line_that_cannot_be_meant_is_refused(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit, match="2"):
        gpu_report.main(arguments)
    assert sentence in capsys.readouterr().err


def test_a_bundle_that_is_a_link_to_itself_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ring").symlink_to("ring")
    with pytest.raises(SystemExit, match="2"):
        gpu_report.main(["--bundle", str(tmp_path / "ring")])
    assert "ring is not a bundle, because manifest.json is missing" in capsys.readouterr().err


def test_ctrl_c_ends_the_run_and_says_what_is_kept(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    results = tmp_path / "results.json"
    shutil.copytree(bundle, tmp_path / "second")

    def measure(root: Path, *_: object) -> dict[str, Any]:
        if root.name == stopping:
            raise KeyboardInterrupt
        return {"not_measured": "on purpose"}

    monkeypatch.setattr(gpu_report, "measure", measure)
    arguments = ["--on-cpu", "--results", str(results), "--bundle", str(bundle), "--bundle", str(tmp_path / "second")]
    stopping = "bundle"
    assert gpu_report.main(arguments) == 130
    assert capsys.readouterr().err == f"error: stopped by Ctrl-C at the bundle bundle; {results} was not written\n"
    assert not results.exists()
    stopping = "second"
    assert gpu_report.main(arguments) == 130
    assert capsys.readouterr().err == f"error: stopped by Ctrl-C at the bundle second; {results} holds the bundles before it\n"
    assert json.loads(results.read_text())["bundles"]["bundle"]["not_measured"] == "on purpose"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        ("folder", "a folder of that name is there; choose another name"),
        ("pipe", "a pipe of that name is there; choose another name"),
        ("file/results.json", "choose a path whose parents are folders"),
        ("x" * 5000, "choose a shorter name"),
    ],
)
@pytest.mark.parametrize("option", ["--results", "--raw"])
def test_what_cannot_be_written_is_refused_before_anything_is_measured(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    option: str, place: str, sentence: str,
) -> None:  # fmt: skip
    if option == "--raw" and place in ("folder", "pipe"):
        place, sentence = "file", "choose a path whose parents are folders"
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setattr(gpu_report, "measure", None)
    more = () if option == "--results" else ("--results", str(tmp_path / "results.json"))
    assert gpu_report.main(["--on-cpu", "--bundle", str(bundle), option, str(tmp_path / place), *more]) == 2
    printed = capsys.readouterr()
    assert (printed.out, printed.err.count("\n")) == ("", 1)
    assert printed.err.startswith("error: ")
    assert sentence in printed.err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bundle", "file", "folder", "pipe"]


# the end of a run


def on_its_own(stdout: Any, bundle: Path, results: Path, environment: dict[str, str], repository: Path) -> Any:
    """Run the script in a process of its own, in which measuring takes no time."""
    program = (
        "import sys; import gpu_report as g; g.measure = lambda _, __, journal: journal.say('measured') or {};"
        "sys.exit(g.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", program, "--on-cpu", "--results", str(results), "--bundle", str(bundle)]
    environment = environment | {"PYTHONPATH": os.pathsep.join((str(repository), str(repository / "benchmarks")))}
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, text=True, env=environment, check=False)


def test_a_reader_that_goes_away_ends_it_quietly(
    bundle: Path, tmp_path: Path, environment: dict[str, str], repository: Path
) -> None:
    """As in ``python benchmarks/gpu_report.py | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    done = on_its_own(writing, bundle, tmp_path / "results.json", environment, repository)
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_a_full_disk_behind_stdout_is_one_sentence(
    bundle: Path, tmp_path: Path, environment: dict[str, str], repository: Path
) -> None:
    with Path("/dev/full").open("w") as full:
        done = on_its_own(full, bundle, tmp_path / "results.json", environment, repository)
    assert (done.returncode, done.stderr) == (2, "error: stdout cannot be written: No space left on device; send it elsewhere\n")


def test_what_was_measured_before_the_run_was_stopped_is_kept(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(bundle, tmp_path / "second")

    def measure(root: Path, *_: object) -> dict[str, Any]:
        if root.name == "second":
            raise KeyboardInterrupt
        return {"model": "lenet"}

    monkeypatch.setattr(gpu_report, "measure", measure)
    (tmp_path / "out").mkdir()
    assert brief(tmp_path / "out", bundle, tmp_path / "second").code == 130
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["trial.json"]
    document = json.loads((tmp_path / "out" / "trial.json").read_text())["bundles"]
    assert document == {"bundle": {"model": "lenet", "failed": {}}, "second": {"not_measured": "the run ended before it"}}


def test_no_bundle_is_begun_beyond_the_limit(bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(bundle, tmp_path / "second")
    monkeypatch.setattr(gpu_report, "measure", lambda *_: {})
    monkeypatch.setattr(gpu_report, "time", SimpleNamespace(monotonic=iter([0.0, 59.0, 61.0]).__next__))
    settings = gpu_report.Settings(Timing((1,), 1), lambda name: "", None)
    roots = {"first": bundle, "second": tmp_path / "second"}
    document = gpu_report.run_all(roots, settings, 60, tmp_path / "x.json")["bundles"]
    assert document == {"first": {"failed": {}}, "second": {"not_measured": "the limit of 60 s was reached"}}
    assert json.loads((tmp_path / "x.json").read_text())["bundles"] == document


@pytest.mark.parametrize("content", ["{}", "[]", "precious", '{"schema": 3}'])
def test_results_that_are_no_report_are_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str) -> None:
    """For example the manifest of the measured bundle."""
    place = tmp_path / "manifest.json"
    place.write_text(content)
    arguments = ["--on-cpu", "--bundle", "exported/lenet", "--results", str(place), "--seconds", "0.01", "--batch", "1"]
    assert gpu_report.main(arguments) == 2
    assert "manifest.json, which is no such report; give another name, or remove it first" in capsys.readouterr().err
    assert place.read_text() == content
