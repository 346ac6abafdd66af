"""A budget is what may be lost, in one of two spellings."""

from __future__ import annotations

import pytest

from edgekit.errors import UsageError
from edgekit.variants.budget import Budget


def test_a_budget_is_of_accuracy_or_of_noise() -> None:
    assert Budget.parse("accuracy=-0.3pt") == Budget("accuracy=-0.3pt", points=0.3)
    assert Budget.parse(" SNR=30db ") == Budget("SNR=30db", snr_db=30)
    assert Budget.parse("accuracy=-0pt").points == 0


@pytest.mark.parametrize(
    "text", ["", "accuracy=0.3pt", "accuracy=-0.3", "accuracy=-3%", "snr=-3dB", "snr=30", "snr=nandB", "3dB"]
)
def test_anything_else_is_refused_with_an_example(text: str) -> None:
    with pytest.raises(UsageError, match=r"is no budget; write it like accuracy=-0\.3pt or snr=30dB"):
        Budget.parse(text)
