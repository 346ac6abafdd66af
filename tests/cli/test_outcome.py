"""Exit codes, one JSON document on stdout, one sentence on stderr."""

from __future__ import annotations

import errno
import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest
import rich.text

import edgekit
from edgekit.bundle.folder import open_bundle
from edgekit.cli import outcome
from edgekit.machine.gpu import cuda_absence
from tests.command_line import Command, picture, process, written


def test_without_json_an_error_leaves_stdout_empty_and_debug_shows_where_it_came_from(run: Command, tmp_path: Path) -> None:
    plain, debug = (run("verify", tmp_path / "nowhere", *more) for more in ((), ("--debug",)))
    assert (plain.code, plain.out) == (debug.code, debug.out) == (2, "")
    assert "Traceback" not in plain.err
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)


def test_an_error_nobody_foresaw_is_one_sentence_that_asks_for_a_report(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise ZeroDivisionError("first line\nsecond line")

    monkeypatch.setattr("edgekit.commands.verify.verify", fail)
    result = run("verify", bundle)
    assert (result.code, result.out) == (2, "")
    assert result.err == "error: unexpected ZeroDivisionError: first line second line; run again with --debug and report it\n"


@pytest.mark.parametrize(
    ("problem", "code", "said"),
    [
        (KeyboardInterrupt(), 130, "stopped\n"),
        (MemoryError(), 2, "memory is not enough"),
        (PermissionError(errno.EACCES, "Permission denied", "/etc/x"), 2, "/etc/x: Permission denied; check"),
        (edgekit.errors.ModelError("it says\nthree\nlines"), 2, "error: it says three lines\n"),
        (edgekit.errors.Interrupted("training stopped"), 130, "error: training stopped\n"),
        (SystemExit(0), 2, "error: something that was imported ended the program (0); edgekit doctor says which package"),
    ],
    ids=["ctrl-c", "memory", "permission", "several lines", "interrupted", "exit"],
)
def test_what_stops_a_command_has_its_own_code_and_sentence(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException, code: int, said: str
) -> None:
    def fail(*args: object, **options: object) -> None:
        raise problem

    monkeypatch.setattr("edgekit.commands.verify.verify", fail)
    result = run("verify", bundle)
    assert result.code == code
    assert said in result.err
    assert result.err.count("\n") == 1


def test_a_failed_check_is_exit_1_and_a_passed_one_exit_0(run: Command, bundle: Path) -> None:
    passed = run("verify", bundle, "--backend", "ort-cpu", "--json")
    assert (passed.code, passed.document["passed"]) == (0, True)
    failed = run("verify", bundle, "--backend", "ort-cpu", "--atol", "0", "--rtol", "0", "--json")
    assert (failed.code, failed.document["passed"]) == (1, False)
    assert failed.document["parities"][0]["tolerance"]["rtol"] == 0
    timed = ("bench", bundle, "--backend", "ort-cpu", "--batch", "1", "--seconds", "0.01", "--json")
    assert run(*timed, "--budget-ms", "1e9").code == 0
    assert run(*timed, "--budget-ms", "1e-9").code == 1


def test_tables_go_to_stdout_and_carry_the_verdict(run: Command, bundle: Path, tmp_path: Path) -> None:
    results = {
        "verify": run("verify", bundle, "-v"),
        "bench": run("bench", bundle, "--batch", "1", "--seconds", "0.01"),
        "inspect": run("inspect", bundle),
        "predict": run("predict", bundle, picture(tmp_path / "p.png")),
        "models": run("models"),
    }
    assert {name: (result.code, result.err) for name, result in results.items()} == dict.fromkeys(results, (0, ""))
    assert "pass" in results["verify"].out
    if cuda_absence():
        absent_lines = [line for line in results["verify"].out.splitlines() if line.startswith("not present: ")]
        assert absent_lines == [f"not present: torch-cuda, ort-cuda, ort-tensorrt, tensorrt: {cuda_absence()}"]
    assert "- (662)" in results["bench"].out
    assert "end-to-end" in results["bench"].out
    assert "0 batch norm(s)" in results["inspect"].out
    assert "class " in results["predict"].out
    assert "densenet" in results["models"].out
    failed = run("verify", bundle, "--atol", "0", "--rtol", "0")
    assert (failed.code, failed.err) == (1, "")
    assert "FAIL" in failed.out


@pytest.mark.parametrize("args", [("inspect", "BUNDLE"), ("--help",), ("verify", "--help")], ids=" ".join)
def test_a_reader_of_a_table_that_goes_away_is_no_error(args: tuple[str, ...], bundle: Path, environment: dict[str, str]) -> None:
    """As in ``edgekit inspect BUNDLE | head -1``."""
    reading, writing = os.pipe()
    os.close(reading)
    command = [sys.executable, "-m", "edgekit", *(str(bundle) if word == "BUNDLE" else word for word in args)]
    done = subprocess.run(command, stdout=writing, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    os.close(writing)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize(
    "args", [("models",), ("models", "--json"), ("--help",), ("verify", "--help"), ("--version",), ("data",)], ids=" ".join
)
def test_what_is_printed_onto_a_full_disk_is_one_sentence(args: tuple[str, ...], environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgekit", *args]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert (done.returncode, done.stderr) == (2, "error: stdout cannot be written: No space left on device; send it elsewhere\n")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
@pytest.mark.parametrize("args", [("verify", "nowhere"), ("frobnicate",)], ids=" ".join)
def test_an_error_that_stderr_does_not_take_is_still_exit_2(args: tuple[str, ...], environment: dict[str, str]) -> None:
    """1 would say that a check failed."""
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-m", "edgekit", *args], stderr=full, env=environment, check=False)
    assert done.returncode == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no device that is always full")
def test_wrong_usage_whose_document_finds_a_full_disk_is_no_traceback(environment: dict[str, str]) -> None:
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "edgekit", "frobnicate", "--json"]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith(
        "error: stdout cannot be written: No space left on device; send it elsewhere\nerror: no such command"
    )
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("args", "said"), [(("models",), "lenet"), (("--help",), "Usage: edgekit"), (("verify", "nowhere"), "nowhere does not exist")]
)
def test_a_console_that_does_not_know_its_width_is_told_all_the_same(
    args: tuple[str, ...], said: str, environment: dict[str, str]
) -> None:
    """A width of 0 would hold nothing, of errors neither."""
    command, unknown = [sys.executable, "-m", "edgekit", *args], environment | {"COLUMNS": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=unknown, check=False)
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize("args", ["--help", "verify --help", "data", "--version", "models"])
def test_a_closed_stdout_is_an_error_of_help_too(args: str, environment: dict[str, str]) -> None:
    command = f"exec '{sys.executable}' -m edgekit {args} >&-"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 2
    assert args == "data" or done.stderr == "error: stdout cannot be written: it is closed; send it elsewhere\n"


def test_a_terminal_without_unicode_gets_a_table_all_the_same(bundle: Path, environment: dict[str, str]) -> None:
    plain = environment | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "edgekit", "inspect", str(bundle)], capture_output=True, env=plain, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"44,426 parameters" in done.stdout
    assert done.stdout.isascii()


@pytest.mark.parametrize("name", ["x\xe9".encode("latin-1"), b"\xff\xfe"])
def test_a_name_that_is_no_valid_text_is_written_out(run: Command, bundle: Path, name: bytes) -> None:
    copy = Path(os.fsdecode(name))
    shutil.copytree(bundle, copy)
    shown = os.fsencode(copy).decode("utf-8", "surrogateescape").encode("utf-8", "backslashreplace").decode()
    result = run("verify", copy, "--backend", "ort-cpu", "--json")
    assert (result.code, result.err) == (0, "")
    assert result.document["bundle"] == shown
    assert run("verify", copy, "--backend", "ort-cpu").code == 0


def test_a_report_that_cannot_be_printed_is_one_sentence(run: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(report: object) -> bytes:
        raise ZeroDivisionError("no")

    monkeypatch.setattr("edgekit.reports.models.ModelsReport.to_json", fail)
    result = run("models", "--json")
    assert result.code == 2
    assert result.document["error"]["kind"] == "ZeroDivisionError"
    assert result.err.count("\n") == 1


def test_control_characters_in_names_are_shown_and_not_obeyed(run: Command, bundle: Path, tmp_path: Path) -> None:
    """Somebody else's bundle must not move the cursor, rename the window, or turn a line around."""
    name = "red\x1b[31m\x9b2J\x07\u202eeol"
    manifest = msgspec.json.decode((bundle / "manifest.json").read_bytes())
    manifest["labels"] = [name] * 10
    (bundle / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    absent_lines = run("predict", bundle, picture(tmp_path / "p.png", 90))
    assert absent_lines.code == 0
    assert r"red\x1b[31m\x9b2J" in absent_lines.out
    assert r"\u202eeol" in absent_lines.out
    assert not set("\x1b\x9b\u202e") & set(absent_lines.out)
    written = run("verify", name, "--json")
    assert not set("\x1b\x9b\u202e") & set(written.out)
    assert name in json.loads(written.out)["error"]["message"]
    missing = run("verify", tmp_path / name)
    assert missing.code == 2
    assert r"red\x1b[31m" in missing.err
    assert "\x1b" not in missing.err
    memory = io.StringIO()
    outcome._console(file=memory).print(rich.text.Text(name))  # as progress bars do
    assert "\x1b" not in memory.getvalue()


def test_names_with_brackets_are_shown_as_they_are(run: Command, bundle: Path, tmp_path: Path) -> None:
    odd = bundle.rename(tmp_path / "my [red]bundle[bold] [x]")
    assert "my[red]bundle[bold][x]" in "".join(run("verify", odd, "--backend", "ort-cpu").out.split())
    assert "[/nope]" in run("verify", tmp_path / "[/nope]").err


def test_the_whole_path_speaks_json(run: Command, bundle: Path, tmp_path: Path) -> None:
    labels = written(tmp_path / "labels.txt", "\n".join("abcdefghij"))
    root = tmp_path / "out" / "lenet"
    weights = ("--weights", bundle / "weights.safetensors")
    exported = run(
        "export", "lenet", *weights, "--output", root, "--mean", "0.286", "--std", "0.353", "--labels", labels, "--json"
    )
    assert exported.code == 0, exported.err
    assert exported.document["bundle"] == str(root)
    assert len(exported.document["fold"]["folded"]) == 4

    verified = run("verify", root, "--json")
    assert verified.code == 0
    assert verified.document["onnx_sha256"] == exported.document["onnx_sha256"]
    assert {"torch", "ort-cpu"} <= {parity["backend"] for parity in verified.document["parities"]}

    benched = run("bench", root, "--batch", "1,2", "--threads", "1", "--seconds", "0.01", "--json")
    assert benched.code == 0
    assert benched.document["onnx_sha256"] == exported.document["onnx_sha256"]
    assert {(row["batch"], row["boundary"]) for row in benched.document["rows"]} == {
        (batch, boundary) for batch in (1, 2) for boundary in ("device", "end-to-end")
    }
    assert all(len(row["samples_ms"]) == 5 and min(map(min, row["samples_ms"])) > 0 for row in benched.document["rows"])

    predicted = run("predict", root, picture(tmp_path / "p.png"), "--top", "10", "--json")
    assert predicted.code == 0
    (prediction,) = predicted.document["predictions"]
    assert {guess["label"] for guess in prediction["guesses"]} == set("abcdefghij")
    assert sum(guess["probability"] for guess in prediction["guesses"]) == pytest.approx(1)

    inspected = run("inspect", root, "--json")
    assert inspected.code == 0
    assert (inspected.document["batch_norms"], inspected.document["macs"]) == (0, 281_640)
    assert [result.err for result in (exported, verified, benched, predicted, inspected)] == [""] * 5


def test_a_real_process_prints_one_document_and_its_code(bundle: Path, environment: dict[str, str], tmp_path: Path) -> None:
    good = process("verify", bundle, "--json", environment=environment, folder=tmp_path)
    assert (good.returncode, json.loads(good.stdout)["passed"], good.stderr) == (0, True, "")
    bad = process("verify", tmp_path / "nowhere", "--json", environment=environment, folder=tmp_path)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    assert json.loads(bad.stdout)["error"]["kind"] == "BundleError"


def test_an_export_in_a_real_process_keeps_stdout_for_the_document(environment: dict[str, str], tmp_path: Path) -> None:
    done = process("export", "lenet", "--no-fold-bn", "--json", environment=environment, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["bundle"] == "exported/lenet"
    assert all(line.startswith("exporting") for line in done.stderr.splitlines())  # how far it is, on a busy machine
    assert len(json.loads(done.stdout)["fold"]["kept"]) == 4
    assert open_bundle(tmp_path / "exported" / "lenet").manifest.name == "lenet"


def test_a_reader_that_goes_away_is_no_error(environment: dict[str, str], tmp_path: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "edgekit", "models", "--json"]
    done = subprocess.run(
        command, stdout=writer, stderr=subprocess.PIPE, env=environment, cwd=tmp_path, check=False, timeout=1800
    )
    os.close(writer)
    assert (done.returncode, done.stderr) == (0, b"")


def test_predict_goes_on_after_a_bad_picture_writes_csv_and_ends_with_1(run: Command, bundle: Path, tmp_path: Path) -> None:
    good, bad = picture(tmp_path / "p.png"), written(tmp_path / "t.png", "hello")
    result = run("predict", bundle, good, bad, good.with_suffix(".png"), "--csv", tmp_path / "labels.csv")
    assert result.code == 1
    assert "is not a picture of a format that is read" in " ".join(result.out.split())
    assert "1 of 2 pictures could not be labelled" in result.out
    assert len((tmp_path / "labels.csv").read_text().splitlines()) == 1 + 3 + 1


def test_jsonl_is_a_line_for_each_picture_and_a_line_for_an_error(run: Command, bundle: Path, tmp_path: Path) -> None:
    paths = [picture(tmp_path / f"{seed}.png") for seed in range(2)]
    lines = run("predict", bundle, *paths, "--jsonl").out.splitlines()
    assert [msgspec.json.decode(line)["image"] for line in lines] == list(map(str, paths))
    (line,) = run("predict", bundle, tmp_path / "none.png", "--jsonl").out.splitlines()
    assert msgspec.json.decode(line)["error"]["kind"] == "DataError"


def test_a_long_table_is_cut_unless_all_rows_are_asked_for(run: Command, bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "many").mkdir()
    for seed in range(110):
        picture(tmp_path / "many" / f"{seed:03}.png")
    short = run("predict", bundle, tmp_path / "many", "--top", "1").out
    assert "099.png" in short
    assert "100.png" not in short
    assert "10 more rows; -v shows them, --json has all" in short
    whole = run("predict", bundle, tmp_path / "many", "--top", "1", "-v").out
    assert "109.png" in whole
    assert "more rows" not in whole
