"""NVIDIA's lines become plain sentences."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgekit.backends.tensorrt.flavour import FLAVOURS, TensorRT
from edgekit.backends.tensorrt.messages import BadNode, Message, failure, plain, refusal


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("4: [network.cpp::validate::3062] Error Code 4: Internal Error (Network has no outputs.)", "Network has no outputs"),
        (
            "IBuilder::buildSerializedNetwork: Error Code 4: API Usage Error (No profile (of two). In validate at /_src/n.cpp:4)",
            "No profile (of two)",
        ),
        ('creator && "Plugin not found, are the plugin name, version, and namespace correct?"', "no such operator"),
        ("false", "not supported"),
        ("Assertion failed: a.b(): It is wrong.", "It is wrong"),
        ("two\nlines", "two lines"),
        (
            "It is in use. In updateLayerName at /_src/network.cpp:3117) [checkMacros.cpp::catchCudaError::250] Error Code 1: "
            "Cuda Runtime (In catchCudaError at /_src/common/checkMacros.cpp:250 (cudaError 35: no driver)",
            "It is in use",
        ),
    ],
)
def test_nvidias_lines_become_plain(line: str, expected: str) -> None:
    assert plain(line) == expected


def test_a_failure_gives_its_first_reason_and_not_that_there_is_no_driver() -> None:
    trt = TensorRT(FLAVOURS[0], None, "8.6")
    noise = Message("ERROR", "[checkMacros.cpp::catchCudaError::250] Error Code 1: Cuda Runtime (no driver)")
    messages = [Message("WARNING", "mind"), noise, Message("ERROR", "the reason"), Message("ERROR", "what followed")]
    assert "cannot build x: the reason; " in str(failure(trt, "build x", messages))
    assert "cannot build x: no driver; " in str(failure(trt, "build x", [noise]))
    assert "it does not say why" in str(failure(trt, "build x", []))


@pytest.mark.parametrize(("flavour", "opset", "said"), [(0, 20, True), (0, 17, False), (1, 20, False), (3, 20, False)])
def test_a_file_of_a_newer_opset_than_the_parser_knows_is_told_as_such(flavour: int, opset: int, said: bool) -> None:
    trt = TensorRT(FLAVOURS[flavour], None, "8.6.0")
    nodes = [BadNode("node_Reshape_131", "Reshape", "reshape wildcard -1 has no integer solution")]
    message = str(refusal(trt, Path("model.onnx"), nodes, opset))
    assert "Reshape (node_Reshape_131): reshape wildcard" in message
    assert ("it reads ONNX up to opset 17, and the file has opset 20" in message) == said
    assert ("convert the file to that opset" in message) == said
