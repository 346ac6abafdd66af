"""Files that are run on an emulated CPU for ``benchmarks/precision.py``."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import precision_without_vnni
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from precision_without_vnni import EMULATOR, NotEmulated, run_emulated

from edgekit.bundle.folder import open_bundle
from edgekit.onnx.run import open_unoptimised


def test_a_process_of_its_own_gives_the_outputs_and_what_its_cpu_has(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision_without_vnni, "EMULATOR", ("env",))
    bundle = open_bundle(repository / "exported" / "lenet")
    feed = {"input": bundle.golden().inputs["input"][:4]}
    emulated = run_emulated("ONNX Runtime", bundle.onnx_bytes(), feed["input"])
    (expected,) = open_unoptimised(onnx.load_from_string(bundle.onnx_bytes()), Path("m"))(feed).values()
    np.testing.assert_allclose(emulated.outputs, expected, atol=1e-4)
    assert emulated.features
    with pytest.raises(NotEmulated, match="Protobuf parsing failed"):
        run_emulated("ONNX Runtime", b"no model", feed["input"])


CHANNELS = 16


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


def largest_on_emulated(largest_code: int) -> float:
    inputs: NDArray[np.float32] = np.ones((1, CHANNELS, 8, 8), np.float32)
    return float(run_emulated("ONNX Runtime", rounded_conv(largest_code), inputs).outputs.max())


@pytest.mark.skipif(shutil.which(EMULATOR[0]) is None, reason="qemu-user is not installed")
def test_codes_up_to_127_add_up_without_vnni_and_codes_up_to_255_do_not() -> None:
    assert largest_on_emulated(127) == pytest.approx(CHANNELS, rel=0.01)
    assert largest_on_emulated(255) < 0.6 * CHANNELS
