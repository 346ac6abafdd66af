"""The dtype that ``auto`` means: it follows from what a CPU is, so that a recipe gives the same weights on it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from edgekit.machine.cpu import instruction_sets
from edgekit.recipe import TrainRecipe
from edgekit.training.numerics import PRECISIONS, recorded, resolved

AMD, INTEL = "vendor_id\t: AuthenticAMD\n", "vendor_id\t: GenuineIntel\n"
"""Lines of /proc/cpuinfo as CPUs of both have them."""
CPU = torch.device("cpu")


@pytest.fixture
def cpu_info(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file in the place of /proc/cpuinfo, which is not there yet."""
    monkeypatch.setattr("edgekit.machine.cpu.CPU_INFO", tmp_path / "cpuinfo")
    monkeypatch.setattr("edgekit.training.numerics.instruction_sets", instruction_sets.__wrapped__)  # it keeps its answer
    return tmp_path / "cpuinfo"


@pytest.mark.parametrize(
    ("text", "precision"),
    [
        (f"{AMD}flags\t: avx2 avx512f avx512_vnni avx512_bf16", "bfloat16"),
        (f"{AMD}flags\t: avx2 avx512f avx512_vnni", "float32"),
        (f"{INTEL}flags\t: avx2 avx512f avx512_vnni avx512_bf16 amx_bf16 amx_int8", "bfloat16"),
        (f"{INTEL}flags\t: avx2 avx512f avx512_vnni avx512_bf16", "float32"),  # AMX hidden from a virtual machine
        (f"{INTEL}flags\t: avx2 avx512f amx_int8", "float32"),
        ("flags\t: avx2 avx512f avx512_bf16", "float32"),
        ("Features\t: fp asimd asimddp i8mm bf16", "float32"),
        (None, "float32"),
    ],
    ids=["zen-4", "zen-3", "amx", "amx-hidden", "amx-int8", "no-vendor", "arm", "not-told"],
)
def test_auto_is_bfloat16_on_cpus_that_are_faster_in_it(text: str | None, precision: str, cpu_info: Path) -> None:
    if text is not None:
        cpu_info.write_text(text)
    assert resolved(TrainRecipe(precision="auto"), CPU) == precision
    for named in PRECISIONS:
        assert resolved(TrainRecipe(precision=named), CPU) == named


def test_the_dtype_of_a_training_is_among_its_facts() -> None:
    assert recorded({"precision": "bfloat16", "threads": "2"}) == "bfloat16"
    assert recorded({"precision": "float32"}) == "float32"
    assert recorded({"precision": "int4"}) is recorded({}) is None
