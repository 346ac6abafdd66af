"""Two ways to resize inside an ONNX file against Pillow, by runtime: edgekit's nodes, and the operator Resize with antialias.

    python benchmarks/raw_pictures.py        # writes benchmarks/results/raw_pictures.json; needs the extras cpu, openvino and rtx

Noise of several sizes is resized to 28 x 28 and to 224 x 224, and compared with Pillow's result in grey levels of 255. The time
is that of a processor for one picture of 640 x 480 through ``with-preprocessing`` of two bundles, beside the first file alone.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgekit import Model, load, quantize
from edgekit.machine.cpu import machine_facts
from edgekit.onnx.pictures import PICTURE, levels_name, with_pictures
from edgekit.preprocess import Preprocess
from edgekit.tensors import TensorSpec

ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "raw_pictures.json"
SIZES = ((480, 640), (31, 45), (100, 28), (20, 300), (250, 230), (42, 42), (7, 9))
TARGETS = (28, 224)
CALLS = 15
Run = Callable[[NDArray[np.uint8]], Any]
openvino: Any = importlib.import_module("openvino")
trt: Any = importlib.import_module("tensorrt_rtx")


def own_nodes(size: int) -> onnx.ModelProto:
    """The levels by edgekit's nodes."""
    preprocess = Preprocess("rgb", size, size, (0.0,) * 3, (1.0,) * 3)
    spec = TensorSpec("x", "float32", ("batch", 3, size, size))
    values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, spec.shape) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", [levels_name(spec)], ["y"])], "g", values[:1], values[1:])
    return with_pictures(_model(graph), spec, preprocess)


def resize_operator(size: int) -> onnx.ModelProto:
    """The levels by Resize, with the attributes that come nearest to Pillow."""
    nodes = [
        helper.make_node("Cast", [PICTURE], ["pixels"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["pixels"], ["channels"], perm=[0, 3, 1, 2]),
        helper.make_node("Shape", ["channels"], ["front"], start=0, end=2),
        helper.make_node("Concat", ["front", "sides"], ["size"], axis=0),
        helper.make_node("Resize", ["channels", "", "", "size"], ["r"], mode="linear", antialias=1, exclude_outside=1),
        helper.make_node("Round", ["r"], ["y"]),
    ]
    given = helper.make_tensor_value_info(PICTURE, TensorProto.UINT8, ["batch", "height", "width", 3])
    result = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3, size, size])
    return _model(helper.make_graph(nodes, "g", [given], [result], [numpy_helper.from_array(np.array([size, size]), "sides")]))


def _model(graph: onnx.GraphProto) -> onnx.ModelProto:
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def in_onnxruntime(model: onnx.ModelProto) -> Run:
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return lambda pictures: session.run(["y"], {PICTURE: pictures})[0]


def in_reference(model: onnx.ModelProto) -> Run:
    evaluator = ReferenceEvaluator(model)
    return lambda pictures: next(iter(evaluator.run(None, {PICTURE: pictures})))


def in_openvino(model: onnx.ModelProto) -> Run:
    core = openvino.Core()
    compiled = core.compile_model(core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda pictures: compiled({PICTURE: pictures})[0]


RUNTIMES = {"onnxruntime": in_onnxruntime, "onnx": in_reference, "openvino": in_openvino}


def levels(make: Callable[[int], onnx.ModelProto], runtime: Callable[[onnx.ModelProto], Run]) -> dict[str, float]:
    """The most grey levels off Pillow, and the share of pixels that are off."""
    apart = []
    for target in TARGETS:
        run, preprocess = runtime(make(target)), Preprocess("rgb", target, target, (0.0,) * 3, (1.0,) * 3)
        for seed, size in enumerate(SIZES):
            image = np.random.default_rng(seed).integers(0, 256, (*size, 3), np.uint8)
            apart.append(np.abs(run(image[None])[0] - preprocess.open(image)).reshape(-1))
    every = np.concatenate(apart)
    return {"most": float(every.max()), "share": round(float((every > 0).mean()), 5)}


def by_tensorrt(make: Callable[[int], onnx.ModelProto]) -> dict[str, bool]:
    """Whether TensorRT's parser takes the file, and whether an engine for ranges of sides is built; nothing is run."""
    builder = trt.Builder(trt.Logger(trt.Logger.INTERNAL_ERROR))
    network = builder.create_network()
    parsed = trt.OnnxParser(network, trt.Logger(trt.Logger.INTERNAL_ERROR)).parse(make(224).SerializeToString())
    if not parsed:
        return {"parsed": False, "built": False}
    config, profile = builder.create_builder_config(), builder.create_optimization_profile()
    profile.set_shape(PICTURE, (1, 32, 32, 3), (1, 480, 640, 3), (4, 1080, 1920, 3))
    config.add_optimization_profile(profile)
    return {"parsed": True, "built": builder.build_serialized_network(network, config) is not None}


def processor_ms(name: str) -> dict[str, float]:
    """Milliseconds of a processor for one picture, with the preprocessing inside and for the first file alone."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / name
        quantize(ROOT / "exported" / name, "with-preprocessing", output=root)
        times: dict[str, list[float]] = {}
        with load(root, "ort-cpu threads=1") as first, load(root, "ort-cpu variant=with-preprocessing threads=1") as raw:
            calls: dict[str, tuple[Model, NDArray[Any]]] = {
                "first file": (first, np.zeros(first.inputs[0].of_samples(1), np.float32)),
                "with-preprocessing": (raw, np.zeros((1, 480, 640, 3), np.uint8)),
            }
            for _ in range(CALLS):
                for which, (model, array) in calls.items():
                    before = time.process_time()
                    model(array)
                    times.setdefault(which, []).append(1e3 * (time.process_time() - before))
    return {which: round(statistics.median(values), 2) for which, values in times.items()}


def main() -> None:
    ways = {"nodes": own_nodes, "resize": resize_operator}
    result = {
        "levels": {way: {name: levels(make, runtime) for name, runtime in RUNTIMES.items()} for way, make in ways.items()},
        "tensorrt": {way: by_tensorrt(make) for way, make in ways.items()},
        "processor_ms": {name: processor_ms(name) for name in ("lenet", "edgenet")},
        "versions": {name: importlib.metadata.version(name) for name in (*RUNTIMES, "tensorrt-rtx", "pillow")},
        "machine": machine_facts(),
    }
    RESULT.write_text(json.dumps(result, indent=2, sort_keys=True) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
