"""Parity: what passes, and that each tolerance can fail."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper
from safetensors.torch import load, save

from edgekit.backends import table
from edgekit.backends.contract import Opened
from edgekit.backends.fake import FakeSession
from edgekit.bundle.folder import open_bundle, write_bundle
from edgekit.bundle.golden import GoldenArrays
from edgekit.commands.export import export as export_bundle
from edgekit.commands.verify import verify
from edgekit.errors import BundleError
from edgekit.models.factory import weights_bytes
from edgekit.parity.compare import compare_output, normalised_error
from edgekit.parity.run import parity
from edgekit.reports.verify import ParityReport, VerifyReport
from edgekit.setups import Setup
from edgekit.sources import ExportOptions
from edgekit.tolerance import Tolerance
from tests.networks import NORMS, network
from tests.test_bundle import edit
from tests.ways import ways

Array = np.ndarray[Any, Any]
LOOSE = Tolerance(atol=1e9, rtol=0.5, top1=0.0)


def calibrated_lenet() -> torch.nn.Module:
    """Batch norm statistics measured on data, as training leaves them: errors pass through instead of saturating."""
    model = network("lenet")
    for module in model.modules():
        if isinstance(module, NORMS):
            module.reset_running_stats()
            module.momentum = None
            module.weight.data.abs_().add_(0.2)
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
    """Exchange one file of a bundle and seal the bundle again."""
    manifest = open_bundle(root).manifest
    write_bundle(root, manifest, {other: (root / other).read_bytes() for other in manifest.files} | {name: content})


def change_tensor(root: Path, tensor: str, change: Callable[[Array], None]) -> None:
    model = onnx.load(root / "model.onnx")
    found = next(item for item in model.graph.initializer if item.name == tensor)
    values = numpy_helper.to_array(found).copy()
    change(values)
    found.CopyFrom(numpy_helper.from_array(values, tensor))
    replace_file(root, "model.onnx", model.SerializeToString())


def weight_names(root: Path) -> list[str]:
    """Weights in the order of the layers, biases left out."""
    return [item.name for item in onnx.load(root / "model.onnx").graph.initializer if len(item.dims) >= 2]


def of(report: VerifyReport, kind: str) -> ParityReport:
    return next(parity for parity in report.parities if parity.backend == kind)


@pytest.mark.parametrize("which", ["bundle", "calibrated"])
def test_a_sound_bundle_passes_on_every_runtime_and_the_rest_is_named(request: pytest.FixtureRequest, which: str) -> None:
    report = verify(request.getfixturevalue(which))
    assert report.passed
    assert {"torch", "ort-cpu"} <= {parity.backend for parity in report.parities}
    for parity_ in report.parities:
        assert parity_.samples == 8
        assert parity_.facts
        assert 0 < parity_.outputs[0].normalised < 1e-5
        assert parity_.outputs[0].top1 == 1
    assert {one.backend for one in report.skipped} | {one.backend for one in report.parities} == set(table())
    assert all(one.reason for one in report.skipped)


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
    """The element of median and of largest magnitude; one a thousandth as large drowns in float32's own rounding."""

    def scale(values: Array) -> None:
        values.reshape(-1)[np.argsort(np.abs(values), axis=None)[rank]] *= np.float32(1.01)

    change_tensor(calibrated, weight_names(calibrated)[0], scale)
    report = verify(calibrated, ways("ort-cpu"))
    assert not report.passed
    diff = report.parities[0].outputs[0]
    assert diff.limit < diff.max_abs < 0.01


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
    with pytest.raises(BundleError, match=r"cannot run .*model\.onnx on input 8x1x28x28"):
        verify(calibrated, ways("ort-cpu"))


def test_a_tolerance_given_overrides_the_manifests_both_ways(calibrated: Path) -> None:
    assert not verify(calibrated, tolerance=Tolerance(atol=0, rtol=0)).passed

    def scale(values: Array) -> None:
        values *= np.float32(1.01)

    change_tensor(calibrated, weight_names(calibrated)[0], scale)
    assert not verify(calibrated).passed
    assert verify(calibrated, tolerance=Tolerance(atol=1, top1=0)).passed


REFERENCE = np.array([[1.0, 5.0, 2.0], [4.0, 3.0, -8.0], [0.0, 1.0, 2.0]])


def golden() -> GoldenArrays:
    return GoldenArrays({"x": REFERENCE.astype(np.float32)}, {"y": REFERENCE}, {"y": REFERENCE.astype(np.float32)}, None)


def parity_of(function: Callable[[Array], Array], tolerance: Tolerance | None = None) -> ParityReport:
    fake = FakeSession(lambda feed: {"y": function(feed["x"])}, facts={"fake": "1"})
    return parity(Opened("fake", Setup("fake"), fake), golden(), tolerance or Tolerance(), "what was recorded")


def test_the_reference_is_told_in_the_manifests_words(bundle: Path) -> None:
    assert verify(bundle, ["ort-cpu"]).parities[0].reference == "PyTorch float64, unfolded (recorded)"
    edit(bundle, lambda document: document["golden"].update(reference="a measurement, by hand"))
    (checked,) = verify(bundle, ["ort-cpu"]).parities
    assert checked.reference == "a measurement, by hand"


def test_a_backend_that_computes_the_reference_passes_with_no_error() -> None:
    report = parity_of(lambda x: x.copy())
    assert report.passed
    assert report.reference == "what was recorded"
    assert (report.outputs[0].max_abs, report.outputs[0].top1, report.samples) == (0, 1, 3)
    assert report.facts == {"fake": "1", "batch sizes": "3, 1"}


def test_a_backend_that_is_wrong_in_a_batch_only_is_caught() -> None:
    assert not parity_of(lambda x: x + (0.1 if len(x) > 1 else 0)).passed


def test_a_backend_that_is_wrong_one_by_one_only_is_caught() -> None:
    assert not parity_of(lambda x: x + (0.1 if len(x) == 1 else 0)).passed


def test_outputs_that_mix_up_the_batch_are_caught() -> None:
    assert not parity_of(lambda x: np.roll(x, 1, axis=0)).passed


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x[:, :2],
        lambda x: x[..., None],
        lambda x: x[0] if len(x) == 1 else x,
        lambda x: np.float32(1) if len(x) == 1 else x,
        lambda x: REFERENCE.astype(np.float32),
        lambda x: x[:, : 2 + (x[0, 0] > 0)] if len(x) == 1 else x,
    ],
    ids=["narrow", "deep", "squeezed", "scalar", "always all", "ragged"],
)
def test_a_wrong_shape_fails_at_any_tolerance_and_is_reported(function: Callable[[Array], Array]) -> None:
    report = parity_of(lambda x: np.asarray(function(x)), LOOSE)
    assert not report.passed
    assert "the output has the shape" in report.outputs[0].problem


def test_an_output_that_is_missing_fails_at_any_tolerance() -> None:
    for outputs in ({}, {"z": REFERENCE}):
        session = FakeSession(lambda feed, made=outputs: made)
        report = parity(Opened("fake", Setup("fake"), session), golden(), LOOSE, "what was recorded")
        assert not report.passed
        assert report.outputs[0].problem == "the output is missing"


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_at_any_tolerance_and_is_located(poison: float) -> None:
    def poisoned(x: Array) -> Array:
        y = x.copy()
        y[-1, 1] = poison
        return y

    report = parity_of(poisoned, LOOSE)
    assert not report.passed
    assert "not finite at [2, 1]" in report.outputs[0].problem or "not finite at [0, 1]" in report.outputs[0].problem


def test_a_report_of_no_outputs_or_no_runtimes_does_not_pass() -> None:
    assert not ParityReport("r", "c", 1, Tolerance(), (), {}, Setup("c")).passed
    assert not VerifyReport("b", "0" * 64, (), ()).passed


def test_a_changed_winner_fails_top1_even_inside_the_tolerance() -> None:
    def swapped(x: Array) -> Array:
        y = x.copy()
        y[x[:, 0] == 4, 1] = 4.5  # class 1 overtakes class 0 in the second sample
        return y

    wide = Tolerance(atol=2, rtol=0)
    report = parity_of(swapped, wide)
    assert report.outputs[0].max_abs == 1.5
    assert report.outputs[0].top1 == pytest.approx(2 / 3)
    assert not report.passed
    assert parity_of(swapped, Tolerance(atol=2, rtol=0, top1=0.6)).passed
    assert not parity_of(swapped, Tolerance(atol=2, rtol=0, top1=0.7)).passed
    assert parity_of(lambda x: x + 1.5, wide).passed


def test_a_tie_that_float32_cannot_tell_apart_may_go_either_way() -> None:
    reference = np.array([[5, 5 + 1e-7, 0]])
    assert compare_output("y", np.array([[5, 5, 0]], np.float32), reference, Tolerance()).top1 == 1
    clear = np.array([[5, 5 + 1e-4, 0]])
    assert compare_output("y", np.array([[5, 5, 0]], np.float32), clear, Tolerance()).top1 == 0


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2)])
def test_top1_is_only_for_samples_by_classes(shape: Sequence[int]) -> None:
    reference = np.arange(np.prod(shape), dtype=float).reshape(shape)
    assert compare_output("y", reference.copy(), reference, Tolerance()).top1 is None


FINITE = st.floats(-1e6, 1e6, width=32)
PAIRS = hnp.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=5).flatmap(
    lambda shape: st.tuples(hnp.arrays(np.float32, shape, elements=FINITE), hnp.arrays(np.float64, shape, elements=FINITE))
)
TOLERANCES = st.builds(Tolerance, st.floats(0, 10), st.floats(0, 1, exclude_max=True), st.floats(0, 1))


@settings(deadline=None)
@given(PAIRS, TOLERANCES)
def test_the_verdict_is_the_formula(pair: tuple[Array, Array], tolerance: Tolerance) -> None:
    output, reference = pair
    diff = compare_output("y", output, reference, tolerance)
    scale = np.abs(reference).max()
    worst = np.abs(output.astype(np.float64) - reference).max()
    assert diff.limit == tolerance.atol + tolerance.rtol * scale
    assert diff.max_abs == worst
    assert diff.normalised == (worst / scale if scale else worst) == normalised_error(output, reference)
    behind = reference.max(1) - reference[np.arange(len(reference)), output.argmax(1)]
    agreed = reference.shape[1] == 1 or (behind <= 1e-6 * scale).mean() >= tolerance.top1
    assert diff.within(tolerance) == (worst <= diff.limit and agreed)


@settings(deadline=None)
@given(PAIRS, st.integers(-8, 8))
def test_the_normalised_error_does_not_depend_on_the_scale(pair: tuple[Array, Array], exponent: int) -> None:
    output, reference = (array.astype(np.float64) for array in pair)
    factor = 2.0**exponent
    if np.abs(reference).max() == 0:
        return
    plain = compare_output("y", output, reference, Tolerance(atol=0))
    scaled = compare_output("y", output * factor, reference * factor, Tolerance(atol=0))
    assert scaled.normalised == pytest.approx(plain.normalised, rel=1e-12)
    assert scaled.within(Tolerance(atol=0)) == plain.within(Tolerance(atol=0))


@settings(deadline=None)
@given(PAIRS)
def test_an_output_always_passes_against_itself(pair: tuple[Array, Array]) -> None:
    reference = pair[1]
    assert compare_output("y", reference.copy(), reference, Tolerance(atol=0, rtol=0)).within(Tolerance(atol=0, rtol=0))
