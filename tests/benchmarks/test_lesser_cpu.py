"""Programs that run as on a CPU with AVX2 alone (``benchmarks/lesser_cpu.py``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lesser_cpu
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

needs_masking = pytest.mark.skipif(lesser_cpu.absence() is not None, reason=str(lesser_cpu.absence()))
CHANNELS = 16
LARGEST = """
import json, sys
import numpy as np, onnxruntime
from lesser_cpu import is_lesser
inputs = np.ones((1, 16, 8, 8), np.float32)
sessions = [onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]) for path in sys.argv[2:]]
answers = [float(session.run(None, {"x": inputs})[0].max()) for session in sessions]
open(sys.argv[1], "w").write(json.dumps({"lesser": is_lesser(), "largest": answers}))
"""


def rounded_conv(largest_code: int) -> bytes:
    """A 1x1 convolution by ones in 8 bits, whose input in 0..1 has codes up to ``largest_code``."""
    stored: dict[str, NDArray[Any]] = {
        "x/scale": np.array(1 / largest_code, np.float32),
        "x/zero": np.array(0, np.uint8),
        "w/codes": np.full((CHANNELS, CHANNELS, 1, 1), 127, np.int8),
        "w/scale": np.array(1 / 127, np.float32),
        "w/zero": np.array(0, np.int8),
        "y/scale": np.array(CHANNELS / 127, np.float32),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x/scale", "x/zero"], ["a"]),
        helper.make_node("DequantizeLinear", ["a", "x/scale", "x/zero"], ["b"]),
        helper.make_node("DequantizeLinear", ["w/codes", "w/scale", "w/zero"], ["w"]),
        helper.make_node("Conv", ["b", "w"], ["c"]),
        helper.make_node("QuantizeLinear", ["c", "y/scale", "x/zero"], ["d"]),
        helper.make_node("DequantizeLinear", ["d", "y/scale", "x/zero"], ["y"]),
    ]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CHANNELS, 8, 8]) for name in "xy")
    graph = helper.make_graph(nodes, "conv", [x], [y], [numpy_helper.from_array(array, name) for name, array in stored.items()])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


@needs_masking
def test_codes_up_to_127_add_up_without_vnni_and_codes_up_to_255_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(lesser_cpu.SOURCE.parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    )
    files = [tmp_path / f"{code}.onnx" for code in (127, 255)]
    for file in files:
        file.write_bytes(rounded_conv(int(file.stem)))
    result = tmp_path / "result.json"
    assert lesser_cpu.run_on_lesser(["-c", LARGEST, str(result), *map(str, files)]) == 0
    told = json.loads(result.read_text())
    assert told["lesser"]
    assert told["largest"][0] == pytest.approx(CHANNELS, rel=0.01)
    assert told["largest"][1] < 0.6 * CHANNELS


@needs_masking
def test_the_exit_code_is_the_programs_and_a_real_fault_still_ends_it() -> None:
    assert lesser_cpu.run_on_lesser(["-c", "raise SystemExit(3)"]) == 3
    assert lesser_cpu.run_on_lesser(["-c", "import ctypes; ctypes.string_at(0)"]) == -11


def test_a_cpu_that_cannot_be_asked_ends_the_program_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "cpuinfo").write_text("flags\t: fpu avx2 cpuid\n")
    script = (
        f"import lesser_cpu; from pathlib import Path; lesser_cpu.CPU_INFO = Path({str(tmp_path / 'cpuinfo')!r});"
        " lesser_cpu.run_on_lesser(['-c', ''])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=lesser_cpu.SOURCE.parent, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "no cpuid_fault" in done.stderr
