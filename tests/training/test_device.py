"""Where training computes."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
import numpy as np
from edgekit.training.device import reuse_memory
if sys.argv[1] == "reused":
    reuse_memory()
for pages in range(6):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    np.ones(40 << 20, np.uint8)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
PAGES = (40 << 20) // 4096
"""Of one array; with the usual settings glibc gives back whatever is larger than 32 MiB."""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc" or platform.machine() != "x86_64", reason="of glibc, and pages of 4 kiB")
@pytest.mark.parametrize("kind", ["reused", "usual"])
def test_a_step_does_not_fault_in_the_memory_that_the_one_before_has_freed(kind: str, environment: dict[str, str]) -> None:
    huge = environment | {"NUMPY_MADVISE_HUGEPAGE": "0"}
    done = subprocess.run([sys.executable, "-c", PROGRAM, kind], capture_output=True, text=True, env=huge, check=True)
    faults = int(done.stdout)
    assert faults < PAGES / 10 if kind == "reused" else faults > PAGES / 2
