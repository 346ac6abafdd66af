"""Files of many kinds become int8: older opsets, functions, fixed batches, one layer alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.commands.export import export
from edgekit.errors import ModelError
from edgekit.sources import ExportOptions
from edgekit.tensors import bounded_snr_db
from edgekit.variants import Outcome, Wanted, convert
from edgekit.variants.int8 import LEAST_GAIN_DB
from tests.onnx.crafted import model_of, node, tensor

RANDOM = Wanted(calibrate="random")


def exported(tmp_path: Path, model: onnx.ModelProto) -> Bundle:
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    export(str(tmp_path / "net.onnx"), tmp_path / "bundle", ExportOptions())
    return open_bundle(tmp_path / "bundle")


def network(opset: int = 17, batch: int | str = "batch") -> onnx.ModelProto:
    nodes = [node("Conv", ["x", "w"], "a", "first"), node("Relu", ["a"], "b"), node("Conv", ["b", "v"], "y", "last")]
    return model_of(nodes, [tensor("w", 16, 16, 3, 3), tensor("v", 16, 16, 3, 3)], shape=(batch, 16, 8, 8), opset=opset)


def file_of(outcome: Outcome) -> onnx.ModelProto:
    model = onnx.load_from_string(outcome.draft.files["int8.onnx"])
    onnx.checker.check_model(model, full_check=True)
    return model


def converted(outcome: Outcome) -> int:
    assert outcome.draft.variant.conversion is not None
    return outcome.draft.variant.conversion.converted


@pytest.mark.parametrize(("opset", "batch"), [(11, "batch"), (13, "batch"), (17, 4), (20, "batch")])
def test_a_file_of_an_older_opset_or_a_fixed_batch_is_converted(tmp_path: Path, opset: int, batch: int | str) -> None:
    outcome = convert(exported(tmp_path, network(opset, batch)), "int8", RANDOM)
    assert converted(outcome) == 1
    assert outcome.snr_db > 25
    assert {entry.version for entry in file_of(outcome).opset_import if entry.domain == ""} == {max(opset, 13)}


def test_a_file_with_functions_is_converted(tmp_path: Path) -> None:
    model = network()
    body = [helper.make_node("Conv", ["p", "q"], ["r"], "inside"), helper.make_node("Relu", ["r"], ["s"], "relu")]
    opsets = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("mine", "Block", ["p", "q"], ["s"], body, opsets))
    del model.graph.node[:]
    model.graph.node.append(helper.make_node("Block", ["x", "w"], ["b"], "one", domain="mine"))
    model.graph.node.append(helper.make_node("Block", ["b", "v"], ["y"], "two", domain="mine"))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    outcome = convert(exported(tmp_path, model), "int8", RANDOM)
    assert converted(outcome) == 1
    assert not file_of(outcome).functions
    assert outcome.snr_db > 25


def depthwise(spread: float) -> onnx.ModelProto:
    """1x1, depthwise, 1x1, as MobileNets have them; ``spread`` is the deviation of the logarithm of its channels' ranges."""
    rng = np.random.default_rng(0)
    scales = np.exp(spread * rng.standard_normal((2, 32, 1, 1, 1)))
    weights = {
        "w1": rng.standard_normal((32, 16, 1, 1)) * scales[0],
        "w2": rng.standard_normal((32, 1, 3, 3)) / scales[0] * scales[1],
        "w3": rng.standard_normal((16, 32, 1, 1)) / scales[1].reshape(1, 32, 1, 1),
        "w4": rng.standard_normal((16, 16, 1, 1)),
    }
    nodes = [
        node("Conv", ["x", "w1"], "a", "wide"), node("Relu", ["a"], "ar", "relu_a"),
        node("Conv", ["ar", "w2"], "b", "depthwise", group=32, pads=[1, 1, 1, 1]), node("Relu", ["b"], "br", "relu_b"),
        node("Conv", ["br", "w3"], "c", "narrow"), node("Add", ["c", "x"], "d"), node("Conv", ["d", "w4"], "y", "last"),
    ]  # fmt: skip
    stored = [onnx.numpy_helper.from_array((0.3 * weight).astype(np.float32), name) for name, weight in weights.items()]
    return model_of(nodes, stored, shape=("batch", 16, 8, 8))


def test_unlike_channels_are_equalised_and_the_float_file_stays_as_it_was(tmp_path: Path) -> None:
    bundle = exported(tmp_path, depthwise(1.0))
    before = bundle.onnx_bytes()
    outcome = convert(bundle, "int8", RANDOM)
    assert len(outcome.attempts) == 8
    chosen = next(attempt for attempt in outcome.attempts if attempt.chosen)
    assert chosen.equalised
    assert chosen.snr_db > max(attempt.snr_db for attempt in outcome.attempts if not attempt.equalised) + 6
    assert outcome.draft.variant.made_by["equalised"] is True
    assert b'"equalised": [\n    "wide",\n    "depthwise"\n  ]' in outcome.draft.files["int8.json"]
    assert bundle.onnx_bytes() == before


def test_equalised_weights_are_left_where_they_gain_less_than_a_decibel(tmp_path: Path) -> None:
    outcome = convert(exported(tmp_path, depthwise(0.0)), "int8", RANDOM)
    best = {each: max(row.snr_db for row in outcome.attempts if row.equalised is each) for each in (False, True)}
    chosen = next(attempt for attempt in outcome.attempts if attempt.chosen)
    assert chosen.equalised == (best[True] > best[False] + LEAST_GAIN_DB)
    assert not chosen.equalised
    assert outcome.draft.variant.made_by["equalised"] is False


def test_a_network_of_one_layer_is_converted(tmp_path: Path) -> None:
    model = model_of([node("Conv", ["x", "w"], "y", "only")], [tensor("w", 16, 16, 3, 3)], shape=("batch", 16, 8, 8))
    assert converted(convert(exported(tmp_path, model), "int8", RANDOM)) == 1


def test_a_network_without_a_layer_for_8_bits_says_why(tmp_path: Path) -> None:
    model = model_of([node("Conv", ["x", "w"], "y", "only")], [tensor("w", 5, 4, 3, 3)])
    with pytest.raises(ModelError, match=r"Conv only: it has 4 input channels: below 16 .*; ship it in float32 or float16"):
        convert(exported(tmp_path, model), "int8", RANDOM)


def test_the_signal_to_noise_ratio_is_of_finite_places() -> None:
    reference = np.array([3.0, 4.0, -np.inf])
    assert bounded_snr_db(np.array([3.0, 4.5, -np.inf]), reference) == pytest.approx(20)
    assert bounded_snr_db(reference, reference) == 200
    assert bounded_snr_db(np.array([np.nan, 4.0, -np.inf]), reference) == -200
