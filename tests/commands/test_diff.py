"""``edgekit diff`` names whatever differs between two bundles, and by how much."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from edgekit.bundle.folder import open_bundle
from edgekit.commands.bench import bench
from edgekit.commands.diff import diff, differences
from edgekit.latency.loop import Timing
from edgekit.machine.records import keep
from tests.bundle.editing import edit, put
from tests.command_line import Command


@pytest.fixture
def other(bundle: Path, tmp_path: Path) -> Path:
    """A copy of ``bundle``."""
    return Path(shutil.copytree(bundle, tmp_path / "other"))


def changed(root: Path, change: Any) -> None:
    """Change the ONNX file of a bundle."""
    model = onnx.load(root / "model.onnx")
    change(model)
    put(root, "model.onnx", model.SerializeToString())


def scaled(model: onnx.ModelProto, name: str, factor: float) -> float:
    """Scale one element of a tensor; gives max|w|."""
    (tensor,) = [each for each in model.graph.initializer if each.name == name]
    array = numpy_helper.to_array(tensor).copy()
    array.reshape(-1)[0] *= factor
    tensor.CopyFrom(numpy_helper.from_array(array, name))
    return float(np.abs(array).max())


def test_a_copy_does_not_differ_and_a_changed_bundle_does(run: Command, bundle: Path, other: Path) -> None:
    same = run("diff", bundle, other)
    assert same.code == 0
    assert "nothing differs" in same.out
    assert run("diff", bundle, other, "--json").document["fields"] == []
    edit(other, lambda manifest: manifest["notes"].append("new"))
    differs = run("diff", bundle, other, "--json")
    assert differs.code == 1
    assert differs.document["passed"] is False
    (field,) = differs.document["fields"]
    assert (field["section"], field["second"]) == ("origin", "new")


def test_one_changed_weight_is_named_with_its_distance(bundle: Path, other: Path) -> None:
    name = onnx.load(bundle / "model.onnx").graph.initializer[0].name
    before = numpy_helper.to_array(onnx.load(bundle / "model.onnx").graph.initializer[0])
    changed(other, lambda model: scaled(model, name, 3.0))
    report = diff(bundle, other)
    (row,) = report.tensors
    assert (row.variant, row.name, row.outcome) == ("float32", name, "changed")
    assert row.share == pytest.approx(1 / before.size)
    assert row.max_abs == pytest.approx(2 * abs(float(before.reshape(-1)[0])))
    assert row.of_scale == pytest.approx(2 * abs(float(before.reshape(-1)[0])) / np.abs(before).max())
    assert report.operators == ()
    assert [(row.section, row.key) for row in report.fields] == [("files", "files.model.onnx")]


def test_tensors_and_nodes_of_one_bundle_only_are_named(bundle: Path, other: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        (node,) = [node for node in model.graph.node if node.op_type == "Gemm"][:1]
        tensor = next(each for each in model.graph.initializer if each.name == node.input[2])
        model.graph.node.insert(0, onnx.helper.make_node("Identity", [tensor.name], ["renamed"]))
        node.input[2] = "renamed"
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "unused"))

    changed(other, change)
    report = diff(bundle, other)
    assert [(row.name, row.outcome) for row in report.tensors] == [("unused", "only in B")]
    assert [(row.operator, row.first, row.second) for row in report.operators] == [("Identity", 0, 1)]
    assert [(row.name, row.outcome) for row in diff(other, bundle).tensors] == [("unused", "only in A")]


def test_a_weight_that_is_no_number_differs_without_a_distance(bundle: Path, other: Path) -> None:
    name = onnx.load(bundle / "model.onnx").graph.initializer[0].name
    changed(other, lambda model: scaled(model, name, float("nan")))
    (row,) = diff(bundle, other).tensors
    assert (row.outcome, row.max_abs, row.of_scale) == ("changed", None, None)


@pytest.mark.parametrize(
    ("change", "section", "key"),
    [
        (lambda manifest: manifest["preprocess"].update(mean=[0.3]), "preprocessing", "preprocess.mean"),
        (lambda manifest: manifest["labels"].__setitem__(3, "x"), "preprocessing", "labels.3"),
        (lambda manifest: manifest["fold"]["folded"].pop(), "folds", "fold.folded."),
        (
            lambda manifest: manifest["variants"][0]["allowance"].update(accuracy_points=0.5),
            "variants",
            "variants.float32.",
        ),
        (lambda manifest: manifest.update(test_accuracy=0.5), "figures", "test_accuracy"),
        (lambda manifest: manifest["variants"][0].update(error=0.5), "figures", "variants.float32.error"),
        (lambda manifest: manifest["golden"].update(seed=7), "reference", "golden.seed"),
        (lambda manifest: manifest["tools"].update(numpy="0"), "origin", "tools.numpy"),
        (lambda manifest: manifest.update(opset=21), "model", "opset"),
    ],
)
def test_each_key_of_the_manifest_is_in_its_section(bundle: Path, other: Path, change: Any, section: str, key: str) -> None:
    edit(other, change)
    report = diff(bundle, other)
    assert not report.passed
    (row,) = report.fields
    assert row.section == section
    assert row.key.startswith(key)
    assert f"differ in: {section}" in str(report.page()[-1])


def test_a_fold_of_renamed_modules_is_told_apart_from_another_fold(run: Command, bundle: Path, other: Path) -> None:
    def rename(manifest: Any) -> None:
        for fold in manifest["fold"]["folded"]:
            fold.update(norm=f"net.bn{fold['norm']}", into=[f"net.{name}" for name in fold["into"]])

    edit(other, rename)
    folds = open_bundle(bundle).manifest.fold.folded
    report = diff(bundle, other)
    assert [(row.section, row.key) for row in report.fields] == [("names", f"fold.folded.{fold.norm}") for fold in folds]
    assert "net.bn" in report.fields[0].second
    assert "differ in: names" in " ".join(run("diff", bundle, other).out.split())
    edit(other, lambda manifest: manifest["fold"]["folded"][0].update(side="after"))
    assert {row.section for row in diff(bundle, other).fields} == {"folds", "names"}


NESTED = {"a": [{"name": "x", "v": 1}, {"name": "y", "v": 2}], "b": {"c": [1, 2]}, "d": ["p", "q"], "e": None}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, []),
        ({"a": NESTED["a"][::-1]}, ["a"]),  # type: ignore[index]
        ({"a": [{"name": "x", "v": 1}]}, ["a.y"]),
        ({"a": [{"name": "x", "v": 1}, {"name": "y", "v": 3}]}, ["a.y.v"]),
        ({"b": {"c": [1, 3]}}, ["b.c"]),
        ({"b": {"c": [1.0, 2]}}, []),
        ({"d": ["p", "r", "s"]}, ["d.1", "d.2"]),
        ({"e": 0}, ["e"]),
        ({"e": {}}, ["e"]),
        ({"f": None}, ["f"]),
    ],
)
def test_the_deepest_key_that_differs_is_named_and_none_is_missed(change: dict[str, Any], expected: list[str]) -> None:
    assert [key for key, _, _ in differences("", NESTED, {**NESTED, **change})] == expected


def test_every_leaf_of_a_manifest_is_seen(bundle: Path) -> None:
    """Each value in turn is replaced by one that nothing has."""
    document = msgspec.to_builtins(open_bundle(bundle).manifest)

    def places(value: Any, path: tuple[Any, ...]) -> Any:
        items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, tuple) else ()
        yield path
        for name, inner in items:
            yield from places(inner, (*path, name))

    def replaced(value: Any, path: tuple[Any, ...]) -> Any:
        if not path:
            return 12.25
        copy = dict(value) if isinstance(value, dict) else list(value)
        copy[path[0]] = replaced(value[path[0]], path[1:])
        return copy if isinstance(value, dict) else tuple(copy)

    every = [path for path in places(document, ()) if path]
    assert len(every) > 100
    for path in every:
        assert list(differences("", document, replaced(document, path))), path


def test_outputs_of_the_same_inputs_are_compared(repository: Path) -> None:
    exported = repository / "exported"
    (note,) = diff(exported / "lenet", exported / "lenet-scratch").notes
    assert "on the same 84 golden inputs" in note
    first, second = (open_bundle(exported / name).golden().float64["output"] for name in ("lenet", "lenet-scratch"))
    assert f"{np.abs(first - second).max() / np.abs(first).max():.1e} of the scale" in note


def test_figures_of_both_that_this_machine_has_are_shown_and_do_not_count(
    bundle: Path, other: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EDGEKIT_STATE", str(tmp_path / "state"))
    edit(other, lambda manifest: manifest["notes"].append("new"))
    timed = bench(bundle, "ort-cpu threads=1", Timing((1,), 0.01))
    for root in (bundle, other):
        keep(open_bundle(root).sha256, "bench", timed.to_json(), "w")
    report = diff(bundle, other)
    assert [(row.first, row.second) for row in report.measured] == [(row.median_ms, row.median_ms) for row in timed.rows]
    assert [row.section for row in report.fields] == ["origin"]


def test_a_damaged_bundle_is_one_sentence(run: Command, bundle: Path, other: Path) -> None:
    (other / "model.onnx").write_bytes(b"x")
    result = run("diff", bundle, other)
    assert result.code == 2
    assert "model.onnx" in result.err
    assert result.err.count("\n") == 1
