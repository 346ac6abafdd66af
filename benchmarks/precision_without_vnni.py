"""What a file computes on an x86 CPU without VNNI: in ONNX Runtime and OpenVINO on a CPU that qemu-user emulates.

``qemu-x86_64 -cpu Haswell`` (Debian: qemu-user, 7.2 or later) has AVX2 and nothing newer, and both runtimes choose their kernels
by what it says. The emulation is exact and slow: numbers come from here, times never.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

EMULATOR = ("qemu-x86_64", "-cpu", "Haswell")
PICTURES = 64
LIMIT_SECONDS = 600


class NotEmulated(Exception):
    """The emulated process gave no outputs, with its own last words."""


class Emulated(NamedTuple):
    """The first output of a file, and what the process saw in its CPU, in numpy's names."""

    outputs: NDArray[np.float32]
    features: tuple[str, ...]


def run_emulated(runtime: str, content: bytes, inputs: NDArray[np.float32]) -> Emulated:
    """The outputs of a file with one input, in a process on the emulated CPU; raises NotEmulated where it gives none."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(content)
        np.save(folder / "inputs.npy", inputs)
        command = [*EMULATOR, sys.executable, __file__, runtime, name]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_SECONDS, check=False)
        except subprocess.TimeoutExpired:
            raise NotEmulated(f"not finished after {LIMIT_SECONDS} s") from None
        if done.returncode:
            raise NotEmulated((done.stderr.strip().splitlines() or ["it does not say why"])[-1])
        features = json.loads((folder / "features.json").read_text())
        return Emulated(np.load(folder / "outputs.npy"), tuple(features))


def emulator_version() -> str:
    """Its own words and the CPU; ends the program where it is not installed."""
    if shutil.which(EMULATOR[0]) is None:
        sys.exit(f"{EMULATOR[0]} is not installed; on Debian, apt-get install qemu-user")
    said = subprocess.run([EMULATOR[0], "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    return f"{said}, {' '.join(EMULATOR[1:])}"


def _onnxruntime(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: inputs})[0])


def _openvino(path: Path, inputs: NDArray[np.float32]) -> NDArray[np.float32]:
    import openvino  # type: ignore[import-untyped,unused-ignore]

    core = openvino.Core()
    compiled = core.compile_model(core.read_model(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.asarray(next(iter(compiled([inputs]).values())))


RUNTIMES = {"ONNX Runtime": _onnxruntime, "OpenVINO": _openvino}


def main(runtime: str, folder: Path) -> None:
    """The emulated process; numpy asks the CPU itself what it has, where /proc/cpuinfo tells of the real one."""
    np.save(folder / "outputs.npy", RUNTIMES[runtime](folder / "model.onnx", np.load(folder / "inputs.npy")))
    features = np.show_config(mode="dicts")["SIMD Extensions"]
    (folder / "features.json").write_text(json.dumps([*features["baseline"], *features["found"]]))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
