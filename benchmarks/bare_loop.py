"""The least that a program in Python does to time a network of one float32 input: the loop of ``bench_truth.cpp``.

    python benchmarks/bare_loop.py MODEL INPUT THREADS SECONDS DIMENSION...

INPUT is the file of the input's raw values. Prints the median in milliseconds, and the number of calls. Nothing of edgekit is
imported.
"""

from __future__ import annotations

import statistics
import sys
from time import perf_counter_ns

import numpy as np
import onnxruntime as ort

WARM_SECONDS = 0.1


def median_and_calls(model: str, input_file: str, threads: str, seconds: str, *shape: str) -> str:
    """What is printed."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = int(threads)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    values = np.fromfile(input_file, np.float32).reshape([int(size) for size in shape])
    feed, names = {session.get_inputs()[0].name: values}, [output.name for output in session.get_outputs()]
    end = perf_counter_ns() + WARM_SECONDS * 1e9
    while perf_counter_ns() < end:
        session.run(names, feed)
    samples = []
    end = perf_counter_ns() + float(seconds) * 1e9
    while perf_counter_ns() < end:
        before = perf_counter_ns()
        session.run(names, feed)
        samples.append((perf_counter_ns() - before) / 1e6)
    return f"{statistics.median(samples):.6f} {len(samples)}"


if __name__ == "__main__":
    print(median_and_calls(*sys.argv[1:]))
