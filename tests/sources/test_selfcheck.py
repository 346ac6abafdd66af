"""No export ends well with a bundle that its own ``edgekit verify`` fails: fake quantisation in every spelling."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from edgekit.bundle.draft import Draft
from edgekit.bundle.evidence import EvidenceArrays
from edgekit.commands.export import export
from edgekit.commands.verify import verify
from edgekit.errors import ModelError
from edgekit.sources import NOTHING_ADDED, ExportOptions
from edgekit.sources.onnx_file import IN_FLOAT64, ITSELF, OnnxOrigin
from edgekit.sources.selfcheck import Unverified, check_draft
from tests.commands.test_verify_exported_int8 import network
from tests.onnx.crafted import conv, model_of, node, norm, plain, statistics, tensor

SPELLINGS = {
    "mul": [("Mul", "inverse"), ("Round", ""), ("Clip", ""), ("Mul", "step")],
    "div": [("Div", "step"), ("Round", ""), ("Clip", ""), ("Mul", "step")],
    "floor": [("Div", "step"), ("Add", "half"), ("Floor", ""), ("Clip", ""), ("Mul", "step")],
    "cast": [("Div", "step"), ("Clip", ""), ("Cast", "int8"), ("Cast", "float32"), ("Mul", "step")],
}
TYPES = {"int8": onnx.TensorProto.INT8, "float32": onnx.TensorProto.FLOAT}


def fake_quantised(spelling: str, *, at_input: bool) -> onnx.ModelProto:
    """Two convolutions, with values rounded to steps of 0.05 before the first or the second."""
    nodes: list[onnx.NodeProto] = []

    def quantised(value: str) -> str:
        for operator, operand in SPELLINGS[spelling]:
            inputs = [value] if operator == "Cast" else [value, "low", "high"] if operator == "Clip" else [value, operand]
            value = f"q{len(nodes)}"
            form = {"to": TYPES[operand]} if operator == "Cast" else {}
            nodes.append(node(operator, [name for name in inputs if name], value, value, **form))
        return value

    nodes.append(conv(quantised("x") if at_input else "x", "c"))
    nodes += [norm("c", "n"), node("Relu", ["n"], "r")]
    nodes += [conv("r" if at_input else quantised("r"), "d", "w2", "second"), node("Flatten", ["d"], "y")]
    numbers = {"inverse": 20.0, "step": 0.05, "half": 0.5, "low": -128.0, "high": 127.0}
    stored = [numpy_helper.from_array(np.float32(number), name) for name, number in numbers.items()]
    return model_of(nodes, [*stored, tensor("w", 6, 4, 3, 3), tensor("w2", 5, 6, 3, 3), *statistics("bn", 6)], rank=2)


@pytest.mark.parametrize("at_input", [True, False], ids=["input", "inside"])
@pytest.mark.parametrize("spelling", SPELLINGS)
def test_fake_quantisation_verifies_or_is_refused_with_the_node_that_rounds(
    tmp_path: Path, spelling: str, at_input: bool
) -> None:
    onnx.save(fake_quantised(spelling, at_input=at_input), tmp_path / "net.onnx")
    problem = refused(str(tmp_path / "net.onnx"), tmp_path / "bundle")
    if problem is not None:
        assert problem.reason.startswith(f"{tmp_path / 'net.onnx'} cannot be verified: ")
        assert any(f"{kind} q" in problem.reason for kind in ("Round", "Floor", "Cast"))
        assert "before it was quantised" in problem.remedy


def refused(source: str, bundle: Path, options: ExportOptions = NOTHING_ADDED) -> ModelError | None:
    """Export; the bundle passes verify, or there is none and the error is returned."""
    try:
        export(source, bundle, options)
    except ModelError as problem:
        assert not bundle.exists()
        return problem
    assert verify(bundle, ("ort-cpu",)).passed
    return None


def test_steps_of_this_file_are_refused(tmp_path: Path) -> None:
    """Beside the test before: not every spelling passes by rounding too seldom."""
    onnx.save(fake_quantised("div", at_input=True), tmp_path / "net.onnx")
    with pytest.raises(Unverified, match="the first node whose values differ is Round q"):
        export(str(tmp_path / "net.onnx"), tmp_path / "bundle")


def drafted(tmp_path: Path, model: onnx.ModelProto | None = None) -> Draft:
    onnx.save(model or plain(), tmp_path / "net.onnx")
    return OnnxOrigin(tmp_path / "net.onnx", ExportOptions()).draft(lambda *_: None)


def test_a_draft_that_verify_would_fail_is_refused(tmp_path: Path) -> None:
    draft = drafted(tmp_path)
    assert draft.reference == IN_FLOAT64
    check_draft(draft, "net.onnx")
    moved = {name: array * (1 + 1e-4) for name, array in draft.golden.float64.items()}
    other = draft._replace(golden=msgspec.structs.replace(draft.golden, float64=moved))
    with pytest.raises(Unverified, match=r"with its optimisations output 'y' is off by 1\.0e-04 of its scale"):
        check_draft(other, "net.onnx")
    assert draft.measured is not None
    floors = {name: floor + 1 for name, floor in draft.measured.floors.items()}
    loud = draft._replace(measured=msgspec.structs.replace(draft.measured, floors=floors))
    with pytest.raises(Unverified, match="the noise floors of 'y' are far above"):
        check_draft(loud, "net.onnx")


def test_a_draft_in_steps_is_held_to_what_verify_sees_and_not_to_what_it_asks_for(tmp_path: Path) -> None:
    draft = drafted(tmp_path, network(quantised=True))
    (variant,), golden = draft.variants, draft.golden
    off = golden.original["y"].copy()
    off[0, 0] += 1.0 / 127 * np.abs(off).max()
    other = draft._replace(golden=msgspec.structs.replace(golden, original={"y": off}), measured=loud(draft))
    asked = msgspec.structs.replace(variant.allowance, rounding=8.0)
    wide = other._replace(variants=(msgspec.structs.replace(variant, allowance=asked),))
    with pytest.raises(Unverified, match=r"without optimisations output 'y' is .* steps from the original's recorded output"):
        check_draft(wide, "net.onnx")


def loud(draft: Draft) -> EvidenceArrays:
    """The draft's evidence with noise floors that explain everything."""
    assert draft.measured is not None
    floors = {name: np.full_like(floor, 10.0) for name, floor in draft.measured.floors.items()}
    return msgspec.structs.replace(draft.measured, floors=floors)


def test_what_fails_against_float64_is_held_against_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def refuse_float64(draft: Draft, source: str) -> None:
        asked.append(draft.reference)
        if draft.reference == IN_FLOAT64:
            raise Unverified("output 'y' is off")

    monkeypatch.setattr("edgekit.sources.onnx_file.check_draft", refuse_float64)
    draft = drafted(tmp_path)
    assert asked == [IN_FLOAT64, ITSELF]
    assert draft.reference == ITSELF
    assert draft.notes[0].endswith("not in float64: output 'y' is off")
    assert draft.original_error is None


class Stepped(nn.Module):
    """Rounds what a convolution gives to steps."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        steps = torch.round(self.conv(x) / 0.05) * 0.05
        return torch.flatten(self.head(steps), 1)


def stepped() -> nn.Module:
    return Stepped()


def test_a_pytorch_model_that_rounds_to_steps_verifies_or_is_refused(tmp_path: Path) -> None:
    problem = refused(f"{__name__}:stepped", tmp_path / "bundle", ExportOptions(input_shapes=("1x3x12x12",)))
    assert problem is None or "cannot be verified" in problem.reason
