"""A child that imports OpenVINO: it says what is there, or compiles a file that might end the process.

``python -m edgekit.backends.openvino.probe`` answers version, devices and the CPU's capabilities;
``python -m edgekit.backends.openvino.probe FILE CONFIG`` compiles an ONNX file by a JSON object of properties.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from edgekit.backends.openvino.session import CORE, DEVICE, VERSION, capabilities
from edgekit.machine.child import answer


def main(*arguments: str) -> None:
    """Answer as the module says; raises what OpenVINO raises."""
    if arguments:
        path, config = arguments
        CORE.compile_model(CORE.read_model(Path(path).read_bytes()), DEVICE, json.loads(config))
        answer({"compiled": True})
        return
    answer({"version": VERSION, "devices": list(CORE.available_devices), "capabilities": sorted(capabilities())})


if __name__ == "__main__":
    main(*sys.argv[1:])
