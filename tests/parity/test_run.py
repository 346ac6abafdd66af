"""Parity of a session on the golden inputs: right outputs pass, and each tolerance can fail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from edgekit.backends.contract import Opened
from edgekit.backends.fake import FakeSession
from edgekit.bundle.golden import GoldenArrays
from edgekit.commands.verify import verify
from edgekit.errors import TooLargeError
from edgekit.parity.bars import Bars
from edgekit.parity.compare import compare_output
from edgekit.parity.run import _in_batches_that_fit, parity
from edgekit.reports.verify import ParityReport, VerifyReport
from edgekit.setups import Setup
from edgekit.tensors import Feed, TensorSpec
from edgekit.tolerance import Tolerance
from tests.bundle.editing import edit

Array = np.ndarray[Any, Any]
LOOSE = Tolerance(atol=1e9, rtol=0.5, top1=0.0)

REFERENCE = np.array([[1.0, 5.0, 2.0], [4.0, 3.0, -8.0], [0.0, 1.0, 2.0]])


def golden() -> GoldenArrays:
    return GoldenArrays({"x": REFERENCE.astype(np.float32)}, {"y": REFERENCE}, {"y": REFERENCE.astype(np.float32)}, None)


def parity_of(function: Callable[[Array], Array], tolerance: Tolerance | None = None) -> ParityReport:
    fake = FakeSession(lambda feed: {"y": function(feed["x"])}, facts={"fake": "1"})
    return parity(Opened("fake", Setup("fake"), fake), golden(), held_to(tolerance or Tolerance()), "what was recorded")


def held_to(tolerance: Tolerance) -> Bars:
    return Bars({"y": tolerance}, tolerance)


def test_a_report_names_the_reference_in_the_manifests_words(bundle: Path) -> None:
    assert verify(bundle, ["ort-cpu"]).parities[0].reference == "PyTorch float64, unfolded (recorded)"
    edit(bundle, lambda document: document["golden"].update(reference="a measurement, by hand"))
    (checked,) = verify(bundle, ["ort-cpu"]).parities
    assert checked.reference == "a measurement, by hand"


def test_a_backend_that_computes_the_reference_passes_with_no_error() -> None:
    report = parity_of(lambda x: x.copy())
    assert report.passed
    assert report.reference == "what was recorded"
    assert (report.outputs[0].max_abs, report.outputs[0].top1, report.samples) == (0, 1, 3)
    assert report.facts == {"fake": "1", "batch sizes": "3, 1, 2, 7"}


def test_a_backend_that_is_wrong_in_a_batch_only_is_caught() -> None:
    assert not parity_of(lambda x: x + (0.1 if len(x) > 1 else 0)).passed


def test_a_backend_that_is_wrong_one_by_one_only_is_caught() -> None:
    assert not parity_of(lambda x: x + (0.1 if len(x) == 1 else 0)).passed


def test_batch_sizes_that_fail_are_told_from_those_that_pass() -> None:
    (output,) = parity_of(lambda x: x + (0.1 if len(x) == 3 else 0)).outputs
    assert output.cause == "it fails in batches of 3 and passes in batches of 1, 2, 7: something in it depends on the batch"
    (output,) = parity_of(lambda x: x + 0.1).outputs
    assert output.cause == ""


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
        lambda x: x[:, : 2 + (x[0, 0] > 1)] if len(x) == 1 else x,
    ],
    ids=["narrow", "deep", "squeezed", "scalar", "always all", "ragged"],
)
def test_a_wrong_shape_fails_at_any_tolerance_and_is_reported(function: Callable[[Array], Array]) -> None:
    report = parity_of(lambda x: np.asarray(function(x)), LOOSE)
    assert not report.passed
    assert "the output has the shape" in report.outputs[0].problem


def constant(outputs: dict[str, Array], feed: Feed) -> dict[str, Array]:
    return outputs


def test_an_output_that_is_missing_fails_at_any_tolerance() -> None:
    missing: tuple[dict[str, Array], ...] = ({}, {"z": REFERENCE})
    for outputs in missing:
        session = FakeSession(partial(constant, outputs))
        report = parity(Opened("fake", Setup("fake"), session), golden(), held_to(LOOSE), "what was recorded")
        assert not report.passed
        assert report.outputs[0].problem == "the output is missing"


@pytest.mark.parametrize("poison", [np.nan, np.inf, -np.inf])
def test_a_value_that_is_not_finite_fails_at_any_tolerance_and_is_located(poison: float) -> None:
    def poisoned(x: Array) -> Array:
        y: Array = x.copy()
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
        y: Array = x.copy()
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


def test_the_flips_that_are_told_are_those_of_the_run_in_which_fewest_classes_agree() -> None:
    """In small batches an output is farther off, and all at once a class flips."""

    def of_batches(x: Array) -> Array:
        whole = len(x) == len(REFERENCE)
        y: Array = x - np.float32(0.0 if whole else 1.9)
        y[whole & (x[:, 0] == 4), 1] = 4.5
        return y

    (output,) = parity_of(of_batches, Tolerance(atol=2, rtol=0)).outputs
    assert output.flips == 1
    assert output.top1 == pytest.approx(2 / 3)
    assert output.margin == pytest.approx(1 / 8)


def test_a_tie_that_float32_cannot_tell_apart_may_go_either_way() -> None:
    reference = np.array([[5, 5 + 1e-7, 0]])
    assert compare_output("y", np.array([[5, 5, 0]], np.float32), reference, Tolerance()).top1 == 1
    clear = np.array([[5, 5 + 1e-4, 0]])
    assert compare_output("y", np.array([[5, 5, 0]], np.float32), clear, Tolerance()).top1 == 0


@pytest.mark.parametrize("shape", [(3,), (3, 1), (3, 2, 2)])
def test_top1_is_only_for_samples_by_classes(shape: Sequence[int]) -> None:
    reference = np.arange(np.prod(shape), dtype=float).reshape(shape)
    assert compare_output("y", reference.copy(), reference, Tolerance()).top1 is None


class Narrow:
    """A session whose memory is enough for batches of ``most``; it gives its input back."""

    facts: ClassVar[dict[str, str]] = {}
    inputs = (TensorSpec("x", "float64", ("batch", 3)),)

    def __init__(self, most: int) -> None:
        self.most = most

    def run(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        if len(feed["x"]) > self.most:
            raise TooLargeError("too large", "use less")
        return {"y": feed["x"].astype(np.float32)}


@pytest.mark.parametrize(("most", "size"), [(64, 10), (9, 2), (2, 2), (1, 1)])
def test_a_batch_that_memory_is_not_enough_for_is_run_in_smaller_ones(most: int, size: int) -> None:
    assert _in_batches_that_fit(Narrow(most), {"x": np.ones((10, 3))}, (10,)).sizes == (size,)  # type: ignore[arg-type]  # no whole session


def test_a_single_sample_that_is_too_large_is_told() -> None:
    with pytest.raises(TooLargeError):
        _in_batches_that_fit(Narrow(0), {"x": np.ones((10, 3))}, (10,))  # type: ignore[arg-type]  # no whole session
