"""Inject faults into the int8 and float16 files of bundles, and see which ones ``edgekit verify`` catches.

    python benchmarks/variant_faults.py                  # about 10 minutes on two cores; resumes where it was stopped
    python benchmarks/variant_faults.py --summary        # the table, from the result file

Every checksum is rewritten, so that none tells, and nothing else is: the recorded outputs are the bundle's. An effect is measured
on 10,000 test pictures, in steps of 1/127 of the largest output, against the file as it was. "Changes predictions" counts
pictures whose largest output moves where the two were more than a step apart.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import numpy as np
import onnx
from fault_injection import ROOT, damaged, inputs_of, run
from numpy.typing import NDArray
from onnx import numpy_helper

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.variants import with_variant
from edgekit.commands.verify import verify
from edgekit.errors import EdgekitError, first_line
from edgekit.machine.cpu import machine_facts
from edgekit.parity.converted import STEPS
from edgekit.tensors import Array
from edgekit.variants import Wanted, convert

RESULT = ROOT / "benchmarks" / "results" / "variant_faults.json"
BUNDLES = ("lenet", "edgenet", "densenet")
EACH = 8
Model: TypeAlias = onnx.ModelProto
Kind: TypeAlias = "Callable[[Model, np.random.Generator], str | None]"


def stored(model: Model) -> dict[str, onnx.TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def steps_of(model: Model, operator: str) -> list[onnx.NodeProto]:
    return [node for node in model.graph.node if node.op_type == operator]


def change(tensor: onnx.TensorProto, values: NDArray[Any]) -> None:
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values).reshape(values.shape), tensor.name))


def activation_scale(factor: float) -> Kind:
    """One scale of a value inside, and of all that shares it."""

    def inject(model: Model, rng: np.random.Generator) -> str | None:
        tensors = stored(model)
        names = sorted({node.input[1] for node in steps_of(model, "QuantizeLinear")})
        name = str(rng.choice(names))
        change(tensors[name], numpy_helper.to_array(tensors[name]) * np.float32(factor))
        return name

    return inject


def every_scale(model: Model, rng: np.random.Generator) -> str | None:
    """The scale limit/255 of a tool that uses all of uint8, where limit/127 is meant."""
    tensors = stored(model)
    for name in {node.input[1] for node in steps_of(model, "QuantizeLinear")}:
        change(tensors[name], numpy_helper.to_array(tensors[name]) * np.float32(127 / 255))
    return "all"


def zero_point(model: Model, rng: np.random.Generator) -> str | None:
    """Another zero point where the value is read again."""
    tensors = stored(model)
    node = steps_of(model, "QuantizeLinear")[int(rng.integers(len(steps_of(model, "QuantizeLinear"))))]
    reader = next(each for each in steps_of(model, "DequantizeLinear") if each.input[0] == node.output[0])
    zero = numpy_helper.to_array(tensors[node.input[2]])
    other = model.graph.initializer.add()
    other.CopyFrom(numpy_helper.from_array((zero + 3).astype(zero.dtype), "fault.zero"))
    reader.input[2] = "fault.zero"
    return str(node.name)


def weights(model: Model) -> list[onnx.NodeProto]:
    tensors = stored(model)
    return [node for node in steps_of(model, "DequantizeLinear") if node.input[0] in tensors]


def weight_scale(alter: Callable[[NDArray[Any], np.random.Generator], NDArray[Any]]) -> Kind:
    def inject(model: Model, rng: np.random.Generator) -> str | None:
        tensors, nodes = stored(model), weights(model)
        node = nodes[int(rng.integers(len(nodes)))]
        scales = numpy_helper.to_array(tensors[node.input[1]]).copy()
        if len(scales) < 2:
            return None
        change(tensors[node.input[1]], alter(scales, rng).astype(np.float32))
        return str(node.name)

    return inject


def wrong_axis(model: Model, rng: np.random.Generator) -> str | None:
    """Scales along the input channels of a weight that has as many of both."""
    tensors = stored(model)
    square = [node for node in weights(model) if len(set(tensors[node.input[0]].dims[:2])) == 1]
    if not square:
        return None
    node = square[int(rng.integers(len(square)))]
    for attribute in node.attribute:
        if attribute.name == "axis":
            attribute.i = 1 - attribute.i
    return str(node.name)


def code(alter: Callable[[int, np.random.Generator], int]) -> Kind:
    """One stored code of one weight."""

    def inject(model: Model, rng: np.random.Generator) -> str | None:
        tensors, nodes = stored(model), weights(model)
        node = nodes[int(rng.integers(len(nodes)))]
        codes = numpy_helper.to_array(tensors[node.input[0]]).copy()
        place = tuple(int(rng.integers(size)) for size in codes.shape)
        before = int(codes[place])
        codes[place] = np.int8(np.clip(alter(before, rng), -128, 127))
        change(tensors[node.input[0]], codes)
        return f"{node.name}{list(place)}: {before} -> {codes[place]}"

    return inject


def rows_swapped(model: Model, rng: np.random.Generator) -> str | None:
    tensors, nodes = stored(model), weights(model)
    node = nodes[int(rng.integers(len(nodes)))]
    codes = numpy_helper.to_array(tensors[node.input[0]]).copy()
    first, second = rng.choice(codes.shape[0], 2, replace=False)
    codes[[first, second]] = codes[[second, first]]
    change(tensors[node.input[0]], codes)
    return str(node.name)


def half_tensor(model: Model, rng: np.random.Generator) -> onnx.TensorProto:
    floats = [each for each in model.graph.initializer if each.data_type == onnx.TensorProto.FLOAT16]
    wide: list[onnx.TensorProto] = [each for each in floats if len(each.dims) > 1]
    return wide[int(rng.integers(len(wide)))]


def half_weight(factor: float) -> Kind:
    """One float16 weight that is not zero."""

    def inject(model: Model, rng: np.random.Generator) -> str | None:
        tensor = half_tensor(model, rng)
        values = numpy_helper.to_array(tensor).copy()
        places = np.argwhere(values != 0)
        place = tuple(places[int(rng.integers(len(places)))])
        values[place] = np.float16(values[place] * factor)
        change(tensor, values)
        return f"{tensor.name}{[int(index) for index in place]}"

    return inject


def half_layer(factor: float) -> Kind:
    def inject(model: Model, rng: np.random.Generator) -> str | None:
        tensor = half_tensor(model, rng)
        change(tensor, (numpy_helper.to_array(tensor) * np.float16(factor)).astype(np.float16))
        return str(tensor.name)

    return inject


def permuted(scales: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return np.roll(scales, 1)


def one_doubled(scales: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    scales[int(rng.integers(len(scales)))] *= 2
    return scales


KINDS: dict[str, dict[str, Kind]] = {
    "int8": {
        "scale x2": activation_scale(2.0),
        "scale x0.5": activation_scale(0.5),
        "scale x1.1": activation_scale(1.1),
        "limit/255": every_scale,
        "zero point": zero_point,
        "weight scales permuted": weight_scale(permuted),
        "one weight scale x2": weight_scale(one_doubled),
        "axis": wrong_axis,
        "code +1": code(lambda value, rng: value + 1 if value < 127 else value - 1),
        "code +32": code(lambda value, rng: value + 32 if value < 90 else value - 32),
        "code negated": code(lambda value, rng: -value if value else 64),
        "code bit flipped": code(lambda value, rng: int(np.int8(np.uint8(value & 0xFF) ^ np.uint8(1 << int(rng.integers(8)))))),
        "rows swapped": rows_swapped,
    },
    "float16": {
        "weight x1.01": half_weight(1.01),
        "weight x1.5": half_weight(1.5),
        "weight negated": half_weight(-1.0),
        "layer x1.02": half_layer(1.02),
        "layer x0.9": half_layer(0.9),
    },
}


class Subject(NamedTuple):
    """A bundle's variant, and its outputs on the test set."""

    bundle: Bundle
    variant: str
    content: bytes
    inputs: Array
    outputs: Array


def subject(name: str, variant: str, folder: Path) -> Subject:
    bundle = open_bundle(ROOT / "exported" / name)
    if variant not in {each.name for each in bundle.manifest.variants}:
        bundle = with_variant(bundle, convert(bundle, variant, Wanted()).draft, folder / name)
    content, inputs = bundle.onnx_bytes(variant), inputs_of(bundle)
    return Subject(bundle, variant, content, inputs, run(content, bundle, inputs))


def faults_of(subject: Subject, name: str, known: set[str]) -> Iterator[dict[str, Any]]:
    for kind, inject in KINDS[subject.variant].items():
        for number in range(EACH):
            key = f"{name}/{subject.variant}/{kind}/{number}"
            if key in known:
                continue
            model = onnx.load_from_string(subject.content)
            where = inject(model, np.random.default_rng(zlib.crc32(key.encode())))
            if where is not None:
                yield fault(subject, key, model.SerializeToString(), where)
    key = f"{name}/{subject.variant}/calibration of other data/0"
    if subject.variant == "int8" and key not in known:
        other = convert(open_bundle(ROOT / "exported" / name), "int8", Wanted(calibrate="random")).draft
        yield fault(subject, key, other.files[other.variant.file], "ranges of random numbers")


def fault(subject: Subject, key: str, content: bytes, where: str) -> dict[str, Any]:
    try:
        outputs = run(content, subject.bundle, subject.inputs)
    except EdgekitError as problem:
        return {"key": key, "where": where, "refused": first_line(problem)}
    scale = float(np.abs(subject.outputs).max())
    moved = STEPS * float(np.abs(outputs.astype(np.float64) - subject.outputs).max()) / scale
    rows, before, after = np.arange(len(outputs)), subject.outputs.argmax(1), outputs.argmax(1)
    margin = subject.outputs[rows, before] - subject.outputs[rows, after]
    with tempfile.TemporaryDirectory() as folder:
        caught, said = judged(subject, Path(folder) / "bundle", content)
    return {
        "key": key,
        "where": where,
        "steps": round(moved, 3),
        "predictions": int(((before != after) & (margin > scale / STEPS)).sum()),
        "caught": caught,
        "said": said,
    }


def judged(subject: Subject, root: Path, content: bytes) -> tuple[bool, str]:
    """Whether verify of this variant in ONNX Runtime catches it, and by what."""
    damaged(subject.bundle, root, lambda manifest: None, content, subject.bundle.variant(subject.variant).file)
    try:
        report = verify(root, (f"ort-cpu variant={subject.variant}",))
    except EdgekitError as problem:
        return True, first_line(problem)
    failing = [f"{row.backend}: {row.outputs[0].beyond or 'off'}" for row in report.parities if not row.passed]
    failing += [check.text for check in report.checks if check.outcome == "fail"]
    return not report.passed, failing[0] if failing else ""


def summary(document: dict[str, Any]) -> str:
    """The table for docs/results.md, and what was missed that changes a prediction."""
    lines = ["| file | faults | change a prediction, caught | move an output by a step or more, caught |", "|---|---|---|---|"]
    tried = [row for row in document["faults"] if "refused" not in row]
    for file in dict.fromkeys("/".join(row["key"].split("/")[:2]) for row in tried):  # the name of a kind may hold one too
        rows = [row for row in tried if row["key"].startswith(f"{file}/")]
        changing, moving = [row for row in rows if row["predictions"]], [row for row in rows if row["steps"] >= 1]
        shares = [f"{sum(row['caught'] for row in chosen)} of {len(chosen)}" for chosen in (changing, moving)]
        lines.append(f"| {file.replace('/', ', ')} | {len(rows)} | {shares[0]} | {shares[1]} |")
    missed = [f"{row['where']} ({row['predictions']} of 10,000)" for row in tried if row["predictions"] and not row["caught"]]
    return "\n".join([*lines, "", f"Missed, with the predictions that change: {'; '.join(missed) or 'none'}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", action="store_true")
    given = parser.parse_args()
    document: dict[str, Any] = json.loads(RESULT.read_text()) if RESULT.exists() else {"faults": []}
    if not given.summary:
        with tempfile.TemporaryDirectory() as folder:
            for name in BUNDLES:
                for variant in KINDS:
                    rows = document["faults"]
                    for row in faults_of(subject(name, variant, Path(folder)), name, {row["key"] for row in rows}):
                        rows.append(row)
                        RESULT.write_text(json.dumps({**document, "machine": machine_facts()}, indent=1) + "\n")
    print(summary(document))
    for row in document["faults"]:
        if not row.get("caught", True) and (row["predictions"] or row["steps"] >= 1):
            print(row)


if __name__ == "__main__":
    main()
