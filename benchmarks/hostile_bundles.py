"""Measure what ``edgekit verify --backend ort-cpu`` costs on bundles that are made to cost a lot.

    python benchmarks/hostile_bundles.py            # every kind; --kind NAME for one; --keep FOLDER keeps the bundles

Each bundle is LeNet's with another model.onnx or golden.npz, and checksums that fit. Writes
``benchmarks/results/hostile_bundles.json``.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from edgekit.machine.cpu import machine_facts

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "hostile_bundles.json"
LENET = ROOT / "exported" / "lenet"
PATIENCE = 150.0
"""Seconds after which a command is killed, which is a failure of the bounds."""
BILLION = 1_000_000_000


def ints(name: str, *values: int) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, np.int64), name)


def model(nodes: Sequence[onnx.NodeProto], tensors: Sequence[onnx.TensorProto], waste: str = "waste") -> bytes:
    """A network with LeNet's input and output; ``waste`` is a tensor whose sum, times zero, is added to the output."""
    x = helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 1, 28, 28])
    y = helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch", 10])
    weights = numpy_helper.from_array(np.zeros((784, 10), np.float32), "weights")
    zero = numpy_helper.from_array(np.zeros((), np.float32), "zero")
    ends = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("ReduceMean", ["flat"], ["seed"], keepdims=0),  # so that nothing is known before the run
        *nodes,
        helper.make_node("ReduceSum", [waste], ["sum"], keepdims=0),
        helper.make_node("Mul", ["sum", "zero"], ["nothing"]),
        helper.make_node("MatMul", ["flat", "weights"], ["product"]),
        helper.make_node("Add", ["product", "nothing"], ["output"]),
    ]
    graph = helper.make_graph(ends, "hostile", [x], [y], [weights, zero, *tensors])
    built = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(built.SerializeToString())


def expand() -> bytes:
    return model([helper.make_node("Expand", ["seed", "shape"], ["waste"])], [ints("shape", BILLION)])


def expand_at_load() -> bytes:
    """Nothing depends on the input, so that optimisation would compute it when the file is opened."""
    return model([helper.make_node("Expand", ["zero", "shape"], ["waste"])], [ints("shape", BILLION)])


def constant_of_shape() -> bytes:
    return model([helper.make_node("ConstantOfShape", ["shape"], ["waste"])], [ints("shape", BILLION)])


def tile() -> bytes:
    nodes = [helper.make_node("Unsqueeze", ["seed", "axis"], ["one"]), helper.make_node("Tile", ["one", "times"], ["waste"])]
    return model(nodes, [ints("axis", 0), ints("times", BILLION)])


def numbers() -> bytes:
    tensors = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("limit", 1e9), ("step", 1.0))]
    return model([helper.make_node("Range", ["seed", "limit", "step"], ["waste"])], tensors)


def pad() -> bytes:
    nodes = [helper.make_node("Unsqueeze", ["seed", "axis"], ["one"]), helper.make_node("Pad", ["one", "pads"], ["waste"])]
    return model(nodes, [ints("axis", 0), ints("pads", 0, BILLION)])


def outer() -> bytes:
    """Two vectors of 100,000 whose sum by broadcasting is a matrix of 10^10."""
    tensors = [numpy_helper.from_array(np.ones(100_000, np.float32), "vector"), ints("first", 1), ints("last", 0)]
    nodes = [
        helper.make_node("Add", ["vector", "seed"], ["row"]),
        helper.make_node("Unsqueeze", ["row", "first"], ["column"]),
        helper.make_node("Unsqueeze", ["row", "last"], ["line"]),
        helper.make_node("Add", ["column", "line"], ["waste"]),
    ]
    return model(nodes, tensors)


def loop() -> bytes:
    """A loop without an end."""
    info = helper.make_tensor_value_info
    body = helper.make_graph(
        [
            helper.make_node("Identity", ["condition_in"], ["condition_out"]),
            helper.make_node("Add", ["value_in", "value_in"], ["value_out"]),
        ],
        "body",
        [
            info("turn", TensorProto.INT64, []),
            info("condition_in", TensorProto.BOOL, []),
            info("value_in", TensorProto.FLOAT, []),
        ],
        [info("condition_out", TensorProto.BOOL, []), info("value_out", TensorProto.FLOAT, [])],
    )
    most = numpy_helper.from_array(np.array(2**62, np.int64), "most")
    go = numpy_helper.from_array(np.array(True), "go")
    return model([helper.make_node("Loop", ["most", "go", "seed"], ["waste"], body=body)], [most, go])


def many_nodes() -> bytes:
    names = ["seed", *(f"n{number}" for number in range(100_000))]
    nodes = [helper.make_node("Relu", [before], [after]) for before, after in pairwise(names)]
    return model(nodes, [], waste=names[-1])


def deep() -> bytes:
    """Branches in branches, 18 deep: 2^18 leaves."""
    info = helper.make_tensor_value_info("waste", TensorProto.FLOAT, [])
    graph = helper.make_graph([helper.make_node("Identity", ["seed"], ["waste"])], "leaf", [], [info])
    for depth in range(18):
        branch = helper.make_node("If", ["go"], ["waste"], then_branch=graph, else_branch=graph)
        graph = helper.make_graph([branch], f"b{depth}", [], [info])
    return model(list(graph.node), [numpy_helper.from_array(np.array(True), "go")])


def lying_dimensions() -> bytes:
    tensor = onnx.TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[BILLION, 4], raw_data=b"abcd")
    return model([helper.make_node("Add", ["huge", "seed"], ["waste"])], [tensor])


def loops_in_loops() -> bytes:
    """Three loops without an end, one in another."""
    info = helper.make_tensor_value_info
    node = helper.make_node("Add", ["seed", "seed"], ["value"])
    for depth in range(3):
        scalars = [info(f"{name}{depth}", kind, []) for name, kind in (("turn", TensorProto.INT64), ("on", TensorProto.BOOL))]
        ends = [info(f"still{depth}", TensorProto.BOOL, []), info("value", TensorProto.FLOAT, None)]
        body = helper.make_graph(
            [node, helper.make_node("Identity", [f"on{depth}"], [f"still{depth}"])], f"body{depth}", scalars, ends
        )
        node = helper.make_node("Loop", ["most", "go"], ["value" if depth < 2 else "waste"], body=body)
    most = numpy_helper.from_array(np.array(2**62, np.int64), "most")
    return model([node], [most, numpy_helper.from_array(np.array(True), "go")])


def deaf_node() -> bytes:
    """Suppressing 3 million boxes that do not overlap: one node, hours of work, which no flag ends."""
    count = 3_000_000
    numbers = [numpy_helper.from_array(np.array(value, np.float32), name) for name, value in (("first", 0.0), ("step", 2.0))]
    shapes = [ints("column", 1, -1, 1), ints("row", 1, 1, -1), ints("most", count), ints("last", 2)]
    nodes = [
        helper.make_node("Range", ["first", "limit", "step"], ["left"]),
        helper.make_node("Add", ["limit", "seed"], ["unknown"]),
        helper.make_node("Div", ["left", "unknown"], ["x"]),
        helper.make_node("Reshape", ["x", "column"], ["x1"]),
        helper.make_node("Add", ["x1", "tiny"], ["x2"]),
        helper.make_node("Concat", ["x1", "x1", "x2", "x2"], ["boxes"], axis=2),
        helper.make_node("Reshape", ["left", "row"], ["scores"]),
        helper.make_node("NonMaxSuppression", ["boxes", "scores", "most"], ["picked"]),
        helper.make_node("Cast", ["picked"], ["waste"], to=TensorProto.FLOAT),
    ]
    limit = numpy_helper.from_array(np.array(2.0 * count, np.float32), "limit")
    tiny = numpy_helper.from_array(np.array(1e-9, np.float32), "tiny")
    return model(nodes, [*numbers, *shapes, limit, tiny])


def empty_nodes() -> bytes:
    """15 million nodes of two bytes each."""
    return model([], []) + _field(7, _field(1, b"") * 15_000_000)


def elsewhere() -> bytes:
    """A tensor of 4 TB that is said to lie in another file."""
    tensor = onnx.TensorProto(name="huge", data_type=TensorProto.FLOAT, dims=[10**12], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../../dev/zero")
    return model([helper.make_node("Add", ["huge", "seed"], ["waste"])], [tensor])


def sparse() -> bytes:
    """A sparse tensor of 10^9 numbers, one of them stored."""
    built = onnx.load_from_string(model([helper.make_node("Add", ["huge", "seed"], ["waste"])], []))
    value = numpy_helper.from_array(np.ones(1, np.float32), "huge")
    built.graph.sparse_initializer.append(onnx.SparseTensorProto(values=value, indices=ints("", 7), dims=[BILLION]))
    return bytes(built.SerializeToString())


def texts() -> bytes:
    """A text, a billion times."""
    text = b"a text of more than a few letters, which lies elsewhere"
    tensor = onnx.TensorProto(name="text", data_type=TensorProto.STRING, dims=[1], string_data=[text])
    nodes = [
        helper.make_node("Expand", ["text", "shape"], ["many"]),
        helper.make_node("Gather", ["many", "place"], ["same"]),
        helper.make_node("Shape", ["same"], ["size"]),
        helper.make_node("Cast", ["size"], ["waste"], to=TensorProto.FLOAT),
    ]
    return model(nodes, [tensor, ints("shape", BILLION), ints("place", 7)])


def _field(number: int, content: bytes) -> bytes:
    """A field of a protobuf message, of bytes."""
    length, head = len(content), bytearray([number << 3 | 2])
    while length > 127:
        head.append(length & 127 | 128)
        length >>= 7
    return bytes(head) + bytes([length]) + content


def golden_of(samples: int, header: int = 0) -> Callable[[dict[str, Any]], dict[str, bytes]]:
    """A golden file of zeros for so many samples; ``header`` is another number for the arrays' headers to tell."""

    def built(manifest: dict[str, Any]) -> dict[str, bytes]:
        manifest["golden"] |= {"samples": header or samples, "parts": [], "pictures": []}
        arrays = {"input.input": np.zeros((samples, 1, 28, 28), np.float32), "float64.output": np.zeros((samples, 10)),
                  "original.output": np.zeros((samples, 10), np.float32)}  # fmt: skip
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
        return {"golden.npz": buffer.getvalue()}

    return built


def many_classes(manifest: dict[str, Any]) -> dict[str, bytes]:
    manifest["labels"] = [str(number) for number in range(1_200_000)]
    return {}


def many_variants(manifest: dict[str, Any]) -> dict[str, bytes]:
    first = manifest["variants"][0] | {"made_by": {}}
    manifest["variants"] = [first | {"name": f"v{number}"} for number in range(60_000)]
    return {}


def many_pictures(manifest: dict[str, Any]) -> dict[str, bytes]:
    manifest["golden"]["pictures"] = manifest["golden"]["pictures"][:1] * 200_000
    return {}


def many_notes(manifest: dict[str, Any]) -> dict[str, bytes]:
    manifest["notes"] = ["a note"] * 1_400_000
    return {}


def many_inputs(manifest: dict[str, Any]) -> dict[str, bytes]:
    manifest["inputs"] = [{"name": f"n{number}", "dtype": "float32", "shape": ["batch", 1]} for number in range(200_000)]
    return {}


def nested(manifest: dict[str, Any]) -> dict[str, bytes]:
    inner: Any = 0
    for _ in range(900):
        inner = [inner]
    manifest["source"]["args"] = {"x": [inner] * 1000}
    return {}


def evidence_of(members: Callable[[], dict[str, bytes]]) -> Callable[[dict[str, Any]], dict[str, bytes]]:
    """An evidence file with these members instead."""

    def forged(manifest: dict[str, Any]) -> dict[str, bytes]:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members().items():
                archive.writestr(f"{name}.npy", content)
        return {"evidence.npz": buffer.getvalue()}

    return forged


def npy(array: np.ndarray[Any, Any], shape: str = "") -> bytes:
    """The array as a file of numpy's; ``shape`` is another one for its header to tell."""
    buffer = io.BytesIO()
    np.save(buffer, array)
    content = buffer.getvalue()
    return content.replace(f"{array.shape},".encode(), f"{shape},".encode()) if shape else content


def names_of_nothing() -> dict[str, bytes]:
    table = b'[["","",0]' + b',["","",0]' * 6_000_000 + b"]"
    return {"nodes": npy(np.zeros((3, 0), np.float32)), "node-names": npy(np.frombuffer(table, np.uint8))}


MODELS = {
    "Expand to 10^9": expand, "Expand when opened": expand_at_load, "ConstantOfShape of 10^9": constant_of_shape,
    "Tile to 10^9": tile, "Range of 10^9": numbers, "Pad by 10^9": pad, "broadcast to 10^10": outer, "endless Loop": loop,
    "10^5 nodes": many_nodes, "branches in branches": deep, "a tensor with lying dimensions": lying_dimensions,
    "loops in loops": loops_in_loops, "a node deaf to flags": deaf_node, "15 million empty nodes": empty_nodes,
    "4 TB in another file": elsewhere, "a sparse tensor of a billion": sparse, "a billion texts": texts,
}  # fmt: skip
OTHERS: dict[str, Callable[[dict[str, Any]], dict[str, bytes]]] = {
    "golden of 10^6 samples": golden_of(1_000_000), "golden that lies": golden_of(64, 900_000),
    "1.2 million labels": many_classes, "60,000 variants": many_variants, "200,000 golden pictures": many_pictures,
    "1.4 million notes": many_notes, "200,000 inputs": many_inputs, "lists in lists": nested,
    "6 million names in the evidence": evidence_of(names_of_nothing),
    "evidence that lies": evidence_of(lambda: {"predicted": npy(np.zeros(9, np.int64), "(99999999999,)")}),
    "10^5 members": evidence_of(lambda: {f"floor.{number}": b"" for number in range(100_000)}),
}  # fmt: skip


def place(kind: str) -> str:
    return kind.replace(" ", "-").replace("^", "")


def write(kind: str, folder: Path) -> None:
    """The bundle of a kind, with checksums that fit."""
    root = folder / place(kind)
    root.mkdir()
    manifest = json.loads((LENET / "manifest.json").read_text())
    contents = {name: (LENET / name).read_bytes() for name in manifest["files"]}
    contents |= OTHERS[kind](manifest) if kind in OTHERS else {"model.onnx": MODELS[kind]()}
    for name, content in contents.items():
        (root / name).write_bytes(content)
        manifest["files"][name] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
    (root / "manifest.json").write_text(json.dumps(manifest))


def measured(root: Path) -> dict[str, Any]:
    """Seconds, peak memory and the last line of ``edgekit verify``."""
    command = [sys.executable, "-m", "edgekit", "verify", str(root), "--backend", "ort-cpu"]
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, "COLUMNS": "300"})
        timer = threading.Timer(PATIENCE, process.kill)
        timer.start()
        _, status, usage = os.wait4(process.pid, 0)
        timer.cancel()
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        lines = [line.strip() for line in output.read().splitlines() if line.strip()]
    return {"exit": process.returncode, "seconds": round(time.perf_counter() - started, 1), "peak_mib": usage.ru_maxrss // 1024,
            "file_mib": round(sum(path.stat().st_size for path in root.iterdir()) / 2**20, 1),
            "lines": len(lines), "said": lines[-1].replace(str(root), "BUNDLE")[:200] if lines else ""}  # fmt: skip


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=(*MODELS, *OTHERS))
    parser.add_argument("--keep", type=Path, metavar="FOLDER")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.keep or Path(scratch)
        rows = {"LeNet itself": measured(LENET)}
        for kind in [given.kind] if given.kind else [*MODELS, *OTHERS]:
            making = multiprocessing.Process(target=write, args=(kind, folder))  # a child's memory counts from its parent's on
            making.start()
            making.join()
            rows[kind] = measured(folder / place(kind))
            row = rows[kind]
            sys.stdout.write(f"{kind:32} exit {row['exit']:3} {row['seconds']:6} s {row['peak_mib']:6} MiB  {row['said']}\n")
            sys.stdout.flush()
    if not given.kind:
        RESULT.write_text(json.dumps({"rows": rows, "machine": machine_facts()}, indent=2) + "\n")


if __name__ == "__main__":
    main()
