"""The float16 variant keeps what float16 would harm, and its allowance fails a file that is wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

from edgekit.backends.contract import Opened
from edgekit.backends.fake import FakeSession
from edgekit.bundle.folder import Bundle, open_bundle
from edgekit.bundle.variants import VariantDraft, own_outputs, with_variant
from edgekit.commands.export import export
from edgekit.errors import BundleError, ModelError
from edgekit.onnx.half import rounded_after_every_node
from edgekit.onnx.run import Runner, open_every_value, open_unoptimised
from edgekit.parity.bars import bars_of
from edgekit.parity.inputs import recorded_in
from edgekit.parity.run import parity
from edgekit.setups import Setup
from edgekit.sources import ExportOptions
from edgekit.tensors import Feed
from edgekit.tolerance import ToleranceChange
from edgekit.variants.half import drafted, float32_model
from edgekit.variants.kept import modules_of
from tests.networks import file_of
from tests.onnx.crafted import model_of, node, tensor
from tests.onnx_files import image_spec

LAYERS = ("Conv", "Gemm")


@pytest.fixture(scope="module")
def shipped() -> Bundle:
    return open_bundle(Path(__file__).parents[2] / "exported" / "lenet")


def half(bundle: Bundle, keep: Iterable[str] = ()) -> VariantDraft:
    return drafted(bundle, float32_model(bundle), recorded_in(bundle), keep, modules_of(bundle))[0]


@pytest.fixture(scope="module")
def draft(shipped: Bundle) -> VariantDraft:
    return half(shipped)


def file_in(draft: VariantDraft) -> onnx.ModelProto:
    model = onnx.load_from_string(draft.files["float16.onnx"])
    onnx.checker.check_model(model, full_check=True)
    return model


def passes(bundle: Bundle, draft: VariantDraft, content: onnx.ModelProto | bytes, level: str = "off") -> bool:
    """Whether a file's outputs are within the allowance of ``draft``, as ``edgekit verify`` compares them."""
    manifest, golden = bundle.manifest, bundle.golden()
    run = open_unoptimised(content, Path("float16.onnx"), level=level)
    session = FakeSession(run, manifest.inputs, manifest.outputs)
    extended = msgspec.structs.replace(manifest, variants=(*manifest.variants, draft.variant))
    bars = bars_of(extended, draft.variant, bundle.evidence(), ToleranceChange(), trusting=False).on("ort-cpu", {})
    report = parity(Opened("ort-cpu", Setup("ort-cpu"), session), golden, bars, manifest.golden.reference)
    return report.passed and snr_db(run, bundle) >= (draft.variant.allowance.snr_db or 0)


def snr_db(run: Runner, bundle: Bundle) -> float:
    """The least signal-to-noise ratio of any output over the first part of the golden samples, by its definition."""
    golden, first = bundle.golden(), bundle.manifest.golden.parts[0].samples
    outputs = run({name: array[:first] for name, array in golden.inputs.items()})
    pairs = [(outputs[name], reference[:first]) for name, reference in golden.float64.items()]
    return min(float(10 * np.log10(np.square(ref).sum() / max(np.square(mine - ref).sum(), 1e-300))) for mine, ref in pairs)


def exported(tmp_path: Path, model: onnx.ModelProto) -> Bundle:
    """The bundle of an ONNX file."""
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    export(str(tmp_path / "net.onnx"), tmp_path / "bundle", ExportOptions())
    return open_bundle(tmp_path / "bundle")


def reasons(draft: VariantDraft) -> dict[str, str]:
    assert draft.variant.conversion is not None
    return {kept.node: kept.reason for kept in draft.variant.conversion.kept}


def test_a_shipped_bundle_gets_a_float16_file_with_its_own_outputs(shipped: Bundle, draft: VariantDraft, tmp_path: Path) -> None:
    written = with_variant(shipped, draft, tmp_path / "bundle")
    variant = open_bundle(written.root).variant("float16")
    assert (variant.file, variant.precision, variant.accuracy) == ("float16.onnx", "float16", None)
    assert variant.made_by["command"] == "quantize"
    assert variant.made_by["to"] == "float16"
    assert variant.conversion is not None
    assert (variant.conversion.kept, variant.conversion.floor) == ((), {})
    recorded = own_outputs(written, "float16")
    assert recorded is not None
    outputs = open_unoptimised(written.onnx_bytes("float16"), Path("float16.onnx"))(written.golden().inputs)
    assert np.abs(recorded["output"] - outputs["output"]).max() < 1e-5
    error = np.abs(outputs["output"] - written.golden().float64["output"]).max()
    assert variant.error is not None
    assert 0 < variant.error < 2e-3
    assert error > 1e-4  # in float16 indeed
    assert len(draft.files["float16.onnx"]) < 0.6 * len(shipped.onnx_bytes())


def test_a_variant_is_not_called_as_all_of_them_are(shipped: Bundle, draft: VariantDraft, tmp_path: Path) -> None:
    every = draft._replace(variant=msgspec.structs.replace(draft.variant, name="every"))
    with pytest.raises(BundleError, match="calls a variant 'every', which stands for all of them"):
        with_variant(shipped, every, tmp_path / "bundle")
    assert not (tmp_path / "bundle").exists()


@pytest.mark.parametrize("level", ["off", "all"])
def test_the_allowance_passes_the_file(shipped: Bundle, draft: VariantDraft, level: str) -> None:
    assert passes(shipped, draft, file_in(draft), level)
    assert draft.variant.allowance.steps is None


def test_the_allowance_passes_a_runtime_that_rounds_behind_every_node(shipped: Bundle, draft: VariantDraft) -> None:
    """ONNX Runtime on a CPU leaves these roundings out, and a GPU does not."""
    rounding = rounded_after_every_node(file_in(draft))
    runs = [open_unoptimised(file, Path("float16.onnx")) for file in (file_in(draft), rounding)]
    plain, rounded = (snr_db(run, shipped) for run in runs)
    assert rounded < plain - 1
    assert passes(shipped, draft, rounding)


def test_the_allowance_records_what_rounding_every_value_changes(draft: VariantDraft) -> None:
    rounding, rtol = draft.variant.allowance.rounding, draft.variant.allowance.tolerance.rtol
    assert rounding is not None
    assert 127 * 2**-10 <= rounding <= 4 * 127 * rtol


def test_the_allowance_fails_each_weight_that_is_scaled_by_two_percent(shipped: Bundle, draft: VariantDraft) -> None:
    weights = [tensor.name for tensor in file_in(draft).graph.initializer if len(tensor.dims) > 1]
    assert len(weights) == 5
    for name in weights:
        model = file_in(draft)
        for stored in model.graph.initializer:
            if stored.name == name:
                stored.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(stored) * np.float16(1.02), name))
        assert not passes(shipped, draft, model), name


@pytest.mark.parametrize("place", range(5))
def test_the_allowance_fails_a_layer_in_bfloat16(shipped: Bundle, draft: VariantDraft, place: int) -> None:
    """On a runtime that rounds behind every node, as the allowance expects one to."""
    model = file_in(draft)
    layers = [index for index, each in enumerate(model.graph.node) if each.op_type in LAYERS]
    layer = model.graph.node[layers[place]]
    output = layer.output[0]
    before = [cast for name in layer.input for cast in narrowed(name, f"{name}_b")]
    layer.input[:] = [f"{name}_b" for name in layer.input]
    layer.output[0] = f"{output}_b"
    nodes = list(model.graph.node)
    nodes[layers[place] : layers[place] + 1] = [*before, layer, *narrowed(f"{output}_b", output)]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    assert passes(shipped, draft, rounded_after_every_node(file_in(draft)))
    assert not passes(shipped, draft, rounded_after_every_node(model))


def narrowed(name: str, result: str) -> list[onnx.NodeProto]:
    """Casts of a float16 value to bfloat16 and back."""
    return [
        helper.make_node("Cast", [name], [f"{name}_to_{result}"], to=TensorProto.BFLOAT16),
        helper.make_node("Cast", [f"{name}_to_{result}"], [result], to=TensorProto.FLOAT16),
    ]


def test_the_same_bundle_gives_the_same_draft(shipped: Bundle, draft: VariantDraft) -> None:
    again = half(shipped)
    assert again.variant == draft.variant
    assert again.files == draft.files


def test_named_nodes_stay_float32_and_are_listed_with_their_module(shipped: Bundle) -> None:
    draft = half(shipped, ["node_conv2d_1", "node_sigmoid_1"])
    assert draft.variant.conversion is not None
    assert [(kept.node, kept.operator, kept.module) for kept in draft.variant.conversion.kept] == [
        ("node_conv2d_1", "Conv", "4"),
        ("node_sigmoid_1", "Sigmoid", "6"),
    ]
    kinds = {tensor.name: tensor.data_type for tensor in file_in(draft).graph.initializer}
    assert {name for name, kind in kinds.items() if kind == TensorProto.FLOAT} == {"4.weight", "4.bias"}


def test_a_node_that_is_not_there_is_refused(shipped: Bundle) -> None:
    with pytest.raises(ModelError, match=r"no node 'node_conv2d_11' to keep in float32; .* \(did you mean 'node_conv2d_1'\?\)"):
        half(shipped, ["node_conv2d_11"])


class Branches(nn.Module):
    """A residual addition, a concatenation, and two outputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.first, self.second, self.head = nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 1), nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = torch.relu(self.first(x) + x)
        return self.head(torch.cat([y, torch.sigmoid(self.second(y))], 1).mean((2, 3))), y


def test_a_network_of_branches_and_two_outputs(tmp_path: Path) -> None:
    bundle = exported(tmp_path, onnx.load_from_string(file_of(Branches().eval(), image_spec(4, 8))[0].content))
    draft = half(bundle)
    assert reasons(draft) == {}
    assert passes(bundle, draft, file_in(draft))
    assert not passes(bundle, draft, with_scaled(file_in(draft), bundle.manifest.outputs[1].name))


def with_scaled(model: onnx.ModelProto, output: str) -> onnx.ModelProto:
    """The file whose ``output`` is two percent too large."""
    for each in model.graph.node:
        each.output[:] = [f"{name}_was" if name == output else name for name in each.output]
    model.graph.initializer.append(numpy_helper.from_array(np.float32(1.02), "factor"))
    model.graph.node.append(helper.make_node("Mul", [f"{output}_was", "factor"], [output]))
    return model


def wide(scale: float) -> onnx.ModelProto:
    """A convolution whose outputs are ``scale`` times as large as its inputs, and a second one that takes them back."""
    first, second = (numpy_helper.to_array(tensor(name, 4, 4, 1, 1)) for name in ("first", "second"))
    stored = [
        numpy_helper.from_array((first * np.sqrt(scale)).astype(np.float32), "first"),
        numpy_helper.from_array(np.float32(np.sqrt(scale)), "s"),
        numpy_helper.from_array(np.float32(1 / scale), "t"),
        numpy_helper.from_array(second, "second"),
    ]
    nodes = [
        node("Conv", ["x", "first"], "a", "up"), node("Mul", ["a", "s"], "b", "further"), node("Relu", ["b"], "c"),
        node("Mul", ["c", "t"], "d", "back"), node("Conv", ["d", "second"], "y", "last"),
    ]  # fmt: skip
    return model_of(nodes, stored)


def test_values_beyond_float16_keep_the_nodes_that_give_and_read_them(tmp_path: Path) -> None:
    bundle = exported(tmp_path, wide(1e5))
    draft = half(bundle)
    assert set(reasons(draft)) >= {"further", "relu", "back"}
    assert "last" not in reasons(draft)
    reached = float(reasons(draft)["relu"].removeprefix("its values reach ").split()[0])
    assert reached > 65504
    assert reasons(draft)["relu"].endswith("on the golden inputs, beyond 8188")
    assert passes(bundle, draft, file_in(draft))
    assert passes(bundle, draft, rounded_after_every_node(file_in(draft)))


def test_values_well_within_float16_keep_nothing(tmp_path: Path) -> None:
    assert reasons(half(exported(tmp_path, wide(10)))) == {}


def test_ranges_are_measured_in_small_batches(shipped: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = set()

    def watched(*args: Any) -> Runner:
        run = open_every_value(*args)

        def counted(feed: Feed) -> dict[str, np.ndarray]:
            sizes.add(len(feed["input"]))
            return run(feed)

        return counted

    monkeypatch.setattr("edgekit.variants.half.open_every_value", watched)
    half(shipped)
    assert sizes == {8}


def test_a_file_of_one_batch_size_stays_so(tmp_path: Path) -> None:
    nodes = [node("Conv", ["x", "w"], "a"), node("Reshape", ["a", "shape"], "y")]
    stored = [tensor("w", 4, 4, 1, 1), numpy_helper.from_array(np.array([2, 256]), "shape")]
    bundle = exported(tmp_path, model_of(nodes, stored, shape=(2, 4, 8, 8), rank=2))
    draft = half(bundle)
    own = np.load(with_variant(bundle, draft, tmp_path / "more").root / "float16.npz")
    assert own["output.y"].shape == (bundle.manifest.golden.samples, 256)


@pytest.mark.parametrize("kept", [(), ("plus", "minus")])
def test_a_network_that_float16_ruins_is_refused_unless_its_nodes_are_kept(tmp_path: Path, kept: tuple[str, ...]) -> None:
    nodes = [node("Add", ["x", "large"], "a", "plus"), node("Sub", ["a", "large"], "b", "minus"), node("Sigmoid", ["b"], "y")]
    bundle = exported(tmp_path, model_of(nodes, [numpy_helper.from_array(np.float32(600), "large")]))
    if kept:
        assert passes(bundle, half(bundle, kept), file_in(half(bundle, kept)))
        return
    with pytest.raises(
        ModelError, match=r"float16 changes the outputs of bundle .* of their scale, .*; keep the nodes .* --keep"
    ):
        half(bundle)


def test_an_operator_that_onnx_runtime_lacks_is_named(tmp_path: Path) -> None:
    nodes = [node("EyeLike", ["square"], "m", "eye", dtype=TensorProto.FLOAT), node("MatMul", ["x", "m"], "y")]
    bundle = exported(tmp_path, model_of(nodes, [numpy_helper.from_array(np.zeros((8, 8), np.int64), "square")]))
    with pytest.raises(ModelError, match=r"ONNX Runtime refuses float16.onnx on the CPU: .*EyeLike.*'eye'"):
        half(bundle)


def test_a_first_file_that_is_not_float32_is_refused(shipped: Bundle) -> None:
    first = msgspec.structs.replace(shipped.variant(), precision="float16")
    other = msgspec.structs.replace(shipped, manifest=msgspec.structs.replace(shipped.manifest, variants=(first,)))
    with pytest.raises(ModelError, match=r"the first file of bundle lenet is float16, and float16 is made from float32; export"):
        half(other)


def test_a_file_with_nothing_to_convert_is_refused_with_the_reason(tmp_path: Path) -> None:
    branches: Mapping[str, Any] = {
        f"{name}_branch": helper.make_graph(
            [node(kind, ["x"], name)], name, [], [helper.make_tensor_value_info(name, TensorProto.FLOAT, None)]
        )
        for name, kind in (("then", "Sigmoid"), ("else", "Exp"))
    }
    stored = [numpy_helper.from_array(np.array(True), "on")]
    bundle = exported(tmp_path, model_of([node("If", ["on"], "y", **branches)], stored))
    with pytest.raises(ModelError, match=r"nothing of bundle net can be float16: If holds a graph of its own"):
        half(bundle)
