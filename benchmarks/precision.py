"""Networks in float32, float16 and int8, by edgekit and by its peers, on every runtime here: error, accuracy, speed.

    python benchmarks/precision.py BUNDLE...              # accuracy and error of every file; resumes
    python benchmarks/precision.py BUNDLE... --time       # speed; on a machine that does nothing else
    python benchmarks/precision.py BUNDLE... --avx2       # the same, --time too, as on a CPU with AVX2 alone (lesser_cpu.py)
    python benchmarks/precision.py --summary              # the tables, from the result file

A BUNDLE is one whose recipe's data is on this machine: exported/densenet, or a trained recipe's. All files are made of the same
float32 file and, where they are calibrated, of the same 256 training pictures. Errors, flips and accuracy are of the whole test
set, against the float32 file in the same runtime; the signal-to-noise ratio (SNR) is against the float32 file in ONNX Runtime.
"TensorRT's reading" is the file as TensorRT 10, 11 and RTX read it, simulated in ONNX Runtime: uint8 as int8 (clamped at 127),
and refused with a zero point other than 0 or with an int32 bias. "TensorRT-RTX's parser" is the real one, where it is installed.
NNCF and onnxconverter-common are used where they are installed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
from lesser_cpu import cpu_features, is_lesser, run_on_lesser
from numpy.typing import NDArray
from onnx import numpy_helper
from precision_parsed import parsed
from precision_table import BATCHES, FLOAT, JUDGED_ON, PARSER, READING, TIMED_ON, WEIGHTS, summary

from edgekit.accuracy import paired
from edgekit.backends import open_session
from edgekit.bundle.files import ModelFiles
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.data import golden_pictures
from edgekit.errors import EdgekitError, first_line
from edgekit.latency.loop import Candidate, interleave
from edgekit.latency.statistics import speedups
from edgekit.machine.cpu import machine_facts
from edgekit.machine.packages import versions_of
from edgekit.setups import Setup
from edgekit.variants import Wanted, convert
from edgekit.variants.samples import own_data, samples_of

RESULTS = Path(__file__).parent / "results" / "precision.json"
ON_AVX2 = RESULTS.with_name("precision_avx2.json")
RUNTIMES = {
    "ONNX Runtime": Setup("ort-cpu"),
    "ONNX Runtime, optimisations off": Setup("ort-cpu", options={"optimisation": "off"}),
    "OpenVINO": Setup("openvino"),
    READING: Setup("ort-cpu", options={"optimisation": "off"}),
}
FEWER = {"ONNX Runtime, optimisations off": 2000, READING: 2000}
"""Pictures where the runtime computes 8 bits in floats, slowly."""
TIMED = ("ONNX Runtime", "OpenVINO")
SECONDS = 2.0
AT_ONCE = 200
PACKAGES = ("onnxruntime", "openvino", "nncf", "onnxconverter-common", "onnx", "torch")


class Network(NamedTuple):
    """A bundle with its calibration feed and its test set, as the network takes them."""

    name: str
    bundle: Bundle
    calibration: dict[str, NDArray[np.float32]]
    inputs: NDArray[np.float32]
    labels: NDArray[np.int64]


class Refused(Exception):
    """A tool or a runtime that does not take a network, with its own first words."""


def network_of(path: Path) -> Network:
    bundle = open_bundle(path)
    recipe, preprocess = own_data(bundle), bundle.manifest.preprocess
    assert recipe is not None
    assert preprocess is not None
    pictures = golden_pictures(recipe, preprocess, 1 << 40)
    samples = samples_of(bundle)
    return Network(path.name, bundle, samples.feed, preprocess.normalise(pictures.images), pictures.labels)


def by_edgekit(to: str, network: Network) -> bytes:
    """As edgekit quantize BUNDLE --to int8, or float16."""
    draft = convert(network.bundle, to, Wanted()).draft
    return draft.files[draft.variant.file]


def by_onnxruntime(settings: dict[str, Any], network: Network) -> bytes:
    """As quantize_static(QDQ, per_channel=True, ...) of onnxruntime.quantization, with the ``settings`` beside."""
    from onnxruntime import quantization

    types = {name: getattr(quantization.QuantType, value) for name, value in settings.items() if name.endswith("_type")}
    extra = {name: value for name, value in settings.items() if not name.endswith("_type")}
    with tempfile.TemporaryDirectory() as folder:
        before, after = Path(folder) / "before.onnx", Path(folder) / "after.onnx"
        before.write_bytes(network.bundle.onnx_bytes())
        quantization.quantize_static(
            before,
            after,
            _Reader(network),
            quant_format=quantization.QuantFormat.QDQ,
            per_channel=True,
            extra_options=extra,
            **types,
        )
        return after.read_bytes()


class _Reader:
    """Calibration samples one by one, as onnxruntime.quantization asks for them."""

    def __init__(self, network: Network) -> None:
        (self._name, self._array), *_ = network.calibration.items()
        self.rewind()

    def rewind(self) -> None:
        self._next = iter(range(len(self._array)))

    def get_next(self) -> dict[str, Any] | None:
        place = next(self._next, None)
        return None if place is None else {self._name: self._array[place : place + 1]}

    def __iter__(self) -> _Reader:
        return self

    def __next__(self) -> dict[str, Any]:
        batch = self.get_next()
        if batch is None:
            raise StopIteration
        return batch


def by_nncf(network: Network) -> bytes:
    """As nncf.quantize(model, nncf.Dataset(...), subset_size=256)."""
    import nncf

    name = next(iter(network.calibration))
    singles = [{name: sample[None]} for sample in network.calibration[name]]
    model = onnx.load_from_string(network.bundle.onnx_bytes())
    quantised = nncf.quantize(model, nncf.Dataset(singles), subset_size=len(singles))
    return bytes(quantised.SerializeToString())


def by_converter(network: Network) -> bytes:
    """As onnxconverter_common.float16.convert_float_to_float16(model, keep_io_types=True)."""
    from onnxconverter_common import float16

    model = float16.convert_float_to_float16(onnx.load_from_string(network.bundle.onnx_bytes()), keep_io_types=True)
    return bytes(model.SerializeToString())


NVIDIA = {
    "activation_type": "QInt8",
    "weight_type": "QInt8",
    "ActivationSymmetric": True,
    "WeightSymmetric": True,
    "QuantizeBias": False,
}
MAKERS: dict[str, Callable[[Network], bytes]] = {
    FLOAT: lambda network: network.bundle.onnx_bytes(),
    "edgekit int8": partial(by_edgekit, "int8"),
    "onnxruntime default int8": partial(by_onnxruntime, {}),
    "onnxruntime int8 for NVIDIA": partial(by_onnxruntime, NVIDIA),
    "NNCF default int8": by_nncf,
    "edgekit float16": partial(by_edgekit, "float16"),
    "onnxconverter-common float16": by_converter,
}


def made(maker: Callable[[Network], bytes], network: Network) -> bytes:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            content = maker(network)
            onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
        except ImportError:
            raise
        except Exception as problem:
            raise Refused(first_line(problem)) from None
    return content


def as_tensorrt_reads(content: bytes) -> bytes:
    """The file with uint8 codes read as int8; raises Refused for what TensorRT's parser refuses."""
    model = onnx.load_from_string(content)
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        zero = stored.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
        if zero is None:
            continue
        array = numpy_helper.to_array(zero)
        if array.dtype == np.int32:
            raise Refused("int32 bias between DequantizeLinear")
        if array.any():
            raise Refused("a zero point that is not 0")
        if array.dtype == np.uint8:
            zero.CopyFrom(numpy_helper.from_array(array.astype(np.int8), zero.name))
    for tensor in model.graph.initializer:
        if tensor.data_type == onnx.TensorProto.UINT8:
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).clip(0, 127).astype(np.int8), tensor.name))
    del model.graph.value_info[:]
    return bytes(model.SerializeToString())


def outputs_on(runtime: str, content: bytes, network: Network) -> NDArray[np.float32]:
    """The first output for the test set, or the first of it; raises Refused where the runtime does not run the file."""
    if runtime == READING:
        content = as_tensorrt_reads(content)
    name = network.bundle.manifest.inputs[0].name
    with opened(runtime, content, network) as session:
        inputs = network.inputs[: FEWER.get(runtime)]
        starts = range(0, len(inputs), AT_ONCE)
        parts = [next(iter(session.run({name: inputs[start : start + AT_ONCE]}).values())) for start in starts]
    return np.concatenate(parts)


class opened:
    """A session of a file that lies in a folder of its own."""

    def __init__(self, runtime: str, content: bytes, network: Network) -> None:
        self._folder = tempfile.TemporaryDirectory()
        path = Path(self._folder.name) / "model.onnx"
        path.write_bytes(content)
        manifest = network.bundle.manifest
        files = ModelFiles(path, manifest.inputs, manifest.outputs)
        try:
            self._session = open_session(RUNTIMES[runtime], files)
        except EdgekitError as problem:
            self._folder.cleanup()
            raise Refused(first_line(problem)) from None

    def __enter__(self) -> Any:
        return self._session.__enter__()

    def __exit__(self, *problem: Any) -> None:
        self._session.__exit__(*problem)
        self._folder.cleanup()


def snr_db(outputs: NDArray[np.float32], reference: NDArray[np.float32]) -> float | None:
    wide = reference.astype(np.float64)
    noise = float(np.square(outputs - wide).sum())
    return None if noise == 0 else float(10 * np.log10(np.square(wide).sum() / noise))


def judge(network: Network, results: dict[str, Any], only: str) -> None:
    """Error and accuracy of every file on every runtime; a row that is known is not computed again."""
    floats = {runtime: outputs_on(runtime, network.bundle.onnx_bytes(), network) for runtime in RUNTIMES}
    for file, maker in MAKERS.items():
        rows = results.setdefault(network.name, {}).setdefault(file, {})
        if only not in file or {*RUNTIMES, PARSER} <= set(rows):
            continue
        try:
            content = made(maker, network)
        except ImportError as problem:
            print(f"{network.name}, {file}: {problem}")
            continue
        except Refused as problem:
            rows.update({runtime: {"refused": str(problem)} for runtime in (*RUNTIMES, PARSER)})
            continue
        for runtime in RUNTIMES:
            try:
                rows[runtime] = _row(network, outputs_on(runtime, content, network), floats[runtime], floats["ONNX Runtime"])
            except (Refused, EdgekitError) as problem:
                rows[runtime] = {"refused": first_line(problem)}
            rows[runtime]["bytes"] = len(content)
            print(network.name, file, runtime, rows[runtime], flush=True)
        rows[PARSER] = _parsed(content)
        results[network.name][JUDGED_ON] = {**facts(), **versions_of(PACKAGES)}
        save(results)


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        return parsed(content)
    except ImportError as problem:
        return {"absent": str(problem)}


def _row(network: Network, outputs: NDArray[Any], floats: NDArray[Any], reference: NDArray[Any]) -> dict[str, Any]:
    mine, theirs, labels = outputs.argmax(1), floats.argmax(1), network.labels[: len(outputs)]
    both = paired(theirs == labels, mine == labels)
    return {
        "pictures": both.n,
        "accuracy": float((mine == labels).mean()),
        "float32_accuracy": float((theirs == labels).mean()),
        "only_float32_right": both.only_first,
        "only_this_right": both.only_second,
        "low": both.low,
        "high": both.high,
        "flips": int((mine != theirs).sum()),
        "snr_db": snr_db(outputs, reference[: len(outputs)]),
    }


def clock(network: Network, results: dict[str, Any]) -> None:
    """Speed-ups over float32 in the same runtime, all files taking turns."""
    contents = {}
    for file, maker in MAKERS.items():
        try:
            contents[file] = made(maker, network)
        except (Refused, ImportError):
            continue
    for runtime in TIMED:
        for batch in BATCHES:
            for comparison in _times(runtime, contents, network, batch):
                rows = results.setdefault(network.name, {}).setdefault(comparison.pop("file"), {}).setdefault(runtime, {})
                rows[f"speed_up_{batch}"] = comparison
                print(network.name, runtime, batch, comparison, flush=True)
    results.setdefault(network.name, {})[TIMED_ON] = facts()
    save(results)


def _times(runtime: str, contents: dict[str, bytes], network: Network, batch: int) -> Iterator[dict[str, Any]]:
    sessions = {}
    for file, content in contents.items():
        try:
            sessions[file] = opened(runtime, content, network)
        except Refused:
            continue
    name = network.bundle.manifest.inputs[0].name
    feed = {name: network.inputs[:batch]}
    with_files = {file: session.__enter__() for file, session in sessions.items()}
    candidates = [Candidate(file, session.bind(feed), {}) for file, session in with_files.items()]
    rows = interleave(candidates, batch, "device", SECONDS)
    edgekit = next((row for row in rows if row.backend == "edgekit int8"), None)
    against = {each.backend: each for each in speedups([edgekit, *rows])} if edgekit else {}
    for row, comparison in zip(rows, speedups([rows[0], *rows]), strict=True):
        yield {
            "file": row.backend,
            "speed_up": comparison.speedup,
            "low": comparison.low,
            "high": comparison.high,
            "median_ms": row.median_ms,
            "of_edgekit_int8": [against[row.backend].speedup, against[row.backend].low, against[row.backend].high]
            if against
            else [],
            "block_medians_ms": [float(np.median(block)) for block in row.samples_ms],
        }
    for session in sessions.values():
        session.__exit__(None, None, None)


def begin(network: Network, results: dict[str, Any]) -> None:
    """Forget what is known of another network by this name."""
    weights = network.bundle.manifest.source.weights_sha256
    if results.get(network.name, {}).get(WEIGHTS) != weights:
        results[network.name] = {WEIGHTS: weights}


def facts() -> dict[str, str]:
    """The machine's facts, with the instruction sets that this process is told of."""
    told = {"instruction sets": "avx2", "cpu features": ", ".join(cpu_features())} if is_lesser() else {}
    return machine_facts() | told


def save(results: dict[str, Any]) -> None:
    result_file().write_text(json.dumps(results, indent=1) + "\n")


def result_file() -> Path:
    return ON_AVX2 if is_lesser() else RESULTS


def load(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("bundles", nargs="*", type=Path)
    parser.add_argument("--only", default="", help="part of a file's name")
    parser.add_argument("--time", action="store_true")
    parser.add_argument("--avx2", action="store_true", help="on this CPU, told of AVX2 and nothing newer")
    parser.add_argument("--summary", action="store_true")
    options = parser.parse_args(arguments)
    if options.avx2 and not is_lesser():
        sys.exit(run_on_lesser([__file__, *(sys.argv[1:] if arguments is None else arguments)]))
    results = load(result_file())
    for bundle in options.bundles:
        network = network_of(bundle)
        begin(network, results)
        if options.time:
            clock(network, results)
        else:
            judge(network, results, options.only)
        results.setdefault("machine", {**facts(), **versions_of(PACKAGES)})
        save(results)
    if options.summary:
        print(summary(load(RESULTS), load(ON_AVX2)))


if __name__ == "__main__":
    main()
