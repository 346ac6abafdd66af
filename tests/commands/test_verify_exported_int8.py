"""``edgekit verify`` of a first file in fewer bits: it is held to what was recorded where it runs as written, and faults show."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.ao.quantization.fx._decomposed
from onnx import helper, numpy_helper
from torch import Tensor, nn

from edgekit.bundle.folder import open_bundle
from edgekit.commands.export import export
from edgekit.commands.verify import AS_RECORDED, Held, verify
from edgekit.errors import BundleError
from edgekit.onnx.run import open_unoptimised
from edgekit.parity.inputs import recorded_in
from edgekit.parity.rounding import FLOAT_STEPS, recorded_support
from edgekit.reports.verify import ParityReport, VerifyReport
from edgekit.setups import Setup
from edgekit.sources import ExportOptions
from edgekit.tensors import Array, Feed
from edgekit.tolerance import ToleranceChange
from tests.bundle.editing import edit, npz, put
from tests.converted import changed, stored
from tests.onnx.crafted import conv, model_of, node, tensor

ORT = ["ort-cpu"]
Change = Callable[[onnx.ModelProto], object]
Rounds = Callable[..., tuple[list[onnx.NodeProto], list[onnx.TensorProto]]]


def steps(
    source: str, output: str, scale: float, dtype: type[Any] = np.uint8
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """A pair of QuantizeLinear and DequantizeLinear, and what it stores."""
    parts = [f"{output}.scale", f"{output}.zero"]
    nodes = [
        helper.make_node("QuantizeLinear", [source, *parts], [f"{output}.codes"], f"{output}.quantise"),
        helper.make_node("DequantizeLinear", [f"{output}.codes", *parts], [output], f"{output}.dequantise"),
    ]
    return nodes, [numpy_helper.from_array(np.float32(scale), parts[0]), numpy_helper.from_array(dtype(0), parts[1])]


def network(*, quantised: bool, author: bool = False) -> onnx.ModelProto:
    """Two convolutions; ``quantised``: all that they read is in steps, ``author``: what the second one reads is."""
    first, second = steps("x", "x.read", 4.1 / 127, np.int8), steps("r", "r.read", 3.1 / 127)
    weights = [tensor("w", 6, 4, 3, 3), tensor("w2", 5, 6, 3, 3)]
    nodes = [conv("x.read" if quantised else "x", "c", "w.read" if quantised else "w"), node("Relu", ["c"], "r")]
    if quantised:
        nodes = [*first[0], *(helper.make_node("DequantizeLinear", [f"{w}.codes", f"{w}.scale"], [f"{w}.read"], f"{w}.dq")
                              for w in ("w", "w2")), *nodes]  # fmt: skip
        scales = {weight.name: np.float32(0.5 / 127) for weight in weights}
        codes = {each.name: np.rint(numpy_helper.to_array(each) / scales[each.name]).astype(np.int8) for each in weights}
        weights = [numpy_helper.from_array(array, f"{name}.codes") for name, array in codes.items()]
        weights += [numpy_helper.from_array(np.asarray(scale), f"{name}.scale") for name, scale in scales.items()]
        weights += first[1]
    if quantised or author:
        nodes += second[0]
        weights += second[1]
    read = ("r.read" if quantised or author else "r", "w2.read" if quantised else "w2")
    return model_of([*nodes, conv(read[0], "d", read[1], "conv2"), node("Flatten", ["d"], "y")], weights)


def exported(model: onnx.ModelProto, root: Path) -> Path:
    onnx.save(model, root / "model.onnx")
    export(str(root / "model.onnx"), root / "bundle")
    return root / "bundle"


@pytest.fixture(scope="module")
def _bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    kinds = {
        "int8": network(quantised=True),
        "float32": network(quantised=False),
        "one-pair": network(quantised=False, author=True),
    }
    return {kind: exported(model, tmp_path_factory.mktemp(kind)) for kind, model in kinds.items()}


@pytest.fixture
def bundles(_bundles: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """Copies of bundles whose first files hold steps everywhere, nowhere, and at one place."""
    return {kind: Path(shutil.copytree(root, tmp_path / kind)) for kind, root in _bundles.items()}


def as_written(report: VerifyReport) -> ParityReport:
    (row,) = (parity for parity in report.parities if parity.as_written)
    return row


def failing(report: VerifyReport) -> dict[str, str]:
    return {check.code: check.text for check in report.checks if check.outcome == "fail"}


@pytest.mark.parametrize("kind", ["int8", "one-pair"])
def test_an_exported_int8_file_is_held_to_the_originals_outputs_as_written(bundles: dict[str, Path], kind: str) -> None:
    report = verify(bundles[kind], ORT)
    assert report.passed
    allowance, row = open_bundle(bundles[kind]).variant().allowance, as_written(report)
    assert row.setup.options["optimisation"] == "off"
    asked = max(allowance.rounding or 0.0, FLOAT_STEPS)
    assert row.steps is not None
    assert asked / 2 < row.steps <= asked  # what is seen here supports it
    assert (row.outputs[0].own_steps or 0.0) <= row.steps / 2
    assert row.steps < 5 / 100 * 127 / 4  # what was recorded is far less than a flat share of the scale


def test_a_float32_file_is_held_to_rounding_noise_alone(bundles: dict[str, Path]) -> None:
    report = verify(bundles["float32"], ORT)
    assert [(row.as_written, row.noise_factor) for row in report.parities] == [(False, 4)]


def scaled(model: onnx.ModelProto) -> None:
    stored(model, "r.read.scale", lambda scale: scale * np.float32(1.02))


def swapped_zero(model: onnx.ModelProto) -> None:
    """What reads the codes takes them for those of another zero point."""
    model.graph.initializer.append(numpy_helper.from_array(np.uint8(1), "other.zero"))
    next(each for each in model.graph.node if each.name == "r.read.dequantise").input[2] = "other.zero"


def swapped(model: onnx.ModelProto) -> None:
    """Two weights in codes change places."""

    def exchange(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        codes = codes.copy()
        row = codes[1].reshape(-1)
        row[3], row[7] = row[7], row[3]
        return codes

    stored(model, "w2.codes", exchange)


def steps_by_cast(
    source: str, output: str, scale: float, dtype: type[Any] = np.uint8
) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """What ``steps`` does, with a Cast and a Mul in place of DequantizeLinear, and a MaxPool of the codes between."""
    (quantise, _), stores = steps(source, output, scale, dtype)
    nodes = [
        quantise,
        helper.make_node("MaxPool", [f"{output}.codes"], [f"{output}.pooled"], f"{output}.pool", kernel_shape=[1, 1]),
        helper.make_node("Cast", [f"{output}.pooled"], [f"{output}.floats"], f"{output}.cast", to=1),
        helper.make_node("Mul", [f"{output}.floats", f"{output}.scale"], [output], f"{output}.times"),
    ]
    return nodes, stores


def planted(source: str, scale: float = 3 / 127, rounds: Rounds = steps) -> Change:
    """A pair of steps between a value and those who read it, or what else ``rounds``."""

    def change(model: onnx.ModelProto) -> None:
        nodes, tensors = rounds(source, f"{source}.planted", scale, np.int8)
        for reader in model.graph.node:
            reader.input[:] = [f"{source}.planted" if name == source else name for name in reader.input]
        place = next(index for index, each in enumerate(model.graph.node) if source in each.output) + 1
        for each in reversed(nodes):
            model.graph.node.insert(place, each)
        model.graph.initializer.extend(tensors)

    return change


FAULTS: dict[str, Change] = {
    "a wrong scale": scaled,
    "a swapped zero point": swapped_zero,
    "a swapped weight": swapped,
    "a planted pair": planted("c"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_in_an_exported_int8_file_shows_as_written(bundles: dict[str, Path], fault: str) -> None:
    put(bundles["int8"], "model.onnx", changed(bundles["int8"], "model.onnx", FAULTS[fault]))
    assert not as_written(verify(bundles["int8"], ORT)).passed
    without_fingerprints(bundles["int8"])
    row = as_written(verify(bundles["int8"], ORT))
    assert not row.passed
    assert "steps from the original's recorded output" in row.outputs[0].beyond


def with_integer_function(model: onnx.ModelProto) -> None:
    """A function of integers that nothing calls."""
    inner = helper.make_node("MatMulInteger", ["a", "b"], ["c"])
    model.functions.append(helper.make_function("mine", "Product", ["a", "b"], ["c"], [inner], [helper.make_opsetid("", 18)]))


def test_no_integer_node_keeps_a_file_from_running_as_written_whose_export_ran_it_so(bundles: dict[str, Path]) -> None:
    def change(model: onnx.ModelProto) -> None:
        with_integer_function(model)
        scaled(model)

    put(bundles["int8"], "model.onnx", changed(bundles["int8"], "model.onnx", change))
    assert not as_written(verify(bundles["int8"], ORT)).passed


def test_what_is_no_onnx_file_is_told_in_a_sentence_where_the_manifest_says_no_rounding(bundles: dict[str, Path]) -> None:
    root = bundles["int8"]
    put(root, "model.onnx", b"\0nothing")
    edit(root, lambda document: document["variants"][0]["allowance"].pop("rounding"))
    with pytest.raises(BundleError, match=r"model\.onnx is no ONNX file: "):
        verify(root, ORT)


PLANTED = "its file rounds to steps at DequantizeLinear c.planted.dequantise, which was not in the file that was exported"


@pytest.mark.parametrize("kind", ["int8", "one-pair"])
def test_a_pair_planted_in_an_int8_file_is_named(bundles: dict[str, Path], kind: str) -> None:
    put(bundles[kind], "model.onnx", changed(bundles[kind], "model.onnx", planted("c")))
    assert failing(verify(bundles[kind], ORT)) == {"precision": PLANTED}


def test_steps_that_a_cast_makes_floats_of_are_named_where_they_were_planted_and_pass_where_they_were_exported(
    bundles: dict[str, Path], tmp_path: Path
) -> None:
    by_cast = planted("c", rounds=steps_by_cast)
    put(bundles["one-pair"], "model.onnx", changed(bundles["one-pair"], "model.onnx", by_cast))
    named = PLANTED.replace("DequantizeLinear c.planted.dequantise", "Cast c.planted.cast")
    assert failing(verify(bundles["one-pair"], ORT)) == {"precision": named}
    model = network(quantised=False)
    by_cast(model)
    report = verify(exported(model, tmp_path), ORT)
    assert (report.passed, failing(report)) == (True, {})


def test_a_pair_planted_in_a_float32_file_fails_by_name_and_buys_no_wider_bar(bundles: dict[str, Path]) -> None:
    root = bundles["float32"]
    put(root, "model.onnx", changed(root, "model.onnx", planted("c")))
    assert failing(verify(root, ORT)) == {"precision": "float32 is said to be float32, and its file computes in steps of 8 bits"}

    def claimed(document: dict[str, Any]) -> None:
        (variant,) = document["variants"]
        variant.update(precision="int8")
        variant["allowance"] = {"tolerance": {"atol": 0.0, "rtol": 5e-2, "top1": 1.0}, "rounding": 8.0}

    edit(root, claimed)
    report = verify(root, ORT)
    assert failing(report)["precision"] == PLANTED
    assert "0.05 rtol instead of at most 0.0118 and 8 steps of rounding instead of at most" in failing(report)["tolerance"]
    row = as_written(report)
    assert not row.passed
    assert row.steps == pytest.approx(FLOAT_STEPS)
    edit(root, lambda document: document["variants"][0]["allowance"].pop("rounding"))
    assert as_written(verify(root, ORT)).steps == pytest.approx(FLOAT_STEPS)  # leaving it out buys nothing


def test_one_pair_that_its_author_put_in_allows_what_rounding_does_there_and_no_more(bundles: dict[str, Path]) -> None:
    """Weights that are half a hundredth larger move all samples, where rounding moves a few."""
    root = bundles["one-pair"]
    put(
        root,
        "model.onnx",
        changed(root, "model.onnx", lambda model: stored(model, "w", lambda weights: weights * np.float32(1.005))),
    )
    report = verify(root, ORT)
    assert [row.passed for row in report.parities] == [True, False]  # within the tolerance of fused kernels
    assert failing(report) == {}


def four_codes(model: onnx.ModelProto) -> None:
    """Four weights are one code off."""

    def nudge(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        codes = codes.copy()
        codes.reshape(-1)[:40:10] += np.where(codes.reshape(-1)[:40:10] < 0, 1, -1).astype(np.int8)
        return codes

    stored(model, "w2.codes", nudge)


def with_floors(root: Path, change: Callable[[str, np.ndarray[Any, Any]], dict[str, np.ndarray[Any, Any]]]) -> None:
    """Put other noise floors into the evidence: name and floor -> what is there instead."""
    with np.load(root / "evidence.npz") as content:
        arrays = dict(content)
    changed_arrays = dict[str, np.ndarray[Any, Any]]()
    for name, array in arrays.items():
        changed_arrays |= change(name, array) if name.startswith("floor.") else {name: array}
    put(root, "evidence.npz", npz(changed_arrays))


def widened(document: dict[str, Any]) -> None:
    allowance = document["variants"][0]["allowance"]
    allowance["tolerance"].update(rtol=0.0245)
    allowance.update(rounding=8.0)


def without_fingerprints(root: Path) -> None:
    with np.load(root / "evidence.npz") as content:
        kept = {name: array for name, array in content.items() if not name.startswith("node")}
    put(root, "evidence.npz", npz(kept))


def with_integer_chain(model: onnx.ModelProto) -> None:
    """Add what a layer in integers makes of the output, times nothing."""
    (last,) = (each for each in model.graph.node if "y" in each.output)
    last.output[0] = "before"
    for name, array in (("ones", np.ones((1, 1), np.uint8)), ("nothing", np.float32(0))):
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["before"], ["largest"], axes=[1]),
            helper.make_node("DynamicQuantizeLinear", ["largest"], ["codes", "scale", "zero"]),
            helper.make_node("MatMulInteger", ["codes", "ones"], ["products"]),
            helper.make_node("Cast", ["products"], ["floats"], to=onnx.TensorProto.FLOAT),
            helper.make_node("Mul", ["floats", "nothing"], ["added"]),
            helper.make_node("Add", ["before", "added"], ["y"]),
        ]
    )


def test_fingerprints_that_were_left_out_make_no_float32_file_an_int8_one(bundles: dict[str, Path]) -> None:
    """Without them nothing shows that a layer in integers, whose file need not run as written, was in the export."""
    root = bundles["float32"]
    put(root, "model.onnx", changed(root, "model.onnx", with_integer_chain))
    with_floors(root, lambda name, floor: {name: np.full_like(floor, 10.0)})
    edit(root, lambda document: document["variants"][0].update(precision="int8"))
    edit(root, lambda document: document["variants"][0]["allowance"]["tolerance"].update(rtol=0.0245))
    assert failing(verify(root, ORT))["precision"].startswith("its file rounds to steps at Cast")
    without_fingerprints(root)
    assert failing(verify(root, ORT)) == {}  # the forged claims agree with each other
    put(root, "model.onnx", changed(root, "model.onnx", lambda model: stored(model, "w2", lambda weight: weight * 1.01)))
    assert not as_written(verify(root, ORT)).passed


def with_scales_of(dtype: type[Any], model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with all scales in another dtype: Casts stand around each pair, whose values are of the scale's dtype."""
    kind, graph, nodes = helper.np_dtype_to_tensor_dtype(np.dtype(dtype)), model.graph, list[onnx.NodeProto]()
    model.opset_import[0].version, model.ir_version = 19, 9
    for each in graph.node:
        nodes.append(onnx.NodeProto.FromString(each.SerializeToString()))
        if each.op_type == "QuantizeLinear":
            nodes[-1].input[0] = f"{each.name}.cast"
            nodes.insert(-1, node("Cast", [each.input[0]], f"{each.name}.cast", f"{each.name}.cast", to=kind))
        elif each.op_type == "DequantizeLinear":
            nodes[-1].output[0] = f"{each.name}.wide"
            nodes.append(node("Cast", [f"{each.name}.wide"], each.output[0], f"{each.name}.cast", to=onnx.TensorProto.FLOAT))
    for name in {each.input[1] for each in nodes if each.op_type in ("QuantizeLinear", "DequantizeLinear")}:
        stored(model, name, lambda scale: scale.astype(dtype))
    del graph.node[:]
    graph.node.extend(nodes)
    return model


@pytest.mark.parametrize("dtype", [np.float32, np.float16])
def test_floors_that_are_forged_with_the_manifest_and_the_file_buy_no_rounding(dtype: type[Any], tmp_path: Path) -> None:
    """What verify sees rounding do to the file here is no claim of the bundle."""
    root = exported(with_scales_of(dtype, network(quantised=True)), tmp_path)
    assert as_written(verify(root, ORT)).passed
    put(root, "model.onnx", changed(root, "model.onnx", four_codes))
    with_floors(root, lambda name, floor: {name: np.full_like(floor, 10.0)})
    edit(root, widened)
    report = verify(root, ORT)
    assert failing(report) == {}  # the forged claims agree with each other
    row = as_written(report)
    assert not row.passed
    edit(root, lambda document: document["variants"][0]["allowance"].pop("rounding"))
    assert not as_written(verify(root, ORT)).passed  # leaving it out buys nothing


def summed_otherwise(model: onnx.ModelProto) -> None:
    """What the first convolution gives is off by eight units in the last place, up or down, as sums in another order may be."""
    (summing,) = (each for each in model.graph.node if "c" in each.output)
    summing.output[0] = "c.sum"
    off = np.random.default_rng(1).choice(np.array([1 - 2**-20, 1 + 2**-20], np.float32), (1, 6, 6, 6))
    model.graph.initializer.append(numpy_helper.from_array(off, "c.off"))
    model.graph.node.insert(list(model.graph.node).index(summing) + 1, node("Mul", ["c.sum", "c.off"], "c", "c.order"))


def test_another_order_of_summation_passes_where_scales_are_of_16_bits(tmp_path: Path) -> None:
    """Inputs that move by units of float32 are rounded to the same numbers of 16 bits; a sum on a border between two is not."""
    root = exported(with_scales_of(np.float16, network(quantised=True)), tmp_path)
    put(root, "model.onnx", changed(root, "model.onnx", summed_otherwise))
    row = as_written(verify(root, ORT))
    assert row.passed
    assert (row.outputs[0].own_steps or 0.0) > FLOAT_STEPS  # a value fell to another code


def test_a_scale_that_cannot_be_moved_leaves_what_was_recorded(tmp_path: Path) -> None:
    model = network(quantised=True)
    for each in model.graph.node:
        each.input[:] = ["computed" if name == "r.read.scale" else name for name in each.input]
    model.graph.node.insert(0, node("Abs", ["r.read.scale"], "computed"))
    root = exported(model, tmp_path)
    bundle = open_bundle(root)
    support = recorded_support("int8", recorded_in(bundle, bundle.golden()), bundle.evidence())
    row = as_written(verify(root, ORT))
    assert row.passed
    assert row.steps == max(FLOAT_STEPS, min(bundle.variant().allowance.rounding or 0.0, support.any_sample))
    put(root, "model.onnx", changed(root, "model.onnx", four_codes))
    assert not as_written(verify(root, ORT)).passed


def unread(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a first channel that is always zero, so that no output depends on the weights that read it."""

    def dead(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        codes = codes.copy()
        codes[0] = 0
        return codes

    stored(model, "w.codes", dead)
    return model


def one_code(model: onnx.ModelProto) -> None:
    """A single weight of the second convolution, which reads the first channel, is one code off."""

    def nudge(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        codes = codes.copy()
        codes[2, 0, 1, 1] += 1 if codes[2, 0, 1, 1] < 0 else -1
        return codes

    stored(model, "w2.codes", nudge)


def renamed(model: onnx.ModelProto) -> None:
    """The weight with the changed code has another name."""
    one_code(model)
    for each in model.graph.node:
        for names in (each.input, each.output):
            names[:] = ["w2.other" if name == "w2.read" else name for name in names]


@pytest.mark.parametrize(
    ("change", "told"),
    [(one_code, "what DequantizeLinear w2.dq computes is "), (renamed, "it does not compute 'w2.read', of which a fingerprint")],
)
def test_one_code_that_moves_no_golden_sample_is_held_to_its_fingerprint(change: Change, told: str, tmp_path: Path) -> None:
    root = exported(unread(network(quantised=True)), tmp_path)
    assert as_written(verify(root, ORT)).passed
    put(root, "model.onnx", changed(root, "model.onnx", change))
    report = verify(root, ORT)
    assert [row.passed for row in report.parities] == [True, False]
    assert as_written(report).outputs[0].beyond.startswith(told)
    assert as_written(verify(root, ORT, tolerance=ToleranceChange(rtol=0.01))).passed  # a bar of the caller's own
    without_fingerprints(root)
    assert as_written(verify(root, ORT)).passed  # nothing else shows it


def test_stored_numbers_are_read_in_one_session_where_they_fit_and_in_more_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session for each would take a large file's time as many times as it has weights."""
    opened: list[bytes] = []

    def counted(content: bytes, path: Path) -> Any:
        opened.append(content)
        return open_unoptimised(content, path)

    monkeypatch.setattr("edgekit.onnx.run.open_unoptimised", counted)
    root = exported(unread(network(quantised=True)), tmp_path)
    opened.clear()
    assert as_written(verify(root, ORT)).passed
    assert len(opened) == 1
    put(root, "model.onnx", changed(root, "model.onnx", one_code))
    failed = as_written(verify(root, ORT)).outputs
    monkeypatch.setattr("edgekit.commands.verify.AT_ONCE_INSIDE", 1)
    opened.clear()
    assert as_written(verify(root, ORT)).outputs == failed
    assert len(opened) > 1


def test_what_rounding_does_is_measured_once_for_a_setup_and_not_where_no_bar_reads_it(
    bundles: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = list[str]()
    read = Held._read

    def counted(held: Held, setup: Setup, content: bytes, feed: Feed) -> dict[str, Array]:
        runs.append(setup.backend)
        return read(held, setup, content, feed)

    monkeypatch.setattr(Held, "_read", counted)
    bundle = open_bundle(bundles["int8"])
    setup = as_written(verify(bundle, ORT)).setup
    assert (0 < len(runs) <= 9, verify(bundle, ORT, allow=["tolerance"]).passed) == (True, True)
    before = len(runs)
    held = Held(bundle, bundle.golden(), bundle.evidence(), AS_RECORDED, trusting=False)
    assert held.as_written(setup) is held.as_written(setup)
    assert len(runs) == 2 * before  # none with --allow tolerance, and one measurement for the two calls
    edit(bundles["int8"], lambda document: document["variants"][0]["allowance"].pop("rounding"))
    verify(bundles["int8"], ORT, allow=["tolerance"])
    assert len(runs) > 2 * before  # its bar is what is seen


def test_a_manifest_that_asks_for_endless_steps_is_refused(bundles: dict[str, Path]) -> None:
    edit(bundles["int8"], lambda document: document["variants"][0]["allowance"].update(steps=1e300))
    assert "1e+300 steps instead of at most 32" in failing(verify(bundles["int8"], ORT))["tolerance"]


def test_an_older_bundle_without_floors_and_rounding_is_held_to_what_rounding_does_here(bundles: dict[str, Path]) -> None:
    root = bundles["int8"]
    with_floors(root, lambda name, floor: {})
    edit(root, lambda document: document["variants"][0]["allowance"]["tolerance"].update(rtol=0.03))
    edit(root, lambda document: document["variants"][0]["allowance"].pop("rounding"))
    report = verify(root, ORT)
    assert all(row.passed for row in report.parities)
    assert set(failing(report)) == {"evidence"}  # its file says that a newer edgekit has written it
    put(root, "model.onnx", changed(root, "model.onnx", four_codes))
    assert not as_written(verify(root, ORT)).passed


class InCodes(nn.Module):
    """A linear layer whose weights are stored in codes, as weight-only quantisation leaves it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        weight = torch.randn(outputs, inputs) / inputs**0.5
        self.scale = float(weight.abs().max() / 127)
        self.register_buffer("codes", torch.round(weight / self.scale).to(torch.int8))

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.ops.quantized_decomposed.dequantize_per_tensor(self.codes, self.scale, 0, -127, 127, torch.int8)
        return nn.functional.linear(x, weight.to(x.dtype))


class Rounded(nn.Module):
    """Activations in steps, as PyTorch's own quantisation leaves them."""

    def forward(self, x: Tensor) -> Tensor:
        codes = torch.clamp(torch.round(x / 0.03), -127, 127).to(torch.int8)
        values: Tensor = torch.ops.quantized_decomposed.dequantize_per_tensor(codes, 0.03, 0, -127, 127, torch.int8)
        return values.to(x.dtype)


def in_steps_throughout() -> nn.Module:
    """Values fall on borders between codes, of which PyTorch sums some to the one side and ONNX Runtime to the other."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 3, padding=1), Rounded(), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), Rounded(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(64 * 144, 10))


def test_a_module_in_steps_passes_its_own_verify_although_pytorch_sums_in_another_order(tmp_path: Path) -> None:
    """What the original's recorded outputs are off the file as it runs here is no reading that verify takes."""
    options = ExportOptions(input_shapes=("1x3x12x12",))
    export("tests.commands.test_verify_exported_int8:in_steps_throughout", tmp_path / "bundle", options)
    row = as_written(verify(tmp_path / "bundle", ORT))
    assert row.passed
    assert FLOAT_STEPS < (row.outputs[0].own_steps or 0.0) <= (row.steps or 0.0)  # a value fell to another code


def weights_in_codes() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), InCodes(8 * 16, 5))


def test_a_module_whose_file_has_steps_is_recorded_as_what_the_file_is(tmp_path: Path) -> None:
    options = ExportOptions(input_shapes=("1x3x6x6",))
    report = export("tests.commands.test_verify_exported_int8:weights_in_codes", tmp_path / "bundle", options)
    variant = open_bundle(tmp_path / "bundle").variant()
    assert (variant.name, variant.precision) == ("int8", "int8")
    assert any(note.startswith("the file is quantised (DequantizeLinear)") for note in report.notes)
    verified = verify(tmp_path / "bundle", ORT)
    assert verified.passed
    assert (as_written(verified).steps or 1.0) < 4 * FLOAT_STEPS  # nothing rounds to codes on the way


def test_an_exported_float16_file_is_held_to_its_own_rounding_as_written(tmp_path: Path) -> None:
    root = tmp_path / "bundle"
    export("tests.commands.test_export_dtypes:half", root, ExportOptions(input_shapes=("1x3x6x6",)))
    allowance, row = open_bundle(root).variant().allowance, as_written(verify(root, ORT))
    assert row.passed
    assert row.steps == min(allowance.rounding or 0.0, 127 * allowance.tolerance.rtol)
    name = next(each.name for each in onnx.load(root / "model.onnx").graph.initializer if len(each.dims) == 2)
    put(root, "model.onnx", changed(root, "model.onnx", lambda model: stored(model, name, lambda held: held * np.float16(1.02))))
    assert not as_written(verify(root, ORT)).passed


def test_one_code_of_a_module_s_file_shows(tmp_path: Path) -> None:
    """The partner: a single stored weight that is one code off."""
    options = ExportOptions(input_shapes=("1x3x6x6",))
    export("tests.commands.test_verify_exported_int8:weights_in_codes", tmp_path / "bundle", options)
    name = next(
        each.name
        for each in onnx.load(tmp_path / "bundle" / "model.onnx").graph.initializer
        if each.data_type == onnx.TensorProto.INT8 and each.dims
    )

    def nudge(codes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        codes = codes.copy()
        codes.reshape(-1)[5] += 1 if codes.reshape(-1)[5] < 0 else -1
        return codes

    put(tmp_path / "bundle", "model.onnx", changed(tmp_path / "bundle", "model.onnx", lambda model: stored(model, name, nudge)))
    report = verify(tmp_path / "bundle", ORT)
    assert [row.passed for row in report.parities] == [True, False]
