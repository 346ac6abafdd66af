"""A sample of ONNX's own test cases, with ONNX Runtime as the witness."""

from __future__ import annotations

import functools
import importlib
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import onnx_suite
import pytest

from edgekit.onnx import exact as onnx_exact
from edgekit.onnx.kernels import KERNELS
from edgekit.onnx.run import open_unoptimised
from tests.onnx.crafted import model_of, node

REFUSED = ("test_scan_sum",)
# what PyTorch converted, and one operator for each kernel of edgekit's and for each way in which ONNX's evaluator was wrong
MODELS = tuple(
    """Conv1d_dilated Conv2d_depthwise Conv3d_groups ConvTranspose2d BatchNorm2d_eval AvgPool3d_stride MaxPool2d Linear LogSoftmax
    PReLU_3d ZeroPad2d PixelShuffle Embedding""".split()  # noqa: SIM905  # one word a case
)
NODES = tuple(
    """lrn batchnorm averagepool lppool maxpool instancenorm groupnormalization layernormalization convtranspose resize upsample
    gridsample softmax logsoftmax hardmax erf gelu dropout scatter range loop affinegrid hannwindow lstm gru scan matmul einsum
    gemm reduce_log_sum_exp roialign topk dequantizelinear linear_attention""".split()  # noqa: SIM905
)
MODULES = {"batchnorm": "batch_normalization", "instancenorm": "instance_normalization", "range": "rangeop"}


@functools.cache
def nodes_of(operator: str) -> tuple[onnx_suite.Case, ...]:
    """The cases of an operator, from their own module; importing all modules takes seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module(f"onnx.backend.test.case.node.{MODULES.get(operator, operator)}")
        cases = importlib.import_module("onnx.backend.test.case.node")._NodeTestCases
    word = operator.replace("_", "")
    named = [case for case in cases if case.name.removeprefix("test_").replace("_", "").startswith(word)]
    return tuple(onnx_suite.Case(case.name, case.model, case.data_sets) for case in named)


@pytest.mark.parametrize("operator", NODES)
def test_the_nodes_of_an_operator_agree_or_are_refused_with_a_reason(operator: str) -> None:
    cases = [case for case in nodes_of(operator) if onnx_suite.has_floats(case)]
    assert cases
    for case in cases[:6]:
        alone, export = (onnx_suite.outcome_of(case, witnessed=witnessed) for witnessed in (False, True))
        refused = "training" in case.name or case.name in REFUSED
        assert alone["outcome"] == ("refused" if refused else "agrees"), (case.name, alone)
        assert export["outcome"] in ("agrees", "not run", *(["refused"] if refused else [])), (case.name, export)
        assert onnx_suite.coarse_operators(case) == set(), case.name


def test_random_operators_are_refused() -> None:
    for case in nodes_of("bernoulli"):
        outcome = onnx_suite.outcome_of(case, witnessed=False)
        assert outcome["outcome"] == "refused"
        assert outcome["reason"].endswith("is random")


def test_a_kernel_made_wrong_is_wrong_alone_and_refused_with_the_witness(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_exact, "KERNELS", [kernel for kernel in KERNELS if kernel.__name__ not in ("LRN", "Erf")])
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    model = model_of([node("LRN", ["x"], "y", size=3, alpha=0.5)], [], opset=13)
    right = open_unoptimised(model, Path("lrn"))({"x": x})["y"]
    case = onnx_suite.Case("lrn", model, [([x], [right])])
    assert onnx_suite.outcome_of(case, witnessed=False)["outcome"] == "wrong"
    refused = onnx_suite.outcome_of(case, witnessed=True)
    assert refused["outcome"] == "refused"
    assert "node 'lrn' (LRN) differs from ONNX Runtime" in refused["reason"]
    erf = model_of([node("Erf", ["x"], "y")], [], opset=13)
    assert onnx_suite.coarse_operators(onnx_suite.Case("erf", erf, [([x], [])])) == {"Erf"}


def test_results_are_counted_resumed_and_written_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cases = [*nodes_of("lrn")[:1], *nodes_of("bernoulli")[:1], *nodes_of("scan")[:1]]
    judged: list[str] = []
    right = onnx_suite.outcome_of

    def outcome(case: onnx_suite.Case, *, witnessed: bool) -> dict[str, str]:
        judged.append(case.name)
        return right(case, witnessed=witnessed)

    monkeypatch.setattr(onnx_suite, "cases", lambda: iter(cases))
    monkeypatch.setattr(onnx_suite, "outcome_of", outcome)
    path = tmp_path / "suite.json"
    onnx_suite.run(path, "test_lrn*", again=False)
    assert set(judged) == {cases[0].name}
    document = onnx_suite.run(path, "*", again=False)
    assert judged.count(cases[0].name) == 2
    assert document == json.loads(path.read_text())
    counts = document["counts"]
    assert counts["cases"] == counts["with floats"] == 3
    assert counts["alone"]["agrees"] + counts["alone"]["refused"] == 3
    assert document["refused"]["alone"]["Bernoulli is random"] == 1
    assert [file.name for file in tmp_path.iterdir()] == ["suite.json"]
    assert "3 cases, 3 with floats" in "\n".join(onnx_suite.summary(document))


def stored(kind: str, name: str) -> onnx_suite.Case:
    return onnx_suite.stored_case(name, Path(onnx.__file__).parent / "backend/test/data" / kind / name)


@pytest.mark.parametrize("name", MODELS)
def test_a_model_converted_from_pytorch_agrees_in_float64(name: str) -> None:
    case = stored("pytorch-converted", f"test_{name}")
    assert onnx_suite.outcome_of(case, witnessed=False)["outcome"] == "agrees"
    assert onnx_suite.outcome_of(case, witnessed=True)["outcome"] in ("agrees", "not run")
    assert onnx_suite.coarse_operators(case) == set()
