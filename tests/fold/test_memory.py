"""The memory that folding a large model takes, measured in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import copy, resource, sys, threading
from pathlib import Path
import torch, torchvision
from edgekit.fold import fold
from edgekit.tensors import TensorSpec

torch.set_num_threads(1)
inputs = (TensorSpec("input", "float32", ("batch", 3, 64, 64)),)
fold(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4)), inputs)  # the libraries' own first use
model = torchvision.models.get_model(sys.argv[1]).eval()
for norm in [module for module in model.modules() if isinstance(module, torch.nn.BatchNorm2d)]:
    for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var):
        tensor.data.uniform_(0.5, 1.5)
weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
now = lambda: int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
start, done, peak = now(), threading.Event(), [0]

def sample():
    while not done.wait(0.002):
        peak[0] = max(peak[0], now() - start)

thread = threading.Thread(target=sample)
thread.start()
held = copy.deepcopy(model).double() if "held" in sys.argv else None
_, report = fold(model, inputs)
done.set()
thread.join()
print(peak[0] / weights, len(report.folded))
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the resident set is read from /proc")
@pytest.mark.parametrize(
    ("arguments", "folded", "within"),
    [
        pytest.param(("resnet152",), 155, True, id="resnet152"),
        pytest.param(("densenet201",), 99, True, id="densenet201"),
        pytest.param(("resnet152", "held"), 155, False, id="a float64 copy held"),
    ],
)
def test_folding_takes_at_most_twice_the_models_memory(
    repository: Path, environment: dict[str, str], arguments: tuple[str, ...], folded: int, within: bool
) -> None:
    # let glibc return freed memory to the system at once, so that only memory in use is measured
    environment |= {"PYTHONPATH": str(repository), "MALLOC_MMAP_THRESHOLD_": "65536"}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    ratio, count = done.stdout.split()
    assert int(count) == folded
    assert (float(ratio) <= 2) == within
