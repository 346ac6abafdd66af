"""The rule that docs/folding.md teaches to add works as it is printed there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from edgekit.fold import fold, rules
from edgekit.fold.affine import compact
from edgekit.tensors import TensorSpec
from tests.networks import randomise_norms

PAGE = Path(__file__).parent.parent / "docs" / "folding.md"
INPUT = (TensorSpec("input", "float32", ("batch", 3, 6, 6)),)


class Upscale(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.upscale, self.norm = nn.Conv2d(3, 8, 3), nn.PixelShuffle(2), nn.BatchNorm2d(2)

    def forward(self, x: torch.Tensor) -> Any:
        return self.norm(self.upscale(self.conv(x)))


def test_the_rule_of_the_page_folds_what_the_page_says_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomise_norms(Upscale())
    _, report = fold(model, INPUT)
    assert report.kept[0].obstacles[0].why in PAGE.read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.S)
    names: dict[str, Any] = {**vars(rules), "compact": compact}
    exec(code, names)
    table = {**rules.PASSAGES, torch.ops.aten.pixel_shuffle.default: names["_PIXEL_SHUFFLE"]}
    monkeypatch.setattr(rules, "PASSAGES", table)
    _, report = fold(model, INPUT)
    assert [item.into for item in report.folded] == [("conv",)]
    assert report.error_float64 is not None
    assert report.error_float64 <= 1e-12
