"""The tables in docs/precision.md of the measurements of ``benchmarks/precision.py``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import precision_table
import pytest
import results


def row(snr_db: float | None, accuracy: float = 0.9, flips: int = 0, **more: Any) -> dict[str, Any]:
    cells = {"pictures": 1000, "accuracy": accuracy, "float32_accuracy": 0.9, "low": -0.004, "high": -0.0, "flips": flips}
    return cells | {"snr_db": snr_db, "bytes": 1_250_000} | more


def speed(*numbers: float, of_edgekit: tuple[float, ...] = ()) -> dict[str, Any]:
    return {"speed_up": numbers[0], "low": numbers[1], "high": numbers[2], "of_edgekit_int8": list(of_edgekit)}


RESULTS: dict[str, Any] = {
    "net": {
        "float32": {"ONNX Runtime": row(None, bytes=5_000_000)},
        "edgekit int8": {
            "ONNX Runtime": row(34.26, 0.898, 7, speed_up_8=speed(1.704, 1.65, 1.81, of_edgekit=(1.0, 0.99, 1.01))),
            "ONNX Runtime, optimisations off": row(34.31),
            "OpenVINO": row(None),
            "TensorRT's reading": row(34.4),
            "TensorRT-RTX's parser": {"layers": 4, "builds": True, "warnings": ["int8 it is"]},
        },
        "theirs int8": {
            "ONNX Runtime": row(12.0, speed_up_8=speed(1.5, 1.4, 1.6, of_edgekit=(0.88, 0.8, 0.9))),
            "OpenVINO": {"refused": "no int32"},
            "TensorRT's reading": {"refused": "a zero point", "bytes": 1_000_000},
            "TensorRT-RTX's parser": {"refused": "no int32"},
        },
        "unmade": {"TensorRT-RTX's parser": {"absent": "no such module"}},
        "no tool": {},
        "timed on": {"cores": "2"},
        "sha256 of the weights": "ab",
        "judged on": {"cpu": "Another CPU", "cores": "4", "instruction sets": "avx2", "load": "9", "onnxruntime": "1.33"},
    },
    "machine": {"cpu": "Some CPU", "cores": "2", "instruction sets": "avx2, avx_vnni", "load": "1.5", "onnxruntime": "1.32"},
}
ON_AVX2: dict[str, Any] = {
    "net": {
        "float32": {"ONNX Runtime": row(None, speed_up_1=speed(1.0, 1.0, 1.0))},
        "edgekit int8": {
            "ONNX Runtime": row(34.1, flips=3, speed_up_1=speed(1.9, 1.8, 2.0)),
            "ONNX Runtime, optimisations off": row(34.3),
            "OpenVINO": row(33.0),
        },
        "theirs int8": {"ONNX Runtime": row(2.5, flips=400), "OpenVINO": {"refused": "it crashed"}},
        "float16": {"ONNX Runtime": row(70.0, speed_up_1=speed(0.7, 0.6, 0.8))},
        "sha256 of the weights": "ab",
    },
    "machine": {"cpu": "Some CPU", "cores": "2", "instruction sets": "avx2", "cpu features": "X86_V3", "onnxruntime": "1.32"},
}


@pytest.fixture(scope="module")
def lines() -> list[str]:
    return precision_table.summary(RESULTS, ON_AVX2).splitlines()


@pytest.mark.parametrize(
    ("file", "cells"),
    [
        (
            "edgekit int8",
            "1.25 | 34.3 → 34.3 | 0.20 (0.00 to 0.40) | 7 | exact | 0.00 (0.00 to 0.40) | 0 "
            "| 34.4 | 0.00 (0.00 to 0.40) | 0 | builds, warns",
        ),
        ("theirs int8", "1.25 | 12.0 | 0.00 (0.00 to 0.40) | 0 | refused | - | - | refused | - | - | refused"),
        ("unmade", "- | - | - | - | - | - | - | - | - | - | -"),
    ],
)
def test_a_file_has_its_size_error_points_and_flips_in_each_runtime(lines: list[str], file: str, cells: str) -> None:
    first = lines[: next(place for place, line in enumerate(lines) if line.startswith("Times as fast"))]
    assert f"| {file} | {cells} |" in first


def test_every_row_has_as_many_cells_as_its_head(lines: list[str]) -> None:
    tables = "\n".join(lines).split("\n\n")
    widths = [{line.count("|") for line in table.splitlines()} for table in tables if table.startswith("|")]
    assert len(widths) == 5
    assert all(len(width) == 1 for width in widths)


def test_speeds_are_told_against_float32_and_against_edgekit(lines: list[str]) -> None:
    assert "| edgekit int8 | - | 1.70 (1.65 to 1.81) | - | - |" in lines
    assert "| theirs int8 | - | 1.50 (1.40 to 1.60) | - | - |" in lines
    against = lines[lines.index("Times as fast as edgekit int8 in the same runtime, with the 95 % interval:") :]
    assert against[4:6] == ["| theirs int8 | - | 0.88 (0.80 to 0.90) | - | - |", ""]


def test_what_was_refused_is_told_with_its_reason(lines: list[str]) -> None:
    assert "- theirs int8; TensorRT's reading: a zero point" in lines
    assert "- theirs int8; OpenVINO, TensorRT-RTX's parser: no int32" in lines


def test_the_machine_and_what_float32_reaches_stand_above(lines: list[str]) -> None:
    assert lines[0] == "Measured on 2 cores of Some CPU (avx2, avx_vnni); onnxruntime 1.32."
    assert "float32: 5.00 MB, accuracy 0.9000 on 1,000 test pictures." in lines
    assert "Measured on 4 cores of Another CPU (avx2); onnxruntime 1.33." in lines
    assert not any("no tool" in line for line in lines)


def test_without_vnni_a_file_stands_beside_itself_with_it(lines: list[str]) -> None:
    cells = "34.3 → 34.3 | 34.3 → 34.1 | 0.20 (0.00 to 0.40) | 0.00 (0.00 to 0.40) | 7 | 3"
    assert f"| net | edgekit int8 | ONNX Runtime | {cells} |" in lines
    assert "| net | theirs int8 | OpenVINO | refused | refused | - | - | - | - |" in lines
    assert not any("float16 | ONNX Runtime |" in line for line in lines)


def test_a_file_of_other_weights_does_not_stand_beside_it() -> None:
    others = RESULTS | {"net": RESULTS["net"] | {"sha256 of the weights": "cd"}}
    lines = precision_table.summary(others, ON_AVX2).splitlines()
    cells = "- | 34.3 → 34.1 | - | 0.00 (0.00 to 0.40) | - | 3"
    assert f"| net | edgekit int8 | ONNX Runtime | {cells} |" in lines


def test_speeds_of_every_file_without_vnni(lines: list[str]) -> None:
    assert "| net | edgekit int8 | 1.90 (1.80 to 2.00) | - | - | - |" in lines
    assert "| net | float16 | 0.70 (0.60 to 0.80) | - | - | - |" in lines


def test_speeds_that_were_not_measured_have_no_table() -> None:
    untimed = {**ON_AVX2, "net": {"theirs int8": ON_AVX2["net"]["theirs int8"], "sha256 of the weights": "ab"}}
    text = precision_table.summary(RESULTS, untimed)
    assert "AVX2 alone |" in text
    assert "on AVX2 alone, with the" not in text


def test_nothing_measured_is_said() -> None:
    assert precision_table.summary({}, {}) == precision_table.NONE_YET


def test_a_page_that_is_behind_its_result_files_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("Before\n<!-- numbers -->\nold\n<!-- /numbers -->\nAfter\n")
    assert results.updated(page, lambda: "new\n")[1] == "Before\n<!-- numbers -->\nnew\n<!-- /numbers -->\nAfter\n"
    page.write_text("no markers")
    with pytest.raises(SystemExit, match="add these two markers"):
        results.updated(page, lambda: "new\n")
