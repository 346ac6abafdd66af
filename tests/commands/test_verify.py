"""``edgekit verify``: sound bundles pass, and every changed weight is caught."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from safetensors.torch import load, save

from edgekit.backends import table
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.commands.export import export as export_bundle
from edgekit.commands.verify import verify
from edgekit.errors import BundleError
from edgekit.models.weights import weights_bytes
from edgekit.reports.verify import ParityReport, VerifyReport
from edgekit.sources import ExportOptions
from edgekit.tolerance import Tolerance, ToleranceChange
from tests.bundle.editing import edit
from tests.command_line import Command
from tests.networks import NORMS, network
from tests.ways import ways


@pytest.mark.parametrize("name", ["lenet", "lenet-scratch", "densenet"])
def test_a_committed_bundle_verifies_on_every_runtime_here(repository: Path, run: Command, name: str) -> None:
    result = run("verify", str(repository / "exported" / name), "--json")
    assert result.code == 0
    assert [parity["setup"]["backend"] for parity in result.document["parities"]][:2] == ["torch", "ort-cpu"]
    assert {parity["samples"] for parity in result.document["parities"]} == {84}


Array = np.ndarray[Any, Any]
LOOSE = Tolerance(atol=1e9, rtol=0.5, top1=0.0)


def calibrated_lenet() -> torch.nn.Module:
    """LeNet with batch norm statistics measured on data, as after training, so that errors are not saturated."""
    model = network("lenet")
    norms: list[Any] = [module for module in model.modules() if isinstance(module, NORMS)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None
        norm.weight.data.abs_().add_(0.2)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for _ in range(8):
            model.train()(torch.randn(64, 1, 28, 28, generator=generator))
    return model.eval()


@pytest.fixture(scope="module")
def _calibrated_export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("calibrated")
    (folder / "weights.safetensors").write_bytes(weights_bytes(calibrated_lenet()))
    export_bundle("lenet", folder / "bundle", ExportOptions(weights=folder / "weights.safetensors"))
    return folder / "bundle"


@pytest.fixture
def calibrated(_calibrated_export: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(_calibrated_export, tmp_path / "calibrated"))


def replace_file(root: Path, name: str, content: bytes) -> None:
    """Replace a file of a bundle and write a matching manifest."""
    manifest = open_bundle(root).manifest
    write_bundle(root, manifest, {other: (root / other).read_bytes() for other in manifest.files} | {name: content})


def change_tensor(root: Path, tensor: str, change: Callable[[Array], None]) -> None:
    model = onnx.load(root / "model.onnx")
    stored = next(item for item in model.graph.initializer if item.name == tensor)
    values = numpy_helper.to_array(stored).copy()
    change(values)
    stored.CopyFrom(numpy_helper.from_array(values, tensor))
    replace_file(root, "model.onnx", model.SerializeToString())


def weight_names(root: Path) -> list[str]:
    """The names of weights, without biases, in the order of the layers."""
    return [item.name for item in onnx.load(root / "model.onnx").graph.initializer if len(item.dims) >= 2]


def of(report: VerifyReport, kind: str) -> ParityReport:
    return next(parity for parity in report.parities if parity.backend == kind)


@pytest.mark.parametrize("which", ["bundle", "calibrated"])
def test_a_sound_bundle_passes_on_every_runtime_and_the_rest_is_named(request: pytest.FixtureRequest, which: str) -> None:
    report = verify(request.getfixturevalue(which))
    assert report.passed
    assert {"torch", "ort-cpu"} <= {parity.backend for parity in report.parities}
    for parity_ in report.parities:
        assert parity_.samples >= 64
        assert parity_.facts
        assert 0 < parity_.outputs[0].normalised < 1e-5
        assert parity_.outputs[0].top1 == 1
    skipped, verified = ([row.backend for row in rows] for rows in (report.skipped, report.parities))
    assert {*skipped, *verified} == set(table())
    assert all(row.reason for row in report.skipped)


@pytest.mark.parametrize("layer", range(5))
def test_one_weight_tensor_scaled_by_1_01_is_caught(calibrated: Path, layer: int) -> None:
    def scale(values: Array) -> None:
        values *= np.float32(1.01)

    change_tensor(calibrated, weight_names(calibrated)[layer], scale)
    report = verify(calibrated)
    assert not report.passed
    assert not of(report, "ort-cpu").passed
    assert of(report, "torch").passed


@pytest.mark.parametrize("rank", [75, 149])
def test_one_single_element_of_the_first_convolution_scaled_by_1_01_is_caught(calibrated: Path, rank: int) -> None:
    """The elements of median and of largest magnitude; a change of a much smaller one is below float32's own rounding."""

    def scale(values: Array) -> None:
        values.reshape(-1)[np.argsort(np.abs(values), axis=None)[rank]] *= np.float32(1.01)

    change_tensor(calibrated, weight_names(calibrated)[0], scale)
    report = verify(calibrated, ways("ort-cpu"))
    assert not report.passed
    diff = report.parities[0].outputs[0]
    assert diff.limit < diff.max_abs
    assert diff.normalised < 0.05


def test_rewriting_the_onnx_file_without_a_change_still_passes(calibrated: Path) -> None:
    change_tensor(calibrated, weight_names(calibrated)[0], lambda values: None)
    assert verify(calibrated, ways("ort-cpu")).passed


def test_a_torch_weight_scaled_by_1_01_is_caught_on_the_torch_side(calibrated: Path) -> None:
    state = load((calibrated / "weights.safetensors").read_bytes())
    state["4.weight"] *= 1.01
    replace_file(calibrated, "weights.safetensors", save(state))
    report = verify(calibrated)
    assert not of(report, "torch").passed
    assert of(report, "ort-cpu").passed


def test_a_nan_in_the_weights_fails_and_the_report_is_still_json(calibrated: Path) -> None:
    def poison(values: Array) -> None:
        values.reshape(-1)[0] = np.nan

    change_tensor(calibrated, weight_names(calibrated)[-1], poison)
    report = verify(calibrated, ways("ort-cpu"), tolerance=LOOSE)
    assert not report.passed
    assert "not finite" in report.parities[0].outputs[0].problem
    assert VerifyReport.from_json(report.to_json()) == report


def test_a_file_changed_without_sealing_is_refused_before_anything_runs(bundle: Path) -> None:
    content = bytearray((bundle / "model.onnx").read_bytes())
    content[-1] ^= 1
    (bundle / "model.onnx").write_bytes(content)
    with pytest.raises(BundleError, match=r"model\.onnx does not have the sha256"):
        verify(bundle)


def test_a_batch_axis_that_is_fixed_in_the_file_is_found_out(calibrated: Path) -> None:
    model = onnx.load(calibrated / "model.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    replace_file(calibrated, "model.onnx", model.SerializeToString())
    with pytest.raises(BundleError, match=r"cannot run .*model\.onnx on input 80x1x28x28"):
        verify(calibrated, ways("ort-cpu"))


def test_a_tolerance_passed_in_overrides_the_manifests_both_ways(calibrated: Path) -> None:
    assert not verify(calibrated, tolerance=Tolerance(atol=0, rtol=0)).passed

    def scale(values: Array) -> None:
        values *= np.float32(1.01)

    change_tensor(calibrated, weight_names(calibrated)[0], scale)
    assert not verify(calibrated).passed
    assert verify(calibrated, tolerance=Tolerance(atol=1, top1=0)).passed


def test_a_backend_that_is_required_and_absent_is_exit_code_2(
    run: Command, bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("verify", str(bundle), "--require", "ort-cpu").code == 0
    missing = run("verify", str(bundle), "--require", "ort-cuda")
    assert missing.code == 2
    assert "ort-cuda cannot run here" in missing.err
    monkeypatch.setenv("EDGEKIT_REQUIRE", "ort-cuda")
    assert run("verify", str(bundle)).code == 2


def test_the_callers_own_tolerance_is_the_bar_whatever_the_bundle_asks_for(bundle: Path) -> None:
    edit(bundle, lambda document: document["variants"][0]["allowance"]["tolerance"].update(rtol=0.5))
    assert not verify(bundle, ["ort-cpu"]).passed
    report = verify(bundle, ["ort-cpu"], tolerance=Tolerance(rtol=1e-4))
    assert report.passed
    assert report.parities[0].tolerance.rtol == 1e-4
    assert not verify(bundle, ["ort-cpu"], tolerance=Tolerance(atol=0, rtol=1e-9)).passed


def test_a_bar_of_the_callers_that_is_looser_than_the_bundles_is_noted(bundle: Path) -> None:
    def notes(change: ToleranceChange) -> list[str]:
        return [note for note in verify(bundle, ["ort-cpu"], tolerance=change).notes if "looser" in note]

    assert notes(ToleranceChange(rtol=1e-3)) == [
        "the bar is your own, and looser than the bundle's: without --atol and --rtol the measured noise is the bar"
    ]
    assert notes(ToleranceChange(rtol=1e-6)) == notes(ToleranceChange()) == []
