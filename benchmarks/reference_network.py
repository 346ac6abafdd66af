"""Writes edgekit's reference network, the control of comparisons between days: ``edgekit/latency/network``.

It is written once and frozen: a report of another day is compared by it. ``--check`` makes its file anew and compares the bytes.

python benchmarks/reference_network.py FOLDER   writes the bundle
python benchmarks/reference_network.py --check  exits with 1 if the shipped file is not the one that this script makes
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.commands.export import export
from edgekit.latency.control import NETWORK
from edgekit.sources import ExportOptions

SIDE, WIDTH, BODY, CLASSES = 16, 64, 4, 10


def network() -> bytes:
    """A convolution, four more that share one weight, the mean of the picture, a matrix: 38 million products, 150 kB."""
    rng = np.random.RandomState(19)  # its numbers never change, those of newer generators may

    def weight(name: str, *shape: int) -> onnx.TensorProto:
        values = rng.standard_normal(shape) * np.sqrt(2 / np.prod(shape[1:]))
        return numpy_helper.from_array(values.astype(np.float32), name)

    weights = [weight("first", WIDTH, 1, 3, 3), weight("body", WIDTH, WIDTH, 3, 3), weight("last", CLASSES, WIDTH)]
    nodes, name = [], "input"
    for place in range(BODY + 1):
        feeds = [name, "body" if place else "first"]
        nodes.append(helper.make_node("Conv", feeds, [f"c{place}"], f"conv{place}", kernel_shape=[3, 3], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{place}"], [f"r{place}"], f"relu{place}"))
        name = f"r{place}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["mean"], "mean"))
    nodes.append(helper.make_node("Flatten", ["mean"], ["flat"], "flat"))
    nodes.append(helper.make_node("Gemm", ["flat", "last"], ["output"], "last", transB=1))
    given = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, SIDE, SIDE])
    told = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", CLASSES])
    graph = helper.make_graph(nodes, "reference", [given], [told], weights)
    model = helper.make_model(graph, producer_name="edgekit", ir_version=9, opset_imports=[helper.make_opsetid("", 20)])
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString(deterministic=True))


def write(folder: Path) -> None:
    """The network as a bundle; refuses a folder that is there."""
    if folder.exists():
        raise SystemExit(f"{folder} is there already, and the reference network is frozen; give another folder")
    with tempfile.TemporaryDirectory() as place:
        file = Path(place) / "reference.onnx"
        file.write_bytes(network())
        export(str(file), folder, ExportOptions())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--check", action="store_true")
    options = parser.parse_args()
    if options.check:
        with tempfile.TemporaryDirectory() as place:
            write(Path(place) / "anew")
            sys.exit((NETWORK / "model.onnx").read_bytes() != (Path(place) / "anew" / "model.onnx").read_bytes())
    write(options.folder or NETWORK)


if __name__ == "__main__":
    main()
