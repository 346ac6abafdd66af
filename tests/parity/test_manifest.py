"""What a manifest says is held against the files: every falsified one is caught, and a sound one is not."""

from __future__ import annotations

import importlib.util
import io
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from falsified import FALSIFIED

from edgekit.bundle.folder import open_bundle
from edgekit.commands.verify import verify
from edgekit.errors import BundleError, UsageError
from edgekit.parity.manifest import CODES
from edgekit.reports.verify import VerifyReport
from tests.bundle.editing import edit, put

Document = dict[str, Any]


@pytest.fixture
def lenet(repository: Path, tmp_path: Path) -> Path:
    """A copy of the committed bundle, which has pictures, labels, predictions and floors."""
    return Path(shutil.copytree(repository / "exported" / "lenet", tmp_path / "lenet"))


def failed(report: VerifyReport) -> list[str]:
    return [check.code for check in report.checks if check.outcome == "fail"]


def test_every_claim_of_a_sound_bundle_holds(lenet: Path) -> None:
    report = verify(lenet, ["ort-cpu"])
    assert report.passed
    assert {check.outcome for check in report.checks} == {"pass"}
    of_other_files = {"conversion", "own-inputs"}
    assert {check.code for check in report.checks} == set(CODES) - of_other_files


@pytest.mark.parametrize("name", FALSIFIED)
def test_a_falsified_manifest_is_caught(lenet: Path, name: str) -> None:
    edit(lenet, FALSIFIED[name])
    try:
        report = verify(lenet, ["ort-cpu"])
    except BundleError:
        return
    assert not report.passed
    assert failed(report)
    assert all(output.within(parity.tolerance) for parity in report.parities for output in parity.outputs)


@pytest.mark.parametrize("recipe", [{}, {"data": "fashion-mnist", "model": []}, {"data": None, "model": None}])
def test_a_recipe_of_another_form_is_no_claim(lenet: Path, recipe: Document) -> None:
    edit(lenet, lambda document: document["source"].update(recipe=recipe))
    assert verify(lenet, ["ort-cpu"]).passed


def test_a_failed_check_can_be_accepted_by_its_code_and_is_still_shown(lenet: Path) -> None:
    edit(lenet, FALSIFIED["top-1 of 0.9"])
    report = verify(lenet, ["ort-cpu"], allow=["tolerance"])
    assert report.passed
    assert [check.code for check in report.checks if check.outcome == "allowed"] == ["tolerance"]
    assert report.parities[0].tolerance.top1 == 0.9  # what was accepted is the bar
    assert not verify(lenet, ["ort-cpu"], allow=["labels"]).passed


def test_a_code_that_no_check_has_is_refused_with_the_nearest(lenet: Path) -> None:
    with pytest.raises(UsageError, match=r"did you mean .tolerance"):
        verify(lenet, ["ort-cpu"], allow=["tolerence"])


def test_a_golden_picture_that_was_changed_is_caught(lenet: Path) -> None:
    put(lenet, "picture-0.png", (lenet / "picture-1.png").read_bytes())
    assert "pictures" in failed(verify(lenet, ["ort-cpu"]))
    put(lenet, "picture-0.png", b"no picture")
    report = verify(lenet, ["ort-cpu"])
    assert any("picture-0.png" in check.text for check in report.checks if check.outcome == "fail")


def test_a_claim_that_does_not_hold_gives_both_values(lenet: Path) -> None:
    def told() -> list[str]:
        return [check.text for check in verify(lenet, ["ort-cpu"]).checks if check.outcome == "fail"]

    edit(lenet, lambda document: document["labels"].__setitem__(1, "Trousers"))
    assert told() == ["label 1 is 'Trousers' in manifest.json, and 'Trouser' in the ONNX file (1 differ)"]
    edit(lenet, lambda document: document["labels"].__setitem__(1, "Trouser"))
    edit(lenet, lambda document: document["preprocess"].update(mean=[0.5]))
    pixels, preprocess, pictures = told()
    assert pixels.startswith("undoing mean and std of the golden inputs does not give whole pixels (off by up to 0.43)")
    assert preprocess == "mean is [0.5] in manifest.json, and [0.286] in the ONNX file"
    assert pictures.startswith("picture-0.png, picture-1.png, picture-2.png, picture-3.png: preprocessed as the manifest says,")


def test_without_pillow_golden_pictures_are_said_to_be_unchecked(lenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "PIL" else find(name))
    report = verify(lenet, ["ort-cpu"])
    assert report.passed
    assert [check.code for check in report.checks if check.outcome == "unchecked"] == ["pictures"]


def golden_with(lenet: Path, **arrays: np.ndarray) -> None:
    golden = open_bundle(lenet).golden()
    members: dict[str, Any] = {f"input.{name}": array for name, array in golden.inputs.items()}
    members |= {f"float64.{name}": array for name, array in golden.float64.items()}
    members |= {f"original.{name}": array for name, array in golden.original.items()}
    members |= {name.replace("_", ".").replace("inputs.", "input."): array for name, array in arrays.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **members)
    put(lenet, "golden.npz", buffer.getvalue())


def test_outputs_that_never_change_prove_nothing(lenet: Path) -> None:
    reference = open_bundle(lenet).golden().float64["output"]
    golden_with(lenet, float64_output=np.repeat(reference[:1], len(reference), axis=0))
    assert "constant-reference" in failed(verify(lenet, ["ort-cpu"]))


def test_few_golden_samples_fail_unless_accepted(lenet: Path) -> None:
    golden = open_bundle(lenet).golden()

    def fewer(document: Document) -> None:
        document["golden"].update(samples=4, parts=[], pictures=[])
        document["evidence"] = None

    names = ("inputs", "float64", "original")
    arrays = {f"{name}_{key}": array[:4] for name in names for key, array in getattr(golden, name).items()}
    golden_with(lenet, **arrays)
    edit(lenet, fewer)
    report = verify(lenet, ["ort-cpu"])
    assert {"few-samples", "evidence"} == set(failed(report))
    assert verify(lenet, ["ort-cpu"], allow=["few-samples", "evidence"]).passed


def test_a_bundle_of_an_older_edgekit_without_floors_passes_with_a_note(bundle: Path) -> None:
    def older(document: Document) -> None:
        document["evidence"] = None
        document["golden"]["parts"] = []

    edit(bundle, older)
    report = verify(bundle, ["ort-cpu"], allow=["evidence"])
    assert report.passed
    assert any("records no rounding noise" in text for text in report.notes)
    assert report.parities[0].noise_factor is None


def test_checks_come_back_from_json(lenet: Path) -> None:
    report = verify(lenet, ["ort-cpu"])
    assert VerifyReport.from_json(report.to_json()).checks == report.checks
    assert json.loads(report.to_json())["checks"][0]["outcome"] == "pass"


# evidence that was made to fit


def evidence_with(lenet: Path, **changes: Any) -> None:
    evidence = open_bundle(lenet).evidence()
    assert evidence is not None
    put(lenet, "evidence.npz", msgspec.structs.replace(evidence, **changes).to_npz())


def test_noise_floors_far_above_rounding_are_caught(lenet: Path) -> None:
    evidence = open_bundle(lenet).evidence()
    assert evidence is not None
    evidence_with(lenet, floors={name: floor * 100 for name, floor in evidence.floors.items()})
    assert failed(verify(lenet, ["ort-cpu"])) == ["evidence"]


@pytest.mark.parametrize("changes", [{"predicted": np.zeros(7, np.int64)}, {"truth": None}, {"predicted": np.zeros(0, np.int64)}])
def test_predictions_that_are_no_pairs_are_refused(lenet: Path, changes: dict[str, Any]) -> None:
    if not len(changes.get("predicted", [1])):
        changes = {**changes, "truth": np.zeros(0, np.int64)}
    evidence_with(lenet, **changes)
    with pytest.raises(BundleError, match="its predictions are not as many as the right classes"):
        verify(lenet, ["ort-cpu"])


def test_an_accuracy_that_nothing_shows_is_said_to_be_unchecked(lenet: Path) -> None:
    evidence_with(lenet, predicted=None, truth=None)
    assert [check.code for check in verify(lenet, ["ort-cpu"]).checks if check.outcome == "unchecked"] == ["accuracy"]


def test_a_file_without_its_metadata_is_none_that_edgekit_wrote(lenet: Path) -> None:
    model = onnx.load(lenet / "model.onnx")
    del model.metadata_props[:]
    put(lenet, "model.onnx", model.SerializeToString())
    edit(lenet, lambda document: document["labels"].reverse())
    assert "evidence" in failed(verify(lenet, ["ort-cpu"]))


def test_an_int8_number_that_nothing_uses_buys_no_wider_bar(lenet: Path) -> None:
    model = onnx.load(lenet / "model.onnx")
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.zeros(1, np.int8), "unused"))
    put(lenet, "model.onnx", model.SerializeToString())
    edit(lenet, lambda document: document["variants"][0].update(precision="int8"))
    assert "precision" in failed(verify(lenet, ["ort-cpu"]))
