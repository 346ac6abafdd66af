"""What engines of each release say of their layers, and what is read from it.

The descriptions have the shape of those that 8.6, 10 and 11 print: names of keys, layers, formats and kernels are theirs.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from edgekit.backends.tensorrt.inspector import engine_layers, information
from edgekit.errors import EngineError
from edgekit.reports.build import EngineLayer

COMPUTING = frozenset({"/conv1/Conv", "/fc/Gemm", "node_of_out"})


def tensors(*formats: str) -> list[dict[str, Any]]:
    return [{"Name": f"t{place}", "Dimensions": [1, 8], "Format/Datatype": text} for place, text in enumerate(formats)]


def entry(
    name: str, kind: str, inputs: str = "Float", outputs: str = "", tactic: str = "0x0000000000000000", **more: Any
) -> dict[str, Any]:
    sides = {"Inputs": tensors(inputs), "Outputs": tensors(outputs or inputs)}
    return {"Name": name, "LayerType": kind, **sides, "TacticName": tactic, "StreamId": 0, **more}


def read(*entries: Any, computing: frozenset[str] = COMPUTING) -> list[EngineLayer]:
    return engine_layers(json.dumps({"Layers": entries, "Bindings": ["x", "y"]}), computing)


EIGHT = entry(
    "/conv1/Conv + /relu/Relu", "CaskConvolution", "Thirty-two wide channel vectorized row major Int8 format",
    tactic="sm80_xmma_fprop_implicit_gemm_interleaved_i8i8_i8i32_f32_nchw_vect_c_32kcrs_vect_c_32_tilesize64x64x64_stage5",
    ParameterType="Convolution", Weights={"Type": "Int8", "Count": 9408}, Bias={"Type": "Float", "Count": 64}, Activation="RELU",
    Metadata="[ONNX Layer: /conv1/Conv]\x1e[ONNX Layer: /relu/Relu]",
)  # fmt: skip
TEN_GEMM = entry(
    "/fc/Gemm_myl0_3", "gemm", "Half", "Float", tactic="sm80_xmma_gemm_f16f16_f16f32_f32_tn_n_tilesize32x32x64_stage6",
    Metadata="[ONNX Layer: /fc/Gemm]",
)  # fmt: skip
ELEVEN = entry(
    "__myl_ConvRelu_myl1_0", "correlation", "Float", tactic="sm80_xmma_fprop_implicit_gemm_f32f32_tf32f32_f32_nhwckrsc_nhwc_tile",
    Metadata="[ONNX Layer: /conv1/Conv]\x1f[ONNX Layer: /relu/Relu]",
)  # fmt: skip
KGEN = entry("__myl_FcAddRelu_myl0_2", "kgen", "Float", tactic="__myl_FcAddRelu_0x1f", Metadata="[ONNX Layer: /fc/Gemm]")


@pytest.mark.parametrize(
    ("one", "precisions", "nodes"),
    [
        (EIGHT, ("int8",), ("/conv1/Conv", "/relu/Relu")),
        (TEN_GEMM, ("float16",), ("/fc/Gemm",)),
        (ELEVEN, ("float32",), ("/conv1/Conv", "/relu/Relu")),
        (KGEN, ("float32",), ("/fc/Gemm",)),
        (entry("/fc/Gemm", "CublasLtGemm", "Half", ParameterType="MatrixMultiply"), ("float16",), ()),
        (entry("fc", "FullyConnected", "Row major linear FP16 format"), ("float16",), ()),
        (entry("/conv1/Conv", "CaskConvolution", "Float", "Half", Weights={"Type": "Half", "Count": 9}), ("float16",), ()),
        (entry("/conv1/Conv", "CaskConvolution", "Channel major INT8 format", Weights={"Type": ""}), ("int8",), ()),
        (entry("/conv1/Conv", "CaskGemmConvolution", "Half", tactic="sm90_xmma_bf16bf16_bf16f32_f32_nhwc"), ("bfloat16",), ()),
        # nobody says which: a cast or a quantiser may be fused before it
        (entry("/conv1/Conv", "CaskConvolution", "Float", "Half"), ("float32", "float16"), ()),
    ],
)  # fmt: skip
def test_a_layer_that_computes_is_known_in_each_releases_words(
    one: dict[str, Any], precisions: tuple[str, ...], nodes: tuple[str, ...]
) -> None:
    (told,) = read(one)
    assert (told.computes, told.precisions, told.onnx_nodes) == (True, precisions, nodes)


@pytest.mark.parametrize("between", ["\x1e", "\x1f", "", " ", "\\u001e", "\\u001f", "\n"])
def test_nodes_are_told_apart_whatever_stands_between_them(between: str) -> None:
    metadata = f"[ONNX Layer: a[0]]{between}[ONNX Layer: b | Relu 2]{between}[ONNX Layer: c]"
    (told,) = read(entry("x", "kgen", Metadata=metadata))
    assert told.onnx_nodes == ("a[0]", "b", "c")


def test_a_control_character_that_json_forbids_is_read_all_the_same() -> None:
    document = '{"Layers": [{"Name": "x", "LayerType": "kgen", "Metadata": "[ONNX Layer: a]\x1f[ONNX Layer: b]"}]}'
    assert engine_layers(document)[0].onnx_nodes == ("a", "b")


def test_a_generated_kernel_computes_only_where_no_other_layer_is_its_nodes() -> None:
    helper = entry("__myl_MoveConc_myl0_1", "kgen", "Float", Metadata="[ONNX Layer: /fc/Gemm]")
    assert [layer.computes for layer in read(helper, TEN_GEMM)] == [False, True]
    nameless = entry("__myl_Fc_myl0_4", "kgen", Metadata="[ONNX Layer: node_of_out]")
    moved = entry("Reformatting CopyNode for Input Tensor 0 to /fc/Gemm", "Reformat", Metadata="[ONNX Layer: /fc/Gemm]")
    other = entry("__myl_Relu_myl0_5", "kgen", Metadata="[ONNX Layer: /relu/Relu]")
    assert [layer.computes for layer in read(moved, KGEN, nameless, other)] == [False, True, True, False]


def test_a_part_that_was_compiled_as_a_whole_does_not_say_what_it_computes_in() -> None:
    (told,) = read(entry("{ForeignNode[/conv1/Conv.../fc/Gemm]}", "Myelin", Metadata="[ONNX Layer: /fc/Gemm]"))
    assert (told.computes, told.precisions) == (True, ())


@pytest.mark.parametrize(
    "document",
    [
        "[" * 100_000, "", "null", "5", '{"Layers": 5}', '{"Layers": null}', '{"Layers": true}', '{"Layers": "abc"}',
        '{"Layers": {"a": 1}}',
    ],
)  # fmt: skip
def test_what_is_no_list_of_layers_is_one_error(document: str) -> None:
    with pytest.raises(EngineError, match="not the JSON that TensorRT documents"):
        engine_layers(document)


@pytest.mark.parametrize("value", [5, True, None, "text", [1], {"a": 1}, [[]], 1.5])
@pytest.mark.parametrize("key", ["Inputs", "Outputs", "Weights", "Metadata", "TacticName", "LayerType", "Name", "ParameterType"])
def test_a_layer_of_odd_values_is_read_as_far_as_it_goes(key: str, value: Any) -> None:
    (told,) = read({**TEN_GEMM, "TacticName": "", key: value})
    assert isinstance(told, EngineLayer)


@pytest.mark.parametrize("text", ["[ONNX Layer: a | ", "[ONNX Layer: ", "[ONNX Layer: a] x", "[", "]", "\\u001"])
def test_metadata_that_nobody_writes_is_read_in_no_time(text: str) -> None:
    """A pattern that goes back and forth would take hours for these."""
    (told,) = read(entry("x", "kgen", Metadata=text * 200_000))
    assert told.name == "x"
    assert len(told.onnx_nodes) <= 1


class Inspector:
    """As TensorRT 8.6's: nothing is told for a context on another profile than the first."""

    execution_context: str | None = None

    def get_engine_information(self, form: str) -> str:
        return "" if self.execution_context == "second" else f'{{"Layers": ["{self.execution_context}"]}}'


class Engine:
    def create_engine_inspector(self) -> Inspector:
        return Inspector()


class Api:
    class LayerInformationFormat:
        JSON = "json"


@pytest.mark.parametrize(("context", "expected"), [(None, "None"), ("first", "first"), ("second", "None")])
def test_where_nothing_is_told_of_a_profile_the_engine_is_asked_as_a_whole(context: str | None, expected: str) -> None:
    assert information(Api, Engine(), context) == f'{{"Layers": ["{expected}"]}}'
