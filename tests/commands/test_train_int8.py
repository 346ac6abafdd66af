"""A recipe with [train.int8] becomes a bundle with the int8 file that was trained, which verifies without PyTorch."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import msgspec
import pytest

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.ranges import range_table
from edgekit.commands.export import export
from edgekit.commands.run import run as run_recipe
from edgekit.errors import ModelError, RecipeError, UsageError
from edgekit.recipe import load_recipe
from edgekit.sources import ExportOptions
from edgekit.training.folder import run_report
from tests.command_line import Command, banded_pictures, written

RECIPE = """
name = "tiny"
[data]
dataset = "image-folder"
path = "{pictures}"
resize = 28
color = "grey"
[model]
name = "edgenet"
args = {{ widths = [16, 16, 16] }}
[train]
epochs = 4
batch_size = 8
learning_rate = 0.01
[train.int8]
epochs = 2
learning_rate = 0.0003
[export]
golden = 8
[bench]
batch = [1]
seconds = 0.05
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with pictures, and with the run and the bundle that ``edgekit run`` made of them."""
    folder = tmp_path_factory.mktemp("tiny")
    written(folder / "tiny.toml", RECIPE.format(pictures=banded_pictures(folder)))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        report = run_recipe("tiny.toml")
    assert report.passed
    written(folder / "run.json", report.to_json())
    return folder


@pytest.fixture
def bundle(finished: Path) -> Bundle:
    return open_bundle(finished / "exported" / "tiny")


@pytest.fixture
def trained(finished: Path, tmp_path: Path) -> Path:
    """A copy of the run's folder."""
    return Path(shutil.copytree(finished / "runs" / "tiny", tmp_path / "tiny"))


def test_run_writes_the_int8_file_that_was_trained_and_skips_all_the_next_time(
    finished: Path, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = json.loads((finished / "run.json").read_text())["steps"]
    assert [(step["step"], step["status"], step["ok"]) for step in steps] == [
        (name, "done", True) for name in ("train", "export", "verify", "bench")
    ]
    assert "in int8" in steps[0]["detail"]
    assert [variant.name for variant in bundle.manifest.variants] == ["float32", "int8"]
    monkeypatch.chdir(finished)
    assert {step.status for step in run_recipe("tiny.toml").steps} == {"skipped"}


def test_the_int8_file_has_the_learned_ranges_and_no_corrected_biases(finished: Path, bundle: Bundle) -> None:
    conversion = bundle.variant("int8").conversion
    assert conversion is not None
    assert conversion.speed is msgspec.UNSET  # an export gives the same bytes on any day, and a timing does not
    assert conversion.calibration is not None
    assert conversion.calibration.method == "trained"
    assert (bundle.place / "int8.json").read_bytes() == (finished / "runs" / "tiny" / "int8.json").read_bytes()
    table = range_table(bundle, "int8")
    assert table is not None
    assert not table.bias_correction
    assert bundle.variant("int8").accuracy == pytest.approx(int8_accuracy(finished), abs=0.1)


def int8_accuracy(folder: Path) -> float:
    report = run_report(folder / "runs" / "tiny").int8
    assert report is not None
    return report.trained


def test_the_bundle_verifies_and_leaves_pytorch_out_with_the_reason(bundle: Bundle, run: Command) -> None:
    result = run("verify", bundle.root, "--json")
    assert result.code == 0
    backends = [parity["backend"] for parity in result.document["parities"]]
    assert any(name.startswith("ort-cpu") for name in backends)
    assert not any(name.startswith("torch") for name in backends)
    asked = run("verify", bundle.root, "--backend", "torch")
    assert asked.code == 2
    assert "the folded network was trained on for int8, and PyTorch's original is another network" in asked.err


def test_the_bundle_holds_no_original_weights_and_says_why(bundle: Bundle) -> None:
    manifest = bundle.manifest
    assert manifest.source.weights_file is None
    assert manifest.golden.reference == "PyTorch float64, folded and trained for int8 (recorded)"
    assert any("trained for int8 after it was folded" in note for note in manifest.notes)
    assert "the outputs of the folded network after its training for int8" in (bundle.place / "README.md").read_text()


def test_the_report_of_folding_is_that_of_the_original(bundle: Bundle) -> None:
    assert len(bundle.manifest.fold.folded) == 5
    assert bundle.manifest.fold.kept == ()
    assert bundle.manifest.fold.error_float64 is not None


def test_a_limit_that_is_not_the_files_fails_verification(bundle: Bundle, tmp_path: Path, run: Command) -> None:
    from edgekit.bundle.folder import write_bundle

    contents = {name: (bundle.place / name).read_bytes() for name in bundle.manifest.files}
    table = json.loads(contents["int8.json"])
    table["tensors"][0]["limit"] *= 1.02
    contents["int8.json"] = json.dumps(table).encode()
    write_bundle(tmp_path / "changed", bundle.manifest, contents)
    result = run("verify", tmp_path / "changed")
    assert result.code == 1
    assert "the range of" in result.out


def test_export_of_the_run_gives_the_same_bundle(finished: Path, bundle: Bundle, tmp_path: Path) -> None:
    export(str(finished / "runs" / "tiny"), tmp_path / "again")
    for name in ("model.onnx", "int8.onnx", "int8.npz", "int8.json"):
        assert (tmp_path / "again" / name).read_bytes() == (bundle.place / name).read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["again"]


def test_unfolded_it_is_another_network_and_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"was trained for int8 with export\.fold_bn = true"):
        export(str(finished / "runs" / "tiny"), tmp_path / "b", ExportOptions(fold_bn=False))


@pytest.mark.parametrize("name", ["int8.safetensors", "int8.json"])
def test_a_changed_or_lost_file_of_the_training_is_refused(trained: Path, tmp_path: Path, name: str) -> None:
    (trained / name).write_bytes((trained / name).read_bytes() + b" ")
    with pytest.raises(ModelError, match=f"{name} is missing, or not what its training wrote"):
        export(str(trained), tmp_path / "b")
    (trained / name).unlink()
    with pytest.raises(ModelError, match=f"{name} is missing, or not what its training wrote"):
        export(str(trained), tmp_path / "b")


def test_a_run_whose_training_for_int8_has_not_ended_is_not_exported(trained: Path, tmp_path: Path) -> None:
    report = msgspec.structs.replace(run_report(trained), int8=None)
    (trained / "train.json").write_bytes(report.to_json())
    with pytest.raises(ModelError, match="has not ended; edgekit train --resume"):
        export(str(trained), tmp_path / "b")


def test_ranges_of_other_places_are_refused(trained: Path, tmp_path: Path) -> None:
    from edgekit.files import sha256_of

    table = json.loads((trained / "int8.json").read_bytes())
    table["tensors"] = table["tensors"][1:]
    (trained / "int8.json").write_text(json.dumps(table))
    report = run_report(trained)
    assert report.int8 is not None
    int8 = msgspec.structs.replace(report.int8, ranges_sha256=sha256_of(trained / "int8.json"))
    (trained / "train.json").write_bytes(msgspec.structs.replace(report, int8=int8).to_json())
    with pytest.raises(ModelError, match="rounds at other places than its training for int8 did"):
        export(str(trained), tmp_path / "b")
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("key", ["samples = 9", 'budget = "snr=30dB"', 'keep = ["head"]', 'calibrate = "random"'])
def test_what_calibration_would_take_is_refused_beside_learned_ranges(tmp_path: Path, key: str) -> None:
    recipe = written(tmp_path / "r.toml", RECIPE.format(pictures=tmp_path) + f'[[variants]]\nto = "int8"\n{key}\n')
    with pytest.raises(
        RecipeError, match=rf"variants.{key.split(maxsplit=1)[0]} would change nothing of an int8 file whose ranges"
    ):
        load_recipe(recipe)


def test_float16_beside_it_is_taken(tmp_path: Path) -> None:
    recipe = written(tmp_path / "r.toml", RECIPE.format(pictures=tmp_path) + '[[variants]]\nto = "float16"\n')
    assert load_recipe(recipe).train.int8 is not None


def test_a_misspelt_key_of_the_table_is_told(tmp_path: Path) -> None:
    text = RECIPE.format(pictures=tmp_path).replace("[train.int8]\nepochs", "[train.int8]\nepoch")
    with pytest.raises(RecipeError, match=r"unknown key 'epoch' in \[train.int8\]; .*did you mean 'epochs'"):
        load_recipe(written(tmp_path / "r.toml", text))
