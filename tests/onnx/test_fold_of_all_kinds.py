"""Folding unusual ONNX files: odd names, branches, functions."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.errors import ModelError
from edgekit.onnx import fold as onnx_fold
from tests.onnx.crafted import codes, conv, export, folds, model_of, network, node, norm, plain, statistics, tensor

GEMM = ("Gemm", ["f", "w", "g0"])
HOSTILE: dict[str, tuple[Callable[[], onnx.ModelProto], Mapping[str, str]]] = {
    "opset 7": (lambda: plain(opset=7, ir=4), {}),
    "opset 9": (lambda: plain(opset=9, ir=4), {}),
    "the usual name of a bias is in use": (
        lambda: model_of(
            [conv(), norm("c", "n"), node("Add", ["n", "w_bias"], "y")],
            [tensor("w", 6, 4, 3, 3), tensor("w_bias", 1, 6, 1, 1), *statistics("bn", 6)],
        ),
        {},
    ),
    "an empty bias": (
        lambda: model_of([node("Conv", ["x", "w", ""], "c"), norm("c", "y")], [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)]),
        {},
    ),
    "grouped transposed": (
        lambda: model_of(
            [node("ConvTranspose", ["x", "w", "b"], "c", group=2, strides=[2, 2], output_padding=[1, 1], pads=[1, 0, 0, 1]),
             norm("c", "y")],
            [tensor("w", 4, 3, 3, 3), tensor("b", 6), *statistics("bn", 6)],
        ),
        {},
    ),
    "gemm, scaled and transposed": (
        lambda: model_of(
            [node("Flatten", ["x"], "f"), node(*GEMM, "g", transB=1, alpha=0.7, beta=-1.3), norm("g", "y")],
            [tensor("w", 5, 256), tensor("g0", 5), *statistics("bn", 5)], rank=2,
        ),
        {},
    ),
    "gemm with a scalar": (
        lambda: model_of(
            [node("Flatten", ["x"], "f"), node(*GEMM, "g", transB=0, alpha=2.0, beta=0.5), norm("g", "y")],
            [tensor("w", 256, 5), tensor("g0"), *statistics("bn", 5)], rank=2,
        ),
        {},
    ),
    "matmul and add": (
        lambda: model_of(
            [node("Flatten", ["x"], "f"), node("MatMul", ["f", "w"], "m"), node("Add", ["m", "b"], "g"), norm("g", "y")],
            [tensor("w", 256, 5), tensor("b", 5), *statistics("bn", 5)], rank=2,
        ),
        {},
    ),
    "constants instead of initializers": (
        lambda: model_of(
            [*(node("Constant", [], item.name, item.name, value=item) for item in plain().graph.initializer),
             conv(), norm("c", "y")],
            [],
        ),
        {},
    ),
    "identities between": (
        lambda: model_of(
            [node("Identity", ["positive"], f"bn.{part}", f"copy {part}") for part in "sv"]
            + [node("Identity", ["any"], f"bn.{part}", f"copy {part}") for part in "bm"] + [conv(), norm("c", "y")],
            [tensor("w", 6, 4, 3, 3), tensor("positive", 6, low=0.5, high=1), tensor("any", 6)],
        ),
        {},
    ),
    "computed": (
        lambda: model_of(
            [node("Relu", ["raw"], "w"), conv(), norm("c", "y")], [tensor("raw", 6, 4, 3, 3), *statistics("bn", 6)]
        ),
        {},
    ),
    "computed from the input": (
        lambda: model_of(
            [node("GlobalMaxPool", ["x"], "p"), node("ReduceSum", ["p", "axes"], "q", keepdims=1),
             node("Mul", ["q", "zero"], "z"), node("Add", ["raw", "z"], "w"), conv(), norm("c", "y")],
            [tensor("raw", 6, 4, 3, 3), numpy_helper.from_array(np.array([0, 1, 2, 3]), "axes"),
             numpy_helper.from_array(np.float32(0), "zero"), *statistics("bn", 6)],
        ),
        {"bn": "computed"},
    ),
    "first of all": (lambda: model_of([norm("x", "y")], statistics("bn", 4)), {"bn": "between"}),
    "names missing": (
        lambda: model_of(
            [conv(name=""), helper.make_node("BatchNormalization", ["c", *(f"bn.{part}" for part in "sbmv")], ["y"])],
            [tensor("w", 6, 4, 3, 3), *statistics("bn", 6)],
        ),
        {},
    ),
    "per position": (
        lambda: model_of(
            [conv(), norm("c", "y", spatial=0)],
            [tensor("w", 6, 4, 3, 3), *(tensor(f"bn.{part}", 6, 6, 6, low=0.5, high=1) for part in "sbmv")], opset=7, ir=4,
        ),
        {"bn": "rule"},
    ),
    "a free axis without a name": (lambda: plain(shape=(None, 4, 8, 8)), {}),
    "a free axis of another name": (lambda: plain(shape=("N", 4, 8, 8)), {}),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_files_of_all_kinds(tmp_path: Path, name: str) -> None:
    build, expected = HOSTILE[name]
    report = export(tmp_path, build())
    assert codes(report) == expected
    assert report.fold.before == 1
    names = {item.name for item in onnx.load(open_bundle(tmp_path / "bundle").onnx_of()).graph.node}
    assert all(layer in names for layers in folds(report).values() for layer in layers)


def test_names_that_are_not_unique_give_way_to_the_outputs(tmp_path: Path) -> None:
    model = model_of(
        [conv(), norm("c", "n"), conv("n", "d", "w2"), norm("d", "y", "bn2")],
        [tensor("w", 6, 4, 3, 3), *statistics("bn", 6), tensor("w2", 5, 6, 3, 3), *statistics("bn2", 5)],
    )
    model.graph.node[3].name = "bn"
    report = onnx_fold.fold_onnx(model).report
    assert {fold.norm: fold.into for fold in report.folded} == {"n": ("c",), "y": ("d",)}
    with contextlib.suppress(ModelError):  # some versions of ONNX Runtime refuse such files
        export(tmp_path, model)


def test_an_unused_norm_is_folded_into_no_layer(tmp_path: Path) -> None:
    model = plain()
    model.graph.node.insert(0, norm("x", "nowhere", "dead"))
    model.graph.initializer.extend(statistics("dead", 4))
    assert folds(export(tmp_path, model)) == {"bn": ("conv",), "dead": ()}


def branches() -> onnx.ModelProto:
    """A model with an If: a convolution and a norm in one branch, the same convolution alone in the other."""
    parts = {
        "then": [conv(output="tc", name="inner"), norm("tc", "ty", "inside")],
        "else": [conv(output="ey", weight="w", name="other")],
    }
    graphs = {
        f"{key}_branch": helper.make_graph(
            nodes, key, [], [helper.make_tensor_value_info(nodes[-1].output[0], 1, [None, 6, 6, 6])], statistics("inside", 6)
        )
        for key, nodes in parts.items()
    }
    test = [node("Constant", [], "yes", value=numpy_helper.from_array(np.array(True))), node("If", ["yes"], "i", **graphs)]
    return model_of(
        [*test, conv("i", "d", "w2", "last"), norm("d", "y")],
        [tensor("w", 6, 4, 3, 3), tensor("w2", 5, 6, 3, 3), *statistics("bn", 5)],
    )


def test_a_norm_inside_a_branch_is_kept(tmp_path: Path) -> None:
    report = export(tmp_path, branches())
    assert codes(report) == {"inside": "branch"}
    assert folds(report) == {"bn": ("last",)}
    model = branches()  # a value that only a branch reads counts as read
    (other,) = [item.g for item in model.graph.node[1].attribute if item.name == "else_branch"]
    other.node[0].CopyFrom(node("Identity", ["c"], "ey", "peek"))
    model.graph.node.insert(0, norm("c", "unread", "outer"))
    model.graph.node.insert(0, conv(weight="w3", name="outer conv"))
    model.graph.initializer.extend([tensor("w3", 6, 4, 3, 3), *statistics("outer", 6)])
    model.graph.node[-1].output[0] = "z"
    model.graph.node.append(node("GlobalAveragePool", ["unread"], "u"))
    model.graph.node.append(node("GlobalAveragePool", ["z"], "zz", "pool z"))
    model.graph.node.append(node("Concat", ["u", "zz"], "y", axis=1))
    report = export(tmp_path, model)
    assert codes(report) == {"inside": "branch", "outer": "other-users"}
    assert "peek" in report.fold.kept[-1].reason + report.fold.kept[0].reason


def test_norms_inside_functions_fold_where_they_are_called(tmp_path: Path) -> None:
    model = model_of(
        [node("BatchNormalization", ["x", "w", *(f"bn.{part}" for part in "sbmv")], "y", domain="own")], plain().graph.initializer
    )
    inside = [conv("a", "c", "k", "conv"), helper.make_node("BatchNormalization", list("cpqrs"), ["z"], "bn")]
    imports = [helper.make_opsetid("", 17)]
    model.functions.append(helper.make_function("own", "BatchNormalization", list("akpqrs"), ["z"], inside, imports))
    model.opset_import.append(helper.make_opsetid("own", 1))
    report = export(tmp_path, model)
    assert (report.fold.before, report.fold.kept) == (1, ())
    assert len(export(tmp_path, model, fold_bn=False).fold.kept) == 1


def test_a_miscounted_report_is_caught(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_fold, "batch_norms", lambda proto: 7)
    with pytest.raises(ModelError, match="7 BatchNormalization nodes where the report says 1"):
        onnx_fold.fold_onnx(onnx.load(network(tmp_path / "net.onnx")))


def test_a_failure_of_onnx_ir_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **options: object) -> None:
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr("edgekit.onnx.fold.common.RemoveUnusedNodesPass", fail)
    with pytest.raises(ModelError, match="the file cannot be rewritten: first; export with --no-fold-bn"):
        onnx_fold.fold_onnx(plain())
