"""``edgekit quantize`` writes a bundle with one more file, whole or not at all, and says what that costs."""

from __future__ import annotations

import html
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.bundle.variants import own_outputs
from edgekit.commands.inspect import inspect
from edgekit.commands.quantize import quantize
from edgekit.commands.report import collect
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, EdgekitError, ModelError, OutputError, UsageError
from edgekit.latency.loop import Candidate, Conditions, latency_report
from edgekit.onnx.placing import LAST
from edgekit.onnx.run import open_unoptimised
from edgekit.reports.bench import LatencyReport
from edgekit.reports.markdown import markdown
from edgekit.reports.quantize import QuantizeReport
from edgekit.tensors import bounded_snr_db
from edgekit.variants import Wanted
from edgekit.variants.half import ON_A_CPU
from tests.command_line import Command, contents
from tests.test_without_torch import TRAINING_ONLY, without

RANDOM = Wanted(calibrate="random")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edgekit.commands.quantize.TIMED_SECONDS", 0.01)


QUIET, BUSY = Conditions(), Conditions(stolen=0.4)
Timed = Callable[..., list[str]]


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Timed:
    """Says how long the first file and the new one take, in milliseconds, and how each timing goes; gives what was timed."""

    def says(first_ms: float, new_ms: float, *timings: Conditions) -> list[str]:
        of_file, conditions, names = {"first": first_ms, "new": new_ms}, list(timings or (QUIET,)), list[str]()

        def interleaved(runs: Sequence[Candidate], batch: int, boundary: str, seconds: float) -> list[LatencyReport]:
            state = conditions.pop(0)
            names.extend(run.name for run in runs)
            return [latency_report(run, batch, boundary, (), [(of_file[run.name],)] * 5, state) for run in runs]

        monkeypatch.setattr("edgekit.commands.quantize.interleave", interleaved)
        return names

    return says


def told(root: Path) -> tuple[str, ...]:
    """Where a bundle says how fast its last variant is: model card, inspect, its JSON, the report."""
    (*_, row), report = inspect(root).variants, collect(open_bundle(root))
    assert report.variants[-1] == row
    page = markdown(report.document(), "")
    shown = markdown(inspect(root).page(), "")
    return tuple(" ".join(html.unescape(text).split()) for text in ((root / "README.md").read_text("utf-8"), shown, page))


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """Forty inputs, none of them golden."""
    rng = np.random.default_rng(5)
    np.savez(tmp_path / "samples.npz", input=(rng.random((40, 1, 28, 28), np.float32) - 0.286) / np.float32(0.353))
    return tmp_path / "samples.npz"


def test_a_bundle_gets_an_int8_file_in_its_own_place(bundle: Path, samples: Path) -> None:
    before = open_bundle(bundle)
    report = quantize(bundle, "int8", Wanted(calibrate=str(samples)))
    after = open_bundle(bundle)  # which checks every checksum
    assert [variant.name for variant in after.manifest.variants] == ["float32", "int8"]
    assert after.onnx_bytes() == before.onnx_bytes()
    assert after.manifest.inputs == before.manifest.inputs
    onnx.checker.check_model(onnx.load_from_string(after.onnx_bytes("int8")), full_check=True)
    variant = after.variant("int8")
    assert variant.conversion is not None
    assert variant.conversion.calibration is not None
    assert (variant.conversion.calibration.samples, variant.conversion.calibration.calibrated) == (40, True)
    assert variant.conversion.floor == {"onnxruntime": "1.21"}
    assert (report.converted, len(report.kept)) == (2, 3)
    assert {row.reason for row in report.kept} >= {"it has 1 input channels: below 16 an 8-bit kernel does not pay"}
    assert all(row.module for row in report.kept)
    outputs = open_unoptimised(after.onnx_bytes("int8"), Path("m"))(after.golden().inputs)
    recorded = own_outputs(after, "int8")
    assert recorded is not None
    assert np.array_equal(recorded["output"], outputs["output"])
    part = after.manifest.golden.parts[0].samples
    assert report.snr_db == pytest.approx(
        bounded_snr_db(outputs["output"][:part], after.golden().float64["output"][:part]), abs=0.01
    )
    assert report.asked_db is not None
    assert 20 < report.asked_db < report.snr_db
    assert verify(bundle, ["ort-cpu variant=int8"]).passed


def test_the_best_way_to_choose_ranges_is_taken_and_all_are_shown(bundle: Path, samples: Path) -> None:
    report = quantize(bundle, "int8", Wanted(calibrate=str(samples)))
    assert {(row.method, row.bias_correction) for row in report.attempts} == {
        (method, corrected) for method in ("minmax", "mse") for corrected in (True, False)
    }
    (chosen,) = (row for row in report.attempts if row.chosen)
    assert chosen.snr_db == max(row.snr_db for row in report.attempts)
    variant = open_bundle(bundle).variant("int8")
    assert variant.conversion is not None
    assert variant.conversion.calibration is not None
    assert variant.conversion.calibration.method == chosen.method
    assert variant.made_by["bias_correction"] == chosen.bias_correction
    table = msgspec.json.decode((bundle / "int8.json").read_bytes())
    assert {row["dtype"] for row in table["tensors"]} <= {"int8", "uint8"}
    assert all(row["limit"] > 0 for row in table["tensors"])


def test_another_folder_gets_the_new_bundle_and_the_old_one_stays(bundle: Path, tmp_path: Path) -> None:
    before = contents(bundle)
    report = quantize(bundle, "int8", RANDOM, output=tmp_path / "new")
    assert contents(bundle) == before
    assert Path(report.bundle) == tmp_path / "new"
    assert [variant.name for variant in open_bundle(tmp_path / "new").manifest.variants] == ["float32", "int8"]


def test_twice_gives_the_same_file_and_replaces_the_variant(bundle: Path) -> None:
    first = quantize(bundle, "int8", RANDOM)
    again = quantize(bundle, "int8", RANDOM)
    assert first.onnx_sha256 == again.onnx_sha256
    assert [variant.name for variant in open_bundle(bundle).manifest.variants] == ["float32", "int8"]


def test_a_replaced_variants_notes_go_with_it_and_other_variants_stay(bundle: Path, samples: Path) -> None:
    quantize(bundle, "float16")
    half = (bundle / "float16.onnx").read_bytes()
    note = "the int8 file is not calibrated: its ranges are those of random numbers"
    report = quantize(bundle, "int8", RANDOM)
    assert note in report.notes
    assert note in open_bundle(bundle).manifest.notes
    variant = open_bundle(bundle).variant("int8")
    assert variant.conversion is not None
    assert variant.conversion.calibration is not None
    assert not variant.conversion.calibration.calibrated
    quantize(bundle, "int8", Wanted(calibrate=str(samples)))
    assert note not in open_bundle(bundle).manifest.notes
    assert [variant.name for variant in open_bundle(bundle).manifest.variants] == ["float32", "float16", "int8"]
    assert (bundle / "float16.onnx").read_bytes() == half


def test_a_layer_asked_for_stays_in_float(bundle: Path) -> None:
    names = {variant.node for variant in quantize(bundle, "int8", RANDOM).kept}
    report = quantize(bundle, "int8", Wanted(calibrate="random", keep=("12",)))
    (row,) = (row for row in report.kept if row.node not in names)
    assert (row.module, row.reason) == ("12", "asked for by --keep 12")
    assert report.converted == 1


def test_a_budget_puts_the_costliest_layers_back_to_float_until_it_holds(bundle: Path) -> None:
    free = quantize(bundle, "int8", RANDOM)
    best = max(row.snr_db for row in free.attempts)
    report = quantize(bundle, "int8", Wanted(calibrate="random", budget=f"snr={best + 0.5:.1f}dB"))
    assert report.passed
    assert report.within_budget
    assert report.converted == 1
    first, second = report.sensitivity
    assert first.snr_db <= second.snr_db
    assert (first.kept, second.kept) == (True, False)
    assert any(f"the budget snr={best + 0.5:.1f}dB needs it" in row.reason for row in report.kept)
    held = quantize(bundle, "int8", Wanted(calibrate="random", budget="snr=10dB"))
    assert (held.converted, [row.kept for row in held.sensitivity]) == (3, [False] * 3)


def test_a_budget_with_room_has_the_first_layer_in_int8_and_never_the_last_which_gains_nothing(bundle: Path) -> None:
    ruled = quantize(bundle, "int8", RANDOM)
    assert (ruled.converted, len(ruled.kept)) == (2, 3)  # the first, the last, and a narrow one between them
    wide = quantize(bundle, "int8", Wanted(calibrate="random", budget="snr=10dB"))
    assert (wide.converted, len(wide.kept)) == (3, 2)
    assert sum("is in int8: the budget snr=10dB holds with room" in note for note in wide.notes) == 1
    assert any(row.reason == LAST for row in wide.kept)
    assert verify(bundle, ("ort-cpu",)).passed
    near = min(row.snr_db for row in ruled.attempts if row.chosen) - 1  # it holds, without room
    tight = quantize(bundle, "int8", Wanted(calibrate="random", budget=f"snr={near:.1f}dB"))
    assert (tight.converted, len(tight.kept), tight.within_budget) == (2, 3, True)
    assert sum("would not hold with room" in note for note in tight.notes) == 1


def test_a_first_layer_that_is_asked_for_stays_in_float_whatever_the_budget(bundle: Path) -> None:
    first = next(row.node for row in quantize(bundle, "int8", RANDOM).kept if "input channels" in row.reason)
    report = quantize(bundle, "int8", Wanted(calibrate="random", budget="snr=10dB", keep=(first,)))
    assert (report.converted, len(report.kept)) == (2, 3)
    assert [row.reason for row in report.kept if row.node == first] == [f"asked for by --keep {first}"]


@pytest.mark.parametrize(
    ("to", "wanted", "error", "message"),
    [
        (
            "int8",
            Wanted(calibrate="random", budget="snr=190dB"),
            ModelError,
            "snr=190dB leaves no layer of .* in 8 bits",
        ),
        ("int8", Wanted(calibrate="random", budget="accuracy=-1pt"), UsageError, "needs labelled training pictures"),
        ("int8", Wanted(calibrate="random", budget="a lot"), UsageError, "'a lot' is no budget"),
        ("int8", Wanted(calibrate="random", keep=("12.weigth",)), UsageError, "the network has no such node or module"),
        ("int7", RANDOM, UsageError, "there is no such variant; choose from int8, float16, with-preprocessing"),
        ("int8", Wanted(), UsageError, "does not say where training pictures are"),
        ("float16", RANDOM, UsageError, "--calibrate does not go with float16"),
        ("float16", Wanted(samples=300), UsageError, "--samples does not go with float16, whose nodes are kept by the golden"),
        ("float16", Wanted(budget="snr=30dB"), UsageError, "--budget does not go with float16"),
    ],
)
def test_a_conversion_that_fails_leaves_the_bundle_as_it_was(
    bundle: Path, to: str, wanted: Wanted, error: type[EdgekitError], message: str
) -> None:
    before = contents(bundle)
    with pytest.raises(error, match=message) as problem:
        quantize(bundle, to, wanted)
    assert problem.value.remedy
    assert contents(bundle) == before


def test_a_misspelt_node_is_answered_with_its_neighbour(bundle: Path) -> None:
    with pytest.raises(UsageError, match="did you mean 'node_linear'"):
        quantize(bundle, "int8", Wanted(calibrate="random", keep=("node_liner",)))


def test_a_folder_with_a_strangers_file_is_refused_before_anything_is_computed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.commands.quantize.convert", lambda *anything: pytest.fail("it was converted"))
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.txt").write_text("ten years of work")
    with pytest.raises(OutputError, match=r"thesis\.txt"):
        quantize(bundle, "int8", RANDOM, output=tmp_path / "thesis")
    assert (tmp_path / "thesis" / "thesis.txt").read_text() == "ten years of work"


def test_a_bundle_that_another_writer_has_changed_meanwhile_is_not_replaced(
    bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two at once: the second to finish would drop the first one's file."""
    from edgekit.commands import quantize as command

    accuracy = command.with_accuracy

    def meanwhile(*job: Any) -> Any:
        monkeypatch.setattr(command, "with_accuracy", accuracy)
        command.quantize(bundle, "float16")
        return accuracy(*job)

    monkeypatch.setattr(command, "with_accuracy", meanwhile)
    with pytest.raises(BundleError, match="was replaced while it was read; run the command again"):
        command.quantize(bundle, "int8", RANDOM)
    names = [variant.name for variant in open_bundle(bundle).manifest.variants]
    assert names == ["float32", "float16"]
    command.quantize(bundle, "int8", RANDOM)
    assert [variant.name for variant in open_bundle(bundle).manifest.variants] == ["float32", "float16", "int8"]


def test_an_output_inside_of_the_bundle_is_refused(bundle: Path) -> None:
    before = sorted(path.name for path in bundle.iterdir())
    with pytest.raises(OutputError, match="is a bundle, which is immutable; choose a place outside of it"):
        quantize(bundle, "int8", output=bundle / "new")
    assert sorted(path.name for path in bundle.iterdir()) == before


def test_keeping_nothing_by_name_is_refused(bundle: Path) -> None:
    with pytest.raises(UsageError, match="--keep names no node"):
        quantize(bundle, "int8", Wanted(calibrate="random", keep=("",)))


def test_a_bundle_whose_first_file_is_quantised_is_refused(bundle: Path, tmp_path: Path) -> None:
    quantize(bundle, "int8", RANDOM)
    written = open_bundle(bundle)
    turned = msgspec.structs.replace(written.manifest, variants=written.manifest.variants[::-1])
    files = {name: (bundle / name).read_bytes() for name in written.manifest.files}
    write_bundle(tmp_path / "turned", turned, files)
    with pytest.raises(ModelError, match=r"is quantised already \(.*\); quantize takes a bundle whose first file is float32"):
        quantize(tmp_path / "turned", "int8", RANDOM)


def test_a_bundle_of_an_older_release_is_quantised_too(repository: Path, tmp_path: Path) -> None:
    shutil.copytree(repository / "tests" / "bundle" / "older" / "schema-3", tmp_path / "old")
    with pytest.raises(ModelError, match=r"no layer that 8 bits would suit: Conv node_conv2d: it has 1 input channels"):
        quantize(tmp_path / "old", "int8", RANDOM)
    assert quantize(tmp_path / "old", "float16").passed
    assert len(open_bundle(tmp_path / "old").manifest.variants) == 2


MACHINE = {
    "system": "Linux x86_64",
    "cpu": "A CPU",
    "cores": "2",
    "python": "3",
    "instruction sets": "avx2, avx512_vnni",
    "load": "9",
}


@pytest.mark.parametrize(("new_ms", "figure", "verdict"), [(2.0, "0.50", "is not worth it"), (0.5, "2.00", "pays")])
def test_what_was_measured_of_its_speed_stands_in_manifest_card_inspect_and_report(
    bundle: Path, timed: Timed, monkeypatch: pytest.MonkeyPatch, new_ms: float, figure: str, verdict: str
) -> None:
    monkeypatch.setattr("edgekit.commands.quantize.machine_facts", lambda: MACHINE)
    timed(1.0, new_ms)
    report = quantize(bundle, "int8", RANDOM)
    assert report.speed_up == 1 / new_ms
    conversion = open_bundle(bundle).variant("int8").conversion
    assert conversion is not None
    speed = conversion.speed
    assert speed
    assert (speed.times, speed.reason, speed.batch) == (1 / new_ms, "", 1)
    assert speed.runtime.split()[1][0].isdigit()
    assert speed.machine == {name: text for name, text in MACHINE.items() if name not in ("python", "load")}
    sentence = (
        f"int8 {verdict} for this network where it was made: {figure} times as fast as float32 in {speed.runtime}, batch 1, "
        "on A CPU, 2 core(s), Linux x86_64 (avx2, avx512_vnni)"
    )
    assert (sentence in report.notes) == (new_ms > 1)
    row = inspect(bundle).variants[-1]
    assert (row.speed, row.speed_up) == (sentence, 1 / new_ms)
    place = "the CPU it was timed on" if new_ms < 1 else "not the CPU it was timed on"
    assert row.pays == f"GPUs with TensorRT; {place} ({figure} times as fast)"  # and of other CPUs nothing
    for text in told(bundle):
        assert sentence in text
        assert row.pays in text


def test_a_noisy_timing_gives_no_figure_anywhere_and_says_why(bundle: Path, timed: Timed) -> None:
    names = timed(1.0, 2.0, BUSY, BUSY, BUSY)
    report = quantize(bundle, "int8", RANDOM)
    assert names == ["first", "new"] * 3
    noisy = "the timing was noisy: other processes took 40% of the cores; edgekit bench measures it"
    sentence = f"the speed of int8 was not measured: {noisy}"
    assert (report.speed_up, sentence in report.notes) == (None, True)
    row = inspect(bundle).variants[-1]
    assert (row.speed, row.speed_up) == (sentence, None)
    assert row.pays == "GPUs with TensorRT; CPUs with VNNI or AMX where layers are large"
    for text in told(bundle):
        assert sentence in text
        assert "times as fast" not in text


def test_a_timing_is_made_again_until_one_is_not_noisy(bundle: Path, timed: Timed) -> None:
    names = timed(1.0, 2.0, BUSY, QUIET)
    assert quantize(bundle, "int8", RANDOM).speed_up == 0.5
    assert names == ["first", "new"] * 2


def test_a_file_that_is_not_timed_says_why(bundle: Path, timed: Timed) -> None:
    names = timed(1.0, 2.0)
    report = quantize(bundle, "float16")
    assert (names, report.speed_up) == ([], None)
    sentence = f"the speed of float16 was not measured: {ON_A_CPU}"
    assert sentence in report.notes
    assert all(sentence in text for text in told(bundle))


def test_nothing_but_the_measured_speed_differs_between_two_quantizations(bundle: Path, timed: Timed, tmp_path: Path) -> None:
    written = []
    for place, new_ms in enumerate((2.0, 2.0, 3.0)):
        timed(1.0, new_ms)
        quantize(bundle, "int8", RANDOM, output=tmp_path / str(place))
        written.append(contents(tmp_path / str(place)))
    first, same, other = written
    assert same == first
    assert {name for name in first if first[name] != other[name]} == {"manifest.json", "README.md", "bom.cdx.json"}


def test_the_command_prints_what_was_tried_what_stayed_and_what_it_costs(bundle: Path, run: Command, timed: Timed) -> None:
    timed(1.0, 2.0)
    result = run("quantize", bundle, "--calibrate", "random")
    assert result.code == 0, result.err
    for words in (
        "ranges from random numbers", "minmax", "mse", "chosen", "3 of 5 layers stay in float",
        "it has 1 input channels: below 16", "not calibrated", f"wrote {bundle} with int8: ", "times as fast as float32",
        "its accuracy was not measured",
    ):  # fmt: skip
        assert words in result.out


def test_under_json_stdout_holds_the_report(bundle: Path, run: Command, tmp_path: Path, timed: Timed) -> None:
    timed(1.0, 2.0)
    result = run("quantize", bundle, "--calibrate", "random", "--output", tmp_path / "new", "--json")
    assert result.code == 0
    report = QuantizeReport.from_json(result.out.encode())
    assert report.passed
    assert report.speed_up == 0.5
    assert result.document["passed"] is True
    assert report.onnx_sha256 == open_bundle(tmp_path / "new").sha256_of("int8")


@pytest.mark.parametrize(
    "options",
    [
        ("--budget", "snr=190dB"),
        ("--budget", "rich"),
        ("--to", "int9"),
        ("--keep", "nothing"),
        ("--samples", "0"),
        ("--calibrate", "nowhere"),
    ],
    ids=" ".join,
)
def test_what_cannot_be_done_is_exit_2_and_one_sentence(bundle: Path, run: Command, options: tuple[str, ...]) -> None:
    before = contents(bundle)
    result = run("quantize", bundle, "--calibrate", "random", *options)
    assert result.code == 2
    assert len([line for line in result.err.splitlines() if line.startswith("error: ")]) == 1
    assert "Traceback" not in result.err
    assert contents(bundle) == before


@pytest.mark.parametrize("to", ["int8", "float16"])
def test_a_bundle_is_quantised_without_torch(bundle: Path, environment: dict[str, str], to: str) -> None:
    more = ["--calibrate", "random"] if to == "int8" else []
    done = without(TRAINING_ONLY, "quantize", str(bundle), "--to", to, *more, "--json", environment=environment)
    assert done.returncode == 0, done.stderr
    assert msgspec.json.decode(done.stdout)["variant"] == to
