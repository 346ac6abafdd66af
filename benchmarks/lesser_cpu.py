"""Run a Python program on this CPU as if it had AVX2 and nothing newer: its own silicon, at its own speed.

    python benchmarks/lesser_cpu.py benchmarks/precision.py exported/lenet --avx2

Runtimes choose their kernels by what CPUID says. ``lesser_cpu.c``, built here with the system's C compiler and loaded before the
program, answers for it. This needs Linux and a CPU whose CPUID can be made to fault: Intel's, since Ivy Bridge (``cpuid_fault``
in /proc/cpuinfo), on virtual machines too. /proc/cpuinfo itself is not changed, and neither is what edgekit records of a machine:
``edgekit quantize`` would write this CPU's flags beside the other one's speed. ``cpu_features`` tells what a program sees.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np

SOURCE = Path(__file__).with_suffix(".c")
CPU_INFO = Path("/proc/cpuinfo")


def absence() -> str | None:
    """Why this machine can't do it; None where it can."""
    if sys.platform != "linux" or not CPU_INFO.is_file() or "cpuid_fault" not in CPU_INFO.read_text().split():
        return "this system or CPU can't answer CPUID for a program (no cpuid_fault in /proc/cpuinfo)"
    return None if shutil.which("cc") else "no C compiler is found (cc)"


def run_on_lesser(arguments: Sequence[str]) -> int:
    """Run ``python ARGUMENTS`` with CPUID answered; gives its exit code. Ends the program where that can't be done."""
    why = absence()
    if why is not None:
        sys.exit(why)
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "lesser_cpu.so"
        subprocess.run(["cc", "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        return subprocess.run(
            [sys.executable, *arguments], env={**os.environ, "LD_PRELOAD": str(library)}, check=False
        ).returncode


def cpu_features() -> tuple[str, ...]:
    """What this process sees in its CPU, in numpy's names: it asks CPUID."""
    features = np.show_config(mode="dicts")["SIMD Extensions"]
    return (*features["baseline"], *features["found"])


def is_lesser() -> bool:
    """Whether this process sees AVX2 (x86-64-v3 in numpy's names) and no AVX-512."""
    features = cpu_features()
    return bool({"X86_V3", "AVX2"} & set(features)) and not any(name == "X86_V4" or "AVX512" in name for name in features)


if __name__ == "__main__":
    sys.exit(run_on_lesser(sys.argv[1:]))
