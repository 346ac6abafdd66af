"""Steps excuse no error but that of the places that cross one when the inputs move by rounding."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.reference.op_run import OpRun

from edgekit.onnx import evaluator
from edgekit.onnx import exact as onnx_exact
from edgekit.onnx.exact import Inexact, run_file_exact
from edgekit.onnx.kernels import KERNELS
from edgekit.onnx.witness import RuntimeWitness
from tests.onnx.crafted import model_of, node

WHOLE = np.random.default_rng(0).integers(-9, 9, (3, 4, 8, 8)).astype(np.float32)
THIRD = numpy_helper.from_array(np.float32(3), "three")


@pytest.fixture
def believed(monkeypatch: pytest.MonkeyPatch) -> Callable[..., bool]:
    """Whether the witness believes ``kernel``, where there is no other for the operator."""

    def believes(kind: str, kernel: Callable[..., Any], x: Any, *stored: onnx.TensorProto, **attributes: Any) -> bool:
        model = model_of([node(kind, ["x", *(each.name for each in stored)], "y", **attributes)], stored)
        only = type(kind, (OpRun,), {"op_domain": "", "_run": lambda self, *inputs, **more: (kernel(*inputs),)})
        monkeypatch.setattr(onnx_exact, "KERNELS", [*(each for each in KERNELS if each.__name__ != kind), only])
        monkeypatch.setattr(evaluator, "_onnx_kernel", lambda *arguments: only)
        try:
            run_file_exact(model, {"x": x}, witness=RuntimeWitness(model, Path("net.onnx")))
        except Inexact as problem:
            return not str(problem).startswith(f"node {kind.lower()!r} ({kind}) ")
        return True

    return believes


@pytest.mark.parametrize(
    ("kind", "step", "x"),
    [("Floor", np.floor, WHOLE), ("Ceil", np.ceil, WHOLE), ("Round", np.rint, WHOLE + 0.5), ("Sign", np.sign, WHOLE)],
)
@pytest.mark.parametrize("wrong", [1, 3])
def test_a_step_that_is_off_is_named_though_every_input_lies_on_one(
    believed: Callable[..., bool], kind: str, step: Any, x: Any, wrong: int
) -> None:
    assert believed(kind, step, x)
    assert not believed(kind, lambda x: step(x) + wrong, x)
    assert not believed(kind, lambda x: np.where(x == x.flat[5], step(x) + wrong, step(x)), x)


def test_only_places_that_cross_a_step_may_be_off_and_by_its_height(believed: Callable[..., bool]) -> None:
    """Whole numbers lie on a step of the remainder by 3 where that is 0; other numbers do not."""

    def remainder(places: Callable[[Any], Any], height: float) -> Callable[[Any, Any], Any]:
        return lambda x, three: np.fmod(x, three) + height * places(x) * np.where(x < 0, -1, 1)

    def on(x: Any) -> Any:
        return (np.abs(np.abs(np.fmod(x, 3)) - 1.5) > 1.4) & (np.abs(x) > 1)

    def beside(x: Any) -> Any:
        return ~on(x)

    def from_the_other_side(x: Any, three: Any) -> Any:
        """As rounding may have it: what is left of 6 is 3."""
        return np.sign(x) * (np.abs(x) - three * np.maximum(np.ceil(np.abs(x) / three) - 1, 0))

    assert believed("Mod", remainder(on, 0), WHOLE, THIRD, fmod=1)
    assert believed("Mod", from_the_other_side, WHOLE, THIRD, fmod=1)
    assert not believed("Mod", remainder(on, 6), WHOLE, THIRD, fmod=1)
    assert not believed("Mod", remainder(beside, 3), WHOLE, THIRD, fmod=1)


def test_an_operator_without_steps_is_excused_as_before(believed: Callable[..., bool]) -> None:
    large = WHOLE * np.float32(1e4) + np.float32(0.3)
    assert believed("Sin", lambda x: np.sin(x * (1 + 1e-8)), large)
    assert not believed("Sin", lambda x: np.sin(x * (1 + 1e-4)), large)
