"""int8 accuracy is marked where it was measured on a CPU of another kind."""

from __future__ import annotations

import msgspec
import pytest

from edgekit.bundle.manifest import Allowance, Conversion, Variant
from edgekit.parity.other_cpu import measured_elsewhere
from edgekit.tolerance import Tolerance

VARIANT = Variant(
    "int8",
    "int8.onnx",
    "int8",
    Allowance(Tolerance()),
    accuracy=0.9,
    conversion=Conversion("int8.npz", 5, cpu="avx2, avx512f, avx512_vnni"),
)
OLD = msgspec.structs.replace(VARIANT, conversion=Conversion("int8.npz", 5, cpu="avx2"))


@pytest.mark.parametrize(
    ("variant", "here", "said"),
    [
        (
            VARIANT,
            ("avx2",),
            "the int8 accuracy was measured on a CPU with avx512_vnni; this one has none: measure it here with edgekit evaluate "
            "--variant int8",
        ),
        (
            OLD,
            ("avx2", "avx_vnni"),
            "the int8 accuracy was measured on a CPU without VNNI; this one has avx_vnni: measure it here with edgekit evaluate "
            "--variant int8",
        ),
        (VARIANT, ("avx2", "avx_vnni"), ""),
        (OLD, ("avx2",), ""),
        (VARIANT, ("asimddp", "i8mm"), ""),
        (VARIANT, (), ""),
        (msgspec.structs.replace(VARIANT, accuracy=None), ("avx2",), ""),
        (msgspec.structs.replace(VARIANT, precision="float16"), ("avx2",), ""),
        (msgspec.structs.replace(VARIANT, conversion=Conversion("int8.npz", 5)), ("avx2",), ""),
        (msgspec.structs.replace(VARIANT, conversion=None), ("avx2",), ""),
    ],
)
def test_accuracy_from_another_kind_of_cpu_is_told(
    variant: Variant, here: tuple[str, ...], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgekit.parity.other_cpu.instruction_sets", lambda: here)
    assert measured_elsewhere(variant) == said
